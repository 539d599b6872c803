"""Making, finding and removing segments. What is in one: :mod:`bloomgate.shm.layout`."""

from __future__ import annotations

import dataclasses
import mmap
import os
import re
import struct
import tempfile
from typing import Callable, Optional

from bloomgate.errors import DeviceURLError, VersionMismatch
from bloomgate.parameters import Parameters
from bloomgate.shm.layout import HEADER, LAYOUT_VERSION, MAGIC, MODE_SERVER, Member, SegmentLayout

__all__ = ["Segment", "path_of", "remove"]

#: Where the files are: a file system in memory.
FOLDER = "/dev/shm"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_FORMATS = {"u32": "=I", "u64": "=Q"}
_POINTER_BYTES = struct.calcsize("P")


def path_of(name: str) -> str:
    """The file of the segment with that name. Raises :class:`~bloomgate.errors.DeviceURLError` for an unfit name."""
    if not _NAME.fullmatch(name):
        raise DeviceURLError(
            f"the name of a segment must be 1 to 64 letters, digits, '.', '_' and '-', a letter or digit first,"
            f" not {name!r}"
        )
    return f"{FOLDER}/bloomgate-{name}"


def remove(name: str) -> bool:
    """Remove a segment's name; who has it open can go on using it. False if there was none."""
    try:
        os.unlink(path_of(name))
    except FileNotFoundError:
        return False
    return True


class Segment:
    """A mapped segment. Its file descriptor carries the locks, so that closing it releases them."""

    def __init__(self, file: int, name: Optional[str]) -> None:
        """Map an open file that :meth:`create` has made; ``file`` belongs to the segment from now on.

        Raises :class:`~bloomgate.errors.VersionMismatch` if it is no segment, or not of this version.
        """
        self.file = file
        self.name = name
        what = f"{path_of(name)} is" if name is not None else "this is"
        try:
            size = os.fstat(file).st_size
            if size < HEADER.size:
                raise VersionMismatch(f"{what} no segment of bloomgate; remove the file")
            # Through an open() of its own, because mmap keeps a copy of the descriptor as long as anybody has a view of
            # the memory, and a copy would keep the locks.
            mapped = os.open(f"/proc/self/fd/{file}", os.O_RDWR | os.O_CLOEXEC)
            try:
                self.map = mmap.mmap(mapped, size)
            finally:
                os.close(mapped)
        except BaseException:
            os.close(file)
            raise
        try:
            if self.read(HEADER["magic"]) != MAGIC or self.read(HEADER["total_bytes"]) != size:
                raise VersionMismatch(f"{what} no segment of bloomgate; remove the file")
            version, width = self.read(HEADER["layout_version"]), self.read(HEADER["pointer_bytes"])
            if (version, width) != (LAYOUT_VERSION, _POINTER_BYTES):
                raise VersionMismatch(
                    f"{what} of layout {version} for {8 * width}-bit processes, and this process speaks layout"
                    f" {LAYOUT_VERSION} and has {8 * _POINTER_BYTES} bits; end its users and remove the file"
                )
            geometry = [self.read(HEADER["geometry"], number) for number in range(HEADER["geometry"].count)]
            names = [field.name for field in dataclasses.fields(Parameters)]
            self.parameters = Parameters(**dict(zip(names, geometry)))
            self.layout = SegmentLayout(self.parameters, self.read(HEADER["device_bytes"]))
            expected = self.layout.header_values(self.read(HEADER["mode"]), _POINTER_BYTES)
            if any(self.read(HEADER[field]) != value for field, value in expected.items()):
                raise VersionMismatch(f"{what} damaged; end its users and remove the file")
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(
        cls,
        name: Optional[str],
        parameters: Parameters,
        mode: int,
        device_bytes: int,
        prepare: Callable[[Segment], None],
    ) -> Segment:
        """Make a segment; others find it when ``prepare`` has filled it, complete. Without a name nobody finds it.

        Raises FileExistsError if there is one of that name.
        """
        layout = SegmentLayout(parameters, device_bytes)
        temporary: Optional[str] = None
        if name is None:
            file = os.memfd_create("bloomgate", os.MFD_CLOEXEC)
        else:
            target = path_of(name)
            file, temporary = tempfile.mkstemp(prefix=".bloomgate-", dir=FOLDER)
        try:
            try:
                os.ftruncate(file, layout.total_bytes)
                # What every request needs, so that a full file system shows now and not as SIGBUS. The rest of a
                # window is for long read sets.
                os.posix_fallocate(file, 0, layout.windows)
                if device_bytes:
                    os.posix_fallocate(file, layout.device, device_bytes)
                for field, value in layout.header_values(mode, _POINTER_BYTES).items():
                    member = HEADER[field]
                    os.pwrite(file, struct.pack(_FORMATS[member.type], value), member.offset)
                geometry = dataclasses.astuple(parameters)
                os.pwrite(file, struct.pack(f"={len(geometry)}I", *geometry), HEADER["geometry"].offset)
            except BaseException:
                os.close(file)
                raise
            segment = cls(file, name)
            try:
                prepare(segment)
                if temporary is not None:
                    os.link(temporary, target)
            except BaseException:
                segment.close()
                raise
            return segment
        finally:
            if temporary is not None:
                os.unlink(temporary)

    @classmethod
    def attach(cls, name: str) -> Segment:
        """Map the segment of that name. Raises FileNotFoundError."""
        return cls(os.open(path_of(name), os.O_RDWR | os.O_CLOEXEC), name)

    @property
    def has_server(self) -> bool:
        """Whether it was made by a server, which may not run now."""
        return self.read(HEADER["mode"]) == MODE_SERVER

    def read(self, member: Member, index: int = 0, base: int = 0) -> int:
        """A word, of the part at ``base``. In no order with other accesses."""
        step = member.size // member.count
        value: int = struct.unpack_from(_FORMATS[member.type], self.map, base + member.offset + index * step)[0]
        return value

    def write(self, member: Member, value: int, index: int = 0, base: int = 0) -> None:
        """The same for writing; for what nobody else uses at the time."""
        step = member.size // member.count
        struct.pack_into(_FORMATS[member.type], self.map, base + member.offset + index * step, value)

    def again(self) -> Segment:
        """The same segment, opened once more: with locks of its own."""
        return Segment(os.open(f"/proc/self/fd/{self.file}", os.O_RDWR | os.O_CLOEXEC), self.name)

    def close(self) -> None:
        """Release the locks. Idempotent.

        The memory is unmapped when the last one who has a view of it is gone. mmap.close() would refuse before that on
        CPython, but on PyPy take the memory away from C.
        """
        if self.file >= 0:
            file, self.file = self.file, -1
            os.close(file)
