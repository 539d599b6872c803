"""The cocotb testbenches, run on a simulator, and their functional coverage.

``SIM=verilator`` instead of Icarus; ``BLOOMGATE_COCOTB=full`` for the long campaign; ``--seed`` to repeat a failure.
"""

import os

import functional_coverage
import pytest
import simulator

#: One worker does all runs, in this order: runs of one geometry share its build, and the coverage comes last.
pytestmark = [pytest.mark.xdist_group("cocotb"), pytest.mark.slow]

#: (geometry, module).
RUNS = [
    ("rollover", "bench_lifecycle"),
    ("small", "bench_axi"),
    ("small", "bench_lifecycle"),
    ("small", "bench_abuse"),
    ("small", "bench_requests"),
    ("small", "bench_flights"),
    ("many", "bench_requests"),
    ("rollover", "bench_requests"),
    ("many", "bench_abuse"),
    ("many", "bench_flights"),
    ("small", "bench_queues"),
    ("rollover", "bench_queues"),
    ("many", "bench_queues"),
]
FULL = os.environ.get("BLOOMGATE_COCOTB") == "full"
#: Seconds for one run: its limit in clock cycles comes first, except on a machine that is very busy.
LIMIT = 3600 if FULL else 600


def names() -> list[str]:
    return [f"{geometry}-{module}" for geometry, module in RUNS]


@pytest.mark.timeout(LIMIT)
@pytest.mark.parametrize(("geometry", "module"), RUNS, ids=names())
def test_bench(geometry, module, seed):
    name = f"{geometry}-{module}"
    (simulator.COVERAGE_FOLDER / f"{name}.json").unlink(missing_ok=True)
    simulator.run(geometry, module, seed, name)


def test_functional_coverage(request):
    """All runs together have met what they are to meet. The table is in build/cocotb/coverage.txt."""
    selected = {item.callspec.id for item in request.session.items if item.originalname == "test_bench"}
    if selected != set(names()):
        pytest.skip("coverage counts over all cocotb runs: select the whole of tests/cocotb")
    paths = [simulator.COVERAGE_FOLDER / f"{name}.json" for name in names()]
    missing = [path.stem for path in paths if not path.exists()]
    assert not missing, f"no coverage from {missing}: these runs failed"
    table, share, lacking = functional_coverage.report(functional_coverage.merge(paths))
    (simulator.BUILD / "coverage.txt").write_text(table + "\n")
    print(table)
    assert not lacking, f"never met: {lacking}"
    assert share >= functional_coverage.THRESHOLD, f"{share:.1%} of all bins, not {functional_coverage.THRESHOLD:.0%}"
