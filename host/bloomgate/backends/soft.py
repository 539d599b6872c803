"""``soft:``, the decisions in C, in this process: the device of machines without an FPGA."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import importlib
import importlib.machinery
import importlib.util
import os
import platform
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import index
from pathlib import Path
from struct import Struct
from struct import error as StructError
from typing import Any, Callable, Optional

from bloomgate.backends.soft_slot import SoftSlot
from bloomgate.backends.soft_source import (
    CODE_BITS,
    ILLEGAL,
    MODULE,
    NAMES,
    source_hash,
)
from bloomgate.device import Device, DeviceInfo
from bloomgate.errors import DeviceUnavailable
from bloomgate.h3 import matrices
from bloomgate.in_flight import Conflict
from bloomgate.parameters import Parameters
from bloomgate.queue_pair import QueuePair
from bloomgate.registers import CONFLICT_LOG_ENTRIES, VERSION
from bloomgate.slots import SlotNumbers
from bloomgate.verdict import KEY_REASONS, Reason, Verdict

__all__ = ["NOBODY", "SoftDevice", "conflicts_of", "load_native"]

# A request as soft_core.c reads it. struct takes what has __index__ and nothing else, where cffi would also truncate
# a Decimal; and one call converts all the keys.
_HEADER = "=QIII"
_HEADER_BYTES = Struct(_HEADER).size
_KEY = Struct("=I")

#: The slot of an unknown winner, and of a token that nobody has.
NOBODY = 2**32 - 1

_CODE_MASK = (1 << CODE_BITS) - 1
_READ_ONLY = Verdict(True, None, None, None)
_REASONS = {int(reason): reason for reason in Reason}

# Verdict(...) takes twice as long, because it goes through a Python function.
_new_verdict: Callable[[type[Verdict], tuple[Any, ...]], Verdict] = tuple.__new__


class _Packers(dict[int, Callable[..., bytes]]):
    """Number of keys -> the function that packs such a request. KeyError for more keys than a request can have."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def __missing__(self, size: int) -> Callable[..., bytes]:
        if size > self._limit:
            raise KeyError(size)
        self[size] = pack = Struct(f"{_HEADER}{size}I").pack
        return pack


