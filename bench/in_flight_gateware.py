"""Clock cycles of transactions in flight in the gateware: announcing, dooms and wakes, and what they cost commits.

Measured in the simulated gateware at its default geometry, from its AXI ports and its probe output. Nothing here
depends on the machine, and nothing was measured on silicon.

What is counted:

* *filter accesses*: keys that a lane takes to the filters in a clock cycle, to be announced, validated or inserted.
* *verdict* of a request: clock cycles from the handshake of SUBMIT's data beat to the first one in which the verdict
  can be read in the slot's page.
* *doom, wake*: clock cycles from there to the first one in which FLIGHT shows DOOMED in the loser's page, or that it
  is not PARKED any more; *told*: shows TOLD, and with it key, timestamp and WAKE_SEQUENCE. FLIGHT is read by bursts of
  one word a clock cycle. All losers are doomed and woken at once; they are told one after the other, in the pace of the
  conflict log.

The commits that announcing is compared with are those of queue pairs, which come faster than the bus can fill pages;
the same requests without a slot in flight are measured in the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from bloomgate.queue_layout import announced_log_offset
from bloomgate.registers import BASE_ADDRESS, SLOT_PAGE, slot_page_offset
from bloomgate_sim.device import Burst

import bench.queues as queues
from bench.gateware import BURST_BEATS, PARAMETERS
from bench.queues import FIRST_WRITE, Shape
from bench.report import Figure, at_least, at_most

SLOTS = range(PARAMETERS.slots)
DEPTH = PARAMETERS.aperture_depth
#: Keys that transactions in flight announce; other than those of queued requests.
FIRST_KEY = 1 << 20
FIXED = 0
#: Keys that each transaction in flight has announced while commits are measured.
ANNOUNCED = 64

_VERDICT = SLOT_PAGE.register("VERDICT")
_FLIGHT = SLOT_PAGE.register("FLIGHT")


def _address(slot: int, name: str) -> int:
    """Of a register or window of the slot's page, on the bus."""
    offset = next(item.offset for item in SLOT_PAGE if item.name == name)
    return BASE_ADDRESS + slot_page_offset(slot) + offset


