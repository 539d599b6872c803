"""The cocotb testbenches, run on a simulator.

``SIM=verilator`` instead of Icarus; ``BLOOMGATE_COCOTB=full`` for the long campaign; ``--seed`` to repeat a failure.
"""

import pytest
import simulation

RUNS = [
    ("small", "bench_axi"),
    ("small", "bench_abuse"),
    ("small", "bench_lifecycle"),
    ("rollover", "bench_lifecycle"),
    ("small", "bench_requests"),
    ("rollover", "bench_requests"),
    ("many", "bench_requests"),
]


@pytest.mark.parametrize(("geometry", "module"), RUNS)
def test_bench(geometry, module, seed):
    simulation.run(geometry, module, seed, f"{geometry}-{module}")