class SoftDevice(Device):
    """The C device. Bit-exact with ``model:``."""

    def __init__(self, parameters: Optional[Parameters] = None, *, initial_epoch: int = 0) -> None:
        """Raises :class:`~bloomgate.errors.CompilerMissing` when the C code has to be compiled and cannot be."""
        parameters = Parameters() if parameters is None else parameters
        self._require_epoch(initial_epoch)
        self.module = module = load_native()
        state = module.lib.bg_new(
            parameters.K,
            parameters.row_bits,
            parameters.timestamp_bits,
            parameters.key_bits,
            parameters.slots,
            parameters.aperture_depth,
            parameters.buffer_depth,
            [word for matrix in matrices(parameters) for word in matrix],
        )
        if state == module.ffi.NULL:
            raise MemoryError("no memory for the tables of soft:")
        # Freed with the last reference: a call in another thread holds one, so close() cannot free under it.
        size = 5 * parameters.K * parameters.D
        #: None when closed; C functions refuse that with a TypeError.
        self._state = module.ffi.gc(state, module.lib.bg_free, size)
        self._commit = _committer(module, self._state)
        self._packers = _Packers(parameters.aperture_depth)
        self._max_count = parameters.max_count
        self._slot_numbers = SlotNumbers(parameters.slots)
        super().__init__(parameters, 0)
        if initial_epoch > 0:
            self.reset(initial_epoch)

    def commit(
        self,
        *,
        snapshot: int,
        reads: Sequence[int] = (),
        writes: Sequence[int] = (),
        commutes: Sequence[int] = (),
    ) -> Verdict:
        # What is checked where: struct checks the types and 32 bits, C the rest, and _require_request finds the words
        # for a request that either has refused.
        try:
            r = len(reads)
            w = len(writes)
            c = len(commutes)
            request = self._packers[r + w + c](snapshot, r, w, c, *reads, *writes, *commutes)
            answer = self._commit(request)
        except (StructError, TypeError, ValueError, OverflowError, KeyError):
            # Which one a bad integer raises depends on the interpreter: PyPy has ValueError for a negative snapshot.
            self._require_request(snapshot, reads, writes, commutes)
            # Legal after all: a set was changed by another thread between two of the lines above.
            return self.commit(
                snapshot=index(snapshot),
                reads=[index(key) for key in reads],
                writes=[index(key) for key in writes],
                commutes=[index(key) for key in commutes],
            )
        if answer & self._max_count:
            self._publication.assigned(answer)
            return _new_verdict(Verdict, (True, answer, None, None))
        answer >>= self.parameters.timestamp_bits
        if not answer:
            return _READ_ONLY
        code = answer & _CODE_MASK
        if code == ILLEGAL:
            self._require_request(snapshot, reads, writes, commutes)
            raise AssertionError("soft: refused a legal request")
        reason = _REASONS[code]
        key = None
        if reason in KEY_REASONS:
            (key,) = _KEY.unpack_from(request, _HEADER_BYTES + _KEY.size * (answer >> CODE_BITS))
        return _new_verdict(Verdict, (False, None, reason, key))

    def queue_pair(self) -> QueuePair:
        from bloomgate.backends.soft_queue import SoftQueue

        port = SoftQueue(self)
        port.enable(1)
        return QueuePair(port, self._require_sets)

    def last_timestamp(self) -> int:
        timestamp: int = self.module.lib.bg_last_timestamp(self.state())
        return timestamp

    def info(self) -> DeviceInfo:
        self._require_open()
        compiler = self.module.ffi.string(self.module.lib.bg_compiler()).decode("utf-8")
        return DeviceInfo(
            backend="soft",
            version=VERSION,
            parameters=self.parameters,
            max_request_keys=self.parameters.aperture_depth,
            description=f"C implementation (compiled by {compiler})",
        )

    def stats(self) -> Mapping[str, int]:
        values = self.module.ffi.new("uint64_t[]", len(NAMES))
        self.module.lib.bg_stats(self.state(), values)
        return dict(zip(NAMES, values))

    def reset(self, initial_epoch: int = 0) -> None:
        self._require_epoch(initial_epoch)
        timestamps = self.module.ffi.new("uint64_t[2]")
        self.module.lib.bg_reset(self.state(), initial_epoch, timestamps)
        before, after = timestamps
        if after != before:
            self._publication.epoch_stepped(before, after)

    def _note_epoch_end(self, timestamps: Sequence[int]) -> None:
        """Tell ``published`` of an epoch that ended early, if one did. ``timestamps``: see store_epoch_end() in C."""
        last, origin = timestamps
        if origin:
            self._publication.epoch_stepped(last, origin)

    def raise_floor(self) -> None:
        self.module.lib.bg_raise_floor(self.state())

    def inject_parity_error(self, table: int, row: int) -> None:
        self._require_word(table, row)
        self.module.lib.bg_inject_parity_error(self.state(), table, row)

    def open_slot(self, number: Optional[int] = None) -> SoftSlot:
        self._require_open()
        return SoftSlot(self, self._slot_numbers.take(number))

    def conflicts(self) -> list[Conflict]:
        taken = self.module.ffi.new("bg_conflict[]", CONFLICT_LOG_ENTRIES)
        count = self.module.lib.bg_conflicts(self.state(), taken)
        return conflicts_of(self.parameters, taken[0:count])

    def revoke_token(self) -> Optional[int]:
        timestamps = self.module.ffi.new("uint64_t[2]")
        holder: int = self.module.lib.bg_revoke_token(self.state(), timestamps)
        self._note_epoch_end(timestamps)
        return None if holder == NOBODY else holder

    def set_token_watchdog(self, ticks: int) -> None:
        self._require_open()
        self._require_ticks(ticks)
        self.module.lib.bg_token_watchdog(self.state(), ticks)

    def tick(self, ticks: int = 1) -> None:
        self._require_open()
        self._require_ticks(ticks)
        timestamps = self.module.ffi.new("uint64_t[2]")
        self.module.lib.bg_tick(self.state(), ticks, timestamps)
        self._note_epoch_end(timestamps)

    def _operate_slot(self, slot: int, operation: int, words: Sequence[int]) -> Any:
        answer = self.module.ffi.new("bg_slot_answer *")
        self.module.lib.bg_slot_operate(self.state(), slot, operation, list(words), len(words), answer)
        self._note_epoch_end(answer.epoch_end)
        return answer

    def _sleep(self, seen: int, nanoseconds: int) -> None:
        self.module.lib.bg_slot_sleep(self.state(), seen, nanoseconds)

    def close(self) -> None:
        super().close()
        self._forget_state()

    def _after_fork(self) -> None:
        super()._after_fork()
        # Another thread of the other process may have held its lock.
        self._forget_state()

    def _forget_state(self) -> None:
        self._state = None
        self._commit = _refuse

    def state(self) -> Any:
        """The device in C; raises :class:`~bloomgate.errors.DeviceClosed`."""
        # One read of the attribute, which close() may set to None at any time.
        state = self._state
        if state is None:
            self._require_open()
        return state


