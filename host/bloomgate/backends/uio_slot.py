"""One slot of ``uio:`` and ``bloomgate:`` alone.

A process with one slot does not see page 0, so it knows less:

* Version and geometry come from the kernel module; with ``uio:`` from ``/run/bloomgate/device.json``, which
  ``bloomgate load`` writes, or from the URL.
* With ``uio:``, ``last_timestamp()`` is the newest that this process knows of: the device's when it was opened, and
  those of its own commits.
* ``published`` is that of this process. It does not go past commits of other slots, since nobody here knows when they
  are written back: that costs aborts and never correctness, but ``wait_published`` of a commit behind one of them does
  not return, and with it no transaction of the STM. Programs that use the same data at the same time open the device as
  ``shm:`` with ``bloomgate serve``.
* When another epoch has begun, because the owner of page 0 has reset the device or another slot has used up the last
  count, ``commit`` raises DeviceUnavailable, since nobody here knows what is written back of the epoch before. When
  all of it is, open the device again: it begins in the new epoch. From queue pairs comes ROLLOVER.
* Queue pairs need the kernel module: only page 0 can give a slot its window.
* ``reset``, ``raise_floor``, ``inject_parity_error``, and ``open_slot`` with all that belongs to it, raise
  :class:`~bloomgate.errors.DeviceUnavailable`, and ``stats`` counts this slot's verdicts.

With ``data=own`` the program says that nobody else reads or writes the data of its transactions. Then the commits of
other slots are nothing to it, and ``published`` goes past them and into the next epoch; it learns of them with its own
commits, and from its page after an abort. So several programs, each with data of its own, use the device at the same
time. If the data is shared after all, conflicts are missed. There are no queue pairs then, and ``last_timestamp()`` is
the newest that this process knows of with the kernel module, too.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from operator import index
from typing import Any, NoReturn, Optional

from bloomgate.backends.uio_identity import ask_module, read_identity
from bloomgate.backends.uio_node import DESCRIPTIONS, open_node, slot_node, status_text
from bloomgate.backends.uio_queue import opened_queue
from bloomgate.device import Device, DeviceInfo
from bloomgate.errors import DeviceTimeout, DeviceUnavailable
from bloomgate.libbloomgate import library
from bloomgate.parameters import EPOCH_BITS, Parameters
from bloomgate.queue_pair import QueuePair
from bloomgate.queue_port import QueuePort
from bloomgate.queue_slots import QueueSlots
from bloomgate.slots import Slot
from bloomgate.verdict import KEY_REASONS, Reason, Verdict

__all__ = ["UioSlotDevice"]

_LAST_EPOCH = (1 << EPOCH_BITS) - 1


class UioSlotDevice(Device):
    """One slot. Its threads take turns. The module's text says what a device without page 0 cannot do."""

    def __init__(
        self,
        slot: int,
        *,
        root: str = "",
        parameters: Optional[Parameters] = None,
        way: str = "uio",
        own_data: bool = False,
    ) -> None:
        """``parameters``: the geometry, where nobody has left it in ``/run/bloomgate/device.json``, else a check of it.

        ``own_data``: no other program reads or writes what this one does, see the module's text. Raises
        DeviceUnavailable, or VersionMismatch for gateware that this host does not speak with.
        """
        self._ffi, self._lib = library()
        self._way, self._number, self._own_data = way, slot, own_data
        self._lock = threading.Lock()
        if way == "uio":
            self._version, found = read_identity(root, parameters)
            if slot >= found.slots:
                raise DeviceUnavailable(f"there is no slot {slot}: the device has {found.slots}")
            self._window = open_node(slot_node(slot), root, way)
        else:
            self._window = open_node(slot_node(slot), root, way)
            self._version, found = ask_module(self._window, parameters)
        self._queues = QueueSlots(1, self._open_queue)
        self._slot = self._ffi.new("struct bloomgate_slot *")
        geometry = self._ffi.new(
            "struct bloomgate_geometry *",
            {
                "timestamp_bits": found.timestamp_bits,
                "key_bits": found.key_bits,
                "slots": found.slots,
                "aperture_depth": found.aperture_depth,
            },
        )
        try:
            if self._lib.bloomgate_slot_open(self._slot, self._window, geometry) != self._lib.BLOOMGATE_OK:
                raise DeviceTimeout(f"slot {slot} did not decide its last request; reset or reload the device")
            self._newest = self._ask_newest()
        except BaseException:
            self._lib.bloomgate_close(self._window)
            raise
        #: The newest epoch that ``published`` can come to.
        self._epoch = self._newest >> found.timestamp_bits
        self._counts = {"commits": 0, **{f"aborts_{reason.name.lower()}": 0 for reason in Reason}}
        super().__init__(found, self._newest)

    def commit(
        self,
        *,
        snapshot: int,
        reads: Sequence[int] = (),
        writes: Sequence[int] = (),
        commutes: Sequence[int] = (),
    ) -> Verdict:
        """See :meth:`~bloomgate.device.Device.commit`. After any exception the transaction has not happened.

        Raises :class:`~bloomgate.errors.DeviceTimeout` when the device does not decide within its bound, and
        :class:`~bloomgate.errors.DeviceUnavailable` when an epoch has begun of which this device cannot know enough.
        """
        self._require_request(snapshot, reads, writes, commutes)
        sets = [self._ffi.new("uint32_t[]", [index(key) for key in keys]) for keys in (reads, writes, commutes)]
        request = self._ffi.new(
            "struct bloomgate_request *",
            {
                "snapshot": index(snapshot),
                **dict(zip(("reads", "writes", "commutes"), sets)),
                **dict(zip(("read_count", "write_count", "commute_count"), map(len, sets))),
            },
        )
        decision = self._ffi.new("struct bloomgate_decision *")
        with self._lock:
            self._require_open()
            self._settle()
            try:
                status = self._lib.bloomgate_commit(self._slot, request, decision)
                if status != self._lib.BLOOMGATE_OK:
                    raise DeviceTimeout(f"slot {self._number} did not decide its request; reset or reload the device")
                verdict = self._verdict(decision)
                if self._own_data and not verdict.committed:
                    # Perhaps for the age of the snapshot.
                    self._learn(self._ask_newest())
                elif verdict.reason is Reason.ROLLOVER:
                    self._require_older(snapshot)
                return verdict
            except BaseException:
                # The caller sees no verdict and writes nothing back: the commit, if it is one, is empty.
                if decision.timestamped:
                    self._learn(decision.timestamp, 1)
                    self.publish(decision.timestamp)
                raise

    def queue_pair(self) -> QueuePair:
        self._require_open()
        return QueuePair(self._queues.open(), self._require_sets)

    def _open_queue(self, _: int) -> QueuePort:
        if self._way == "uio":
            self._refuse("queue_pair", "; with the kernel module every slot has one")
        if self._own_data:
            raise DeviceUnavailable(f"slot {self._number} has no queue pair with data=own")
        geometry, timestamp = self._ffi.new("struct bloomgate_geometry *"), self._ffi.new("uint64_t *")
        queue = self._ffi.new("struct bloomgate_queue *")
        status = self._lib.bloomgate_module_info(self._window, geometry, timestamp)
        if status == self._lib.BLOOMGATE_OK:
            status = self._lib.bloomgate_module_queue_open(queue, self._window, geometry)
        return opened_queue(self._number, self.parameters, queue, status)

    def last_timestamp(self) -> int:
        """The device's newest timestamp as the kernel module says; with ``uio:`` the newest that is known here."""
        self._require_open()
        if self._way == "bloomgate" and not self._own_data:
            geometry, timestamp = self._ffi.new("struct bloomgate_geometry *"), self._ffi.new("uint64_t *")
            status = self._lib.bloomgate_module_info(self._window, geometry, timestamp)
            if status != self._lib.BLOOMGATE_OK:
                raise DeviceUnavailable(f"the kernel module does not answer: {status_text(status)}")
            return int(timestamp[0])
        return self._newest

    def info(self) -> DeviceInfo:
        self._require_open()
        return DeviceInfo(
            backend=self._way,
            version=self._version,
            parameters=self.parameters,
            max_request_keys=self.parameters.aperture_depth,
            description=f"slot {self._number} of {DESCRIPTIONS[self._way]}",
        )

    def stats(self) -> Mapping[str, int]:
        self._require_open()
        return dict(self._counts)

    def reset(self, initial_epoch: int = 0) -> None:
        self._refuse("reset")

    def raise_floor(self) -> None:
        self._refuse("raise_floor")

    def inject_parity_error(self, table: int, row: int) -> None:
        self._refuse("inject_parity_error")

    def open_slot(self, number: Optional[int] = None) -> Slot:
        self._refuse("open_slot", self._whole_device)

    def conflicts(self) -> NoReturn:
        self._refuse("conflicts", self._whole_device)

    def revoke_token(self) -> NoReturn:
        self._refuse("revoke_token", self._whole_device)

    def set_token_watchdog(self, ticks: int) -> None:
        self._refuse("set_token_watchdog", self._whole_device)

    def tick(self, ticks: int = 1) -> None:
        self._refuse("tick", self._whole_device)

    @property
    def _whole_device(self) -> str:
        return f"; open the whole device as {self._way}:, for one process, or as shm: with bloomgate serve, for several"

    def close(self) -> None:
        try:
            self._queues.close()
        finally:
            with self._lock:
                super().close()
                self._lib.bloomgate_close(self._window)

    def _after_fork(self) -> None:
        super()._after_fork()
        self._queues.abandon()
        # The page is locked for as long as either process has the file open; and another thread of the other process
        # may have this lock.
        self._lib.bloomgate_close(self._window)

    def _refuse(self, what: str, hint: str = "") -> NoReturn:
        self._require_open()
        raise DeviceUnavailable(f"{what}() is for the owner of page 0; this device is slot {self._number} alone{hint}")

    def _settle(self) -> None:
        """Publish what a request that timed out has become, so that nothing waits for it."""
        if self._slot.submitted:
            decision = self._ffi.new("struct bloomgate_decision *")
            if self._lib.bloomgate_settle(self._slot, decision) != self._lib.BLOOMGATE_OK:
                raise DeviceTimeout(f"slot {self._number} has not decided its last request; reset or reload the device")
            self.publish(self._verdict(decision).timestamp)

    def _verdict(self, decision: Any) -> Verdict:
        if decision.committed:
            self._counts["commits"] += 1
            if not decision.timestamped:
                return Verdict(True, None, None, None)
            self._learn(decision.timestamp, 1)
            if decision.timestamp == self.parameters.timestamp(self._epoch, self.parameters.max_count):
                self._epoch += 1
            return Verdict(True, decision.timestamp, None, None)
        reason = Reason(decision.reason)
        self._counts[f"aborts_{reason.name.lower()}"] += 1
        return Verdict(False, None, reason, decision.key if reason in KEY_REASONS else None)

    def _ask_newest(self) -> int:
        """The device's newest timestamp, from the slot's page."""
        newest = self._ffi.new("uint64_t *")
        if self._lib.bloomgate_slot_newest(self._slot, newest) != self._lib.BLOOMGATE_OK:
            raise DeviceTimeout(f"slot {self._number} does not say the newest timestamp; reset or reload the device")
        return int(newest[0])

    def _learn(self, newest: int, mine: int = 0) -> None:
        """That is the newest timestamp; what came since the one that was known is of others, but for the last ``mine``.

        Can be repeated. With data of its own ``published`` goes past what is of others.
        """
        if self._own_data:
            known, passed = self._newest, newest - mine
            if known & self.parameters.max_count == self.parameters.max_count:
                # From the last count of an epoch it goes on by itself.
                known += 1
            if passed > known:
                self._publication.skip(known, passed)
        self._newest = max(self._newest, newest)

    def _require_older(self, snapshot: int) -> None:
        """ROLLOVER is a verdict on a snapshot older than the epoch that is known here, or of the last epoch of all.

        Else another has begun, and ``published`` does not come to it: it would when everything of this one is written
        back, and where this one has ended only page 0 says.
        """
        if self._epoch <= index(snapshot) >> self.parameters.timestamp_bits < _LAST_EPOCH:
            raise DeviceUnavailable(
                f"nothing was committed: epoch {self._epoch} is over, by a reset or by the commit of another slot; when"
                f" all of it is written back, open slot {self._number} again"
            )
