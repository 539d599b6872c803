"""``bloomgate boardtest``: everything that can be tested of a device from its host, and a report to send back.

The sections go from what needs least to what needs most. A section that fails does not keep the others from running.
Where a device has no registers (``soft:``), no page 0 (one slot of ``uio:``) or no interrupt, its sections are skipped
and the report says why. Nothing here reads or writes an address that is not a register: on a board that ends the
program, or worse.
"""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable, Optional, Union

from bloomgate import __version__, boardtest_flights
from bloomgate.boardtest_queues import bad_entry, full_ring, long_request, requests_per_second, wake_up_seconds
from bloomgate.device import Device
from bloomgate.driver import RegisterBus
from bloomgate.errors import BloomgateError, DeviceUnavailable
from bloomgate.reference import ReferenceSTM
from bloomgate.registers import (
    CONTROL_PAGE,
    IDENTIFICATION,
    SLOT_PAGE,
    SLOT_RECORD_BYTES,
    VERSION,
    WORD_BYTES,
    Register,
    Window,
    slot_page_offset,
)
from bloomgate.selftest import SelftestFailure, selftest
from bloomgate.system import System
from bloomgate.verdict import Reason

__all__ = ["BoardReport", "Section", "boardtest", "report_text"]

#: Operations of one self-test within the soak.
_SOAK_ROUNDS = 300
#: Requests that a throughput figure is the mean of.
_REQUESTS = 200
_SIZES = (1, 8, 64, 256)
#: Seconds for an interrupt, which should come at once.
_INTERRUPT_SECONDS = 5.0
#: Interrupts that may be left over from before.
_QUIET = 4
#: Reads of a word that wait for the device; it needs a few.
_POLLS = 100_000

_VERDICT = SLOT_PAGE.register("VERDICT")
_REQUEST = _VERDICT["REQUEST"]

Progress = Callable[[float, str], None]


class _Failure(Exception):
    """A section has found something wrong."""


class _Skip(Exception):
    """A section cannot run on this device."""


@dataclasses.dataclass
class Section:
    """What came of one section."""

    name: str
    #: "passed", "failed" or "skipped".
    status: str
    #: In words: what was found, or why not.
    said: str
    #: Figures, by name.
    figures: dict[str, Any]
    seconds: float


@dataclasses.dataclass
class BoardReport:
    """The whole report. ``dataclasses.asdict`` makes it JSON."""

    device: dict[str, Any]
    host: dict[str, Any]
    sections: list[Section]
    seed: int
    #: Of the device, at the end.
    statistics: dict[str, int]

    @property
    def passed(self) -> bool:
        """Whether nothing has failed."""
        return all(section.status != "failed" for section in self.sections)


def boardtest(
    device: Device,
    *,
    duration: float = 10.0,
    seed: Optional[int] = None,
    system: Optional[System] = None,
    progress: Progress = lambda fraction, note: None,
) -> BoardReport:
    """Test a device that nobody else uses. ``duration``: seconds of the soak. ``progress``: called with 0 to 1.

    The device is reset several times. Exceptions other than KeyboardInterrupt become failed sections.
    """
    seed = random.SystemRandom().getrandbits(32) if seed is None else seed
    run = _Run(device, duration, random.Random(seed), System() if system is None else system, progress)
    sections = list(run.sections())
    try:
        statistics = dict(device.stats())
    except BloomgateError:
        statistics = {}
    info = device.info()
    described = {
        "backend": info.backend,
        "description": info.description,
        "version": info.version,
        "parameters": dataclasses.asdict(info.parameters),
    }
    return BoardReport(described, run.host(), sections, seed, statistics)


