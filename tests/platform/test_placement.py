"""Moving the cells of a placed design, on a small device and with random designs that obey the rules of its slices."""

import json
import random
import re

import pytest
from bloomgate_hdl.platform import placement
from bloomgate_hdl.platform.placement import CompilerMissing, improve
from bloomgate_hdl.platform.sites import read_sites

COLUMNS, ROWS = 4, 20
LETTERS = "ABCD"


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(placement, "EPOCHS", 60)
    monkeypatch.setattr(placement, "EFFORT", 20)


@pytest.fixture
def database(tmp_path):
    """Four columns of slices, the left one of each tile with memory in every second column, and four block RAMs."""
    tiles = {}
    for column in range(COLUMNS):
        for row in range(ROWS):
            kinds = ("SLICEM" if column % 2 else "SLICEL", "SLICEL")
            sites = {f"SLICE_X{2 * column + half}Y{row}": kind for half, kind in enumerate(kinds)}
            tiles[f"CLB_X{column}Y{row}"] = {"grid_x": 5 * column, "grid_y": ROWS - row, "sites": sites}
    for row in range(4):
        sites = {f"RAMB36_X0Y{row}": "RAMBFIFO36E1"}
        tiles[f"BRAM_X7Y{row}"] = {"grid_x": 7, "grid_y": ROWS - 5 * row, "sites": sites}
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "tilegrid.json").write_text(json.dumps(tiles))
    return tmp_path


