"""docs/board.md: every trap names code that exists."""

import ast
import re

import pytest

from tests.board.emulation import ROOT

TEXT = (ROOT / "docs" / "board.md").read_text()
TABLE = TEXT.split("## Traps", 1)[1].split("\n## ", 1)[0]
ROWS = [line for line in TABLE.splitlines() if line.startswith("| ") and not line.startswith(("| ---", "| trap "))]
NAME = re.compile(r"`([\w./-]+\.\w+):([^`]+)`")
NAMED = NAME.findall(TABLE)


def code(file):
    """A file without its comments and docstrings."""
    text = (ROOT / file).read_text()
    if file.endswith((".c", ".h")):
        return re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.S)
    lines = text.split("\n")
    if file.endswith(".py"):
        for part in ast.walk(ast.parse(text)):
            body = getattr(part, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
                lines[body[0].lineno - 1 : body[0].end_lineno] = [""] * (body[0].end_lineno - body[0].lineno + 1)
    return "\n".join(re.sub(r"^\s*#.*", "", line) for line in lines)


@pytest.mark.parametrize("row", ROWS, ids=[row.split(" | ")[0] for row in ROWS])
def test_every_row_names_code(row):
    """Not only words about it."""
    named = NAME.findall(row.split(" | ")[-1])
    assert any(symbol in code(file) for file, symbol in named), named


@pytest.mark.parametrize(("file", "symbol"), NAMED, ids=[f"{file}:{symbol}" for file, symbol in NAMED])
def test_what_handles_a_trap_exists(file, symbol):
    assert symbol in (ROOT / file).read_text(), f"{file} has no {symbol!r}"


#: What each trap is about.
WORDS = (
    "QSPI",
    "xdevcfg",
    "bit.bin",
    "level shifters",
    "fpga_full",
    "I2C0",
    "elink",
    "Epiphany",
    "WID",
    "32-bit stores",
)
WORDS += ("CFGBVS", "0x43C00000", "AxPROT", "HP0", "outstanding", "unanswered", "uncached", "LDREXD")


def test_the_traps_that_are_known_are_all_there(shared_dir):
    listed = (shared_dir / "docs" / "board.md").read_text()
    for heading in ("Booting and loading", "Traps", "Rules that emulation does not check"):
        section = listed.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
        for trap in section.split("\n* "):
            about = [word for word in WORDS if word.lower() in trap.lower()]
            assert about, f"nobody has looked at: {trap}"
            for word in about:
                assert word.lower() in TABLE.lower(), word
    for word in ("PSS_IDCODE", "FCLK", "32-byte"):
        assert word in listed
        assert word in TABLE, word


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / "docs" / target).exists(), target
