"""Ring indices of a queue pair count modulo 2**16: nothing happens when they begin anew."""

from bloomgate.queue_layout import INDEX_BITS, log_area_offset
from bloomgate_sim.device import SimulatedBus
from bloomgate_sim.rings import SlotRings, submission_words

from tests.sim.geometries import SMALL

BASE = 0x1000_0000
PAGE_BYTES = 4096


def test_more_submissions_than_indices():
    bus = SimulatedBus(SMALL)
    window = memoryview(bytearray(-(-log_area_offset(SMALL) // PAGE_BYTES) * PAGE_BYTES))
    bus.memory.attach(window, BASE)
    bus.step(SMALL.D)
    rings = SlotRings(bus, SMALL, 1, window, BASE)
    rings.open(0xBEEF)
    entries = SMALL.queue_entries
    # The same entries in every lap: only indices change.
    for number in range(entries):
        rings.enter(submission_words(request=number))
    indices = 1 << INDEX_BITS
    for lap in range(indices // entries + 2):
        first = lap * entries % indices
        rings.tail = (first + entries) % indices
        rings.ring()
        for _ in range(100):
            if rings.peek(first + entries - 1) is not None:
                break
            bus.step(40)
        for number in range(entries):
            completion = rings.peek(first + number)
            assert completion is not None, f"no answer to submission {first + number} in lap {lap}"
            assert (completion.request, completion.verdict.committed) == (number, True)
        rings.head = rings.tail
        rings.ring_head()
    assert bus.memory.statistics().stray_bursts == 0
    bus.close()
