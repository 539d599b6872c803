"""docs/board.md: every trap names code that exists."""

import re

import pytest

from tests.board.emulation import ROOT

TEXT = (ROOT / "docs" / "board.md").read_text()
TABLE = TEXT.split("## Traps", 1)[1].split("\n## ", 1)[0]
ROWS = [line for line in TABLE.splitlines() if line.startswith("| ") and not line.startswith(("| ---", "| trap "))]
NAMED = re.findall(r"`([\w./-]+\.(?:py|c|sh|xdc|conf|rules|toml|md)):([^`]+)`", TABLE)


def test_every_row_names_something():
    assert len(ROWS) >= 25
    for row in ROWS:
        assert re.search(r"`[\w./-]+\.\w+:[^`]+`", row.split(" | ")[-1]), row


@pytest.mark.parametrize(("file", "symbol"), NAMED, ids=[f"{file}:{symbol}" for file, symbol in NAMED])
def test_what_handles_a_trap_exists(file, symbol):
    assert symbol in (ROOT / file).read_text(), f"{file} has no {symbol!r}"


def test_the_traps_that_are_known_are_all_there(shared_dir):
    """By the word that each is about."""
    words = ("PSS_IDCODE", "FCLK", "QSPI", "bit.bin", "fpga_full", "I2C0", "elink", "Epiphany", "WID", "32-bit stores")
    words += ("CFGBVS", "0x43C00000", "AxPROT", "32-byte", "HP0", "outstanding", "unanswered", "uncached", "LDREXD")
    listed = (shared_dir / "docs" / "board.md").read_text()
    for word in words:
        assert word.lower() in listed.lower(), word
        assert word.lower() in TABLE.lower(), word


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / "docs" / target).exists(), target