def conflicts_of(parameters: Parameters, entries: Iterable[Any]) -> list[Conflict]:
    """What entries of C's conflict log say."""
    return [
        Conflict(
            entry.winner if entry.winner != NOBODY else None,
            entry.loser,
            entry.key if entry.key_known else None,
            parameters.timestamp(entry.epoch, entry.count),
        )
        for entry in entries
    ]


def _refuse(request: bytes) -> int:
    raise TypeError("the device is closed")


def _committer(module: Any, state: Any) -> Callable[[bytes], int]:
    """The function that decides a request."""
    if sys.implementation.name == "cpython":
        # With ctypes, because cffi cannot return a Python object.
        make: Any = ctypes.PyDLL(module.__file__).bg_committer
        make.argtypes, make.restype = (ctypes.py_object,), ctypes.py_object
        bound: Callable[[bytes], int] = make((int(module.ffi.cast("uintptr_t", state)), state))
        return bound
    commit = module.lib.bg_commit

    def decide(request: bytes) -> int:
        answer: int = commit(state, request)
        return answer

    return decide


# Loading the compiled module.

_loading = threading.Lock()
_loaded: Optional[Any] = None


def load_native() -> Any:
    """The compiled module: the one that was installed, else one from the user's cache, compiled if need be.

    Raises :class:`~bloomgate.errors.DeviceUnavailable` without cffi, or on a Python that it does not support.
    """
    global _loaded
    with _loading:
        if _loaded is None:
            _require_cffi()
            wanted = source_hash()
            installed = _import_installed()
            # Not one that was compiled from an older soft_core.c, as an editable installation can have.
            if installed is not None and _hash_of(installed) == wanted:
                _loaded = installed
            else:
                _loaded = _load_cached(wanted)
        return _loaded


def _require_cffi() -> None:
    if sysconfig.get_config_var("Py_GIL_DISABLED") and sys.version_info < (3, 14):
        raise DeviceUnavailable(
            "soft: and shm: need cffi, which supports Python without a GIL from 3.14 on; this is"
            f" {platform.python_version()}: use Python 3.14t, a Python with a GIL, or model:"
        )
    if importlib.util.find_spec("_cffi_backend") is None:
        raise DeviceUnavailable("soft: and shm: need the package cffi (pip install cffi), or use model:")


def _import_installed() -> Optional[Any]:
    try:
        return importlib.import_module(MODULE)
    except ImportError:
        return None


def _hash_of(module: Any) -> Optional[str]:
    if not hasattr(module.lib, "bg_source_hash"):
        return None
    text: str = module.ffi.string(module.lib.bg_source_hash()).decode("ascii")
    return text


def _import_file(path: Path) -> Any:
    loader = importlib.machinery.ExtensionFileLoader(MODULE, str(path))
    spec = importlib.util.spec_from_file_location(MODULE, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _load_cached(wanted: str) -> Any:
    suffix = str(sysconfig.get_config_var("EXT_SUFFIX") or ".so")
    # The suffix has the ABI on CPython, but PyPy's is the same for all its minor releases.
    version = "{}{}.{}".format(sys.implementation.name, *sys.version_info[:2])
    with _cache_folder() as cache:
        folder = cache / f"soft-{wanted}-{version}-{platform.machine()}"
        target = folder / f"_soft_core{suffix}"
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / "lock", "w") as lock:
                # The kernel releases it, also when the process is killed while it compiles.
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not target.exists():
                    from bloomgate.backends.soft_build import c_compiler, compile_module

                    compiler = c_compiler()
                    print(
                        f"bloomgate: compiling the soft: device, once, into {folder}",
                        file=sys.stderr,
                        flush=True,
                    )
                    compile_module(target, compiler)
        return _import_file(target)


@contextlib.contextmanager
def _cache_folder() -> Iterator[Path]:
    """The user's cache; where there is none that can be written, a folder that lasts until the module is loaded."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(configured if os.path.isabs(configured) else os.path.expanduser("~/.cache"), "bloomgate")
    usable = folder.is_absolute()  # not so where there is no home
    if usable:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            usable = False
    if usable and os.access(folder, os.W_OK | os.X_OK):
        yield folder
    else:
        with tempfile.TemporaryDirectory(prefix="bloomgate-") as temporary:
            yield Path(temporary)
