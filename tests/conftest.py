"""What all tests share: order, seeds, limits of hypothesis, and where the traces are."""

import os
import random
import signal
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent

# Cheapest first, so that the first failure comes soon. Folders that are not named come last.
TIERS = ("host", "hdl", "sim", "cli", "stm", "shm", "platform", "board", "formal", "cocotb")

# New examples in every run, on CI too (hypothesis would load a fixed sequence there); a failure prints the blob
# that repeats it. No deadline: the time limit is pytest-timeout's, and the first call of a simulator builds it.
hypothesis.settings.register_profile("bloomgate", deadline=None, derandomize=False, print_blob=True)
hypothesis.settings.load_profile("bloomgate")

# What a shell without job control puts into the background ignores SIGINT, and tests interrupt themselves by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seed",
        type=int,
        default=None,
        help="seed of the `seed` fixture, as a failed test prints it (default: a new one for every test)",
    )


def tier(path: Path) -> str:
    """The folder under tests/ that a test file is in, "" for tests/ itself."""
    folders = path.relative_to(ROOT / "tests").parts[:-1]
    return folders[0] if folders else ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def cost(item: pytest.Item) -> tuple[int, bool]:
        name = tier(item.path)
        return TIERS.index(name) if name in TIERS else len(TIERS), item.get_closest_marker("slow") is not None

    items.sort(key=cost)
    for item in items:
        # Nobody has to remember these.
        if tier(item.path) in ("formal", "cocotb"):
            item.add_marker(tier(item.path))
        if "shared_dir" in getattr(item, "fixturenames", ()):
            item.add_marker("shared")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A seed for the test's random numbers, shown when the test fails."""
    chosen = request.config.getoption("--seed")
    if chosen is None:
        chosen = random.SystemRandom().getrandbits(32)
    # Captured: pytest shows it with a failure only.
    print(f"seed {chosen}; to repeat: pytest --seed={chosen} '{request.node.nodeid}'")
    return int(chosen)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with the STAMP traces, which is no part of this repository."""
    folder = Path(os.environ.get("BLOOMGATE_SHARED", ROOT.parent / "shared"))
    if not (folder / "traces").is_dir():
        pytest.skip(f"no traces in {folder}: put shared/ beside the repository or set BLOOMGATE_SHARED to it")
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Functional coverage of the cocotb runs, where this session measured it."""
    ran = any("test_functional_coverage" in report.nodeid for report in terminalreporter.getreports("passed"))
    table = ROOT / "build" / "cocotb" / "coverage.txt"
    if ran and table.exists():
        terminalreporter.section("functional coverage of the cocotb testbenches")
        terminalreporter.write(table.read_text(encoding="utf-8"))
