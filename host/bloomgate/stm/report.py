"""Seeing what happens: counters, and which variables cost time because transactions had to be run again."""

from __future__ import annotations

import contextlib
import os
import runpy
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, Callable, Optional, Union

from bloomgate.stm import context, page
from bloomgate.stm.alone import alone
from bloomgate.stm.attempt import Attempt
from bloomgate.stm.runtime import runtime
from bloomgate.stm.version import Location
from bloomgate.verdict import Reason

__all__ = ["Conflict", "Profile", "Report", "Trace", "profile", "profile_script", "run_script", "stats"]

#: Frames of a call site that are kept.
_DEPTH = 3
_UNKNOWN = "unknown: committed by another process, or before the profile began"


def stats() -> dict[str, int]:
    """Counters of this process's transactions since it began.

    ``commits`` and ``read_only`` transactions, attempts that were run again because of ``conflicts`` or
    ``other_aborts`` (rollover, reset), ``retries`` (waits), ``exceptions`` that left a transaction, ``escalations``
    (uses of the irrevocable token), ``helps`` (commits finished for a thread that made no progress) and
    ``versions_gone`` (attempts on shared data run again because their snapshot was too old).
    """
    return context.totals()


# As it is in code objects: with ".." in it if the search path has one.
_PACKAGE = os.path.dirname(os.path.dirname(stats.__code__.co_filename)) + os.sep


def _site() -> str:
    """Where the code outside of this package is, innermost call first."""
    frame: Optional[FrameType] = sys._getframe(1)
    lines: list[str] = []
    while frame is not None and len(lines) < _DEPTH:
        code = frame.f_code
        if not code.co_filename.startswith(_PACKAGE):
            lines.append(f"{os.path.basename(code.co_filename)}:{frame.f_lineno} in {code.co_name}")
        frame = frame.f_back
    return " < ".join(lines)


class Trace:
    """Where one attempt has read and written, and when it began."""

    __slots__ = ("began", "reads", "site", "writes")

    def __init__(self, site: str) -> None:
        self.site = site
        #: Seconds, of time.perf_counter().
        self.began = time.perf_counter()
        self.reads: dict[Location, str] = {}
        self.writes: dict[Location, str] = {}

    def read(self, location: Location) -> None:
        self.reads[location] = _site()

    def write(self, location: Location) -> None:
        self.writes[location] = _site()


@dataclass(frozen=True)
class Conflict:
    """What it cost that one place read a variable while another one wrote it."""

    variable: str
    #: Call sites, innermost call first.
    read_at: str
    written_at: str
    #: Attempts that had to be run again.
    count: int
    #: Time in these attempts, in seconds.
    seconds: float


@dataclass(frozen=True)
class Report:
    """The outcome of a profile."""

    #: What cost most time first.
    conflicts: tuple[Conflict, ...]
    #: Seconds that were profiled.
    seconds: float
    commits: int
    #: Attempts that were run again in each of equally long parts of the time.
    history: tuple[int, ...]

    @property
    def seconds_lost(self) -> float:
        """Time in attempts that were run again, of all threads together."""
        return sum(conflict.seconds for conflict in self.conflicts)

    def as_text(self) -> str:
        """The report for a terminal."""
        count = sum(conflict.count for conflict in self.conflicts)
        lines = [
            f"{self.commits} transactions committed in {self.seconds:.3f} s; {count} attempts were run again,"
            f" which cost {self.seconds_lost * 1e3:.3f} ms of all threads together"
        ]
        for conflict in self.conflicts:
            lines += [
                f"{conflict.seconds * 1e3:10.3f} ms  {conflict.count:6d} x  {conflict.variable}",
                f"{'':15s}read at    {conflict.read_at}",
                f"{'':15s}written at {conflict.written_at}",
            ]
        return "\n".join(lines)

    def as_html(self) -> str:
        """One page that needs no other file."""
        return page.render(self)


