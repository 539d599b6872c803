"""The generated files: what is committed is what the generator writes, and a C compiler takes the header."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from bloomgate import generate
from bloomgate.parameters import Parameters
from bloomgate.registers import CONTROL_PAGE, SLOT_PAGE, STATISTICS, ErrorCode, Fault, Register
from bloomgate.verdict import Reason

ROOT = Path(__file__).resolve().parents[2]
STRICT = ("-std=c11", "-Wall", "-Wextra", "-pedantic", "-Werror")


def source_tree(folder: Path) -> Path:
    """A folder that the generator takes for a source tree."""
    (folder / "pyproject.toml").touch()
    return folder


def run_c(tmp_path: Path, *statements: str) -> list[str]:
    """The lines that a C program with the header prints."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: apt-get install gcc")
    source = tmp_path / "program.c"
    source.write_text(
        '#include "bloomgate_registers.h"\n#include <stdio.h>\n'
        + f"int main(void)\n{{\n{chr(10).join(statements)}\n    return 0;\n}}\n"
    )
    include = ROOT / "host" / "bloomgate" / "include"
    program = tmp_path / "program"
    subprocess.run([compiler, *STRICT, f"-I{include}", str(source), "-o", str(program)], check=True, timeout=60)
    return subprocess.run([program], capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()


def test_committed_files_are_current(capsys):
    assert generate.main(["--check", "--root", str(ROOT)]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(generate.FILES))
def test_check_names_a_stale_file(tmp_path, capsys, name):
    root = source_tree(tmp_path)
    assert generate.main(["--root", str(root)]) == 0
    assert generate.main(["--check", "--root", str(root)]) == 0
    path = root / name
    path.write_text(path.read_text() + "\n")
    capsys.readouterr()
    assert generate.main(["--check", "--root", str(root)]) == 1
    assert capsys.readouterr().err == f"stale: {name}; run `make generate` and commit the result\n"
    assert path.read_text().endswith("\n\n"), "--check must not write"


def test_check_names_a_missing_file(tmp_path, capsys):
    assert generate.main(["--check", "--root", str(source_tree(tmp_path))]) == 1
    message = capsys.readouterr().err
    for name in generate.FILES:
        assert name in message
    assert not (tmp_path / "docs").exists()


def test_outside_a_source_tree(tmp_path, capsys):
    assert generate.main(["--root", str(tmp_path)]) == 1
    assert "is not the source tree; say --root" in capsys.readouterr().err


def test_the_header_has_every_offset_and_mask(tmp_path):
    names = {}
    for page in (CONTROL_PAGE, SLOT_PAGE):
        for item in page:
            name = f"BLOOMGATE_{page.name}_{item.name}"
            names[name] = item.offset
            if isinstance(item, Register):
                for field in item.fields:
                    names[f"{name}_{field.name}_MASK"] = field.mask
                    names[f"{name}_{field.name}_SHIFT"] = field.lsb
            else:
                names[f"{name}_BYTES"] = item.size
    for enum, prefix in ((Reason, "REASON"), (ErrorCode, "ERROR_CODE"), (Fault, "FAULT")):
        names.update({f"BLOOMGATE_{prefix}_{member.name}": member.value for member in enum})
    for number, (name, _) in enumerate(STATISTICS):
        names[f"BLOOMGATE_STATISTIC_{name.upper()}"] = number
    names["bloomgate_slot_page(3)"] = 4 * 4096
    names["bloomgate_statistic_offset(BLOOMGATE_STATISTIC_ERRORS)"] = CONTROL_PAGE.window("STATISTICS").offset + 8 * (
        len(STATISTICS) - 1
    )
    names["BLOOMGATE_DEFAULT_HASH_SEED"] = Parameters().hash_seed
    printed = run_c(tmp_path, *(f'    printf("%u\\n", (unsigned)({name}));' for name in names))
    assert dict(zip(names, map(int, printed), strict=True)) == names


def test_the_documentation_has_every_register_and_field():
    text = generate.documentation()
    for page in (CONTROL_PAGE, SLOT_PAGE):
        for item in page:
            assert re.search(rf"\| `0x{item.offset:03X}`.*\| `{item.name}` \| {item.access.name} \| ", text), item.name
            if isinstance(item, Register):
                for field in item.fields:
                    assert f"| `{field.name}` | {field.doc} |" in text, (item.name, field.name)


def test_every_member_of_an_enum_is_documented():
    for enum in (Reason, ErrorCode, Fault):
        for member, doc in generate._documented(enum):
            assert len(doc) > 10, member


def test_bit_diagrams_are_straight():
    for diagram in re.findall(r"```text\n(.*?)```", generate.documentation(), re.S):
        bits, top, names, bottom = diagram.splitlines()
        assert top == bottom
        assert len(top) == len(names)
        assert len(bits) <= len(top)
        # Every bit of the 32 is in exactly one cell.
        covered = []
        for cell in bits.split():
            high, _, low = cell.partition(":")
            covered += range(int(high), int(low or high) - 1, -1)
        assert covered == list(range(31, -1, -1))


def test_the_fields_of_a_register_do_not_overlap():
    for page in (CONTROL_PAGE, SLOT_PAGE):
        for item in page:
            if isinstance(item, Register):
                together = 0
                for field in item.fields:
                    assert not together & field.mask, (item.name, field.name)
                    together |= field.mask
                assert together < 1 << 32, item.name
