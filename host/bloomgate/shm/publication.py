"""``published`` of a device that several processes use; within one it is :class:`bloomgate.publication.Publication`."""

from __future__ import annotations

import time
from operator import itemgetter
from typing import Any, Callable, Optional, Protocol

from bloomgate.backends.soft import load_native
from bloomgate.errors import PublicationError
from bloomgate.parameters import Parameters
from bloomgate.publication import HELP_AFTER, Publication
from bloomgate.shm.segment import Segment

__all__ = ["PrivatePart", "SharedPublication"]

_NANOSECONDS = 1_000_000_000
#: Seconds between two looks whether another client's turn has ended.
_TURN_LOOK = 0.0005


class PrivatePart(Protocol):
    """What a commit on shared arrays also changes in memory of its own process alone."""

    @property
    def timestamp(self) -> Optional[int]:
        """Of the commit; None if it has none so far."""

    def write_back(self, timestamp: int) -> None:
        """Everything before that commit has been written back. Idempotent; any thread."""


class SharedPublication(Publication):
    """Advances ``published`` of a segment, and finishes the commits of other processes that make no progress.

    Commits on shared arrays anybody can finish. One that its client writes back by itself (``Device.commit``) waits for
    that client; if it is dead, what it had to write is gone with it, and the timestamp counts as written back.
    """

    def __init__(
        self, parameters: Parameters, segment: Segment, handle: Any, last_timestamp: Callable[[], int]
    ) -> None:
        """``handle``: the ``bg_segment`` of ``segment``; both must live as long as this."""
        module = load_native()
        self._ffi, self._lib = module.ffi, module.lib
        view = self._lib.bg_sharing_new(handle, segment.file)
        if view == self._ffi.NULL:
            raise MemoryError("no memory for a view of the segment")
        #: The ``bg_sharing`` that C functions take.
        self.view = self._ffi.gc(view, self._lib.bg_sharing_free)
        self._keep = (segment, handle)
        #: Of commits, each put here before it is submitted. Another process may publish such a commit; whoever sees
        #: that here writes its private part back before anybody acts on it.
        self.private_parts: list[PrivatePart] = []
        super().__init__(parameters, 0, last_timestamp)

    @property
    def published(self) -> int:
        timestamp: int = self._lib.bg_sharing_published(self.view)
        if self.private_parts:
            self._seen(timestamp)
        return timestamp

    def _seen(self, published: int) -> None:
        """Write back the private parts of what is published, in the order of commits."""
        due = [(part.timestamp, part) for part in list(self.private_parts)]
        for timestamp, part in sorted(((t, part) for t, part in due if t is not None), key=itemgetter(0)):
            if timestamp <= published:
                part.write_back(timestamp)

    def now(self) -> tuple[int, int]:
        """``published``, and its position in the order of publication."""
        timestamp = self._ffi.new("uint64_t *")
        position = self._lib.bg_sharing_now(self.view, timestamp)
        return timestamp[0], position

    def position_of(self, timestamp: int) -> Optional[int]:
        """Where a timestamp is in the order of publication; None when that was too long ago."""
        return self._lib.bg_sharing_position_of(self.view, timestamp) or None

    def publish(self, timestamp: Optional[int]) -> None:
        """As in :class:`~bloomgate.publication.Publication`; also raises :class:`PublicationError` for want of room."""
        if timestamp is None or timestamp <= self.published:
            return
        self._require_assigned(timestamp)
        if not self._lib.bg_sharing_publish(self.view, timestamp):
            raise PublicationError(
                f"timestamp {timestamp} cannot be published yet: too many commits before it have not been, the oldest"
                f" after {self.published}"
            )

    def epoch_stepped(self, last: int, origin: int) -> None:
        if not self._lib.bg_sharing_epoch_end(self.view, last, origin):
            raise PublicationError(f"too many resets since {self.published}, the newest timestamp that is published")

    def wait(self, timestamp: Optional[int], timeout: Optional[float] = None) -> None:
        if timestamp is None or timestamp <= self.published:
            return
        self._require_assigned(timestamp)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = HELP_AFTER if deadline is None else max(0.0, min(HELP_AFTER, deadline - time.monotonic()))
            seen = self.published
            if self._lib.bg_sharing_wait(self.view, timestamp, int(left * _NANOSECONDS)):
                if self.private_parts:
                    self._seen(timestamp)
                return
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(
                    f"timestamp {timestamp} was not published within {timeout} s;"
                    f" the oldest commit not written back is {self.published + 1}"
                )
            if self.published == seen:
                self.help_here(seen + 1)

    def help_here(self, timestamp: int) -> None:
        """Let this process's helper write a commit back, if it is one of this process."""
        helper = self.helper
        if helper is not None and helper(timestamp):
            self.publish(timestamp)

    def wait_beyond(self, position: int, timeout: float) -> bool:
        """Wait until something is published behind a position; false after ``timeout`` seconds."""
        return bool(self._lib.bg_sharing_wait_position(self.view, position, int(timeout * _NANOSECONDS)))

    def hold_back(self) -> bool:
        """Let another client have its turn, if it has one; returns whether there was anything to wait for."""
        left: int = self._lib.bg_turn_of_others(self.view)
        waited = left > 0
        while left:
            time.sleep(min(left / _NANOSECONDS, _TURN_LOOK))
            left = self._lib.bg_turn_of_others(self.view)
        return waited

    def take_turn(self, seconds: float) -> None:
        """Have other clients begin nothing new on shared data for so long; waits for the end of another's turn."""
        while not self._lib.bg_turn_take(self.view, int(seconds * _NANOSECONDS)):
            self.hold_back()

    def end_turn(self) -> None:
        """End one's own turn, if there is one."""
        self._lib.bg_turn_end(self.view)

    @property
    def helps(self) -> int:
        """How many commits of others this client has finished."""
        count: int = self._lib.bg_sharing_helps(self.view)
        return count

    def settle_slot(self, slot: int, timeout: float) -> None:
        """For the new owner of a slot, who holds its lock: publish what the owner before left, and own it.

        All requests of that owner are decided. Raises TimeoutError when other clients hold that up.
        """
        newest = self._lib.bg_unpublished_of(self.view, slot)
        if newest:
            self.wait(newest, timeout)
        self._lib.bg_sharing_own(self.view, slot)
