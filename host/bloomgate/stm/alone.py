"""A thread that is alone: while no other one touches transactional variables, it changes them in place.

It needs no record of what it reads, no redo log and no decision of the device, because nobody looks. That ends at the
next operation of another thread, whatever the first one is in the middle of. docs/stm-design.md says why this is sound;
in short:

* Who begins a transaction registers first, and then looks whether somebody is alone; who wants to be alone says so
  first, and then looks who is registered.
* A transaction in place is committed or lost by one atomic operation on its ``fate``. What it has written is marked
  with its :class:`Part`, and what was there before is kept. So its value, or the one before, is found by anybody, at
  any later time; nothing has to be undone.
* Being alone is an :class:`Era`. Each access compares the era of the variable, of which there is a new one each time,
  with the present one. What a thread that lost it may still store goes where nobody looks: a variable that others have
  used has versions again.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Optional

from bloomgate.stm.version import IN_PLACE, PRUNE_AFTER, Version, new_version

if TYPE_CHECKING:
    from bloomgate.stm.in_place import InPlace
    from bloomgate.stm.tvar import TVar

__all__ = ["NO_PART", "Alone", "Era", "Part", "alone"]


# The order in which attributes are set first is that of their places on PyPy, whose compiler takes it that a store into
# a variable can change whatever has the same place in another object. So what every access reads is set last.


class Part:
    """A transaction in place, or a nested call within it, as the variables know it."""

    __slots__ = ("fate", "outermost", "wrote")

    def __init__(self, fate: dict[str, bool], outermost: bool) -> None:
        #: {"committed": ...} as soon as that is decided, by the first ``setdefault``.
        self.fate = fate
        self.wrote = False
        self.outermost = outermost


#: While none is running.
NO_PART = Part({}, False)


class Era:
    """A time in which a thread is alone; or one in which nobody is."""

    __slots__ = ("attempt", "commits", "part", "thread")

    def __init__(self, thread: int = 0) -> None:
        #: The last one in place.
        self.attempt: Optional[InPlace] = None
        self.commits = 0
        #: Of the transaction that is running in place.
        self.part = NO_PART
        #: Who may use values in place: threading.get_ident(), or 0. It becomes 0 once and for all.
        self.thread = thread

    def decided(self) -> bool:
        """Whether all that is in place has been committed."""
        attempt = self.attempt
        return attempt is None or attempt.committed


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
        while self.lock._is_owned():  # type: ignore[attr-defined]
            self.lock.release()

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

    def begin(self, era: Era) -> None:
        """Its thread is alone from now on, unless ``era`` is over already. With the lock held."""
        self.count += 1
        self.era = era

    def take(self, variable: TVar[Any], era: Era) -> bool:
        """Have a value in place that had versions, or is from another era; false when ``era`` is over."""
        with self.lock:
            if self.era is not era:
                return False
            variable._before = variable._value = _newest(variable)
            variable._writer = None
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
                variable._era = None
                variable._head = head
            return head


def _newest(variable: TVar[Any]) -> Any:
    """The newest committed value. With the lock held, and no transaction in place that could be committed meanwhile."""
    head = variable._head
    if head is not IN_PLACE:
        return head.value
    # A transaction that has lost may be in the middle of a store, or of undoing a nested call: both leave one of the
    # two marks, or the old value.
    mark = variable._writer
    value = variable._value
    return value if _committed(mark) and _committed(variable._writer) else variable._before


def _committed(mark: Optional[Part]) -> bool:
    return mark is None or mark.fate.get("committed", False)


#: The one of this process.
alone = Alone()