class _Run:
    """One run of all sections."""

    def __init__(
        self, device: Device, duration: float, chance: random.Random, system: System, progress: Progress
    ) -> None:
        self.device = device
        self.parameters = device.parameters
        self.duration = duration
        self.random = chance
        self.system = system
        self.progress = progress
        #: Whether the device has queue pairs that work.
        self.queued = False

    def sections(self) -> Iterator[Section]:
        plan: Sequence[tuple[str, Callable[[], tuple[str, Mapping[str, Any]]], float]] = (
            ("identification", self.identification, 0.02),
            ("registers", self.registers, 0.05),
            ("slots", self.slots, 0.05),
            # Before there are commits that nobody publishes: a sleeper waits for publication.
            ("flights", self.flights, 0.05),
            ("verdicts", self.verdicts, 0.1),
            ("errors", self.errors, 0.02),
            ("interrupt", self.interrupt, 0.02),
            ("queues", self.queues, 0.1),
            ("throughput", self.throughput, 0.1),
            ("soak", self.soak, 0.49),
        )
        done = 0.0
        for name, section, share in plan:
            self.share = (done, share)
            self.progress(done, name)
            began = time.monotonic()
            figures: Mapping[str, Any] = {}
            try:
                said, figures = section()
                status = "passed"
                self.queued |= name == "queues"
            except (_Skip, DeviceUnavailable) as reason:
                status, said = "skipped", str(reason)
            except (_Failure, SelftestFailure, BloomgateError, OSError) as error:
                status, said = "failed", f"{error}"
            except Exception as error:
                # What no right device makes happen: a code that has no name, for example.
                status, said = "failed", f"{type(error).__name__}: {error}"
            done += share
            yield Section(name, status, said, dict(figures), round(time.monotonic() - began, 3))
        self.progress(1.0, "")

    def host(self) -> dict[str, Any]:
        """What the test ran on."""
        return {
            "bloomgate": __version__,
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "machine": platform.machine(),
            "kernel": platform.release(),
            "model": self.system.text("proc/device-tree/model"),
            "part": self.system.part(),
            "fabric": self.system.text("sys/class/fpga_manager/fpga0/state"),
            "watchdog_reset": self.system.text("sys/class/watchdog/watchdog0/bootstatus"),
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }

    # The sections. Each returns what it has to say, and figures.

    def identification(self) -> tuple[str, Mapping[str, Any]]:
        info = self.device.info()
        version = ".".join(map(str, info.version))
        bus = getattr(self.device, "bus", None)
        if bus is not None:
            (word,) = self._bus().read(CONTROL_PAGE.register("IDENTIFICATION").offset, 1)
            self._equal("IDENTIFICATION", word, IDENTIFICATION)
        return f"version {version}, {info.parameters.slots} slots, {info.max_request_keys} keys a request", {}

    def registers(self) -> tuple[str, Mapping[str, Any]]:
        """Every register reads, reading changes nothing, and what can be written holds every bit."""
        bus = self._bus()
        version = self.device.info().version
        if version[:2] < VERSION[:2]:
            raise _Skip(
                f"gateware of version {version} may lack registers of version {VERSION}, which must not be read"
            )
        checked = 0
        for page, offset in self._pages():
            for item in page:
                words = self._words(item)
                if not words:
                    continue
                once, again = (bus.read(offset + item.offset, words) for _ in range(2))
                self._equal(f"{page.name}.{item.name} read again", again, once)
                checked += words
        # Nothing may be pending when causes are enabled: a kernel's handler would disable them.
        bus.write(CONTROL_PAGE.register("INTERRUPT_PENDING").offset, [0xFFFFFFFF])
        for page, offset, name in (
            (CONTROL_PAGE, 0, "INITIAL_EPOCH"),
            (CONTROL_PAGE, 0, "INTERRUPT_ENABLE"),
            *((SLOT_PAGE, offset, name) for offset in self._slot_offsets() for name in _HELD),
        ):
            self._walk_bits(bus, page.register(name), offset)
        return f"{checked} words read twice, every bit of the writable registers walked", {"words": checked}

    def slots(self) -> tuple[str, Mapping[str, Any]]:
        """Each slot decides: a request that reads, and one with a key too many."""
        bus = self._bus()
        epoch, count = self.parameters.epoch_and_count(self.device.last_timestamp())
        for slot, offset in enumerate(self._slot_offsets()):
            self._raw(bus, offset, [1, 2, 3], epoch, count, f"slot {slot}", None)
            too_many = [0] * (self.parameters.aperture_depth + 1)
            self._raw(bus, offset, too_many, epoch, count, f"slot {slot}, a key too many", Reason.OVERFLOW)
        return f"{self.parameters.slots} slots, each with a request of its own", {}

    def verdicts(self) -> tuple[str, Mapping[str, Any]]:
        """Every answer that a request can get, then random ones, all compared with the reference STM."""
        self.device.reset()
        origin = self.device.last_timestamp()
        reference = ReferenceSTM(self.parameters.timestamp_bits, origin >> self.parameters.timestamp_bits)
        key, other = self.parameters.max_key, 0
        first = origin + 1
        steps: Sequence[tuple[str, int, Sequence[int], Sequence[int], Sequence[int]]] = (
            ("read-only", origin, [key], [], []),
            ("commit", origin, [key], [key], []),
            ("commute", origin, [], [], [other, other]),
            ("conflict with a write", origin, [other ^ 1, key], [], []),
            ("conflict with a commute", first, [other], [other], []),
            ("no conflict of writes", origin, [], [key], [other]),
            ("future snapshot", first + 50, [], [], []),
        )
        seen: dict[str, int] = {}
        for name, snapshot, reads, writes, commutes in steps:
            request = {"reads": reads, "writes": writes, "commutes": commutes}
            verdict = self.device.commit(snapshot=snapshot, **request)
            self._equal(name, verdict, reference.commit(snapshot=snapshot, **request))
            self.device.publish(verdict.timestamp)
            seen[verdict.reason.name if verdict.reason else "COMMIT"] = 1
        before = self.device.last_timestamp()
        self.device.reset()
        reference.reset()
        self._equal("an older epoch", self.device.commit(snapshot=before), reference.commit(snapshot=before))
        report = selftest(self.device, seed=self.random.getrandbits(32), rounds=_SOAK_ROUNDS, progress=self._part)
        answers = {**seen, "ROLLOVER": 1}
        for name, number in report.verdicts.items():
            answers[name] = answers.get(name, 0) + number
        return f"as the reference STM says: {', '.join(sorted(answers))}", answers

    def errors(self) -> tuple[str, Mapping[str, Any]]:
        """A reset hits a request that is being filled, and a write one that is being decided."""
        bus = self._bus()
        offset = slot_page_offset(0)
        bus.write(offset + SLOT_PAGE.window("READ_APERTURE").offset, [1])
        self.device.reset()
        epoch, count = self.parameters.epoch_and_count(self.device.last_timestamp())
        self._raw(bus, offset, [2], epoch, count, "after a reset", Reason.RESET)
        # Written while the request before it is decided: dropped, and held against the next one.
        keys = [0] * self.parameters.aperture_depth
        self._fill(bus, offset, keys)
        self._submit(bus, offset, epoch, count)
        bus.write(offset + SLOT_PAGE.window("READ_APERTURE").offset, [1])
        self._decided(bus, offset)
        (status,) = bus.read(offset + SLOT_PAGE.register("STATUS").offset, 1)
        busy = bool(status & SLOT_PAGE.register("STATUS")["BUSY_ERROR"].mask)
        self._raw(bus, offset, [], epoch, count, "after a write to a busy slot", Reason.BUSY if busy else None)
        entries = self.device.error_log() if hasattr(self.device, "error_log") else []
        named = sorted({getattr(entry.code, "name", str(entry.code)) for entry in entries})
        return f"error log: {', '.join(named) or 'empty'}", {"busy_was_hit": busy, "entries": len(entries)}

    def interrupt(self) -> tuple[str, Mapping[str, Any]]:
        """It comes with a verdict when it is enabled, once, and not when it is not."""
        bus = self._bus()
        wait = _interrupt_waiter(bus)
        enable, pending = (CONTROL_PAGE.register(f"INTERRUPT_{name}") for name in ("ENABLE", "PENDING"))
        cause = enable["VERDICT"].mask
        self._quiet(bus, wait)
        self.device.commit(snapshot=self.device.last_timestamp())
        if wait(0.05):
            raise _Failure("an interrupt came although none is enabled")
        bus.write(pending.offset, [0xFFFFFFFF])
        bus.write(enable.offset, [cause])
        began = time.monotonic()
        self.device.commit(snapshot=self.device.last_timestamp())
        came = wait(_INTERRUPT_SECONDS)
        seconds = time.monotonic() - began
        (causes,) = bus.read(pending.offset, 1)
        self._quiet(bus, wait)
        # Where the kernel's handler takes the causes, there are none left to see.
        if not causes & cause and not getattr(bus, "takes_causes", False):
            raise _Failure("a verdict was given, and INTERRUPT_PENDING does not show it")
        if not came:
            raise _Failure(f"INTERRUPT_PENDING shows the verdict, but no interrupt came in {_INTERRUPT_SECONDS:.0f} s")
        return f"request to wake-up {1e6 * seconds:,.0f} us", {"seconds": seconds}

    def flights(self) -> tuple[str, Mapping[str, Any]]:
        """Slots that announce what they read: doom, a sleeper that a commit wakes, the irrevocable token."""
        if self.parameters.slots < 2:
            raise _Skip("this takes two slots")
        # The token is not granted near the end of an epoch.
        self.device.reset()
        boardtest_flights.doom(self.device)
        boardtest_flights.token(self.device)
        seconds = boardtest_flights.wake_up_seconds(self.device)
        return f"doom, wake-up and token; commit to wake-up {1e6 * seconds:,.0f} us", {"seconds": seconds}

    def queues(self) -> tuple[str, Mapping[str, Any]]:
        """The same verdicts through a queue pair; rings that wrap, long requests, bad entries, a client that sleeps."""
        with self.device.queue_pair() as queue:
            report = selftest(
                self.device, seed=self.random.getrandbits(32), rounds=_SOAK_ROUNDS, progress=self._part, queue=queue
            )
            figures: dict[str, Any] = dict(report.verdicts)
            requests = report.requests + full_ring(self.device, queue)
            bad_entry(self.device, queue)
            keys = long_request(self.device, queue)
            said = f"{requests} requests as the model and the reference STM say, one of {keys // 2} keys"
            if hasattr(queue.port, "spins"):
                figures["seconds_asleep"] = seconds = wake_up_seconds(self.device, queue)
                said += f"; request to verdict asleep {1e6 * seconds:,.0f} us"
        return said, figures

    def throughput(self) -> tuple[str, Mapping[str, Any]]:
        """Requests from one thread, one after the other and through a queue pair; and the device's clock."""
        figures: dict[str, Any] = {}
        words = []
        sizes = [size for size in _SIZES if 2 * size <= self.parameters.aperture_depth]
        begin, clocks = time.monotonic(), self.device.stats().get("clocks")
        for number, size in enumerate(sizes):
            reads = [key & self.parameters.max_key for key in range(size)]
            began = time.monotonic()
            # Not `published`: what was committed past the driver holds it back.
            snapshot = self.device.last_timestamp()
            for _ in range(_REQUESTS):
                verdict = self.device.commit(snapshot=snapshot, reads=reads, writes=reads[:1])
                if verdict.timestamp is not None:
                    snapshot = verdict.timestamp
                elif verdict.reason is Reason.ROLLOVER:
                    snapshot = self.device.last_timestamp()
                else:
                    raise _Failure(f"a request that nobody can conflict with got {verdict}")
            rate = _REQUESTS / (time.monotonic() - began)
            figures[f"requests_per_second_{size}"] = round(rate, 1)
            words.append(f"{size} keys {rate:,.0f}/s")
            self._part(number + 1, len(sizes))
        if self.queued:
            with self.device.queue_pair() as queue:
                for size in sizes:
                    rate = requests_per_second(self.device, queue, _REQUESTS, size)
                    figures[f"queued_requests_per_second_{size}"] = round(rate, 1)
                    words.append(f"{size} keys queued {rate:,.0f}/s")
        if clocks is not None:
            elapsed = time.monotonic() - begin
            figures["clock_hz"] = round((self.device.stats()["clocks"] - clocks) / elapsed)
            words.append(f"clock {figures['clock_hz'] / 1e6:,.2f} MHz by this host's time")
        return "; ".join(words), figures

    def soak(self) -> tuple[str, Mapping[str, Any]]:
        """Self-tests with new seeds until the time is over, in turns through slot pages and a queue pair."""
        began = time.monotonic()
        requests = keys = runs = 0
        while (elapsed := time.monotonic() - began) < self.duration:
            share = elapsed / self.duration
            self.progress(self.share[0] + self.share[1] * share, f"soak, {self.duration - elapsed:,.0f} s to go")
            seed = self.random.getrandbits(32)
            with self.device.queue_pair() if self.queued and runs % 2 else contextlib.nullcontext() as queue:
                report = selftest(self.device, seed=seed, rounds=_SOAK_ROUNDS, queue=queue)
            requests, keys, runs = requests + report.requests, keys + report.keys, runs + 1
        said = f"{requests:,} requests with {keys:,} keys, all as the model and the reference STM say"
        return said, {"requests": requests, "keys": keys, "self_tests": runs}

    # What they are made of.

    def _bus(self) -> RegisterBus:
        bus = getattr(self.device, "bus", None)
        if bus is None:
            raise _Skip("this device has no registers that the host can see")
        assert isinstance(bus, RegisterBus)
        return bus

    def _part(self, done: int, total: int) -> None:
        """Progress within a section."""
        before, share = self.share
        self.progress(before + share * done / total, "")

    def _words(self, item: Union[Register, Window]) -> int:
        """How many words of an item to read; 0 for what need not be there, or means something only to a queue."""
        if isinstance(item, Register):
            return 1
        if item.name == "SLOT_RECORDS":
            return self.parameters.slots * SLOT_RECORD_BYTES // WORD_BYTES
        return item.size // WORD_BYTES if item.name in _AT_REST else 0

    def _slot_offsets(self) -> Iterator[int]:
        return map(slot_page_offset, range(self.parameters.slots))

    def _pages(self) -> Iterator[tuple[Any, int]]:
        yield CONTROL_PAGE, 0
        for offset in self._slot_offsets():
            yield SLOT_PAGE, offset

    def _equal(self, what: str, found: object, right: object) -> None:
        if found != right:
            raise _Failure(f"{what}: {found}, and should be {right}")

    def _quiet(self, bus: RegisterBus, wait: Callable[[float], bool]) -> None:
        """Disable and clear the interrupt, and take those that came before and are still counted."""
        for _ in range(_QUIET):
            bus.write(CONTROL_PAGE.register("INTERRUPT_ENABLE").offset, [0])
            bus.write(CONTROL_PAGE.register("INTERRUPT_PENDING").offset, [0xFFFFFFFF])
            if not wait(0):
                return
        raise _Failure("interrupts come although none is enabled")

    def _walk_bits(self, bus: RegisterBus, register: Register, offset: int) -> None:
        mask = sum(field.mask for field in register.fields) or 0xFFFFFFFF
        (before,) = bus.read(offset + register.offset, 1)
        for word in (*(1 << bit for bit in range(32)), 0xFFFFFFFF, 0):
            bus.write(offset + register.offset, [word & mask])
            self._equal(register.name, bus.read(offset + register.offset, 1)[0], word & mask)
        bus.write(offset + register.offset, [before])

    def _fill(self, bus: RegisterBus, offset: int, keys: Sequence[int]) -> None:
        window = SLOT_PAGE.window("READ_APERTURE")
        room = window.size // WORD_BYTES
        for begin in range(0, len(keys), room):
            bus.write(offset + window.offset, keys[begin : begin + room])

    def _submit(self, bus: RegisterBus, offset: int, epoch: int, count: int) -> None:
        # Half the numbers away from the driver's next one, which it must not find answered.
        (word,) = bus.read(offset + _VERDICT.offset, 1)
        self.number = (_REQUEST.extract(word) + (1 << _REQUEST.width - 1)) % (1 << _REQUEST.width)
        bus.write(offset + SLOT_PAGE.register("SNAPSHOT_EPOCH").offset, [epoch, count, self.number])

    def _decided(self, bus: RegisterBus, offset: int) -> int:
        done = _VERDICT["DONE"].mask
        for _ in range(_POLLS):
            (word,) = bus.read(offset + _VERDICT.offset, 1)
            if word & done and _REQUEST.extract(word) == self.number:
                return word
        raise _Failure(f"the slot at {offset:#x} does not decide")

    def _raw(
        self,
        bus: RegisterBus,
        offset: int,
        keys: Sequence[int],
        epoch: int,
        count: int,
        what: str,
        reason: Optional[Reason],
    ) -> None:
        """A request that only reads, past the driver."""
        self._fill(bus, offset, keys)
        self._submit(bus, offset, epoch, count)
        code = _VERDICT["REASON"].extract(self._decided(bus, offset))
        bus.write(offset + SLOT_PAGE.register("DISCARD").offset, [0])
        self._equal(what, Reason(code).name if code else "COMMIT", reason.name if reason else "COMMIT")


