"""A callback's turn on an event loop: one transaction that is run once, because nobody knows what else it changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from bloomgate.stm.attempt import Attempt
from bloomgate.stm.context import IDLE, here
from bloomgate.stm.errors import TransactionError
from bloomgate.stm.hooks import finish
from bloomgate.stm.runtime import runtime
from bloomgate.stm.version import Location

__all__ = ["Turn", "take_turn"]

T = TypeVar("T")


class Turn(Attempt):
    """Irrevocable from the first transactional variable that it reads; until then it costs and holds nothing."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(runtime, here.context(), IDLE)
        self.token = self.irrevocable = True
        self.repeatable = self.plain = False

    @property
    def begun(self) -> bool:
        """Whether it holds the token."""
        return self.snapshot != IDLE

    @property
    def untouched(self) -> bool:
        """Whether it has not been a transaction so far."""
        return not (self.begun or self.writes or self.commutes or self.hooks)

    def prepare(self) -> None:
        """Called before it first uses shared data."""
        if not self.begun:
            self._begin()

    def read(self, location: Location) -> Any:
        """The newest value, which stays the newest until the end."""
        if not self.begun:
            self._begin()
        return super().read(location)

    def at_snapshot(self, location: Location) -> Any:
        """The committed value, without making it part of the read set."""
        if not self.begun:
            self._begin()
        return super().at_snapshot(location)

    def _begin(self) -> None:
        # An attempt of its own is thrown away; what it has registered is what counts.
        self.snapshot = runtime.begin().snapshot
        runtime.escalate(self)
        if runtime.profile is not None:
            runtime.profile.begin(self, take_turn)

    def end(self) -> None:
        """Make what it has written visible: also after an exception, like its effects on everything else."""
        if here.tx is not self:
            # It forked, and this is the child, where no transaction runs.
            return
        here.tx = None
        if self.untouched:
            return
        committed = False
        try:
            try:
                if self.writes or self.commutes:
                    if not self.begun:
                        self._begin()
                    runtime.commit(self)
                committed = True
            finally:
                here.tx = None
                runtime.end(self)
            if self.verdict is None:
                self.context.read_only += 1
            else:
                self.context.commits += 1
                if runtime.profile is not None:
                    runtime.profile.committed(self)
            finish(self, True)
        except BaseException:
            runtime.end(self)
            runtime.abandon()
            self.context.exceptions += 1
            finish(self, committed or (self.verdict is not None and self.verdict.committed))
            raise


def take_turn(callback: Callable[..., T], *args: Any) -> T:
    """Call ``callback`` as one transaction that is not run again; its exception goes to the caller, and undoes nothing.

    Within another turn it is part of that. Raises :class:`~bloomgate.stm.TransactionError` within a transaction.
    """
    if here.tx is not None:
        if isinstance(here.tx, Turn):
            return callback(*args)
        raise TransactionError("an event loop cannot run in the middle of a transaction")
    turn = here.tx = Turn()
    try:
        return callback(*args)
    finally:
        turn.end()
