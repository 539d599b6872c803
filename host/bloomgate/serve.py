"""``bloomgate serve``: one process decides, with any device, for clients in others (``shm:NAME``).

A server that is killed can be started again: its clients wait for it. The new one continues in an epoch after all that
the segment has seen, so what was decided before is never decided again; requests that were not decided are now.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Callable, Optional, TextIO

from bloomgate.backends.model import ModelDevice
from bloomgate.backends.model_queue import counts_of
from bloomgate.backends.shm import create_segment
from bloomgate.backends.soft import NOBODY, SoftDevice, load_native
from bloomgate.backends.soft_source import COMMIT, NAMES, READ_ONLY
from bloomgate.device import Device
from bloomgate.errors import BloomgateError, DeviceUnavailable, PublicationError, RequestError, RequestTooLarge
from bloomgate.queue_layout import FORMAT_IN_FLIGHT, SUBMISSION
from bloomgate.serve_slots import ServedSlots
from bloomgate.shm import locks
from bloomgate.shm.commands import NO_ROOM, UNAVAILABLE, Command
from bloomgate.shm.layout import HEADER, MODE_SERVER, SERVER_LOCK
from bloomgate.shm.segment import Segment, remove
from bloomgate.verdict import Reason, Verdict

__all__ = ["Server", "serve", "server_for"]

#: Seconds in one call to C, so that Python sees signals.
SLICE_SECONDS = 0.1
#: Seconds between two lines about what has been done.
REPORT_SECONDS = 10.0

_WORDS = len(SUBMISSION)
_SETS = (("READ", 3), ("WRITE", 5), ("COMMUTE", 6))


class _Stopped(Exception):
    """``stop`` was called while what the device has decided could not be told."""


class Server:
    """Serves a segment with a device, from :meth:`run`. A context manager that closes itself, but not the device."""

    def __init__(self, device: Device, name: str) -> None:
        """Make the segment, or continue with one whose server has ended.

        Raises :class:`~bloomgate.errors.BloomgateError` if it is served already, has other parameters, or has no server
        by nature; :class:`~bloomgate.errors.PublicationError` while one commit of a client is not published and too
        many epochs have ended since, each with an earlier server.
        """
        self.device = device
        self.name = name
        self._stopping = False
        #: Ends of epochs that are not noted in the segment: the last timestamp and the first one after it.
        self._ends: deque[tuple[int, int]] = deque()
        self._report: Optional[Callable[[], None]] = None
        self._module = load_native()
        lib, ffi = self._module.lib, self._module.ffi
        self.segment = segment = self._open()
        try:
            self._memory = ffi.from_buffer("unsigned char[]", segment.map, require_writable=True)
            self._handle = ffi.gc(lib.bg_segment_open(self._memory), lib.bg_segment_close)
            if not self._handle:
                raise MemoryError("no memory for a segment")
            self._arguments = ffi.new("uint64_t[3]")
            self.slots = ServedSlots(device, segment, self._module, self._handle)
            self._begin()
        except BaseException:
            segment.close()
            raise

    def _open(self) -> Segment:
        """The segment, with the server's lock."""
        while True:
            try:
                segment = create_segment(self.name, self.device.parameters, MODE_SERVER, self.device.last_timestamp())
            except FileExistsError:
                try:
                    segment = Segment.attach(self.name)
                except FileNotFoundError:
                    continue
            why = None
            if not segment.has_server:
                why = "is one without a server; choose another name or remove it"
            elif segment.parameters != self.device.parameters:
                why = f"has {segment.parameters} and the device {self.device.parameters}; remove it"
            elif not locks.try_lock(segment.file, SERVER_LOCK):
                why = f"is served by process {segment.read(HEADER['server_pid'])}"
            if why is None:
                return segment
            segment.close()
            raise BloomgateError(f"the segment {self.name} {why}")

    def _begin(self) -> None:
        """Continue after the timestamps of an earlier server."""
        lib, ffi = self._module.lib, self._module.ffi
        last = lib.bg_segment_last(self._handle)
        continued = self.segment.read(HEADER["server_starts"]) > 0
        if continued:
            bits = self.device.parameters.timestamp_bits
            epoch = (last >> bits) + 1
            if self.device.last_timestamp() >> bits < epoch:
                self.device.reset(epoch)
        sharing = ffi.gc(lib.bg_sharing_new(self._handle, self.segment.file), lib.bg_sharing_free)
        if not lib.bg_serve_begin(self._handle, sharing, self.device.last_timestamp()):
            raise PublicationError(
                f"the segment {self.name} cannot be served until more of it is published: too many epochs have ended"
                f" since {lib.bg_sharing_published(sharing)}; end the client that has not written back the next commit"
            )
        self._sharing = sharing
        self.device._publication.listener = self._epoch_ended
        if continued:
            self.slots.resume()
        self.segment.write(HEADER["server_starts"], self.segment.read(HEADER["server_starts"]) + 1)
        self.segment.write(HEADER["server_pid"], os.getpid())
        self.segment.write(HEADER["server_serving"], 1)

    def _epoch_ended(self, last: int, origin: int) -> None:
        """The device has ended an epoch early."""
        self._ends.append((last, origin))
        self._note_ends()

    def _note_ends(self) -> bool:
        """Note in the segment how epochs have ended; whether there was room for all."""
        lib = self._module.lib
        while self._ends and lib.bg_sharing_epoch_end(self._sharing, *self._ends[0]):
            lib.bg_serve_last(self._handle, self._ends.popleft()[1])
        return not self._ends

    def _await_room(self) -> None:
        """Before clients are told what the device has decided: it is noted how its epochs have ended.

        Else ``published`` would not find its way into the new epoch, and no later server could help. There is no room
        while too many have ended behind a commit that is not published; clients do that without the server. Raises
        _Stopped; then nothing of the new epoch was told, and the next server begins one in its place.
        """
        lib = self._module.lib
        while not self._note_ends():
            if self._stopping:
                raise _Stopped
            lib.bg_sharing_wait(self._sharing, self.published + 1, int(SLICE_SECONDS * 1e9))
            if self._report is not None:
                self._report()

    @property
    def published(self) -> int:
        """Of the segment."""
        timestamp: int = self._module.lib.bg_sharing_published(self._sharing)
        return timestamp

    @property
    def waiting(self) -> bool:
        """Whether nothing is served until more is published, since too many epochs have ended since then."""
        return bool(self._ends)

    def run(self, report: Optional[Callable[[], None]] = None) -> None:
        """Serve until :meth:`stop`. ``report`` is called several times a second."""
        step = self._step_soft if isinstance(self.device, SoftDevice) else self._step
        self._report = report
        with contextlib.suppress(_Stopped):
            while not self._stopping:
                self._await_room()
                step()
                self.slots.bury()
                if report is not None:
                    report()

    def stop(self) -> None:
        """End :meth:`run` soon; from any thread or signal handler."""
        self._stopping = True

    def clients(self) -> int:
        """Slots that are owned now."""
        return sum(locks.is_locked(self.segment.file, slot) for slot in range(self.segment.parameters.slots))

    def close(self, unlink: bool = True) -> None:
        """Stop serving; ``unlink``: remove the segment's name. Idempotent."""
        if self.segment.file < 0:
            return
        self.slots.close()
        self.device._publication.listener = None
        self.segment.write(HEADER["server_serving"], 0)
        self.segment.write(HEADER["server_pid"], 0)
        if unlink:
            remove(self.name)
        self.segment.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # One piece of work.

    def _step_soft(self) -> None:
        assert isinstance(self.device, SoftDevice)
        slot = self._module.lib.bg_serve(self._handle, self.device.state(), int(SLICE_SECONDS * 1e9))
        if slot >= 0:
            self._obey(slot)

    def _step(self) -> None:
        words = self._module.ffi.new("uint32_t[]", _WORDS + 1)
        slot = self._module.lib.bg_serve_take(self._handle, int(SLICE_SECONDS * 1e9), words)
        if slot >= 0:
            self._answer(slot, list(words))
        elif slot < -1:
            self._obey(-2 - slot)

    def _answer(self, slot: int, words: Sequence[int]) -> None:
        verdict = self._decide(slot, words)
        self._await_room()
        self.slots.tell()
        if verdict.reason is not None:
            code = int(verdict.reason)
        else:
            code = READ_ONLY if verdict.timestamp is None else COMMIT
        self._module.lib.bg_serve_answer(
            self._handle,
            slot,
            code,
            words[0] & 0xFFFF,
            verdict.timestamp or 0,
            verdict.conflict_key or 0,
            self.device.last_timestamp(),
        )

    def _decide(self, slot: int, words: Sequence[int]) -> Verdict:
        model = self.device if isinstance(self.device, ModelDevice) else None
        if words[_WORDS] < _WORDS:
            return model.refuse_queued() if model is not None else Verdict(False, None, Reason.BAD_REQUEST, None)
        counts = counts_of(words)
        window = self.segment.layout.window(slot)
        reads, writes, commutes = (
            struct.unpack_from(f"={counts[name]}I", self.segment.map, window + (words[word] if counts[name] else 0))
            for name, word in _SETS
        )
        if SUBMISSION[0]["FORMAT"].extract(words[0]) == FORMAT_IN_FLIGHT:
            return self.slots.commit(slot, reads, writes, commutes)
        if model is not None:
            return model.commit_queued(words[1], words[2], reads, writes, commutes, slot)
        snapshot = self.device.parameters.timestamp(words[1], words[2])
        try:
            return self.device.commit(snapshot=snapshot, reads=reads, writes=writes, commutes=commutes)
        except RequestTooLarge:
            return Verdict(False, None, Reason.OVERFLOW, None)
        except RequestError:
            return Verdict(False, None, Reason.BAD_REQUEST, None)

    def _obey(self, slot: int) -> None:
        """Carry out the command of a slot's owner."""
        lib = self._module.lib
        command = lib.bg_serve_command(self._handle, slot, self._arguments)
        first, second = self._arguments[0], self._arguments[1]
        kind = command & 0xFF
        result = 0
        if kind == Command.DRAIN:
            self._drain(slot)
        elif kind == Command.ENABLE:
            self._enable(slot, first & 0xFFFF)
        elif kind == Command.RESET:
            if lib.bg_sharing_has_room_for_end(self._sharing):
                self.device.reset(first & 0xFFFFFFFF)
            else:
                result = NO_ROOM
        elif kind == Command.RAISE_FLOOR:
            self.device.raise_floor()
        elif kind == Command.INJECT and first < self.device.parameters.K and second < self.device.parameters.D:
            self.device.inject_parity_error(first, second)
        elif kind == Command.STATISTICS:
            statistics = self.device.stats()
            for number, name in enumerate(NAMES):
                self.segment.write(HEADER["statistics"], statistics[name], number)
        else:
            try:
                result = self._obey_in_flight(slot, kind, first, second)
            except DeviceUnavailable:
                result = UNAVAILABLE
        self._await_room()
        self.slots.tell()
        lib.bg_serve_done(self._handle, slot, command, result)

    def _obey_in_flight(self, slot: int, kind: int, first: int, second: int) -> int:
        """The same for a command that has to do with transactions in flight; its result."""
        if kind == Command.OPERATE:
            self._drain(slot)  # what an interrupted commit has left there
            self.slots.operate(slot, first, second)
        elif kind == Command.CLEAR:
            self.slots.clear(slot)
        elif kind == Command.CONFLICTS:
            return self.slots.conflicts(slot)
        elif kind == Command.REVOKE:
            holder = self.device.revoke_token()
            return NOBODY if holder is None else holder
        elif kind == Command.WATCHDOG:
            self.device.set_token_watchdog(first)
        elif kind == Command.TICK:
            self.device.tick(first)
        return 0

    def _enable(self, slot: int, generation: int) -> None:
        self._module.lib.bg_serve_enable(self._handle, slot, generation)

    def _drain(self, slot: int) -> None:
        if isinstance(self.device, SoftDevice):
            self._module.lib.bg_serve_drain(self._handle, self.device.state(), slot)
            return
        words = self._module.ffi.new("uint32_t[]", _WORDS + 1)
        while self._module.lib.bg_serve_take_of(self._handle, slot, words):
            self._answer(slot, list(words))


