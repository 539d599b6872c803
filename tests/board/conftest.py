"""Programs and shims, compiled once."""

import tempfile
from pathlib import Path

import pytest
from bloomgate.parameters import Parameters

from tests.board.emulation import MACHINES, ROOT, EmulatedBoard, Machine, emulated_board

#: Of the emulated board: small enough for an overflow and a rollover soon, and more slots than one.
GEOMETRY = Parameters(K=2, D=64, timestamp_bits=6, key_bits=10, slots=5, aperture_depth=512)


@pytest.fixture(scope="session", params=MACHINES, ids=lambda machine: machine.name)
def machine(request: pytest.FixtureRequest) -> Machine:
    request.param.require()
    return request.param


@pytest.fixture(scope="session")
def built(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the shim and the programs ``commit`` and ``exercise``."""
    folder = tmp_path_factory.mktemp(machine.name)
    machine.shim(folder / "shim.so")
    machine.program(folder / "commit", ROOT / "firmware" / "examples" / "commit.c")
    machine.program(folder / "exercise", ROOT / "tests" / "board" / "programs" / "exercise.c")
    return folder


@pytest.fixture
def board() -> EmulatedBoard:
    # Not tmp_path, which can be too long for a socket.
    with tempfile.TemporaryDirectory(prefix="bg-") as folder, emulated_board(Path(folder), GEOMETRY) as emulated:
        yield emulated
