"""Pieces of C for the generated headers."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import Optional

from bloomgate.markdown import bits
from bloomgate.registers import Field

__all__ = ["comment", "define", "field_macros"]

_WIDTH = 110


def comment(text: str) -> list[str]:
    """A block comment."""
    lines = textwrap.wrap(text, _WIDTH - 6)
    if len(lines) == 1:
        return [f"/* {lines[0]} */"]
    return [f"/* {lines[0]}", *(f" * {line}" for line in lines[1:]), " */"]


def define(name: str, value: str, doc: Optional[str] = None) -> str:
    line = f"#define {f'BLOOMGATE_{name}':<53} {value}"
    return f"{line} /* {doc} */" if doc else line


def field_macros(name: str, fields: Iterable[Field]) -> Iterator[str]:
    """SHIFT and MASK of each field of the word ``name``."""
    for field in fields:
        yield from comment(f"{bits(field)}: {field.doc}")
        yield define(f"{name}_{field.name}_SHIFT", f"{field.lsb}")
        yield define(f"{name}_{field.name}_MASK", f"0x{field.mask:08X}u")
