"""The bus: every burst that the standard allows, and every kind that it does not, under pauses on every channel."""

import random
from itertools import product

from axi3 import DECERR, FIXED, INCR, OKAY, SLVERR, WRAP, RawMaster, beat_addresses, beat_lanes, is_legal
from bloomgate.registers import (
    BASE_ADDRESS,
    CONTROL_PAGE,
    IDENTIFICATION,
    PAGE_BYTES,
    QUEUE_RECORD,
    QUEUE_RECORD_BYTES,
    SLOT_PAGE,
    SLOT_RECORD_BYTES,
    Access,
    ErrorCode,
    page_count,
    region_bytes,
)
from testbench import CHANNELS, FULL, bench

LEVELS = (0, 0.5, 0.9)


class PageModel:
    """The registers as a bus access sees them: what a beat answers, and what it leaves behind."""

    def __init__(self, testbench) -> None:
        self._parameters = testbench.parameters
        self._items = {}
        for base, page in [(0, CONTROL_PAGE)] + [
            ((1 + slot) * PAGE_BYTES, SLOT_PAGE) for slot in range(testbench.parameters.slots)
        ]:
            for item in page:
                for offset in range(item.offset, item.offset + item.size, 4):
                    self._items[base + offset] = item
        p = testbench.parameters
        #: Records of slots that do not exist.
        for name, size in (("SLOT_RECORDS", SLOT_RECORD_BYTES), ("QUEUE_RECORDS", QUEUE_RECORD_BYTES)):
            window = CONTROL_PAGE.window(name)
            for offset in range(window.offset + size * p.slots, window.offset + window.size, 4):
                del self._items[offset]
        for offset, item in product(range(0, QUEUE_RECORD_BYTES * p.slots, QUEUE_RECORD_BYTES), QUEUE_RECORD):
            self._items[window.offset + offset + item.offset] = item
        #: Words whose value is known.
        geometry = CONTROL_PAGE.register("GEOMETRY")
        words = {"K": p.K, "LOG2_D": p.row_bits, "TIMESTAMP_BITS": p.timestamp_bits, "KEY_BITS": p.key_bits}
        self.words = {
            CONTROL_PAGE.register("IDENTIFICATION").offset: IDENTIFICATION,
            geometry.offset: sum(geometry[name].insert(value) for name, value in words.items()),
            CONTROL_PAGE.register("HASH_SEED").offset: p.hash_seed,
            CONTROL_PAGE.register("INITIAL_EPOCH").offset: 0,
            CONTROL_PAGE.register("INTERRUPT_ENABLE").offset: 0,
        }
        for offset, item in self._items.items():
            if item.access is Access.WO:
                self.words[offset] = 0
            if item.name.startswith("SNAPSHOT"):
                # LUT RAM: no reset, so unknown until it is written in full.
                self.words[offset] = None
        #: Keys in (reads, writes) of each slot, and errors as they are logged.
        self.fill = {slot: [0, 0] for slot in range(p.slots)}
        self.overflow = set()
        self.bad_request = set()
        self.errors = []

    def item(self, offset: int):
        return self._items.get(offset)

    def read(self, address: int) -> tuple[int | None, int]:
        """Data, None if it is not known, and response."""
        offset = (address - BASE_ADDRESS) // 4 * 4
        if not 0 <= offset < region_bytes(self._parameters):
            return 0, DECERR
        if offset not in self._items:
            return None, SLVERR
        return self.words.get(offset), OKAY

    def write(self, address: int, data: int, strobe: int) -> int:
        """Response. Not for COMMAND and other commands."""
        offset = (address - BASE_ADDRESS) // 4 * 4
        if not 0 <= offset < region_bytes(self._parameters):
            return DECERR
        if not strobe:
            return OKAY
        item = self._items.get(offset)
        if item is None or item.access is Access.RO:
            return SLVERR
        slot = offset // PAGE_BYTES - 1
        if item.access is Access.RW:
            mask = sum(0xFF << 8 * lane for lane in range(4) if strobe >> lane & 1)
            if item.fields:
                mask &= sum(field.mask for field in item.fields)
            if self.words[offset] is not None:
                self.words[offset] = self.words[offset] & ~mask | data & mask
            elif strobe == 0b1111:
                self.words[offset] = data
        elif item.name == "DISCARD":
            self.fill[slot] = [0, 0]
            self.overflow.discard(slot)
            self.bad_request.discard(slot)
        else:
            self._key(slot, item, offset, data, strobe)
        return OKAY

    def _key(self, slot, item, offset, data, strobe):
        assert item.name.endswith("APERTURE")
        if strobe != 0b1111:
            self.errors.append((ErrorCode.PARTIAL_WRITE, slot, offset % PAGE_BYTES))
            self.bad_request.add(slot)
        elif data >> self._parameters.key_bits:
            self.errors.append((ErrorCode.KEY_RANGE, slot, data))
            self.bad_request.add(slot)
        elif sum(self.fill[slot]) == self._parameters.aperture_depth:
            self.errors.append((ErrorCode.KEY_OVERFLOW, slot, data))
            self.overflow.add(slot)
        else:
            self.fill[slot][item.name != "READ_APERTURE"] += 1