class Bench(queues.Bench):
    """A simulated device with queue pairs, whose pages have transactions in flight."""

    def __init__(self) -> None:
        super().__init__()
        self._next_key = FIRST_KEY
        self._read_clocks = self._measure_reads()

    # -- transactions in flight ------------------------------------------------------------

    def new_keys(self, count: int) -> range:
        """Keys that nobody has used."""
        self._next_key += count
        return range(self._next_key - count, self._next_key)

    def begin(self, slot: int, *, announce: bool = True) -> None:
        """A transaction with the newest snapshot, in flight unless not ``announce``."""
        bursts = [
            Burst(_address(slot, "DISCARD"), data=[1]),
            Burst(_address(slot, "SNAPSHOT_EPOCH"), data=[*PARAMETERS.epoch_and_count(self._commits)]),
        ]
        if announce:
            bursts.append(Burst(_address(slot, "ANNOUNCE"), data=[1]))
        for burst in bursts:
            self.bus.run([burst])

    def keys(self, slot: int, window: str, keys: Iterable[int]) -> list[Burst]:
        """Bursts that put these into an aperture of the slot's page."""
        words = list(keys)
        starts = range(0, len(words), BURST_BEATS)
        return [Burst(_address(slot, window), data=words[start : start + BURST_BEATS]) for start in starts]

    def announce(self, slot: int, keys: Iterable[int]) -> None:
        """Put them into the read set, and wait until they are announced."""
        self.bus.run(self.keys(slot, "READ_APERTURE", keys))
        while not self.flight(slot) & _FLIGHT["ANNOUNCING_DONE"].mask:
            self.bus.step(DEPTH)

    def flight(self, slot: int) -> int:
        (word,) = self.bus.read(_address(slot, "FLIGHT") - BASE_ADDRESS, 1)
        return word

    def end(self, slots: Iterable[int] = SLOTS) -> None:
        for slot in slots:
            self.bus.run([Burst(_address(slot, "DISCARD"), data=[1])])

    # -- announcing ------------------------------------------------------------------------

    def accesses(self) -> dict[str, list[tuple[int, int]]]:
        """(clock, keys) of what has entered the filters, by what for."""
        names = ("queries", "insertions", "announcements")
        events = self._events()
        return {
            name: [(clock, getattr(probe, name).bit_count()) for clock, probe in events if getattr(probe, name)]
            for name in names
        }

    def stream(self) -> float:
        """Keys a clock cycle that are announced while the bus brings them and nobody commits."""
        self.begin(0)
        self.bus.record()
        self.bus.run(self.keys(0, "READ_APERTURE", self.new_keys(DEPTH)))
        self.bus.step(DEPTH)
        announced = self.accesses()["announcements"]
        assert sum(keys for _, keys in announced) == DEPTH
        self.end()
        (first, keys), (last, _) = announced[0], announced[-1]
        return (DEPTH - keys) / (last - first)

    def stream_by_log(self, slots: int) -> float:
        """The same while so many slots announce by a log in memory; from the doorbells on."""
        for slot in range(slots):
            self.begin(slot)
            self.rings[slot].put(announced_log_offset(PARAMETERS), self.new_keys(DEPTH))
        self.bus.record()
        doorbells = [Burst(_address(slot, "ANNOUNCED_TAIL"), data=[DEPTH]) for slot in range(slots)]
        self.bus.run(doorbells)
        while not all(self.flight(slot) & _FLIGHT["ANNOUNCING_DONE"].mask for slot in range(slots)):
            self.bus.step(DEPTH)
        announced = self.accesses()["announcements"]
        assert sum(keys for _, keys in announced) == slots * DEPTH
        self.end(range(slots))
        return slots * DEPTH / (announced[-1][0] - doorbells[0].data_clocks[-1])

    def contention(self, shape: Shape, *, each: int) -> tuple[float, float, int]:
        """While the queue pairs of all slots commit and the pages of all have keys to announce: filter accesses a clock
        cycle, announcing beats a clock cycle, and most clock cycles between two of these.
        """
        announced = min(DEPTH, shape.keys * each // 2)
        for slot in SLOTS:
            self.begin(slot, announce=False)
            self.bus.run(self.keys(slot, "READ_APERTURE", self.new_keys(announced)))
            for _ in range(each):
                self._enter(slot, shape)
        self.bus.record()
        self.bus.run(
            [self._doorbell(slot) for slot in SLOTS] + [Burst(_address(slot, "ANNOUNCE"), data=[1]) for slot in SLOTS]
        )
        self._finish(list(SLOTS), shape, each)
        accesses = self.accesses()
        announcements = accesses["announcements"]
        committed = [clock for name in ("queries", "insertions") for clock, _ in accesses[name]]
        # From when every page and every buffer has begun until some have no more; slots take turns.
        first = max(announcements[PARAMETERS.slots][0], min(committed) + 64)
        last = min(announcements[-PARAMETERS.slots][0], max(committed) - 64)
        clocks = last - first + 1
        assert clocks > DEPTH, clocks
        keys = sum(keys for kind in accesses.values() for clock, keys in kind if first <= clock <= last)
        beats = [clock for clock, _ in announcements if first <= clock <= last]
        gaps = [later - earlier for earlier, later in zip(beats, beats[1:], strict=False)]
        self.end()
        self.bus.step(2 * DEPTH)
        return keys / clocks, len(beats) / clocks, max(gaps)

    # -- dooms and wakes -------------------------------------------------------------------

    def _watch(self, slot: int, item: str, shows: Callable[[int], bool], submit: Burst) -> int:
        """Clock number of the first beat of an answer from which on a register ``shows`` what comes of ``submit``."""
        bursts = [Burst(_address(slot, item), length=BURST_BEATS, burst=FIXED) for _ in range(24)]
        self.bus.run([submit, *bursts])
        beats = [(clock, word) for burst in bursts for clock, word in zip(burst.data_clocks, burst.words, strict=True)]
        late = [clock for clock, word in beats if not shows(word)]
        assert late, f"{item} has shown it all the time"
        assert shows(beats[-1][1]), f"{item} never shows it"
        return min(clock for clock, _ in beats if clock > late[-1])

    def shown(self, what: str, losers: int, watched: int, writes: int, *, hit_by: int) -> int:
        """Clock cycles from a commit's verdict until the page of one of the slots that it dooms and wakes shows it.

        ``what``: "doom", "wake", or "told", which is both with all that belongs to them. ``hit_by``: which of its
        write keys they have announced.
        """
        winner = SLOTS[-1]
        written = self.new_keys(writes)
        slots = SLOTS[:losers]
        for slot in slots:
            self.begin(slot)
            self.announce(slot, [written[hit_by]])
            self.bus.run([Burst(_address(slot, "PARK"), data=[1])])
        sequence = (_FLIGHT["WAKE_SEQUENCE"].extract(self.flight(slots[watched])) + 1) % (1 << 16)

        def shows(word: int) -> bool:
            flags = {name: bool(word & _FLIGHT[name].mask) for name in ("DOOMED", "PARKED", "TOLD")}
            if what == "told":
                told = flags["DOOMED"] and flags["TOLD"]
                assert told == (_FLIGHT["WAKE_SEQUENCE"].extract(word) == sequence)
                return told
            return flags["DOOMED"] if what == "doom" else not flags["PARKED"]

        self.begin(winner, announce=False)
        self.bus.run(self.keys(winner, "WRITE_APERTURE", written))
        self.bus.record()
        seen = self._watch(slots[watched], "FLIGHT", shows, self._submission(winner))
        (decided,) = [clock for clock, probe in self._events() if probe.decided]
        self._commits += 1
        self.end(slots)
        return seen - (decided + 1) - self._read_clocks

    def shown_behind_completion(self, writes: int) -> int:
        """Clock cycles from a completion's last beat until a page shows the doom by the last key of that commit."""
        winner, shape = SLOTS[-1], Shape(0, writes)
        self.begin(0)
        self.announce(0, [FIRST_WRITE + writes - 1])
        self._enter(winner, shape)
        self.bus.record()
        seen = self._watch(0, "FLIGHT", lambda word: bool(word & _FLIGHT["DOOMED"].mask), self._doorbell(winner))
        (completed,) = [clock for clock, probe in self._events() if probe.completed]
        self._finish([winner], shape, 1)
        self.end([0])
        return seen - completed - self._read_clocks

    def _measure_reads(self) -> int:
        """Clock cycles from the one in which a page has something to its beat on the bus: a read takes them, and no
        doom is later for it.
        """
        self.begin(0, announce=False)
        self.bus.run(self.keys(0, "WRITE_APERTURE", self.new_keys(1)))
        self.bus.record()
        seen = self._watch(0, "VERDICT", lambda word: bool(word & _VERDICT["DONE"].mask), self._submission(0))
        (decided,) = [clock for clock, probe in self._events() if probe.decided]
        self._commits += 1
        return seen - (decided + 1)

    def _submission(self, slot: int) -> Burst:
        return Burst(_address(slot, "SUBMIT"), data=[0])

    # -- commits ---------------------------------------------------------------------------

    def verdict(self, shape: Shape, *, announced: bool) -> int:
        """Clock cycles of a request whose reads were all announced before, or none of them."""
        self.begin(0, announce=announced)
        reads = self.new_keys(shape.reads)
        if announced:
            self.announce(0, reads)
        else:
            self.bus.run(self.keys(0, "READ_APERTURE", reads))
        self.bus.run(self.keys(0, "WRITE_APERTURE", self.new_keys(shape.writes)))
        submit = self._submission(0)
        self.bus.record()
        self.bus.run([submit])
        self.bus.step(2 * shape.keys + 64)
        (decided,) = [clock for clock, probe in self._events() if probe.decided]
        self._commits += shape.writes > 0
        return decided + 1 - submit.data_clocks[-1]

    def all_in_flight(self, reads: int) -> None:
        """Every page has a transaction in flight that has announced so many keys."""
        for slot in SLOTS:
            self.begin(slot)
            self.announce(slot, self.new_keys(reads))

    def pages_sustained(self, shape: Shape, *, in_flight: int) -> float:
        """Clock cycles a request of the pages of half of the slots, behind a long one so that the bus is not in the
        way; the other half has transactions in flight, which have announced so many keys each, or none.
        """
        half = PARAMETERS.slots // 2
        for slot in SLOTS[half:] if in_flight else ():
            self.begin(slot)
            self.announce(slot, self.new_keys(in_flight))
        for slot in SLOTS[:half]:
            self.begin(slot, announce=False)
            sets = Shape(DEPTH) if slot == 0 else shape
            self.bus.run(self.keys(slot, "READ_APERTURE", self.new_keys(sets.reads)))
            self.bus.run(self.keys(slot, "WRITE_APERTURE", self.new_keys(sets.writes)))
        self.bus.record()
        self.bus.run([self._submission(slot) for slot in SLOTS[:half]])
        self.bus.step(DEPTH + 2 * shape.keys * half + 64)
        decided = [clock for clock, probe in self._events() if probe.decided]
        assert len(decided) == half
        if shape.writes:
            self._commits += half - 1
        self.end()
        return (decided[-1] - decided[1]) / (half - 2)


def _announcing(bench: Bench) -> Iterator[Figure]:
    yield Figure("in_flight_gateware.announced_alone", bench.stream(), "keys/clock", at_least(1), {"keys": DEPTH})
    for latency in (30, 0):
        bench.slow_memory(latency, 0)
        for slots in (1, PARAMETERS.slots):
            name = f"in_flight_gateware.announced_by_log.{slots}_slots.latency_{latency}"
            parameters = {"keys": DEPTH, "slots": slots, "latency": latency}
            # The way to memory is gone once before the first key.
            claim = at_least(0.85 if latency else 0.95)
            yield Figure(name, bench.stream_by_log(slots), "keys/clock", claim, parameters)
    for shape in (Shape(512), Shape(504, 8), Shape(56, 8), Shape(6, 2), Shape(0, 8)):
        parameters = {"reads": shape.reads, "writes": shape.writes, "slots": PARAMETERS.slots}
        each = PARAMETERS.queue_entries if shape.keys < 512 else 2
        alone = shape.keys / bench.clocks_per_request(shape, PARAMETERS.slots, each=each)
        keys, beats, gap = bench.contention(shape, each=each)
        name = f"in_flight_gateware.{{}}.{shape.label}"
        claim = at_least(1.9) if shape.keys >= 512 else None
        yield Figure(name.format("accesses_of_commits_alone"), alone, "accesses/clock", None, parameters)
        yield Figure(name.format("accesses"), keys, "accesses/clock", claim, parameters)
        yield Figure(name.format("announcing_share"), beats, "beats/clock", at_least(0.25), parameters)
        yield Figure(name.format("announcing_longest_wait"), gap, "clocks", None, parameters)


def _dooms(bench: Bench) -> Iterator[Figure]:
    for what, losers, claim in (("doom", 1, 12), ("doom", 15, 12), ("wake", 1, 12), ("wake", 15, 12)) + (
        ("told", 1, 12),
        ("told", 15, None),
    ):
        # Two keys are inserted in a clock cycle, those in the middle last.
        for writes, hits in ((1, [0]), (8, [0, 3, 7]), (11, [0, 5]), (12, [0, 5, 6, 11]), (200, [0, 99, 100, 199])):
            clocks = max(
                bench.shown(what, losers, watched, writes, hit_by=hit_by)
                for watched in sorted({0, losers - 1})
                for hit_by in hits
            )
            name = f"in_flight_gateware.{what}.{losers}_losers.{writes}w"
            parameters = {"losers": losers, "writes": writes}
            yield Figure(name, clocks, "clocks", at_most(claim) if claim else None, parameters)


def _queued_dooms(bench: Bench) -> Iterator[Figure]:
    for latency in (0, 30):
        bench.slow_memory(latency, 0)
        for writes in (1, 16, 32, 64):
            clocks = bench.shown_behind_completion(writes)
            name = f"in_flight_gateware.doom_behind_completion.{writes}w.latency_{latency}"
            claim = at_most(12) if writes <= 16 else None
            yield Figure(name, clocks, "clocks", claim, {"writes": writes, "latency": latency})
    bench.slow_memory(0, 0)


def _commits(bench: Bench) -> Iterator[Figure]:
    reads = (1, 2, 7, 8, 64, 300)

    def worst(writes: Iterable[int]) -> int:
        shapes = [Shape(count, written) for count in reads for written in writes]
        return max(bench.verdict(shape, announced=True) - shape.writes for shape in shapes)

    for name, writes in (("beyond_1_per_write", (1, 2, 3, 8, 11, 12, 13, 200)), ("of_a_reader", (0,))):
        parameters = {"reads": f"{reads[0]} to {reads[-1]}", "writes": f"{writes[0]} to {writes[-1]}"}
        yield Figure(f"in_flight_gateware.verdict_{name}", worst(writes), "clocks", at_most(12), parameters)
    for shape in (Shape(8, 2), Shape(64, 2), Shape(500, 2)):
        for how in ("announced", "plain"):
            clocks = bench.verdict(shape, announced=how == "announced")
            yield Figure(f"in_flight_gateware.verdict.{shape.label}.{how}", clocks, "clocks", None)


def _costs(bench: Bench) -> Iterator[Figure]:
    """The same figure without anything in flight, with it, and what is left of the throughput."""
    slots = PARAMETERS.slots

    def compared(name: str, clocks: Callable[[bool], float]) -> Iterator[Figure]:
        without, filters = clocks(False), clocks(True)
        parameters = {"keys announced by each": ANNOUNCED, "slots": slots}
        yield Figure(f"in_flight_gateware.{name}.none_in_flight", without, "clocks/request", None, parameters)
        yield Figure(f"in_flight_gateware.{name}.in_flight", filters, "clocks/request", None, parameters)
        yield Figure(f"in_flight_gateware.{name}.left", without / filters, "1", at_least(0.95), parameters)

    for shape in (Shape(8, 0), Shape(6, 2), Shape(0, 8), Shape(1, 1)):

        def pages(in_flight: bool, shape: Shape = shape) -> float:
            return bench.pages_sustained(shape, in_flight=ANNOUNCED if in_flight else 0)

        yield from compared(f"pages.{shape.label}", pages)
    for shape in (Shape(64), Shape(56, 8), Shape(48, 12, 4), Shape(512), Shape(504, 8), Shape(4096), Shape(6, 2)):
        each = PARAMETERS.queue_entries if shape.keys < 512 else 2

        def queues(in_flight: bool, shape: Shape = shape, each: int = each) -> float:
            if in_flight:
                bench.all_in_flight(ANNOUNCED)
            clocks = bench.clocks_per_request(shape, slots, each=each)
            bench.end()
            return clocks

        yield from compared(f"queues.{shape.label}", queues)


def run() -> list[Figure]:
    """All of it: some seconds."""
    bench = Bench()
    figures = [*_announcing(bench), *_dooms(bench), *_queued_dooms(bench), *_commits(bench), *_costs(bench)]
    bench.close()
    return figures
