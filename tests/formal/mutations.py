"""Mutations: small bugs put into a copy of the gateware that a proof must catch.

A proof that still passes when the gateware is wrong proves nothing. In a test module::

    from tests.formal import mutations
    from tests.formal.mutations import Mutation

    MUTATIONS = [
        Mutation("last beat", "axi3_read_channel.py", "left == 0", "left == 1", "RLAST comes on the wrong beat"),
        ...
    ]

    @pytest.mark.formal
    @pytest.mark.parametrize("mutation", mutations.parameters(MUTATIONS, short=2))
    def test_proof_catches(mutation):
        mutations.check_caught(mutation, "tests.formal.my_properties:MyProperties", depth=12)

`parameters` gives all of them under BLOOMGATE_FORMAL=full and skips all but the first `short` otherwise.
"""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.formal import sby

#: What is mutated.
GATEWARE = sby.ROOT / "hdl" / "bloomgate_hdl"


@dataclasses.dataclass(frozen=True)
class Mutation:
    """One wrong edit of one file. Raises ValueError when the file has changed so that it does not apply any more.

    So that is found by every run of the tests, and not by the one that proves with it.
    """

    #: A few words; with the name of the harness they name the run.
    name: str
    #: Path within hdl/bloomgate_hdl.
    file: str
    #: Text that occurs exactly once in the file.
    old: str
    #: What takes its place.
    new: str
    #: Why the proof must catch it: what would go wrong on the board.
    why: str

    def __post_init__(self) -> None:
        count = (GATEWARE / self.file).read_text(encoding="utf-8").count(self.old)
        if count != 1:
            raise ValueError(f"mutation {self.name!r}: {self.old!r} must occur once in {self.file}, not {count} times")


def parameters(mutations: list[Mutation], *, short: int) -> list:
    """The mutations as parameters of pytest; the first `short` ones also run without BLOOMGATE_FORMAL=full."""
    skip = pytest.mark.skipif(not sby.FULL, reason=sby.FULL_REASON)
    return [
        pytest.param(mutation, id=slug(mutation.name), marks=[] if place < short else [skip])
        for place, mutation in enumerate(mutations)
    ]


def slug(name: str) -> str:
    """`name` with nothing in it that a file name or a test ID cannot have."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def apply(mutation: Mutation, folder) -> None:
    """Copies the gateware to `folder`/bloomgate_hdl with the mutation in it."""
    copy = folder / "bloomgate_hdl"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(GATEWARE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    path = copy / mutation.file
    path.write_text(path.read_text(encoding="utf-8").replace(mutation.old, mutation.new), encoding="utf-8")


def run(
    mutation: Mutation,
    harness: str,
    *,
    depth: int,
    mode: str = "bmc",
    timeout: int = 300,
    arguments: dict | None = None,
) -> sby.Outcome:
    """The outcome of the proof on the mutated gateware.

    `harness` is "MODULE:CALLABLE", called with `arguments` in a process of its own that sees the mutated copy.
    """
    name = f"mutations/{slug(harness.partition(':')[2])}-{slug(mutation.name)}"
    folder = sby.BUILD / name / "gateware"
    folder.mkdir(parents=True, exist_ok=True)
    apply(mutation, folder)
    path = [folder, sby.ROOT, sby.ROOT / "host", os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, "-m", "tests.formal.sby", harness, name, "--mode", mode, "--depth", str(depth)]
    command += ["--timeout", str(timeout), "--gateware", str(folder), "--arguments", json.dumps(arguments or {})]
    sby.warm_up()
    result = subprocess.run(
        command,
        cwd=sby.ROOT,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(str(part) for part in path if str(part))),
        capture_output=True,
        text=True,
        timeout=timeout + 120,
        check=False,
    )
    if result.returncode:
        raise RuntimeError(
            f"mutation {mutation.name!r} did not get as far as the proof: {result.stderr.strip()[-2000:]}"
        )
    return sby.Outcome(**json.loads(result.stdout.splitlines()[-1]))


def check_caught(mutation: Mutation, harness: str, **options) -> sby.Outcome:
    """Like `run`, but anything other than a failed property is an AssertionError: an error or a timeout is no catch."""
    outcome = run(mutation, harness, **options)
    if outcome.status != "FAIL":
        raise AssertionError(
            f"mutation {mutation.name!r} of {mutation.file} was not caught, although {mutation.why}: {outcome.message}"
        )
    return outcome