def worst(responses) -> int:
    """Of a write burst whose beats would answer so."""
    return max(responses)


def all_shapes():
    for size, beats in product((0, 1, 2), range(1, 17)):
        yield size, beats, FIXED
        yield size, beats, INCR
        if beats in (2, 4, 8, 16):
            yield size, beats, WRAP


async def set_levels(testbench, master, levels) -> None:
    master.levels.update(levels)
    for channel, level in levels.items():
        testbench.cover.hit("pauses", f"{channel} {level}")


async def check_slot(testbench, master, model, slot) -> None:
    """Counts and errors of a slot that is being filled."""
    reads, writes = [word for word, _ in await master.get(testbench.slot(slot, "READ_COUNT"), 2)]
    assert [reads, writes] == model.fill[slot], f"slot {slot} holds {reads} and {writes}: {model.fill[slot]}"
    ((status, _),) = await master.get(testbench.slot(slot, "STATUS"))
    field = SLOT_PAGE.register("STATUS")
    assert field["OVERFLOW_ERROR"].extract(status) == (slot in model.overflow)
    assert field["BAD_REQUEST_ERROR"].extract(status) == (slot in model.bad_request)


async def check_log(testbench, master, model) -> None:
    """The last entries of the error log."""
    ((total, _),) = await master.get(testbench.control("ERROR_COUNT"))
    assert total == len(model.errors), f"{total} errors, not {len(model.errors)}"
    words = []
    for part in range(2):
        words += [word for word, _ in await master.get(testbench.control("ERROR_LOG") + 64 * part, 16)]
    for number in range(max(0, total - 16), total):
        head, detail = words[2 * (number % 16) :][:2]
        assert (head & 0xFF, head >> 8, detail) == model.errors[number], f"entry {number}"
        testbench.cover.hit("error code", ErrorCode(head & 0xFF).name)
    if total > 16:
        testbench.cover.hit("error log", "wrapped")


