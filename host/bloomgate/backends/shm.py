"""``shm:NAME``, one device for several processes: through a server, or decided by its clients in shared memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional
from weakref import WeakSet

from bloomgate.backends.shm_slot import ShmSlot
from bloomgate.backends.soft import NOBODY, conflicts_of, load_native
from bloomgate.backends.soft_source import NAMES
from bloomgate.device import Device, DeviceInfo
from bloomgate.errors import PublicationError, VersionMismatch
from bloomgate.h3 import matrices
from bloomgate.in_flight import Conflict
from bloomgate.parameters import Parameters
from bloomgate.queue_pair import QueuePair
from bloomgate.registers import CONFLICT_LOG_ENTRIES, VERSION
from bloomgate.shm.commands import NO_ROOM, Command
from bloomgate.shm.guards import Guards
from bloomgate.shm.layout import HEADER, MODE_SERVER, MODE_SERVERLESS
from bloomgate.shm.segment import Segment
from bloomgate.shm.slot import PATIENCE, SlotPort
from bloomgate.verdict import Verdict

__all__ = ["ShmDevice", "create_segment", "open_segment"]


def create_segment(name: Optional[str], parameters: Parameters, mode: int, origin: int = 0) -> Segment:
    """A new segment, ready for clients (:data:`MODE_SERVERLESS`) or a server. Raises FileExistsError."""
    module = load_native()
    size = 0
    if mode != MODE_SERVER:
        size = module.lib.bg_device_bytes(
            parameters.K, parameters.row_bits, parameters.slots, parameters.aperture_depth
        )

    def prepare(segment: Segment) -> None:
        segment.write(HEADER["origin"], origin)
        memory = module.ffi.from_buffer("unsigned char[]", segment.map, require_writable=True)
        handle = module.lib.bg_segment_open(memory)
        if handle == module.ffi.NULL:
            raise MemoryError("no memory for a segment")
        done = module.lib.bg_segment_format(handle, [word for matrix in matrices(parameters) for word in matrix])
        module.lib.bg_segment_close(handle)
        if not done:
            raise MemoryError("no mutex that processes can share")

    return Segment.create(name, parameters, mode, size, prepare)


def open_segment(name: str, expected: Optional[Parameters]) -> Segment:
    """The segment of that name; without one, a new one that needs no server."""
    while True:
        try:
            segment = Segment.attach(name)
        except FileNotFoundError:
            pass
        else:
            if expected is not None and segment.parameters != expected:
                found = segment.parameters
                segment.close()
                raise VersionMismatch(f"the segment {name} has {found}, not {expected}")
            return segment
        try:
            return create_segment(name, Parameters() if expected is None else expected, MODE_SERVERLESS)
        except FileExistsError:
            continue  # another process was faster


class ShmDevice(Device):
    """A client of a segment; it owns one slot, and one more for each of its queue pairs and open slots."""

    def __init__(
        self,
        name: str = "",
        *,
        expected: Optional[Parameters] = None,
        initial_epoch: int = 0,
        patience: float = PATIENCE,
    ) -> None:
        """``name``: of the segment, which is made if there is none; without a name it is this device's alone.

        ``expected``: the geometry that it must have, or gets. ``initial_epoch``: if it is greater than the segment's
        epoch, reset to it. ``patience``: seconds after which a server that does not answer, or a process that holds the
        mutex, is reported.

        Raises :class:`~bloomgate.errors.BloomgateError` if all slots are in use, and
        :class:`~bloomgate.errors.DeviceTimeout`, :class:`~bloomgate.errors.VersionMismatch`.
        """
        self._require_epoch(initial_epoch)
        if name:
            segment = open_segment(name, expected)
        else:
            segment = create_segment(None, Parameters() if expected is None else expected, MODE_SERVERLESS)
        #: The rings of the slot that this device owns.
        self.port = port = SlotPort(segment, patience)
        #: The segment and the number of the slot that this device owns.
        self.segment, self.slot = segment, port.slot
        #: The ``bg_segment`` of C.
        self.handle = port.handle
        #: Submits in that slot; :meth:`commit` uses it too.
        self.queue = QueuePair(port, self._require_sets)
        self._module = port.module
        #: Of queue pairs and slots: they have the segment open once more.
        self._ports: WeakSet[SlotPort] = WeakSet()
        self._slots: WeakSet[ShmSlot] = WeakSet()
        self._statistics_before = dict.fromkeys(NAMES, 0)
        self._closed = False
        self.parameters = segment.parameters
        try:
            super().__init__(segment.parameters, port.last_timestamp())
            self._publication = port.publication
            #: What irrevocable transactions on shared arrays hold.
            self.guards = Guards(self, port.publication)
            self._statistics_before = dict(self.stats())
            if port.last_timestamp() >> self.parameters.timestamp_bits < initial_epoch:
                self.reset(initial_epoch)
        except BaseException:
            port.close()
            raise

    def commit(
        self,
        *,
        snapshot: int,
        reads: Sequence[int] = (),
        writes: Sequence[int] = (),
        commutes: Sequence[int] = (),
    ) -> Verdict:
        self._require_open()
        try:
            fits = len(reads) + len(writes) + len(commutes) <= self.parameters.aperture_depth
        except TypeError:
            fits = False
        if not fits:
            self._require_request(snapshot, reads, writes, commutes)
        self.queue.settle(self._publication.publish)
        verdict = self.queue.commit(snapshot=snapshot, reads=reads, writes=writes, commutes=commutes)
        if verdict.timestamp is not None:
            self._publication.assigned(verdict.timestamp)
        return verdict

    def wait_published(self, timestamp: Optional[int], timeout: Optional[float] = None) -> None:
        self.queue.settle(self._publication.publish)
        super().wait_published(timestamp, timeout)

    recalls = True

    def recall(self, thread: int) -> Optional[Verdict]:
        return self.queue.recall(thread)

    def require_alive(self) -> None:
        """Raises :class:`~bloomgate.errors.DeviceTimeout` when nobody is going to decide."""
        self.port.require_alive()

    def queue_pair(self) -> QueuePair:
        self._require_open()
        return QueuePair(self._new_port(), self._require_sets)

    def _new_port(self, number: Optional[int] = None) -> SlotPort:
        port = SlotPort(self.segment.again(), self.port.patience, number)
        self._ports.add(port)
        return port

    # In flight.

    def open_slot(self, number: Optional[int] = None) -> ShmSlot:
        self._require_open()
        slot = ShmSlot(self, self._new_port(number))
        self._slots.add(slot)
        return slot

    def conflicts(self) -> list[Conflict]:
        self._require_open()
        ffi, lib = self._module.ffi, self._module.lib
        taken = ffi.new("bg_conflict[]", CONFLICT_LOG_ENTRIES)
        if self.segment.has_server:
            with self.port.calling:
                count = self.port.call(Command.CONFLICTS)
                ffi.memmove(taken, self.port.exchange.words, count * ffi.sizeof("bg_conflict"))
        else:
            found = ffi.new("uint32_t *")
            self.port.patiently(lambda ns: lib.bg_segment_conflicts(self.handle, taken, found, ns))
            count = found[0]
        return conflicts_of(self.parameters, taken[0:count])

    def revoke_token(self) -> Optional[int]:
        self._require_open()
        if self.segment.has_server:
            holder = self.port.call(Command.REVOKE)
        else:
            found = self._module.ffi.new("uint32_t *")
            self.port.patiently(lambda ns: self._module.lib.bg_segment_revoke(self.handle, found, ns))
            holder = found[0]
        return None if holder == NOBODY else holder

    def set_token_watchdog(self, ticks: int) -> None:
        self._require_open()
        self._require_ticks(ticks)
        if self.segment.has_server:
            self.port.call(Command.WATCHDOG, ticks)
        else:
            self.port.patiently(lambda ns: self._module.lib.bg_segment_watchdog(self.handle, ticks, ns))

    def tick(self, ticks: int = 1) -> None:
        self._require_open()
        self._require_ticks(ticks)
        if self.segment.has_server:
            self.port.call(Command.TICK, ticks)
        else:
            self.port.patiently(lambda ns: self._module.lib.bg_segment_tick(self.handle, ticks, ns))

    def last_timestamp(self) -> int:
        self._require_open()
        return self.port.last_timestamp()

    def info(self) -> DeviceInfo:
        self._require_open()
        if self.segment.has_server:
            how = "decided by a server"
        else:
            how = "decided by its clients in shared memory"
        return DeviceInfo(
            backend="shm",
            version=VERSION,
            parameters=self.parameters,
            max_request_keys=self.parameters.aperture_depth,
            description=f"{f'segment {self.segment.name}' if self.segment.name else 'a segment of its own'}, {how}",
        )

    def stats(self) -> Mapping[str, int]:
        self._require_open()
        if self.segment.has_server:
            self.port.call(Command.STATISTICS)
            values = [self.segment.read(HEADER["statistics"], number) for number in range(len(NAMES))]
        else:
            array = self._module.ffi.new("uint64_t[]", len(NAMES))
            self.port.patiently(lambda ns: self._module.lib.bg_segment_stats(self.handle, array, ns))
            values = list(array)
        return {name: value - self._statistics_before[name] for name, value in zip(NAMES, values)}

    def reset(self, initial_epoch: int = 0) -> None:
        self._require_epoch(initial_epoch)
        self._require_open()
        if self.segment.has_server:
            refused = self.port.call(Command.RESET, initial_epoch) == NO_ROOM
        else:
            reset = self._module.lib.bg_segment_reset
            refused = self.port.patiently(lambda ns: reset(self.handle, initial_epoch, ns)) == -1
        if refused:
            raise PublicationError(
                f"nothing was reset: too many epochs have ended since {self.published}, the newest timestamp that is"
                " published"
            )

    def raise_floor(self) -> None:
        self._require_open()
        if self.segment.has_server:
            self.port.call(Command.RAISE_FLOOR)
        else:
            self.port.patiently(lambda ns: self._module.lib.bg_segment_raise_floor(self.handle, ns))

    def inject_parity_error(self, table: int, row: int) -> None:
        self._require_word(table, row)
        self._require_open()
        if self.segment.has_server:
            self.port.call(Command.INJECT, table, row)
        else:
            self.port.patiently(lambda ns: self._module.lib.bg_segment_inject(self.handle, table, row, ns))

    def close(self) -> None:
        for slot in list(self._slots):
            slot.close()
        super().close()
        self.queue.close()

    def _after_fork(self) -> None:
        super()._after_fork()
        # The locks belong to both processes as long as both have the file open.
        self.queue.close()
        for port in list(self._ports):
            port.close()
