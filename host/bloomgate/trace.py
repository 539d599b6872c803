"""Transaction traces: the read and write set of every transaction of a program, in program order.

Format, little endian, plain or xz-compressed (recognised by the first bytes, never by the name), one record for each
transaction::

    u32 n_reads, u32 n_writes, u64 read_word[n_reads], u64 write_word[n_writes]

A word is a byte address divided by 8. Words are distinct within each of the two sets. This is the format of the STAMP
traces. A plain file has no trailer, so a cut exactly between two records cannot be noticed; an xz file has checksums.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple, Optional, Union

from bloomgate.closing import Closing
from bloomgate.errors import TraceError

__all__ = [
    "MAX_RECORD_WORDS",
    "MAX_WORD",
    "Record",
    "Summary",
    "TraceReader",
    "TraceWriter",
    "summarise",
    "write_trace",
]

#: Words of one record, both sets together. More is taken for corruption, so that no file makes the reader use more
#: memory than this: 8 MiB of words.
MAX_RECORD_WORDS = 1 << 20

#: The largest word address: 64-bit byte addresses divided by 8.
MAX_WORD = (1 << 61) - 1

_HEADER = struct.Struct("<II")
_WORD_BYTES = 8
_XZ_MAGIC = b"\xfd7zXZ\x00"
_CHUNK_BYTES = 1 << 16
#: xz -9 needs 65 MiB to decompress. A file that asks for more is refused rather than obeyed.
_XZ_MEMORY_LIMIT = 1 << 28


class Record(NamedTuple):
    """One transaction: the distinct words it read and the distinct words it wrote, each in order of first use."""

    reads: tuple[int, ...]
    writes: tuple[int, ...]


class _Input:
    """The bytes of a file as they are stored."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        #: Bytes read so far.
        self.taken = 0

    def more(self) -> bytes:
        """The next bytes; none at the end."""
        data = self._file.read(_CHUNK_BYTES)
        self.taken += len(data)
        return data


class _Plain:
    """The bytes of an uncompressed trace."""

    def __init__(self, stored: _Input, head: bytes) -> None:
        self._stored = stored
        self._head = head

    def more(self) -> bytes:
        """The next bytes; none at the end."""
        data, self._head = self._head, b""
        return data or self._stored.more()


class _Xz:
    """The decompressed bytes of an xz file: any number of streams, with padding between them.

    ``lzma.LZMAFile`` would ignore what follows the first stream if it is not a second one, and so accept a file that
    was damaged there.
    """

    def __init__(self, stored: _Input, head: bytes, where: Path) -> None:
        try:
            import lzma
        except ImportError:  # a Python that was built without liblzma
            raise TraceError(f"{where}: is xz-compressed, and this Python has no lzma module: decompress it") from None
        self._lzma = lzma
        self._stored = stored
        self._where = where
        self._input = head
        self._stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_LIMIT)

    def more(self) -> bytes:
        """The next bytes; none at the end."""
        while True:
            if self._stream.eof:
                rest = self._stream.unused_data.lstrip(b"\0")
                while not rest:
                    data = self._stored.more()
                    if not data:
                        return b""
                    rest = data.lstrip(b"\0")
                self._input = rest
                self._stream = self._lzma.LZMADecompressor(self._lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_LIMIT)
            data = b""
            if self._stream.needs_input:
                data, self._input = self._input or self._stored.more(), b""
                if not data:
                    raise TraceError(
                        f"{self._where}: is truncated: the xz stream has not ended at byte {self._stored.taken}"
                    )
            try:
                out = self._stream.decompress(data, _CHUNK_BYTES)
            except self._lzma.LZMAError as error:
                raise TraceError(
                    f"{self._where}: is corrupt: the xz stream is damaged before byte {self._stored.taken} ({error})"
                ) from None
            if out:
                return out


class TraceReader(Closing):
    """Iterates over the records of a trace file, in constant memory. A context manager that closes the file.

    Raises :class:`~bloomgate.errors.TraceError`, which names the file, the record (counted from 1) and its byte offset
    in the decompressed trace, when the file is not a trace; OSError when it cannot be read. The records that were
    returned before an error are valid.
    """

    def __init__(self, path: Union[str, os.PathLike[str]]) -> None:
        self.path = Path(path)
        #: Records returned so far.
        self.records = 0
        #: Byte offset in the decompressed trace of the next record.
        self.offset = 0
        self._file = open(self.path, "rb")  # noqa: SIM115
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self._stored = _Input(self._file)
            head = self._stored.more()
            if not head:
                raise TraceError(f"{self.path}: is empty; a trace has at least one record")
            self._source: Union[_Plain, _Xz]
            if head.startswith(_XZ_MAGIC):
                self._source = _Xz(self._stored, head, self.path)
            else:
                self._source = _Plain(self._stored, head)
        except BaseException:
            self._file.close()
            raise
        self._buffer = b""
        self._position = 0

    @property
    def fraction(self) -> float:
        """How much of the file has been read, from 0 to 1; for progress bars."""
        return min(1.0, self._stored.taken / self._size) if self._size else 0.0

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        header = self._take(_HEADER.size)
        if not header:
            if not self.records:
                raise TraceError(f"{self.path}: is empty; a trace has at least one record")
            raise StopIteration
        if len(header) < _HEADER.size:
            raise self._error(f"is truncated: {len(header)} of the {_HEADER.size} bytes of its counts are there")
        reads, writes = _HEADER.unpack(header)
        if reads + writes > MAX_RECORD_WORDS:
            raise self._error(
                f"has absurd counts, {reads} reads and {writes} writes; a record has at most {MAX_RECORD_WORDS} words"
            )
        size = (reads + writes) * _WORD_BYTES
        body = self._take(size)
        if len(body) < size:
            raise self._error(f"is truncated: {len(body)} of the {size} bytes of its words are there")
        words = struct.unpack(f"<{reads + writes}Q", body)
        record = Record(words[:reads], words[reads:])
        wrong = _defect(record)
        if wrong:
            raise self._error(f"is corrupt: {wrong}")
        self.records += 1
        self.offset += _HEADER.size + size
        return record

    def _take(self, size: int) -> bytes:
        """The next ``size`` bytes, or as many as there are."""
        parts = []
        missing = size
        while missing:
            if self._position == len(self._buffer):
                self._buffer, self._position = self._source.more(), 0
                if not self._buffer:
                    break
            part = self._buffer[self._position : self._position + missing]
            self._position += len(part)
            missing -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _error(self, what: str) -> TraceError:
        return TraceError(f"{self.path}: record {self.records + 1} at byte {self.offset} {what}")

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()