@bench(cycles=60_000, master=False)
async def legal_writes(testbench):
    """Every shape of write burst, aligned or not, on registers and apertures, with pauses."""
    master = RawMaster(testbench.dut)
    model = PageModel(testbench)
    shapes = list(all_shapes()) * (1 if not FULL else 10)
    random.shuffle(shapes)
    parameters = testbench.parameters
    for number, (size, beats, burst) in enumerate(shapes):
        if number % 16 == 0:
            await set_levels(testbench, master, {name: random.choice(LEVELS) for name in ("aw", "w", "b")})
            await set_levels(testbench, master, {"ar": 0, "r": 0})
        slot = random.randrange(parameters.slots)
        unit = 1 << size
        span = unit * (1 if burst == FIXED else beats)
        if span <= 8 and random.random() < 0.7:
            base = testbench.slot(slot, "SNAPSHOT_EPOCH")
            address = base + random.randrange(0, 8 if burst == WRAP else 8 - span + 1, unit)
            if burst != WRAP:
                address += random.randrange(unit)
        else:
            name = random.choice(("READ_APERTURE", "WRITE_APERTURE", "COMMUTE_APERTURE"))
            base = testbench.slot(slot, name)
            room = SLOT_PAGE.window(name).size - span
            address = base + random.randrange(0, room + 1, unit)
            if burst != WRAP and address % PAGE_BYTES + span < PAGE_BYTES and random.random() < 0.5:
                address += random.randrange(unit)
        assert is_legal(address, beats, size, burst)
        lanes = beat_lanes(address, beats, size, burst)
        strobes = lanes if random.random() < 0.7 else [lane & random.getrandbits(4) for lane in lanes]
        words = [random.randint(0, parameters.max_key) for _ in range(beats)]
        places = beat_addresses(address, beats, size, burst)
        expected = worst(model.write(*beat) for beat in zip(places, words, strobes, strict=True))
        for place, strobe in zip(places, strobes, strict=True):
            if place % PAGE_BYTES >= 0x400 and strobe not in (0, 0b1111):
                testbench.cover.hit("partial strobes on an aperture", f"{strobe:04b}")
            elif place % PAGE_BYTES < 0x400:
                testbench.cover.hit("strobes on a register", f"{strobe:04b}")
        got = await master.put(address, words, size=size, burst=burst, strobes=strobes)
        assert got == expected, f"{address:#x} {size} {beats} {burst}: {got}"
        await check_slot(testbench, master, model, slot)
        if sum(model.fill[slot]) == parameters.aperture_depth or random.random() < 0.2:
            assert await master.put(testbench.slot(slot, "DISCARD"), [0]) == OKAY
            model.write(testbench.slot(slot, "DISCARD"), 0, 0b1111)
        for name in ("SNAPSHOT_EPOCH", "SNAPSHOT_COUNT"):
            ((word, _),) = await master.get(testbench.slot(slot, name))
            known, _ = model.read(testbench.slot(slot, name))
            assert known in (None, word), f"{name} of slot {slot} is {word:#x}, not {known:#x}"
    await check_log(testbench, master, model)


@bench(cycles=60_000, master=False)
async def legal_reads(testbench):
    """Every shape of read burst over registers and holes, with pauses; several outstanding."""
    master = RawMaster(testbench.dut)
    model = PageModel(testbench)
    for slot in range(testbench.parameters.slots):
        values = [random.getrandbits(32) for _ in range(2)]
        await master.put(testbench.slot(slot, "SNAPSHOT_EPOCH"), values)
        for name, value in zip(("SNAPSHOT_EPOCH", "SNAPSHOT_COUNT"), values, strict=True):
            model.write(testbench.slot(slot, name), value, 0b1111)
    shapes = list(all_shapes()) * (1 if not FULL else 10)
    random.shuffle(shapes)
    expected = []
    pages = region_bytes(testbench.parameters) // PAGE_BYTES
    for number, (size, beats, burst) in enumerate(shapes):
        page = random.choice((0, 0, random.randrange(pages)))
        unit = 1 << size
        offset = random.choice((random.randrange(0, 0x80, unit), random.randrange(0, PAGE_BYTES - 64, unit)))
        if burst != WRAP:
            offset += random.randrange(unit)
        address = BASE_ADDRESS + PAGE_BYTES * page + offset
        addresses = [address]
        if random.random() < 0.05:
            addresses.append(random.choice((BASE_ADDRESS - 64, BASE_ADDRESS + region_bytes(testbench.parameters), 0)))
        for address in addresses:
            assert is_legal(address, beats, size, burst)
            identifier = random.choice((5, 6, random.getrandbits(12)))
            master.read_address(identifier, address, beats, size, burst)
            places = beat_addresses(address, beats, size, burst)
            expected += [(identifier, *model.read(place), place) for place in places]
        if number % 8 == 7:
            await compare_reads(testbench, master, model, expected)
            await set_levels(testbench, master, {name: random.choice(LEVELS) for name in ("ar", "r")})
    await compare_reads(testbench, master, model, expected)