#: Slot registers that hold what is written.
_HELD = ("SNAPSHOT_EPOCH", "SNAPSHOT_COUNT")
#: Windows of page 0 that read the same again, with the device at rest.
_AT_REST = ("ERROR_LOG", "STATISTICS")


def _interrupt_waiter(bus: RegisterBus) -> Callable[[float], bool]:
    """Waits for the interrupt of a bus, at most so many seconds."""
    wait: Optional[Callable[[float], bool]] = getattr(bus, "wait_interrupt", None)
    if wait is not None:
        return wait
    if hasattr(bus, "interrupt"):
        return lambda seconds: bool(bus.interrupt)
    raise _Skip("this way to the device carries no interrupt")


def report_text(report: BoardReport) -> str:
    """The report for people."""
    lines = [
        f"bloomgate boardtest: {'PASSED' if report.passed else 'FAILED'}",
        f"device   {report.device['backend']}: {report.device['description']}",
        "host     " + ", ".join(f"{name} {value}" for name, value in report.host.items() if value is not None),
        f"seed     {report.seed}",
        "",
    ]
    width = max(len(section.name) for section in report.sections)
    for section in report.sections:
        lines.append(f"{section.status:8} {section.name:{width}}  {section.said}")
    if report.device["backend"] in ("soft", "model", "sim"):
        lines += ["", "This was no hardware: the device runs in software on this host."]
    return "\n".join(lines) + "\n"
