"""What must not happen in the middle of a transaction: a fork, and, in checking mode, input and output."""

from __future__ import annotations

import builtins
import contextlib
import functools
import os
import sys
from collections.abc import Iterator
from typing import Any, Callable, TypeVar

from bloomgate.stm.context import here
from bloomgate.stm.errors import ForbiddenIO, TransactionError
from bloomgate.stm.irrevocable import DeferredOutput
from bloomgate.stm.turn import Turn

__all__ = ["forbid_io", "watch"]

T = TypeVar("T")

_FORKS = frozenset(("os.fork", "os.forkpty"))
#: Audit events that are input or output; those of a module by its name and a dot.
_IO = frozenset(
    ("builtins.input", "open", "os.exec", "os.link", "os.mkdir", "os.posix_spawn", "os.putenv", "os.remove")
    + ("os.chmod", "os.chown", "os.chflags", "os.utime", "os.setxattr", "os.removexattr", "os.chdir")
    + ("os.rename", "os.rmdir", "os.spawn", "os.symlink", "os.system", "os.truncate", "subprocess.Popen")
)
_IO_MODULES = (
    "ftplib.",
    "http.client.",
    "imaplib.",
    "poplib.",
    "shutil.",
    "smtplib.",
    "socket.",
    "sqlite3.",
    "urllib.",
)

_checking = 0
_watching = False
_print = builtins.print


def watch() -> None:
    """Begin to watch; once in a process, since audit hooks cannot be taken away."""
    global _watching
    if not _watching:
        _watching = True
        sys.addaudithook(_audit)
        if sys.implementation.name == "pypy":
            # It does not audit forks.
            os.fork, os.forkpty = _guarded(os.fork), _guarded(os.forkpty)
        if os.environ.get("BLOOMGATE_CHECK_IO"):
            _begin()


def _check_fork() -> None:
    if here.tx is not None and not (isinstance(here.tx, Turn) and here.tx.untouched):
        raise TransactionError("a process cannot fork in the middle of a transaction: fork before or after it")


def _guarded(fork: Callable[[], T]) -> Callable[[], T]:
    @functools.wraps(fork)
    def guarded() -> T:
        _check_fork()
        return fork()

    return guarded


def _audit(event: str, arguments: Any) -> None:
    if event in _FORKS:
        _check_fork()
    elif (
        _checking
        and (event in _IO or event.startswith(_IO_MODULES))
        # What is imported in a transaction is read by Python, not by the program.
        and "frozen importlib" not in sys._getframe(1).f_code.co_filename
    ):
        _refuse(event)


def _refuse(what: str) -> None:
    tx = here.tx
    if tx is not None and not tx.irrevocable:
        raise ForbiddenIO(
            f"{what} in a transaction that may be run again: call bloomgate.irrevocable() before it,"
            " or leave it to on_commit() or DeferredOutput"
        )


@functools.wraps(builtins.print)
def _checked_print(*args: Any, **kwargs: Any) -> None:
    if not isinstance(kwargs.get("file") or sys.stdout, DeferredOutput):
        _refuse("print()")
    _print(*args, **kwargs)


def _begin() -> None:
    global _checking
    _checking += 1
    builtins.print = _checked_print


def _end() -> None:
    global _checking
    _checking -= 1
    if not _checking:
        builtins.print = _print


@contextlib.contextmanager
def forbid_io() -> Iterator[None]:
    """Checking mode, for a ``with`` block: input or output within a transaction of any thread raises.

    :class:`~bloomgate.stm.ForbiddenIO` names what it was, unless the transaction is irrevocable. Found are print(),
    input(), open(), sockets, subprocesses and changes of files and folders, as far as Python audits them; not
    found are writes to streams that are open already. The environment variable BLOOMGATE_CHECK_IO=1 switches the
    mode on for the whole process.
    """
    watch()
    _begin()
    try:
        yield
    finally:
        _end()