class Placed:
    """A random design: flip-flops that LUTs feed, carry chains, LUT RAM and block RAM, each input from any output."""

    def __init__(self, seed, sources=None):
        """``sources``: from how many flip-flops and RAMs all LUTs have their inputs (default: from all)."""
        self.random = random.Random(seed)
        self.sources = sources
        self.cells, self.sdf, self.outputs, self.inputs = {}, [], [], []
        self.bits = 10
        slices = [(x, y) for x in range(2 * COLUMNS) for y in range(ROWS)]
        self.random.shuffle(slices)
        self.free = set(slices)
        for length in (3, 2, 1):
            self.chain(length)
        for _ in range(4):
            self.memory()
        for number in range(3):
            self.ram(number)
        for x, y in self.random.sample(sorted(self.free), 60):
            self.slice(f"SLICE_X{x}Y{y}", control=self.random.randrange(3))
        self.connect()

    def net(self):
        self.bits += 1
        return self.bits

    def cell(self, name, kind, bel, inputs, outputs, **attributes):
        """Ports of ``inputs`` and ``outputs`` have nets; those of ``inputs`` without one get any later on."""
        self.cells[name] = {
            "type": kind,
            "parameters": {},
            "attributes": {"NEXTPNR_BEL": bel, **attributes},
            "connections": {port: [net] for port, net in {**inputs, **outputs}.items() if net is not None},
            "port_directions": {**dict.fromkeys(inputs, "input"), **dict.fromkeys(outputs, "output")},
        }
        self.inputs += [(name, port) for port, net in inputs.items() if net is None]
        for port in inputs:
            self.sdf.append(f"(INTERCONNECT x/O {name}/{port} (0:0:0) (0:0:0))")
        self.outputs += [net for port, net in outputs.items() if not port.startswith("CO")]

    def lut(self, site, letter, kind, inputs):
        name = f"{site}.{letter}{kind}LUT"
        pins = {f"A{pin + 1}": None for pin in range(inputs)}
        attributes = {f"X_ORIG_PORT_{pin}": "I" for pin in pins}
        output = self.net()
        self.cell(name, "SLICE_LUTX", f"{site}/{letter}{kind}LUT", pins, {f"O{kind}": output}, **attributes)
        return output

    def ff(self, site, bel, d, control):
        pins = {"CK": 1, "CE": 2 + control, "SR": 5, "D": d}
        self.cell(f"{site}.{bel}", "SLICE_FFX", f"{site}/{bel}", pins, {"Q": self.net()}, X_ORIG_TYPE="FDRE")

    def slice(self, site, control):
        for letter in LETTERS:
            output6 = output5 = None
            if self.random.random() < 0.6:
                output6 = self.lut(site, letter, 6, 5)
                if self.random.random() < 0.3:
                    output5 = self.lut(site, letter, 5, 2)
            feeds = None
            if self.random.random() < 0.6:
                feeds = self.random.choice((output6, None))
                self.ff(site, f"{letter}FF", feeds, control)
            # With a 5LUT, whose output goes elsewhere too, there is no way out for a second flip-flop; and there is one
            # input that bypasses the LUTs.
            has_bypass = f"{site}.{letter}FF" in self.cells and feeds is None
            if output5 is None and not has_bypass and self.random.random() < 0.4:
                self.ff(site, f"{letter}5FF", None, control)

    def chain(self, length):
        x, y = next((x, y) for x, y in sorted(self.free) if all((x, y + k) in self.free for k in range(length)))
        carry = None
        for k in range(length):
            self.free.remove((x, y + k))
            site = f"SLICE_X{x}Y{y + k}"
            pins = {"CIN": carry} if carry else {}
            pins |= {f"S{n}": self.lut(site, letter, 6, 2) for n, letter in enumerate(LETTERS)}
            carry = self.net()
            self.cell(f"{site}.CARRY4", "CARRY4", f"{site}/CARRY4", pins, {"CO3": carry, "O3": self.net()})

    def memory(self):
        x, y = next((x, y) for x, y in sorted(self.free) if x % 4 == 2)
        self.free.remove((x, y))
        site = f"SLICE_X{x}Y{y}"
        for letter in LETTERS:
            pins = {"A1": None, "WA1": None, "DI1": None, "CLK": 1, "WE": None}
            name = f"{site}.{letter}6LUT"
            self.cell(name, "SLICE_LUTX", f"{site}/{letter}6LUT", pins, {"O6": self.net()}, X_ORIG_PORT_A1="I")

    def ram(self, number):
        pins = {"ADDRARDADDRL4": None, "DIADI0": None}
        bel = f"RAMB36_X0Y{number}/RAMB36E1"
        self.cell(f"ram{number}", "RAMB36E1_RAMB36E1", bel, pins, {"DOADO0": self.net()})

    def connect(self):
        """LUT inputs from flip-flops and RAMs, so that there is no loop; everything else from anything."""
        registered = [
            net
            for cell in self.cells.values()
            if cell["type"] in ("SLICE_FFX", "RAMB36E1_RAMB36E1")
            for port in ("Q", "DOADO0")
            for net in cell["connections"].get(port, ())
        ]
        if self.sources is not None:
            registered = self.random.sample(registered, self.sources)
            luts = [
                cell
                for cell in self.cells.values()
                if cell["type"] == "SLICE_LUTX" and "CLK" not in cell["connections"]
            ]
            outputs = [net for cell in luts for net in cell["connections"].get("O6", ())]
            self.outputs = self.random.sample(outputs, 1)
            # Flip-flops have their enable from one that all others of its kind have too.
            for number, net in enumerate(registered[:3]):
                for cell in self.cells.values():
                    if cell["type"] == "SLICE_FFX" and cell["connections"]["CE"] == [2 + number]:
                        cell["connections"]["CE"] = [net]
        for name, port in self.inputs:
            is_lut = self.cells[name]["type"] == "SLICE_LUTX" and port.startswith("A")
            self.cells[name]["connections"][port] = [self.random.choice(registered if is_lut else self.outputs)]

    def improve(self, directory, database, name, seed=1, luts=0):
        placed, sdf, output = (directory / f"{name}.{suffix}" for suffix in ("json", "sdf", "out"))
        nets = {bit for cell in self.cells.values() for bits in cell["connections"].values() for bit in bits}
        names = {f"net{bit}": {"hide_name": 0, "bits": [bit], "attributes": {}} for bit in nets}
        placed.write_text(json.dumps({"modules": {"top": {"cells": self.cells, "netnames": names}}}))
        sdf.write_text("\n".join(self.sdf))
        result = improve(
            placed=placed,
            sdf=sdf,
            database=database,
            device="tiny",
            output=output,
            seed=seed,
            period=2.0,
            spare_luts=luts,
            settings={"router2/estimateWeight": "1"},
        )
        (module,) = json.loads(output.read_text())["modules"].values()
        return result, module


def without_rank(name):
    return re.sub(r"^\d{6}\.", "", name)


@pytest.mark.parametrize("seed", range(8))
def test_what_is_moved_stays_legal(tmp_path, database, seed):
    design = Placed(seed)
    result, module = design.improve(tmp_path, database, "a")
    assert result.after < result.before
    cells = {without_rank(name): cell for name, cell in module["cells"].items()}
    assert module["settings"] == {"router2/estimateWeight": "1"}
    # Nothing but the places has changed.
    for name, cell in design.cells.items():
        assert cells[name]["connections"] == cell["connections"]
    bels = {name: cell["attributes"]["NEXTPNR_BEL"] for name, cell in cells.items()}
    assert len(set(bels.values())) == len(cells) == len(design.cells)
    moved = sum(bels[name] != cell["attributes"]["NEXTPNR_BEL"] for name, cell in design.cells.items())
    assert moved > len(cells) / 2
    check_rules(cells, bels, read_sites(database, "tiny"))


