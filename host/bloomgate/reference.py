"""The reference STM: exact sets under one global lock, so simple that it is obviously right.

It is the oracle for every device, so it shares no code with any: it knows neither hashes nor a filter, and imports
nothing but the type of its answers. It is the "CGL" baseline of the STM literature (e.g. RSTM, Marathe et al., 2006)
with the backward validation of Kung & Robinson, "On Optimistic Methods for Concurrency Control", TODS 1981.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from bloomgate.verdict import Reason, Verdict

__all__ = ["ReferenceSTM", "ReferenceTransaction"]

LAST_EPOCH = 2**32 - 1


class ReferenceSTM:
    """Decides requests exactly, and runs transactions on a dict of its own.

    A device may abort where this commits (its filter, its floor, bad parity), and must never commit where this
    aborts. For as long as both were asked the same and gave the same verdicts, timestamps are equal too.
    """

    def __init__(self, timestamp_bits: int = 32, initial_epoch: int = 0) -> None:
        self._lock = threading.RLock()
        self._counts: int = 2**timestamp_bits
        self._epoch = initial_epoch
        self._count = 0
        self._exhausted = False
        #: Key -> timestamp of the last commit in this epoch that wrote or commuted it.
        self._last_commit: dict[int, int] = {}
        #: Key -> value, of the transactions that :meth:`begin` starts.
        self._values: dict[int, Any] = {}

    def last_timestamp(self) -> int:
        """The newest timestamp assigned, or (epoch, 0) when the epoch has none yet."""
        with self._lock:
            return self._epoch * self._counts + self._count

    def commit(
        self,
        *,
        snapshot: int,
        reads: Sequence[int] = (),
        writes: Sequence[int] = (),
        commutes: Sequence[int] = (),
    ) -> Verdict:
        """As :meth:`bloomgate.device.Device.commit`, but exact."""
        with self._lock:
            if snapshot > self.last_timestamp():
                return Verdict(False, None, Reason.BAD_REQUEST, None)
            if snapshot // self._counts < self._epoch or self._exhausted:
                return Verdict(False, None, Reason.ROLLOVER, None)
            for key in reads:
                if self._last_commit.get(key, 0) > snapshot:
                    return Verdict(False, None, Reason.CONFLICT, key)
            if not writes and not commutes:
                return Verdict(True, None, None, None)
            self._count += 1
            timestamp = self.last_timestamp()
            for key in [*writes, *commutes]:
                self._last_commit[key] = timestamp
            if self._count == self._counts - 1:
                self.reset()
            return Verdict(True, timestamp, None, None)

    def reset(self, initial_epoch: int = 0) -> None:
        """End the epoch; the next is ``initial_epoch`` or the current one plus 1, whichever is greater."""
        with self._lock:
            if self._epoch == LAST_EPOCH:
                self._exhausted = True
            else:
                self._epoch = max(self._epoch + 1, initial_epoch)
                self._count = 0
                self._last_commit.clear()

    def may_have_changed(self, snapshot: int, keys: Sequence[int]) -> bool:
        """Whether a commit after ``snapshot`` changed one of the keys: what dooms and wakes, exactly."""
        with self._lock:
            too_old = snapshot // self._counts < self._epoch
            return too_old or any(self._last_commit.get(key, 0) > snapshot for key in keys)

    def begin(self) -> ReferenceTransaction:
        """A transaction on this STM's own values. It holds the global lock until it ends: use it with ``with``."""
        return ReferenceTransaction(self)


class ReferenceTransaction:
    """A transaction that nothing can disturb, because it is alone. Every key begins with the value None."""

    def __init__(self, stm: ReferenceSTM) -> None:
        self._stm = stm
        self._reads: list[int] = []
        self._writes: dict[int, Any] = {}

    def __enter__(self) -> ReferenceTransaction:
        self._stm._lock.acquire()
        self._snapshot = self._stm.last_timestamp()
        return self

    def read(self, key: int) -> Any:
        """The value that the transaction sees."""
        if key in self._writes:
            return self._writes[key]
        self._reads.append(key)
        return self._stm._values.get(key)

    def write(self, key: int, value: Any) -> None:
        """Set a value, visible to others when the transaction has ended without an exception."""
        self._writes[key] = value

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            if kind is None:
                self.verdict = self._stm.commit(snapshot=self._snapshot, reads=self._reads, writes=list(self._writes))
                if self.verdict.committed:
                    self._stm._values.update(self._writes)
        finally:
            self._stm._lock.release()