def _defect(record: Record) -> Optional[str]:
    """What is wrong with the words of a record; None when nothing is."""
    for name, words in (("read", record.reads), ("write", record.writes)):
        if not words:
            continue
        if max(words) > MAX_WORD or min(words) < 0:
            return f"a {name} word must be from 0 to {MAX_WORD:#x}, a byte address divided by 8"
        if len(set(words)) != len(words):
            return f"a {name} word is repeated; the words of a set are distinct"
    return None


class TraceWriter:
    """Writes a trace file; a name that ends in ``.xz`` compresses it. A context manager.

    The file appears, complete, under its name when the block ends without an exception: a half-written plain trace
    could not be told from a whole one. Raises :class:`~bloomgate.errors.TraceError` for a record that the format cannot
    hold and for a trace without records, OSError when the file cannot be written.
    """

    def __init__(self, path: Union[str, os.PathLike[str]]) -> None:
        self.path = Path(path)
        #: Records written so far.
        self.records = 0
        if self.path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self.path))
        # A pipe or a device cannot be replaced by a file, so it is written in place.
        in_place = self.path.exists() and not self.path.is_file()
        self._partial = self.path if in_place else self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        self._file: IO[bytes]
        if self.path.suffix == ".xz":
            import lzma

            self._file = lzma.open(self._partial, "wb")  # noqa: SIM115
        else:
            self._file = open(self._partial, "wb")  # noqa: SIM115

    def write(self, record: Record) -> None:
        """Append a record."""
        reads, writes = record
        count = len(reads) + len(writes)
        wrong = _defect(record)
        if count > MAX_RECORD_WORDS:
            wrong = f"it has {count} words; a record has at most {MAX_RECORD_WORDS}"
        if wrong:
            raise TraceError(f"{self.path}: record {self.records + 1} cannot be written: {wrong}")
        self._file.write(_HEADER.pack(len(reads), len(writes)) + struct.pack(f"<{count}Q", *reads, *writes))
        self.records += 1

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        try:
            self._file.close()
            if error is None:
                if not self.records:
                    raise TraceError(f"{self.path}: a trace has at least one record")
                if self._partial != self.path:
                    os.replace(self._partial, self.path)
        finally:
            if self._partial != self.path:
                with contextlib.suppress(FileNotFoundError):
                    self._partial.unlink()


def write_trace(path: Union[str, os.PathLike[str]], records: Iterable[Record]) -> int:
    """Write a trace file and return its number of records. Errors as of :class:`TraceWriter`."""
    with TraceWriter(path) as writer:
        for record in records:
            writer.write(record)
    return writer.records


@dataclass(frozen=True)
class Summary:
    """The size of a trace. The unit of everything but ``transactions`` is words."""

    transactions: int
    reads_mean: float
    reads_p99: int
    writes_mean: float
    writes_p99: int
    #: The largest transaction, both sets together.
    largest: int
    #: Both sets of all transactions.
    words: int
    #: How many different words that are.
    distinct: int


def summarise(records: Iterable[Record]) -> Summary:
    """Count what is in a trace. Raises :class:`~bloomgate.errors.TraceError` when there is no record in it."""
    reads, writes = array("Q"), array("Q")
    largest = 0
    distinct: set[int] = set()
    for record in records:
        reads.append(len(record.reads))
        writes.append(len(record.writes))
        largest = max(largest, len(record.reads) + len(record.writes))
        distinct.update(record.reads, record.writes)
    if not reads:
        raise TraceError("a trace has at least one record")
    return Summary(
        transactions=len(reads),
        reads_mean=sum(reads) / len(reads),
        reads_p99=_percentile99(reads),
        writes_mean=sum(writes) / len(writes),
        writes_p99=_percentile99(writes),
        largest=largest,
        words=sum(reads) + sum(writes),
        distinct=len(distinct),
    )


def _percentile99(values: array[int]) -> int:
    """The smallest value that at least 99 % of the values do not exceed (nearest rank)."""
    return sorted(values)[-(-len(values) * 99 // 100) - 1]
