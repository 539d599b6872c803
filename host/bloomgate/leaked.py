"""Locks that an asynchronous exception has left held."""

from __future__ import annotations

import sys
import threading
from types import FrameType
from typing import Optional

__all__ = ["release_leaked"]


def release_leaked(*locks: threading.RLock) -> None:
    """Release what the calling thread owns of ``locks``, all of which are taken in the caller's file and nowhere else.

    Not while a function of that file is running beneath the caller: then this is a signal handler or finaliser, and
    they belong to what it has interrupted.
    """
    owned = [lock for lock in locks if lock._is_owned()]  # type: ignore[attr-defined]
    if not owned:
        return
    caller = sys._getframe(1)
    beneath: Optional[FrameType] = caller.f_back
    while beneath is not None:
        if beneath.f_code.co_filename == caller.f_code.co_filename:
            return
        beneath = beneath.f_back
    for lock in owned:
        while lock._is_owned():  # type: ignore[attr-defined]
            lock.release()
