"""``TVar.value`` in C for the thread that is alone, on CPython with a GIL, where ``soft:`` has been compiled anyway.

The property in tvar.py says what it does, and is what other Pythons use. BLOOMGATE_PURE_PYTHON=1 keeps to that.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

from bloomgate.device import Device
from bloomgate.stm.alone import Alone, Era, alone
from bloomgate.stm.tvar import TVar

__all__ = ["PLAIN", "accelerate"]

#: The property.
PLAIN: Any = TVar.__dict__["value"]

_tried = False


def accelerate(device: Device) -> None:
    """Have it in C from now on, if ``device`` is one whose code has it."""
    global _tried
    module = getattr(device, "module", None)
    if _tried or module is None:
        return
    _tried = True
    if sys.implementation.name != "cpython" or os.environ.get("BLOOMGATE_PURE_PYTHON"):
        return
    # None without a GIL.
    make: Any = getattr(ctypes.PyDLL(module.__file__), "bg_in_place", None)
    if make is None:
        return
    offsets = (
        *_offsets(Alone(), "era"),
        *_offsets(Era(), "stamp", "thread", "wrote"),
        *_offsets(TVar(None), "_era", "_value", "_before", "_stamp"),
    )
    make.argtypes, make.restype = (*[ctypes.py_object] * 4, ctypes.c_void_p), ctypes.py_object
    slots = (ctypes.c_ssize_t * len(offsets))(*offsets)
    TVar.value = make(TVar, alone, PLAIN.fget, PLAIN.fset, slots)  # type: ignore[method-assign]


def _offsets(instance: Any, *names: str) -> list[int]:
    """Where the slots of those names lie in an instance, in bytes."""
    size = ctypes.sizeof(ctypes.c_void_p)
    words = (ctypes.c_void_p * (type(instance).__basicsize__ // size)).from_address(id(instance))
    found = []
    for name in names:
        mark = object()
        setattr(instance, name, mark)
        found.append(list(words).index(id(mark)) * size)
    return found
