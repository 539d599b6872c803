"""Locations and their versions: what a transaction reads at its snapshot.

A location holds immutable values, each with the timestamp of the commit that wrote it, linked from newest to oldest.
Readers take no lock: the link that makes a version reachable is one store. Writers of the same location exclude each
other for a few stores, in which nothing is allocated, called or destroyed, so that no other Python code (finaliser,
signal handler) can run in the same thread meanwhile.
"""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any, Callable, Optional

from bloomgate.leaked import release_leaked

if TYPE_CHECKING:
    from bloomgate.stm.attempt import Attempt

__all__ = [
    "IN_PLACE",
    "PRUNE_AFTER",
    "Location",
    "Version",
    "install",
    "issue_key",
    "new_version",
    "newest_before",
    "prune",
    "release_leaked_locks",
    "renew_locks",
]

#: Versions that a location may have before somebody looks whether old ones can go.
PRUNE_AFTER = 8

issue_key = itertools.count(1).__next__

# One lock for many locations: a lock of its own would be a third of a location's memory. Reentrant only because such
# locks know their owner, see release_leaked_locks().
_STRIPES = 64
_locks = tuple(threading.RLock() for _ in range(_STRIPES))


class Version:
    """A value of a location: what an attempt has read, or has written and then committed.

    One that an attempt has made is its own until it is committed; then :func:`install` makes it a version of the
    location, and it does not change any more but for its links.
    """

    __slots__ = ("budget", "older", "owner", "timestamp", "value", "writer")

    # In the order in which they are always set, which is good for PyPy.
    #: The :attr:`~bloomgate.stm.attempt.Attempt.identity` of the attempt; None when it is nobody's.
    owner: object
    value: Any
    #: The part of that attempt which has written it: it may do so again without a record of what was before.
    writer: object

    #: Of the commit; 0: the initial value, older than every commit.
    timestamp: int
    #: The next older version; None for the oldest that anybody can still need.
    older: Optional[Version]
    #: Further versions until :func:`prune`.
    budget: int


def new_version(value: Any) -> Version:
    """A version that is nobody's, and of no commit yet."""
    version = Version()
    version.owner = None
    version.value = value
    version.writer = None
    return version


#: The head of a location whose value is in place, see alone.py: newer than every snapshot.
IN_PLACE = new_version(None)
IN_PLACE.timestamp = 1 << 66
IN_PLACE.older = None
IN_PLACE.budget = PRUNE_AFTER


class Location:
    """Something that can be read and written as a whole, and conflicts as a whole."""

    __slots__ = ("__weakref__", "_head", "_key", "_name", "_recent")

    #: Whether it lies in memory that other processes use: then it has no versions here.
    _shared = False
    #: Whether a thread that is alone may have its value in place, without versions.
    _movable = False

    def __init__(self, initial: Any, name: Optional[str] = None) -> None:
        version = new_version(initial)
        version.timestamp = 0
        version.older = None
        version.budget = PRUNE_AFTER
        #: Issued once in this process, never reused; the device's conflict key is its lowest bits.
        self._key = issue_key()
        self._head = version
        #: That of the attempt which used it last, to spare it the look into its own tables. Any thread may replace it.
        self._recent = version
        self._name = name

    def _label(self) -> str:
        """The name in reports."""
        return self._name or f"{type(self).__name__} #{self._key}"

    def _settle(self) -> Version:
        """Have versions from now on, where the head may be ``IN_PLACE``; the newest one."""
        raise NotImplementedError

    def _at_snapshot(self, attempt: Attempt) -> Any:
        """The value at the snapshot of an attempt, where ``_shared``."""
        raise NotImplementedError

    def _changed_since(self, attempt: Attempt) -> bool:
        """Whether a commit after the snapshot of an attempt has written it, where ``_shared``."""
        raise NotImplementedError


def install(changes: dict[Location, Version], timestamp: int, horizon: Callable[[], int]) -> None:
    """Make ``changes`` versions of their locations, except where they are already: others may do the same.

    ``horizon()``: a timestamp that no running transaction's snapshot is older than.
    """
    locks = _locks
    for location, version in changes.items():
        # Whoever installs it stores the same.
        version.timestamp = timestamp
        if location._head is IN_PLACE:
            location._settle()
        with locks[location._key % _STRIPES]:
            newer: Optional[Version] = None
            below: Optional[Version] = location._head
            while below is not None and below.timestamp > timestamp:
                # A later commit was faster.
                newer = below
                below = below.older
            if below is None or below.timestamp == timestamp:
                # It is there, or was there so long ago that it has been pruned.
                continue
            version.older = below
            version.budget = below.budget - 1
            version.owner = version.writer = None
            if newer is None:
                location._head = version
            else:
                newer.older = version
        if version.budget <= 0:
            prune(location, horizon())


def newest_before(location: Location, timestamp: int) -> Optional[Version]:
    """The newest version of the commits before ``timestamp``; None if it was pruned, being older than the horizon."""
    version: Optional[Version] = location._head
    if version is IN_PLACE:
        version = location._settle()
    while version is not None and version.timestamp >= timestamp:
        version = version.older
    return version


def prune(location: Location, horizon: int) -> None:
    """Forget the versions that no snapshot from ``horizon`` on can see."""
    head = location._head
    if head is IN_PLACE:
        return
    version: Optional[Version] = head
    kept = 1
    while version is not None and version.timestamp > horizon:
        version = version.older
        kept += 1
    if version is not None:
        version.older = None
    # Twice the length, so that a long-running reader does not make every write walk a long chain.
    head.budget = max(PRUNE_AFTER, kept)


def renew_locks() -> None:
    """In a forked child: a thread that does not exist there may have held one."""
    global _locks
    _locks = tuple(threading.RLock() for _ in range(_STRIPES))


def release_leaked_locks() -> None:
    """Release what this thread still owns after an exception in :func:`install`."""
    release_leaked(*_locks)