class Profile:
    """Records conflicts of all threads while it is active. Slows every read and write down."""

    #: Moments of conflicts that are kept for the plot.
    _MOMENTS = 100_000
    _PARTS = 60

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._writers: dict[int, str] = {}
        self._lost: dict[tuple[str, str, str], tuple[int, float]] = {}
        self._moments: list[float] = []
        self._began = time.perf_counter()
        self._commits_before = stats()["commits"]

    def begin(self, attempt: Attempt, function: Callable[..., Any]) -> None:
        """Record what this attempt reads and writes."""
        attempt.trace = Trace(getattr(function, "__qualname__", repr(function)))
        attempt.plain = False

    def committed(self, attempt: Attempt) -> None:
        """Remember who wrote."""
        trace = attempt.trace
        if trace is not None:
            for location, site in trace.writes.items():
                self._writers[location._key] = site

    def lost(self, attempt: Attempt) -> None:
        """An attempt is run again because of a conflict."""
        trace = attempt.trace
        if trace is None:
            return
        now = time.perf_counter()
        location = self._culprit(attempt, trace)
        if location is None:
            found = ("(none: the device's filter erred towards abort)", trace.site, "")
        else:
            read = trace.reads.get(location, trace.site)
            found = (location._label(), read, self._writers.get(location._key, _UNKNOWN))
        with self._lock:
            count, seconds = self._lost.get(found, (0, 0.0))
            self._lost[found] = (count + 1, seconds + now - trace.began)
            if len(self._moments) < self._MOMENTS:
                self._moments.append(now - self._began)

    def _culprit(self, attempt: Attempt, trace: Trace) -> Optional[Location]:
        """What was read, or could not be read any more, and then written by another."""
        verdict = attempt.verdict
        named = verdict.conflict_key if verdict is not None and verdict.reason == Reason.CONFLICT else None
        # The other may be decided and not written back yet.
        attempt.runtime.catch_up()
        changed = None
        for location in (*attempt.reads, *trace.reads):
            if location._shared:
                later = location._changed_since(attempt)
            else:
                later = location._head.timestamp > attempt.snapshot
            if later:
                if location._key == named:
                    return location
                changed = changed or location
        return changed

    def report(self) -> Report:
        """What has been recorded until now."""
        seconds = time.perf_counter() - self._began
        with self._lock:
            conflicts = [Conflict(*where, *cost) for where, cost in self._lost.items()]
            moments = list(self._moments)
        conflicts.sort(key=lambda conflict: conflict.seconds, reverse=True)
        parts = [0] * self._PARTS
        for moment in moments:
            parts[min(self._PARTS - 1, int(moment / seconds * self._PARTS))] += 1
        return Report(tuple(conflicts), seconds, stats()["commits"] - self._commits_before, tuple(parts))


@contextlib.contextmanager
def profile() -> Iterator[Profile]:
    """Record conflicts within a ``with`` block; its ``report()`` says what they cost."""
    before = runtime.profile
    recorder = Profile()
    runtime.profile = recorder
    alone.end(alone.active)
    try:
        yield recorder
    finally:
        runtime.profile = before


def profile_script(
    path: Union[str, os.PathLike[str]],
    arguments: Sequence[str] = (),
    *,
    page: Union[str, os.PathLike[str], None] = None,
) -> Report:
    """Run a Python script as ``__main__`` with ``arguments``, and report its conflicts; also as HTML to ``page``.

    The threads that it leaves behind, daemons apart, are waited for. An exception of the script, SystemExit apart, goes
    to the caller after the page has been written. Raises OSError when the script cannot be read or the page not be
    written.
    """
    with profile() as recorder:
        try:
            run_script(path, arguments)
        except SystemExit:
            pass
        finally:
            report = recorder.report()
            if page is not None:
                with open(page, "w", encoding="utf-8") as file:
                    file.write(report.as_html())
    return report


def run_script(path: Union[str, os.PathLike[str]], arguments: Sequence[str] = (), *, module: bool = False) -> None:
    """Run a Python script as ``__main__``, and wait for its threads, as Python does when it ends.

    ``module``: ``path`` is the name of a module or package, as for ``python -m``.
    """
    script = os.fspath(path)
    before, search = sys.argv, sys.path[0]
    sys.argv = [script, *arguments]
    sys.path[0] = os.getcwd() if module else os.path.dirname(os.path.abspath(script))
    threads = set(threading.enumerate())
    try:
        if module:
            runpy.run_module(script, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(script, run_name="__main__")
    finally:
        while True:
            left = [thread for thread in threading.enumerate() if thread not in threads and not thread.daemon]
            if not left:
                break
            for thread in left:
                thread.join()
        sys.argv, sys.path[0] = before, search
