"""A thread that is alone: while no other one touches transactional variables, it changes them in place.

It needs no record of what it reads, no redo log and no decision of the device, because nobody looks. That ends at the
next operation of another thread, whatever the first one is in the middle of. docs/stm-design.md says why this is sound;
in short:

* Who begins a transaction registers first, and then looks whether somebody is alone; who wants to be alone says so
  first, and then looks who is registered.
* A transaction in place is committed or lost by one atomic operation on its ``fate``. What it has written is stamped
  with its number, and what was there before is kept. So its value, or the one before, is found by anybody, at any later
  time; nothing has to be undone.
* Being alone is an :class:`Era`. Each access compares the era of the variable, of which there is a new one each time,
  with the present one. What a thread that lost it may still store goes where nobody looks: a variable that others have
  used has versions again.
"""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any, Callable, Optional

from bloomgate.leaked import release_leaked
from bloomgate.stm.version import IN_PLACE, PRUNE_AFTER, Version, new_version

if TYPE_CHECKING:
    from bloomgate.stm.in_place import InPlace
    from bloomgate.stm.tvar import TVar

__all__ = ["Alone", "Era", "alone", "issue_stamp"]

#: The next number of a transaction in place or of a nested call within one: greater than those of all before.
issue_stamp = itertools.count(1).__next__


# The order in which attributes are set first is that of their places on PyPy, numbers apart from the rest. Its compiler
# takes it that a store into a variable can change whatever has the same place in another object. So what every access
# reads has a place that no write stores to.


class Era:
    """A time in which a thread is alone; or one in which nobody is."""

    __slots__ = ("attempt", "commits", "running", "stamp", "thread", "wrote")

    def __init__(self, thread: int = 0) -> None:
        #: Who may use values in place: threading.get_ident(), or 0. It becomes 0 once and for all.
        self.thread = thread
        #: What TVar.value stamps variables with in the function of a transaction in place, negative in a nested call,
        #: whose first writes have to be logged; 0: it leaves writing to others.
        self.stamp = 0
        self.commits = 0
        #: Whether a transaction in place is running, or has been left by an exception before it began.
        self.running = False
        #: Whether it has written.
        self.wrote = False
        #: The last one.
        self.attempt: Optional[InPlace] = None

    def decided(self) -> bool:
        """Whether all that is in place has been committed."""
        attempt = self.attempt
        return attempt is None or attempt.committed

    def committed(self, stamp: int) -> bool:
        """Whether what was written in place with that stamp has been."""
        attempt = self.attempt
        return attempt is None or stamp < attempt.first or attempt.committed


#: Of variables that have versions.
_NOBODYS = Era()


class Alone:
    """Who is alone."""

    __slots__ = ("active", "count", "era", "lock", "timestamp", "wanted")

    def __init__(self) -> None:
        self.renew()
        #: The era while somebody is alone, or about to be: whoever begins a transaction has to :meth:`end` it.
        self.active: Optional[Era] = None
        #: Of all versions that are made of values in place: not newer than any snapshot, not older than any version.
        self.timestamp = 0
        #: Eras in which somebody was alone.
        self.count = 0
        #: What variables have whose values are in place now.
        self.era = Era()

    def renew(self) -> None:
        """In a forked child: a thread that does not exist there may have held it, or been wanted."""
        # Reentrant only because such locks know their owner, see release_leaked().
        self.lock = threading.RLock()
        #: The thread that others keep from being alone, by being in the middle of something: they pause once; or 0.
        self.wanted = 0

    def release_leaked(self) -> None:
        """Release what an exception has left locked by this thread."""
        release_leaked(self.lock)

    def end(self, era: Optional[Era]) -> None:
        """``era`` is over, if it is not yet; a transaction in place that is not committed has to run again."""
        with self.lock:
            if era is not None and era is self.active:
                # A signal handler may do this in the middle of begin(), so that self.era is not ``era`` yet, but soon.
                era.thread = 0
                self.era = Era()
                attempt = era.attempt
                if attempt is not None:
                    attempt.fate.setdefault("committed", False)
                # Last, so that who is interrupted before leaves it to the next one.
                self.active = None

    def claim(self, thread: int, quiet: Callable[[], Optional[int]]) -> Optional[Era]:
        """A new era in which that thread, the caller's, is alone; None if somebody is in the middle of something.

        ``quiet``: what is published, or None if that is so.
        """
        if self.lock._is_owned():  # type: ignore[attr-defined]
            # This is a signal handler.
            return None
        era = Era(thread)
        with self.lock:
            self.end(self.active)
            # From here on whoever begins a transaction ends it.
            self.active = era
            published = quiet()
            if published is None:
                self.active = None
                return None
            self.timestamp = published
            self.count += 1
            self.era = era
        return era

    def take(self, variable: TVar[Any], era: Era) -> bool:
        """Have a value in place that had versions, or is from another era; false when ``era`` is over."""
        with self.lock:
            if self.era is not era:
                return False
            variable._before = variable._value = _newest(variable)
            variable._stamp = 0
            variable._head = IN_PLACE
            variable._era = era
            return True

    def settle(self, variable: TVar[Any]) -> Version:
        """Have versions of a variable whose value was in place; the newest one."""
        with self.lock:
            self.end(self.active)
            head = variable._head
            if head is IN_PLACE:
                head = new_version(_newest(variable))
                head.timestamp = self.timestamp
                head.older = None
                head.budget = PRUNE_AFTER
                # In this order: while the value is in place, the era says whether it is committed.
                variable._head = head
                variable._era = _NOBODYS
            return head


def _newest(variable: TVar[Any]) -> Any:
    """The newest committed value. With the lock held, and no transaction in place that could be committed meanwhile."""
    head = variable._head
    if head is not IN_PLACE:
        return head.value
    # A transaction that has lost may be in the middle of a store, or of undoing a nested call: both leave one of the
    # two stamps, or the old value.
    era = variable._era
    stamp = variable._stamp
    value = variable._value
    return value if era.committed(stamp) and era.committed(variable._stamp) else variable._before


#: The one of this process.
alone = Alone()
