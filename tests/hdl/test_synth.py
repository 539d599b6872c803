"""The whole core fits its budget, and its memories are the block RAMs they are meant to be."""

import json
import subprocess
import sys

from bloomgate.parameters import LANES, Parameters
from bloomgate_hdl.synth import BUDGET, DEVICE, resources_of

#: Bits of a RAMB36E1, parity included (UG473).
RAMB36_BITS = 36 * 1024


def test_default_geometry(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "bloomgate_hdl.synth", "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    used = {name: resource["used"] for name, resource in report["resources"].items()}
    assert used["LUT"] <= BUDGET["LUT"] == 10560
    assert used["RAMB36"] <= BUDGET["RAMB36"] == 45

    # 32 bits of count or key and their 4 parity bits fill the native word, so nothing is wasted.
    parameters = Parameters()
    filter_bits = parameters.K * parameters.D * 36
    log_bits = parameters.slots * parameters.aperture_depth * 36
    queue_bits = parameters.request_buffers * parameters.buffer_depth * 72
    # 4 banks of 1024 rows, an 8-bit tag and its parity for each slot.
    slot_filter_bits = 4 * 1024 * parameters.slots * 9
    # The conflict log with the slots' statistics; the totals and their latched copies.
    others = 1 + 2
    filled = filter_bits + log_bits + queue_bits + slot_filter_bits
    assert report["ramb36"] == filled / RAMB36_BITS + others
    assert report["ramb18"] == 0
    assert LANES == 2  # one lane a port: more would need copies of the tables


def test_resources_are_counted_as_the_device_has_them():
    cells = {"LUT6": 3, "LUT2": 1, "RAM32M": 2, "FDRE": 5, "FDSE": 1, "RAMB36E1": 2, "RAMB18E1": 1, "CARRY4": 9}
    resources = resources_of(cells)
    assert resources["LUT"].used == 3 + 1 + 2 * 4
    assert resources["LUTRAM"].used == 8
    assert resources["FF"].used == 6
    assert resources["RAMB36"].used == 2.5
    assert resources["DSP"].used == 0
    assert resources["LUT"].share == 12 / DEVICE["LUT"]


def test_budget_is_kept_or_not():
    fits = resources_of({"RAMB36E1": 45})["RAMB36"]
    exceeds = resources_of({"RAMB36E1": 45, "RAMB18E1": 1})["RAMB36"]
    assert fits.within_budget
    assert not exceeds.within_budget