class _Log:
    """A line when something has changed, but not too often."""

    def __init__(self, server: Server, stream: TextIO) -> None:
        self._server, self._stream = server, stream
        self._next = time.monotonic() + REPORT_SECONDS
        self._said = ""

    def __call__(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + REPORT_SECONDS
        text = self.summary()
        if text != self._said:
            self.say(text)
            self._said = text

    def summary(self) -> str:
        statistics = self._server.device.stats()
        aborts = sum(value for name, value in statistics.items() if name.startswith("aborts"))
        clients = self._server.clients()
        summary = f"{clients} clients, {statistics['commits']:,} commits, {aborts:,} aborts"
        if statistics["dooms"] or statistics["wakes"]:
            spurious = statistics["spurious_wakes"]
            summary += f", {statistics['dooms']:,} dooms, {statistics['wakes']:,} wakes ({spurious:,} spurious)"
        if self._server.waiting:
            summary += f"; waiting for a client to publish what comes after {self._server.published}"
        return summary

    def say(self, text: str) -> None:
        print(f"bloomgate serve: {text}", file=self._stream, flush=True)


def server_for(device: Device, name: str) -> Server:
    """The server that suits a device."""
    if hasattr(device, "bus") and hasattr(device.bus, "memory"):
        from bloomgate.serve_gateware import GatewareServer

        return GatewareServer(device, name)
    return Server(device, name)


def serve(device: Device, name: str, stream: Optional[TextIO] = None) -> None:
    """Serve until SIGINT or SIGTERM, and say so on ``stream`` (default: standard error)."""
    with server_for(device, name) as server, _stopped_by_signals(server.stop):
        log = _Log(server, sys.stderr if stream is None else stream)
        info = device.info()
        log.say(f"{info.description}: shm:{name} with {info.parameters.slots} slots, process {os.getpid()}")
        server.run(log)
        log.say(f"stopping; {log.summary()}")


@contextlib.contextmanager
def _stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before: list[Any] = [signal.signal(number, lambda *_: stop()) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)
