"""Locks on single bytes of a file that the kernel releases when their holder dies.

Open file description locks (Linux 3.15): they belong to one ``open()`` of the file, so that two devices in one process
exclude each other, and closing another descriptor of the file releases nothing; both fail with POSIX record locks.
"""

from __future__ import annotations

import errno
import fcntl
import struct

__all__ = ["is_locked", "try_lock", "unlock"]

# Linux, all architectures; PyPy's fcntl does not name them.
_F_OFD_GETLK = 36
_F_OFD_SETLK = 37
#: struct flock: type, whence, start, length, process. `start` is 64 bits wide also where C's long is not.
_FLOCK = struct.Struct("hhqqi4x")


def _flock(kind: int, byte: int) -> bytes:
    return _FLOCK.pack(kind, 0, byte, 1, 0)


def try_lock(file: int, byte: int) -> bool:
    """Lock a byte of an open file for this descriptor. False if another has it."""
    try:
        fcntl.fcntl(file, _F_OFD_SETLK, _flock(fcntl.F_WRLCK, byte))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def unlock(file: int, byte: int) -> None:
    """Give up a lock; nothing happens if there is none."""
    fcntl.fcntl(file, _F_OFD_SETLK, _flock(fcntl.F_UNLCK, byte))


def is_locked(file: int, byte: int) -> bool:
    """Whether another descriptor has the lock."""
    answer = fcntl.fcntl(file, _F_OFD_GETLK, _flock(fcntl.F_WRLCK, byte))
    kind: int = _FLOCK.unpack(answer)[0]
    return kind != fcntl.F_UNLCK