async def compare_reads(testbench, master, model, expected) -> None:
    for (identifier, word, response, place), beat in zip(expected, await master.take_beats(len(expected)), strict=True):
        got_identifier, got_word, got_response, last = beat
        assert (got_identifier, got_response) == (identifier, response), f"{place:#x}: {beat}"
        assert word in (None, got_word), f"{place:#x}: {got_word:#x}, not {word:#x}"
        offset = place - BASE_ADDRESS
        item = model.item(offset // 4 * 4)
        if response == OKAY:
            testbench.cover.hit("read response", "OKAY")
            if item.access is Access.WO:
                testbench.cover.hit("read response", "OKAY write-only register")
        elif response == DECERR:
            testbench.cover.hit("read response", "DECERR outside the region")
        elif offset // PAGE_BYTES < page_count(testbench.parameters):
            testbench.cover.hit("read response", "SLVERR hole")
        else:
            testbench.cover.hit("read response", "SLVERR page that does not exist")
    expected.clear()


@bench(cycles=20_000, master=False)
async def refused_accesses(testbench):
    """DECERR and SLVERR where they are due, in single beats and within bursts; nothing is changed by them."""
    master = RawMaster(testbench.dut, {name: random.choice(LEVELS) for name in CHANNELS})
    cover = testbench.cover
    region = region_bytes(testbench.parameters)

    async def refuse(address, response, cause, words=(1,), **options):
        assert await master.put(address, list(words), **options) == response, cause
        cover.hit("write response", f"{'DECERR' if response == DECERR else 'SLVERR'} {cause}")

    for address in (0, BASE_ADDRESS - 4, BASE_ADDRESS + region, 0xFFFF_FFFC):
        await refuse(address, DECERR, "outside the region")
    # The region's own page, one bit of the address beside it.
    for bit in range(region.bit_length() - 1, 32):
        await refuse(testbench.slot(0, "SNAPSHOT_EPOCH") ^ 1 << bit, DECERR, "outside the region")
    missing = BASE_ADDRESS + PAGE_BYTES * page_count(testbench.parameters)
    if missing < BASE_ADDRESS + region:
        await refuse(missing + SLOT_PAGE.register("SNAPSHOT_EPOCH").offset, SLVERR, "page that does not exist")
        assert (await master.get(missing, 2))[1][1] == SLVERR
    for base, page in ((BASE_ADDRESS, CONTROL_PAGE), (testbench.slot(0, "VERDICT"), SLOT_PAGE)):
        items = {item.offset: item for item in page}
        for item in page:
            if item.access is Access.RO:
                await refuse(base + item.offset, SLVERR, "read-only register")
            elif item.name in ("COMMAND", "FAULT_INJECTION"):
                for strobe in random.sample(range(1, 15), 3):
                    await refuse(base + item.offset, SLVERR, "partial command", [0xFF], strobes=[strobe])
            if item.offset + item.size not in items and item.offset + item.size < PAGE_BYTES:
                await refuse(base + item.offset + item.size, SLVERR, "hole")
    # A burst over read-only and writable registers writes the writable ones, and says that it could not write all.
    epoch = testbench.control("INITIAL_EPOCH")
    assert await master.put(epoch - 4, [1, 0x1234_5678]) == SLVERR
    assert await master.get(epoch) == [(0x1234_5678, OKAY)]
    beats = await master.get(testbench.control("STATUS"), 5)
    model = PageModel(testbench)
    expected = [model.read(testbench.control("STATUS") + 4 * word)[1] for word in range(5)]
    assert {OKAY, SLVERR} == set(expected)
    assert [response for _, response in beats] == expected
    cover.hit("read response", "OKAY beside SLVERR in one burst")
    # Each byte of a register by itself.
    value = 0x1234_5678
    for strobe in random.sample(range(16), 16):
        word = random.getrandbits(32)
        assert await master.put(epoch, [word], strobes=[strobe]) == OKAY
        mask = sum(0xFF << 8 * lane for lane in range(4) if strobe >> lane & 1)
        value = value & ~mask | word & mask
        assert await master.get(epoch) == [(value, OKAY)], f"after strobes {strobe:04b}"
        cover.hit("strobes on a register", f"{strobe:04b}")
    # Without strobes nothing is written, and nothing is wrong.
    assert await master.put(testbench.control("EPOCH"), [1, 1, 1], strobes=[0, 0, 0]) == OKAY
    cover.hit("write response", "OKAY no strobes")
    # Exclusive and locked accesses are plain ones.
    for lock, name in ((1, "exclusive"), (2, "locked")):
        assert await master.put(epoch, [lock], lock=lock) == OKAY
        assert await master.get(epoch, lock=lock) == [(lock, OKAY)]
        cover.hit("write response", f"OKAY {name}")
    cover.hit("read response", "OKAY exclusive")
    cover.hit("write response", "OKAY")
    ((count, _),) = await master.get(testbench.control("ERROR_COUNT"))
    assert count == 0


ILLEGAL = {
    "reserved burst type": [(0, beats, 2, 3) for beats in (1, 4, 16)],
    "8 bytes a beat": [(0, beats, size, burst) for beats, size, burst in ((1, 3, 1), (4, 3, 1), (2, 4, 0), (16, 7, 1))],
    "WRAP of bad length": [(0, beats, 2, WRAP) for beats in (1, 3, 5, 9, 15)],
    "WRAP unaligned": [(offset, 4, size, WRAP) for offset, size in ((1, 2), (2, 2), (3, 2), (1, 1))],
    "4 KiB crossing": [(0x3F8, 3, 2, INCR), (0x3FC, 16, 2, INCR), (0x3FE, 2, 1, INCR), (0x3FF, 2, 0, INCR)],
}


@bench(cycles=20_000, master=False)
async def illegal_addresses(testbench):
    """Bursts that no master may send: SLVERR on every beat, the right number of beats, no effect."""
    master = RawMaster(testbench.dut, {name: random.choice(LEVELS) for name in CHANNELS})
    base = testbench.slot(1, "COMMUTE_APERTURE")
    for cause, shapes in ILLEGAL.items():
        for offset, beats, size, burst in shapes:
            assert not is_legal(base + offset, beats, size, burst)
            strobes = [0b1111] * beats
            assert await master.put(base + offset, [1] * beats, size=size, burst=burst, strobes=strobes) == SLVERR
            testbench.cover.hit("write response", f"SLVERR {cause}")
            answers = await master.get(base + offset, beats, size=size, burst=burst)
            assert answers == [(0, SLVERR)] * beats, cause
            testbench.cover.hit("read response", f"SLVERR {cause}")
            # Outside the region the address counts more.
            assert await master.put(offset, [1] * beats, size=size, burst=burst, strobes=strobes) == DECERR
            assert await master.get(offset, beats, size=size, burst=burst) == [(0, DECERR)] * beats
            # The bus goes on as if nothing had been.
            value = random.getrandbits(32)
            assert await master.put(testbench.slot(1, "SNAPSHOT_COUNT"), [value]) == OKAY
            assert await master.get(testbench.slot(1, "SNAPSHOT_COUNT")) == [(value, OKAY)]
    assert await master.get(testbench.slot(1, "READ_COUNT"), 2) == [(0, OKAY), (0, OKAY)]
    assert await master.get(testbench.control("ERROR_COUNT")) == [(0, OKAY)]


@bench(cycles=20_000, master=False)
async def illegal_data(testbench):
    """Write data that does not fit its address: wrong WID, WLAST early or late, strobes outside, interleaving."""
    cover = testbench.cover
    base = testbench.slot(2, "READ_APERTURE")
    master = RawMaster(testbench.dut, {name: random.choice(LEVELS) for name in CHANNELS})
    for _ in range(6 if not FULL else 60):
        identifier = random.getrandbits(12)
        stranger = identifier ^ 1 << random.randrange(12)
        beats = random.randint(2, 15)

        async def expect(kept, cause, identifiers=(identifier,)):
            """SLVERR to the first, OKAY to others, and ``kept`` keys in the slot."""
            responses = await master.take_responses(len(identifiers))
            assert [entry[0] for entry in responses] == list(identifiers)
            assert responses[0][1] == SLVERR, cause
            assert {response for _, response in responses[1:]} <= {OKAY}, f"{cause}: {responses}"
            assert await master.get(testbench.slot(2, "READ_COUNT"), 2) == [(kept, OKAY), (0, OKAY)], cause
            assert await master.get(testbench.slot(2, "STATUS")) == [(0, OKAY)]
            assert await master.put(testbench.slot(2, "DISCARD"), [0]) == OKAY
            cover.hit("write response", f"SLVERR {cause}")

        # Beats up to the faulty one have been written.
        wrong = random.randrange(beats)
        master.write_address(identifier, base, beats)
        for beat in range(beats):
            master.write_data(stranger if beat == wrong else identifier, beat, last=beat == beats - 1)
        await expect(wrong, "wrong WID")

        # An early WLAST ends the burst.
        early = random.randrange(beats - 1)
        master.write_address(identifier, base, beats)
        for beat in range(early + 1):
            master.write_data(identifier, beat, last=beat == early)
        await expect(early, "early WLAST")

        # A missing WLAST ends the burst at its length; the next burst gets its own beats.
        master.write_address(identifier, base, beats)
        master.write_address(stranger, base + 64, 2)
        for beat in range(beats):
            master.write_data(identifier, beat, last=False)
        for beat in range(2):
            master.write_data(stranger, beat, last=beat == 1)
        await expect(beats - 1 + 2, "late WLAST", (identifier, stranger))

        # Strobes outside the lanes of a narrow beat.
        snapshot = testbench.slot(2, "SNAPSHOT_EPOCH")
        assert await master.put(snapshot, [0x0102_0304]) == OKAY
        lane = random.randrange(4)
        master.write_address(identifier, snapshot + lane, 1, size=0)
        master.write_data(identifier, 0xFFFF_FFFF, 1 << lane | 1 << (lane + 1) % 4)
        await expect(0, "strobes outside the lanes")
        assert await master.get(snapshot) == [(0x0102_0304, OKAY)]

        # Interleaving at a slave that can take none: both bursts end, with SLVERR. The one beat too many is left over;
        # it answers the next address, and the bus is in step again.
        master.write_address(identifier, base, 2)
        master.write_address(stranger, base, 2)
        for sender, last in ((identifier, False), (stranger, False), (identifier, True), (stranger, True)):
            master.write_data(sender, 7, last=last)
        master.write_address(identifier, base, 1)
        assert await master.take_responses(3) == [(sender, SLVERR) for sender in (identifier, stranger, identifier)]
        assert await master.put(testbench.slot(2, "DISCARD"), [0]) == OKAY
        assert await master.get(testbench.slot(2, "STATUS")) == [(0, OKAY)]
    assert await master.get(testbench.control("ERROR_COUNT")) == [(0, OKAY)]


@bench(cycles=20_000, master=False)
async def never_backpressured(testbench):
    """Write bursts back to back, one beat in every clock cycle, whatever they write: keys, too many, refused words.

    The same for reads.
    """
    master = RawMaster(testbench.dut)
    monitor = testbench.monitor
    depth = testbench.parameters.aperture_depth
    beats = [random.choice((1, 2, 7, 16)) for _ in range(20)] + [16] * 10
    aperture = testbench.slot(3, "WRITE_APERTURE")
    hole = testbench.slot(3, "VERDICT") + 0x100
    expected = []
    # The addresses go ahead: data that comes with its address waits for it for a clock cycle.
    master.levels["w"] = 1
    for number, length in enumerate(beats):
        identifier = random.getrandbits(12)
        refused = number % 5 == 4
        master.write(identifier, hole if refused else aperture, [number] * length)
        expected.append((identifier, SLVERR if refused else OKAY))
    await testbench.clocks(6)
    master.levels["w"] = 0
    first = monitor.cycle
    assert await master.take_responses(len(beats)) == expected
    assert monitor.stalls == 0, f"{monitor.stalls} clock cycles in which a beat had to wait"
    lost = monitor.write_beats[-1] - monitor.write_beats[0] + 1 - len(monitor.write_beats)
    assert lost == 0, f"{lost} clock cycles without a beat"
    assert monitor.cycle - first < sum(beats) + 20
    assert await master.get(testbench.slot(3, "WRITE_COUNT")) == [(depth, OKAY)]
    assert await master.put(testbench.slot(3, "DISCARD"), [0]) == OKAY

    first = monitor.cycle
    for length in beats:
        master.read_address(random.getrandbits(12), testbench.control("ERROR_LOG"), length)
    await master.take_beats(sum(beats))
    assert monitor.cycle - first < sum(beats) + 20, f"{monitor.cycle - first} clock cycles for {sum(beats)} beats"


@bench(cycles=30_000)
async def axi_master(testbench):
    """cocotbext-axi's own master: long and unaligned transfers, many at once, while every channel pauses."""
    from cocotb.triggers import gather
    from testbench import set_pauses

    parameters = testbench.parameters
    set_pauses(testbench.axi, {channel: random.choice(LEVELS) for channel in CHANNELS})

    async def scribble(slot):
        """SNAPSHOT_EPOCH and SNAPSHOT_COUNT as 8 bytes of memory."""
        address = testbench.slot(slot, "SNAPSHOT_EPOCH")
        memory = bytearray(random.randbytes(8))
        await testbench.axi.write(address, bytes(memory))
        for _ in range(15 if not FULL else 300):
            start = random.randrange(8)
            data = random.randbytes(random.randint(1, 8 - start))
            size = random.choice((0, 1, 2))
            response = await testbench.axi.write(address + start, data, size=size, awid=random.getrandbits(12))
            assert response.resp == OKAY
            memory[start : start + len(data)] = data
            response = await testbench.axi.read(address, 8, size=random.choice((0, 1, 2)), arid=random.getrandbits(12))
            assert (response.resp, response.data) == (OKAY, bytes(memory)), (
                f"slot {slot}: {response}, not {memory.hex()}"
            )

    await gather(*(scribble(slot) for slot in range(parameters.slots)))
    for name in ("INITIAL_EPOCH", "INTERRUPT_ENABLE"):
        value = 0
        mask = sum(field.mask for field in CONTROL_PAGE.register(name).fields) or 2**32 - 1
        for strobe in range(1, 16):
            lanes = [lane for lane in range(4) if strobe >> lane & 1]
            start, length = lanes[0], lanes[-1] - lanes[0] + 1
            if len(lanes) != length:
                continue
            data = random.randbytes(length)
            response = await testbench.axi.write(testbench.control(name) + start, data)
            assert response.resp == OKAY
            changed = sum(0xFF << 8 * lane for lane in lanes)
            value = value & ~changed | int.from_bytes(data, "little") << 8 * start
            value &= mask
            assert await testbench.get(name) == value, f"{name} after strobes {strobe:04b}"
    set_pauses(testbench.axi, dict.fromkeys(CHANNELS, 0))
