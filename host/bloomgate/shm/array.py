"""Arrays of 64-bit words in the arena of a segment: where they are, how they are read, and commits on them."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable, Sequence
from operator import index as as_index
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional, Union

from bloomgate.errors import BloomgateError, DeviceClosed, RequestTooLarge
from bloomgate.shm.layout import (
    ARENA,
    ARRAY_WORDS,
    ARRAYS,
    LOCATION_BYTES,
    REDO_ENTRIES,
    REDO_OPERATIONS,
)
from bloomgate.shm.locks import try_lock, unlock
from bloomgate.shm.publication import SharedPublication
from bloomgate.verdict import Verdict
from bloomgate.verdict_words import verdict_of

if TYPE_CHECKING:
    from bloomgate.backends.shm import ShmDevice

__all__ = ["ArrayMemory", "Change", "Commit", "Number", "TYPES", "ArrayType", "VersionGone"]

Number = Union[int, float]

#: The byte of the file that is locked while an array is made.
ARENA_LOCK = 33
#: Seconds that making an array may wait for others who make one.
PATIENCE = 10.0
#: Nanoseconds that one call to C may last, so that Python sees signals.
SLICE_NS = 50_000_000
#: Seconds until a thread that finds the ring full of other threads' requests looks again.
FULL_SECONDS = 0.0005
#: Conflict keys of shared locations have this bit; those of a process's own variables do not, as long as they last.
KEY_BIT = 1 << 31
#: Bytes of an array's name.
NAME_BYTES = 40

_CODES = {name: code for code, name in enumerate(REDO_OPERATIONS)}
_WORD = struct.Struct("=Q")
#: bg_commit_header of sharing.c: snapshot, timestamp, stage, index, payload, counts of the rest.
_HEADER = "=QQII4I4I"
_HEADER_FIELDS = struct.Struct(_HEADER)
_TIMESTAMP = 1
_STAGE = 2
_PAYLOAD = slice(4, 8)
_STAGE_DECIDED = 2
#: What bg_transact_submit() returns.
_RING_FULL, _SUBMITTED = 0, 1


class VersionGone(BloomgateError):
    """A location has been written so often since a snapshot that its version of then is gone: take a new snapshot."""


class ArrayType(NamedTuple):
    """What the words of an array are."""

    #: As in the modules struct and array.
    code: str
    doc: str
    packer: struct.Struct
    #: Operation -> its code in redo entries.
    operations: dict[str, int]

    def encode(self, value: Number) -> int:
        """The word for a value. Raises TypeError or OverflowError for what does not fit."""
        try:
            word: int = _WORD.unpack(self.packer.pack(value))[0]
        except (struct.error, ValueError):  # the second is PyPy's for negative ones
            if isinstance(value, (int, float)) and not (self.code != "d" and isinstance(value, float)):
                raise OverflowError(f"a value must be {self.doc}, not {value!r}") from None
            raise TypeError(f"a value must be {self.doc}, not {value!r}") from None
        return word

    def decode(self, word: int) -> Number:
        """The value of a word."""
        value: Number = self.packer.unpack(_WORD.pack(word))[0]
        return value


def _operations(suffix: str, add: str) -> dict[str, int]:
    return {
        "set": _CODES["SET"],
        "add": _CODES[add],
        "min": _CODES[f"MIN_{suffix}"],
        "max": _CODES[f"MAX_{suffix}"],
    }


TYPES = {
    "q": ArrayType("q", "an integer from -2**63 to 2**63 - 1", struct.Struct("=q"), _operations("SIGNED", "ADD")),
    "Q": ArrayType("Q", "an integer from 0 to 2**64 - 1", struct.Struct("=Q"), _operations("UNSIGNED", "ADD")),
    "d": ArrayType("d", "a float", struct.Struct("=d"), _operations("DOUBLE", "ADD_DOUBLE")),
}


class Change(NamedTuple):
    """An operation on a location, as it lies in a redo record."""

    location: int
    #: Code of REDO_OPERATIONS.
    operation: int
    #: The operand's word.
    operand: int


class ArrayMemory:
    """An array, as one client of the segment sees it."""

    def __init__(self, device: ShmDevice, name: str, first: int, size: int, kind: ArrayType) -> None:
        """Of a place in the arena; see :meth:`open`."""
        publication = device._publication
        assert isinstance(publication, SharedPublication)
        self.device = device
        self.publication = publication
        self.name = name
        #: Number of the first location.
        self.first = first
        #: Words.
        self.size = size
        self.kind = kind
        self._lib, self._view = publication._lib, publication.view
        self._new = publication._ffi.new

    @classmethod
    def open(
        cls,
        device: ShmDevice,
        name: str,
        size: Optional[int] = None,
        typecode: Optional[str] = None,
        initial: Iterable[Number] = (),
    ) -> ArrayMemory:
        """The array of that name; made now if there is none and ``size`` is given, with ``initial`` values, then 0.

        Raises KeyError if there is none, ValueError if there is one of another size or type, MemoryError if the
        segment has no room.
        """
        if not 0 < len(name.encode()) <= NAME_BYTES:
            raise ValueError(f"the name of an array must have 1 to {NAME_BYTES} bytes, not {name!r}")
        if typecode is not None and typecode not in TYPES:
            raise ValueError(f"the type of an array must be one of {', '.join(TYPES)}, not {typecode!r}")
        found = cls._find(device, name)
        if found is None:
            if size is None:
                raise KeyError(f"the segment has no array {name!r}")
            found = cls._make(device, name, size, TYPES[typecode or "q"], initial)
        if size not in (None, found.size) or typecode not in (None, found.kind.code):
            raise ValueError(
                f"the array {name!r} has {found.size} elements of type {found.kind.code!r},"
                f" not {found.size if size is None else size} of type {typecode or found.kind.code!r}"
            )
        return found

    @classmethod
    def _directory(cls, device: ShmDevice) -> list[tuple[str, int, int, ArrayType]]:
        segment = device.segment
        base = segment.layout.arena
        arrays = []
        for number in range(segment.read(ARENA["arrays"], base=base)):
            words = [segment.read(ARENA["directory"], number * ARRAY_WORDS + word, base) for word in range(ARRAY_WORDS)]
            name = struct.pack(f"={NAME_BYTES // 8}Q", *words[3:]).rstrip(b"\0").decode()
            arrays.append((name, words[0], words[1], TYPES[chr(words[2])]))
        return arrays

    @classmethod
    def _find(cls, device: ShmDevice, name: str) -> Optional[ArrayMemory]:
        for known, first, size, kind in cls._directory(device):
            if known == name:
                return cls(device, name, first, size, kind)
        return None

    @classmethod
    def _make(cls, device: ShmDevice, name: str, size: int, kind: ArrayType, initial: Iterable[Number]) -> ArrayMemory:
        if size < 1:
            raise ValueError(f"an array must have at least 1 element, not {size}")
        words = [kind.encode(value) for value in initial]
        if len(words) > size:
            raise ValueError(f"an array of {size} elements cannot have {len(words)} initial values")
        segment = device.segment
        base = segment.layout.arena
        deadline = time.monotonic() + PATIENCE
        while not try_lock(segment.file, ARENA_LOCK):
            if time.monotonic() > deadline:
                raise BloomgateError(f"somebody has been making an array in {segment.name} for {PATIENCE} s")
            time.sleep(0.001)
        try:
            found = cls._find(device, name)
            if found is not None:
                return found
            arrays = cls._directory(device)
            first = max((begin + length for _, begin, length, _ in arrays), default=0)
            if len(arrays) == ARRAYS or first + size > segment.layout.locations:
                raise MemoryError(
                    f"the segment has room for {ARRAYS} arrays and {segment.layout.locations} elements, of which"
                    f" {len(arrays)} and {first} are used: no room for {size} more"
                )
            # Memory now, rather than a SIGBUS later.
            os.posix_fallocate(segment.file, base + ARENA.size + first * LOCATION_BYTES, size * LOCATION_BYTES)
            made = cls(device, name, first, size, kind)
            ffi = made.publication._ffi
            made._lib.bg_sharing_initialise(made._view, first, len(words), ffi.new("uint64_t[]", words))
            made._lib.bg_sharing_initialise(made._view, first + len(words), size - len(words), ffi.NULL)
            padded = name.encode().ljust(NAME_BYTES, b"\0")
            entry = (first, size, ord(kind.code), *struct.unpack(f"={NAME_BYTES // 8}Q", padded))
            for word, value in enumerate(entry):
                segment.write(ARENA["directory"], value, len(arrays) * ARRAY_WORDS + word, base)
            # Last: who dies before has made nothing.
            segment.write(ARENA["arrays"], len(arrays) + 1, base=base)
            return made
        finally:
            unlock(segment.file, ARENA_LOCK)

    def location(self, index: int) -> int:
        """Number of the location with that index, which may be negative as in a list."""
        index = as_index(index)
        if index < 0:
            index += self.size
        if not 0 <= index < self.size:
            raise IndexError(f"{self.name} index out of range: it has {self.size} elements")
        return self.first + index

    def read(self, location: int, position: int) -> tuple[Number, int]:
        """The value of a location at a position in the order of publication, and the position that wrote it.

        Raises :class:`VersionGone`.
        """
        value = self._new("uint64_t *")
        found: int = self._lib.bg_sharing_read(self._view, location, position, value)
        if not found:
            raise VersionGone(f"{self.name}[{location - self.first}] has no version at position {position} any more")
        return self.kind.decode(value[0]), found

    def newest(self, location: int) -> int:
        """Position of the newest commit that has written a location, which may not be published yet."""
        position: int = self._lib.bg_sharing_newest(self._view, location)
        return position


class Commit:
    """A request with changes to shared locations, from its submission to its publication.

    The memory that C works on lies here: an exception between the steps loses nothing, and :meth:`run` goes on.
    """

    def __init__(
        self,
        device: ShmDevice,
        snapshot: int,
        reads: Sequence[int],
        writes: Sequence[int],
        commutes: Sequence[int],
        changes: Sequence[Change],
        *,
        holder: bool = False,
    ) -> None:
        """``changes`` of one location follow each other. ``holder``: of the segment's token, whom guards do not stop.

        Raises :class:`~bloomgate.errors.RequestTooLarge`.
        """
        if len(changes) > REDO_ENTRIES:
            raise RequestTooLarge(f"a transaction can change {REDO_ENTRIES} shared locations, not {len(changes)}")
        keys = [*reads, *writes, *commutes]
        limit = device.parameters.aperture_depth
        if len(keys) > limit:
            raise RequestTooLarge(f"a transaction on shared data can have {limit} keys, not {len(keys)}")
        if device.parameters.max_key < 0xFFFFFFFF:
            # Two locations that share a key can only cause a false abort.
            keys = [key & device.parameters.max_key for key in keys]
        counts = (len(reads), len(writes), len(commutes), len(changes))
        entries: list[int] = []
        for change in changes:
            entries += change
        publication = device._publication
        assert isinstance(publication, SharedPublication)
        self._device = device
        self._publication = publication
        self._holder = holder
        self._lib = publication._lib
        self._buffer = bytearray(
            struct.pack(
                _HEADER + "IIQ" * len(changes) + f"{len(keys)}I", snapshot, 0, *([0] * 6), *counts, *entries, *keys
            )
        )
        self._pointer = publication._ffi.from_buffer(self._buffer)

    def submit(self) -> bool:
        """Submit it, once; false while another has a guard on what it changes.

        Raises :class:`~bloomgate.errors.DeviceClosed`, and :class:`~bloomgate.errors.DeviceTimeout` when nobody decides
        any more.
        """
        port = self._device.port
        begin = 0.0
        while True:
            # Without its lock the slot may be another process's.
            port.require_open()
            with self._device.queue.lock:
                outcome: int = self._lib.bg_transact_submit(port.client, self._pointer, self._holder)
            if outcome != _RING_FULL:
                return outcome == _SUBMITTED
            begin = begin or time.monotonic()
            self._go_on(begin)
            time.sleep(FULL_SECONDS)

    def decide(self) -> Verdict:
        """Wait for the verdict on what was submitted; repeated after an exception, it continues. Raises as above."""
        return self._proceed(self._lib.bg_transact_decide)

    def run(self) -> Verdict:
        """The same, and go on until it is published."""
        verdict = self._proceed(self._lib.bg_transact)
        with self._device.queue.lock:
            self._lib.bg_transact_release(self._device.port.client, self._pointer)
        return verdict

    def _proceed(self, step: Callable[[Any, Any, Any, int], int]) -> Verdict:
        # Not under the queue's lock: a commit before this one may belong to a thread that needs it.
        port = self._device.port
        port.require_open()
        begin = time.monotonic()
        while not step(port.client, self._publication.view, self._pointer, SLICE_NS):
            self._go_on(begin)
        verdict = self.verdict
        assert verdict is not None
        if verdict.timestamp is not None:
            self._publication.assigned(verdict.timestamp)
        return verdict

    @property
    def timestamp(self) -> Optional[int]:
        """Of the commit; None if it has none so far. Any thread; whoever has seen it published finds it here."""
        client, view = self._device.port.client, self._publication.view
        return self._lib.bg_transact_timestamp(client, view, self._pointer) or None

    def _go_on(self, begin: float) -> None:
        """Raises what there is to raise when the commit is held up."""
        device = self._device
        if device._closed:
            raise DeviceClosed("the device was closed during a commit")
        if self.verdict is None:
            device.port.waited(time.monotonic() - begin)
        else:
            self._publication.help_here(self._publication.published + 1)

    @property
    def verdict(self) -> Optional[Verdict]:
        """None until it is decided."""
        fields = _HEADER_FIELDS.unpack_from(self._buffer)
        if fields[_STAGE] < _STAGE_DECIDED:
            return None
        return verdict_of(self._device.parameters, fields[_PAYLOAD])

    @property
    def submitted(self) -> bool:
        """Whether it may have been decided."""
        return bool(_HEADER_FIELDS.unpack_from(self._buffer)[_STAGE])
