"""The geometries that the tests of the simulated device share: each one is compiled once, in about ten seconds."""

from bloomgate import Parameters

#: Rollover after 15 commits, aliases, and a number of slots that is no power of two.
SMALL = Parameters(K=2, D=16, timestamp_bits=4, slots=3, aperture_depth=16)
#: One table, rollover after 7 commits, few keys.
NARROW = Parameters(K=1, D=64, timestamp_bits=3, key_bits=8, slots=2, aperture_depth=16)
#: A set can be longer than an aperture.
DEEP = Parameters(K=1, D=16, timestamp_bits=6, slots=1, aperture_depth=512)

ALL = {"small": SMALL, "narrow": NARROW, "deep": DEEP}
#: For queue pairs: short rings, and read sets of more than 64 keys are long. Not in ALL, since these tests are its own.
QUEUES = Parameters(
    K=2, D=1024, timestamp_bits=12, slots=4, aperture_depth=16, queue_entries=4, request_buffers=3, buffer_depth=64
)
