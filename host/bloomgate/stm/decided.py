"""Commits from the decision to the publication: finished by anybody, any number of times.

Until its writes are published, a decided attempt is here under its timestamp. It is the redo log and does not change
any more, and installing it is idempotent. So its owner finishes it, or whoever waits for a later timestamp, or both.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Callable, Optional

from bloomgate.stm.attempt import Attempt
from bloomgate.stm.context import here, oldest_snapshot
from bloomgate.stm.operations import evaluate
from bloomgate.stm.version import Location, install, new_version, newest_before

if TYPE_CHECKING:
    from bloomgate.stm.runtime import Runtime

__all__ = ["Decided"]


class Decided:
    """What a runtime's device has decided and nobody has published yet."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        #: By timestamp.
        self.unpublished: dict[int, Attempt] = {}

    def write_back(self, attempt: Attempt, timestamp: int, timeout: Optional[float] = None) -> None:
        """Publish it. Raises TimeoutError when earlier commits are not published within ``timeout`` seconds."""
        runtime = self._runtime
        device = runtime.device
        install(attempt.writes, timestamp, runtime.horizon)
        if attempt.commutes:
            self._evaluate(attempt, timestamp, timeout)
        if attempt.shared is None:
            device.publish(timestamp)
        if device.published < timestamp:
            self._finish_earlier(timestamp)
            device.wait_published(timestamp, timeout)
        self.unpublished.pop(timestamp, None)
        if runtime.waiting.sleepers:
            self._wake(attempt, timestamp)

    def drain(self) -> None:
        """Write back and publish everything."""
        for timestamp, attempt in sorted(self.unpublished.copy().items()):
            self.write_back(attempt, timestamp)

    def help(self, timestamp: int) -> bool:
        """Install a commit whose owner makes no progress; whether that was possible here."""
        attempt = self.unpublished.get(timestamp)
        if attempt is None or attempt.shared is not None:
            # On shared data it needs no help of this process alone.
            return False
        here.context().helps += 1
        install(attempt.writes, timestamp, self._runtime.horizon)
        if attempt.commutes:
            self._evaluate(attempt, timestamp)
        # Its owner may never come to it; who is woken waits for the publication.
        if self._runtime.waiting.sleepers:
            self._wake(attempt, timestamp)
        return True

    def write_private(self, attempt: Attempt, timestamp: int) -> None:
        """Write back the private part of a commit on shared data that is published, by whomever; all before it are."""

        def horizon() -> int:
            # Not device.published, which comes here.
            return oldest_snapshot(timestamp)

        _redo(attempt, timestamp, horizon)
        if self._runtime.waiting.sleepers:
            self._wake(attempt, timestamp)

    def install_all(self) -> int:
        """In a forked child, where nobody publishes: the newest timestamp, or 0."""
        newest = 0
        for timestamp, attempt in sorted(self.unpublished.copy().items()):
            _redo(attempt, timestamp, lambda: 0)
            newest = timestamp
        return newest

    def _finish_earlier(self, timestamp: int) -> None:
        """Help those at once who have been decided before and not come to their publication: perhaps they wait for the
        GIL, and cannot have it while this thread waits for them."""
        device = self._runtime.device
        following = device.published + 1
        while following < timestamp and self.help(following):
            device.publish(following)
            following = device.published + 1

    def _evaluate(self, attempt: Attempt, timestamp: int, timeout: Optional[float] = None) -> None:
        """Apply the logged operations to what all commits before this one produced."""
        self._runtime.device.wait_published(timestamp - 1, timeout)
        _apply(attempt, timestamp, self._runtime.horizon)

    def _wake(self, attempt: Attempt, timestamp: int) -> None:
        changed: Iterable[Location] = attempt.writes
        if attempt.commutes:
            # An operation may own other locations; who sleeps on them has read this one too.
            changed = [*attempt.writes, *attempt.commutes]
        self._runtime.waiting.wake(changed, timestamp)


def _redo(attempt: Attempt, timestamp: int, horizon: Callable[[], int]) -> None:
    """Write it back where all commits before it have been."""
    install(attempt.writes, timestamp, horizon)
    if attempt.commutes:
        _apply(attempt, timestamp, horizon)


def _apply(attempt: Attempt, timestamp: int, horizon: Callable[[], int]) -> None:
    assert attempt.commutes is not None

    def write(location: Location, value: Any) -> None:
        install({location: new_version(value)}, timestamp, horizon)

    for location, pending in attempt.commutes.items():
        if location._head.timestamp != timestamp:
            before = newest_before(location, timestamp)
            # Without one it was written so long ago that its version has been pruned.
            if before is not None:
                write(location, evaluate(pending, before.value, write))
