"""The cocotb testbenches, run on a simulator, and their functional coverage.

``SIM=verilator`` instead of Icarus; ``BLOOMGATE_COCOTB=full`` for the long campaign; ``--seed`` to repeat a failure.
"""

import os
import time

import functional_coverage
import pytest
import simulation

#: (geometry, module), longest first. Runs of one geometry share its build, so one worker does them.
RUNS = [
    ("rollover", "bench_lifecycle"),
    ("small", "bench_axi"),
    ("small", "bench_lifecycle"),
    ("small", "bench_abuse"),
    ("small", "bench_requests"),
    ("many", "bench_requests"),
    ("rollover", "bench_requests"),
    ("many", "bench_abuse"),
]
FULL = os.environ.get("BLOOMGATE_COCOTB") == "full"
#: Seconds for one run: its limit in clock cycles comes first, except on a machine that is very busy.
LIMIT = 3600 if FULL else 600


def names() -> list[str]:
    return [f"{geometry}-{module}" for geometry, module in RUNS]


def _parameters():
    for geometry, module in RUNS:
        yield pytest.param(
            geometry,
            module,
            id=f"{geometry}-{module}",
            marks=[pytest.mark.xdist_group(f"cocotb-{geometry}"), pytest.mark.slow],
        )


@pytest.fixture(scope="session")
def session_name(request) -> str:
    """The same in all workers, and another in each session."""
    return os.environ.get("PYTEST_XDIST_TESTRUNUID", f"{os.getpid()}-{time.time_ns()}")


@pytest.mark.timeout(LIMIT)
@pytest.mark.parametrize(("geometry", "module"), list(_parameters()))
def test_bench(geometry, module, seed, session_name):
    name = f"{geometry}-{module}"
    stamp = simulation.COVERAGE_FOLDER / f"{name}.ended"
    stamp.unlink(missing_ok=True)
    (simulation.COVERAGE_FOLDER / f"{name}.json").unlink(missing_ok=True)
    try:
        simulation.run(geometry, module, seed, name)
    finally:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(session_name)


@pytest.mark.timeout(LIMIT * 2)
@pytest.mark.slow
@pytest.mark.xdist_group("cocotb-coverage")
def test_functional_coverage(request, session_name):
    """All runs together have met what they are to meet. The table is in build/cocotb/coverage.txt."""
    selected = {item.callspec.id for item in request.session.items if item.originalname == "test_bench"}
    if selected != set(names()):
        pytest.skip("coverage counts over all cocotb runs: select the whole of tests/cocotb")

    def ended(name):
        stamp = simulation.COVERAGE_FOLDER / f"{name}.ended"
        return stamp.exists() and stamp.read_text() == session_name

    # Last in line, so the other runs have at least begun, on other workers; without these all have ended.
    while not all(map(ended, names())):
        time.sleep(0.5)
    paths = [simulation.COVERAGE_FOLDER / f"{name}.json" for name in names()]
    missing = [path.stem for path in paths if not path.exists()]
    assert not missing, f"no coverage from {missing}: these runs failed"
    table, share, lacking = functional_coverage.report(functional_coverage.merge(paths))
    (simulation.BUILD / "coverage.txt").write_text(table + "\n")
    print(table)
    assert not lacking, f"never met: {lacking}"
    assert share >= functional_coverage.THRESHOLD, f"{share:.1%} of all bins, not {functional_coverage.THRESHOLD:.0%}"