def check_rules(cells, bels, sites):
    """Those of a slice, as UG474 has them, each looked at by itself."""
    site = {name: bel.partition("/")[0] for name, bel in bels.items()}
    driver = {net: name for name, cell in cells.items() for port in cell["connections"] for net in outputs(cell, port)}
    at = {bel: name for name, bel in bels.items()}
    controls = {}
    for name, cell in cells.items():
        kind, connections = cell["type"], cell["connections"]
        assert site[name] in (sites.rams if kind.startswith("RAMB") else sites.slices)
        if kind == "SLICE_FFX":
            control = tuple(connections[port][0] for port in ("CK", "CE", "SR"))
            assert controls.setdefault(site[name], control) == control
        if kind == "SLICE_LUTX" and "CLK" in connections:
            assert site[name] in sites.with_memory
            assert bels[name].endswith(name.rpartition(".")[2])
        if kind == "CARRY4":
            for pin, letter in enumerate(LETTERS):
                assert at[f"{site[name]}/{letter}6LUT"] == driver[connections[f"S{pin}"][0]]
            if "CIN" in connections:
                x, y = map(int, re.findall(r"\d+", site[name]))
                assert site[driver[connections["CIN"][0]]] == f"SLICE_X{x}Y{y - 1}"
    for slice_ in sites.slices:
        for letter in LETTERS:
            lut6, lut5, ff, ff5 = (at.get(f"{slice_}/{letter}{bel}") for bel in ("6LUT", "5LUT", "FF", "5FF"))
            bypassed = {
                cells[name]["connections"]["D"][0]
                for name, direct in ((ff, (lut6, lut5)), (ff5, (lut5,)))
                if name and driver[cells[name]["connections"]["D"][0]] not in [lut for lut in direct if lut]
            }
            assert len(bypassed) <= 1
            assert not (ff5 and lut5 and any(is_used_elsewhere(cells, lut5, ff, ff5)))


def outputs(cell, port):
    return cell["connections"][port] if cell["port_directions"][port] == "output" else ()


def is_used_elsewhere(cells, lut, *ffs):
    (net,) = cells[lut]["connections"]["O5"]
    for name, cell in cells.items():
        for port, nets in cell["connections"].items():
            yield net in nets and cell["port_directions"][port] == "input" and not (name in ffs and port == "D")


@pytest.mark.parametrize("luts", [0, 200])
def test_nets_with_many_users_get_more_drivers(tmp_path, database, luts):
    design = Placed(11, sources=6)
    result, module = design.improve(tmp_path, database, "a", luts=luts)
    cells = {without_rank(name): cell for name, cell in module["cells"].items()}
    assert result.new_ffs > 3
    assert (result.new_luts > 1) == (luts > 1)
    assert len(cells) == len(design.cells) + result.new_ffs + result.new_luts
    bels = {name: cell["attributes"]["NEXTPNR_BEL"] for name, cell in cells.items()}
    assert len(set(bels.values())) == len(cells)
    check_rules(cells, bels, read_sites(database, "tiny"))
    # Every input has the same as before, or a copy of it: something with the same type and the same inputs.
    driver = {net: name for name, cell in cells.items() for port in cell["connections"] for net in outputs(cell, port)}
    named = {bit for net in module["netnames"].values() for bit in net["bits"]}
    for name, cell in cells.items():
        before = design.cells[name.partition("$copy")[0]]
        assert (cell["type"], cell["parameters"]) == (before["type"], before["parameters"])
        assert cell["connections"].keys() == before["connections"].keys()
        for port, (net,) in cell["connections"].items():
            assert net in named
            if cell["port_directions"][port] == "output" or net == before["connections"][port][0]:
                continue
            copied = driver[net].partition("$copy")
            assert copied[1]
            assert before["connections"][port][0] in (
                bit for out in design.cells[copied[0]]["connections"] for bit in outputs(design.cells[copied[0]], out)
            )
    users = {}
    for cell in cells.values():
        for port, (net,) in cell["connections"].items():
            if cell["port_directions"][port] == "input" and "$copy" in driver.get(net, ""):
                users[net] = users.get(net, 0) + 1
    assert len(users) == result.new_ffs + result.new_luts
    # A slice keeps what it has of a net on one.
    assert max(users.values()) <= 60


def test_the_same_seed_gives_the_same(tmp_path, database):
    design = Placed(3)
    results = [design.improve(tmp_path, database, name, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    assert results[0] == results[1]
    assert results[0][1] != results[2][1]


def test_cells_are_in_the_order_of_their_longest_paths(tmp_path, database):
    """nextpnr reads them by name."""
    _, module = Placed(5).improve(tmp_path, database, "a")
    ranks = [int(name[:6]) for name in module["cells"]]
    assert ranks == list(range(len(ranks)))
    kinds = [cell["type"] for cell in module["cells"].values()]
    # Setup and clock-to-out of a RAM are so long that no path of flip-flops alone comes before all of these.
    assert "RAMB36E1_RAMB36E1" in kinds[: len(kinds) // 4]


def test_no_compiler(tmp_path, database, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(CompilerMissing, match="C compiler .* apt-get install gcc"):
        Placed(1).improve(tmp_path, database, "a")
