"""The commit protocol: from a finished attempt to its published writes, whatever happens on the way.

The stages of a commit, and what is left to whom when its thread is stopped, dies or is interrupted in one of them:

1. *Submission*, under a lock. The attempt is put down as ``_submitted``, then the device decides. An exception can
   arrive between the decision and the moment when Python has stored it. Because one request is undecided at a time, the
   next thread that enters finds the decision by elimination (:meth:`Runtime._settle`): when everything that is known
   has been published, a timestamp that the device has issued beyond that is the lost one.
2. *Decided*: the attempt is in ``_decided`` under its timestamp, and cannot change any more. Anybody can write
   it back: its owner, or whoever waits for a later timestamp, through the device's helper.
3. *Written back*: every location has the version. Installing is idempotent, so that any number of threads can do it.
4. *Published*: visible to every transaction that begins. Only then the caller goes on.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Any, Callable, Optional, Union

from bloomgate.device import Device
from bloomgate.errors import KeyRangeError, RequestError, RequestTooLarge
from bloomgate.parameters import EPOCH_BITS
from bloomgate.stm import context
from bloomgate.stm.alone import alone
from bloomgate.stm.attempt import Attempt
from bloomgate.stm.context import IDLE, Context, here, oldest_snapshot, snapshots
from bloomgate.stm.decided import Decided
from bloomgate.stm.errors import CommitFailed, Reentered, Restart, TransactionError, TransactionTimeout
from bloomgate.stm.gate import Gate
from bloomgate.stm.limits import Allowance
from bloomgate.stm.token import Token
from bloomgate.stm.version import (
    IN_PLACE,
    Location,
    Version,
    new_version,
    release_leaked_locks,
    renew_locks,
)
from bloomgate.stm.waiting import Waiting
from bloomgate.urls import open_device
from bloomgate.verdict import Reason, Verdict

if TYPE_CHECKING:
    from bloomgate.shm.array import Commit as Request
    from bloomgate.stm.report import Profile

__all__ = ["Runtime", "runtime", "use_device"]

_log = logging.getLogger("bloomgate.stm")

#: Exceptions that may interrupt a commit before the rest of it is left to others.
_INTERRUPTIONS = 100
#: Times that the token's holder submits again.
_SUBMISSIONS = 1000
#: Seconds that an interrupted commit may still wait for earlier ones.
_COMPLETION = 1.0
#: Seconds that a device may take between issuing a timestamp by a reset and telling so.
_RESET_GRACE = 0.05

#: The decision that was not to be found: the request never reached the device, or was refused.
_NOT_COMMITTED = Verdict(False, None, None, None)


class Runtime:
    """One device and the transactions on it; a process has one, :data:`runtime`."""

    def __init__(self) -> None:
        self._opening = threading.RLock()
        self._device: Optional[Device] = None
        #: Keys that it takes in one request.
        self._limit = 0
        #: The newest timestamp of the devices before this one.
        self._inherited = 0
        self._owned = False
        #: What to open; None: the default.
        self._url: Optional[str] = None
        #: Who records conflicts, while somebody does.
        self.profile: Optional[Profile] = None
        #: Who began the last attempt.
        self._last: Optional[Context] = None
        self._begin_state()

    def _begin_state(self) -> None:
        self._gate = Gate()
        self._submission = self._gate.lock
        self._submitted: Optional[Attempt] = None
        self._decided = Decided(self)
        self._token = Token()
        #: Who may not be disturbed: only changed and relied on under the submission lock.
        self._holder: Optional[Attempt] = None
        self.waiting = Waiting()

    # The device.

    @property
    def device(self) -> Device:
        """The device, opened at the first use."""
        device = self._device
        return self._open(None) if device is None else device

    def use(self, device: Union[Device, str, None]) -> None:
        """Let another device decide from now on; None: the default one, opened when it is needed.

        A device that was opened here, from a URL, is closed here. Raises :class:`TransactionError` within a
        transaction, and while other threads are in the middle of one.
        """
        if here.tx is not None:
            raise TransactionError("the device cannot be changed within a transaction")
        with self._opening:
            busy = [number for number, snapshot in snapshots.copy().items() if snapshot != IDLE]
            if busy:
                raise TransactionError(f"the device cannot be changed while {len(busy)} transactions are running")
            alone.end(alone.active)
            before, owned = self._device, self._owned
            if before is not None:
                with self._submission:
                    if self._submitted is not None:
                        self._settle()
                    self._decided.drain()
                self._inherited = max(self._inherited, before.published)
                before.set_helper(None)
            alone.timestamp = self._inherited
            self._device = None
            url, self._url = self._url, device if isinstance(device, str) else None
            waiting = self.waiting
            self._begin_state()
            if before is not None and owned:
                before.close()
            try:
                if device is not None:
                    self._open(device)
            except BaseException:
                # Back to what there was before; a device from a URL is opened again when it is needed.
                self._url = url
                if before is not None and not owned:
                    self._open(before)
                raise
            finally:
                # They have to wait where commits on this device look.
                waiting.wake_all()

    def _open(self, wanted: Union[Device, str, None]) -> Device:
        with self._opening:
            if self._device is not None:
                return self._device
            device = wanted if isinstance(wanted, Device) else open_device(wanted or self._url)
            self._owned = not isinstance(wanted, Device)
            if device.recalls and device.last_timestamp() >= self._inherited:
                # Others use it too, so that it is not reset without need: its timestamps go on after ours.
                device.wait_published(self._inherited)
            elif self._inherited and self._inherited >= device.published:
                # The versions in memory have timestamps of another device: continue in an epoch after all of them.
                epoch = (self._inherited >> device.parameters.timestamp_bits) + 1
                if epoch >= 1 << EPOCH_BITS:
                    if self._owned:
                        device.close()
                    raise TransactionError(
                        f"timestamps of {EPOCH_BITS} + {device.parameters.timestamp_bits} bits cannot go on after"
                        f" {self._inherited}, which a device with wider ones has reached"
                    )
                device.reset(epoch)
            device.set_helper(self._help)
            info = device.info()
            self._limit = info.max_request_keys
            self._device = device
            # Not before, because it needs TVar, which needs this module.
            from bloomgate.stm.accelerator import accelerate

            accelerate(device)
            _log.debug("transactions are decided by %s", info.description)
            return device

    def published(self) -> int:
        """The newest snapshot."""
        return self.device.published

    def peek(self, location: Location) -> Any:
        """The newest published value, outside of a transaction."""
        while True:
            snapshot = self.published()
            version: Optional[Version] = location._head
            if version is IN_PLACE:
                version = location._settle()
            while version is not None and version.timestamp > snapshot:
                version = version.older
            # Nobody is registered here, so that newer commits may have had the version dropped meanwhile.
            if version is not None:
                return version.value

    def catch_up(self) -> None:
        """Wait until everything that the device has decided is published."""
        self.device.wait_published(self.device.last_timestamp())

    # The life of an attempt.

    def begin(self) -> Attempt:
        """A new attempt on the newest snapshot, of this thread."""
        device = self._device
        if device is None:
            device = self._open(None)
        if self._submission._is_owned() or device.publication_interrupted():  # type: ignore[attr-defined]
            raise Reentered(
                "a transaction cannot begin in a signal handler or finaliser that interrupted a commit of its thread"
            )
        mine = here.mine
        if mine is None:
            mine = here.context()
        # Register before reading, so that a pruner either sees us or has read no newer ``published`` than we will.
        # This thread's last snapshot is not newer than the one that it will get.
        mine.begun = number = mine.begun + 1
        snapshots[mine.number] = mine.last_snapshot
        if alone.active is not None:
            alone.end(alone.active)
        if self._last is not mine:
            self._last = mine
            mine.in_a_row = 0
        snapshots[mine.number] = mine.last_snapshot = snapshot = device.published
        attempt = Attempt(self, mine, snapshot)
        attempt.number = number
        return attempt

    def end(self, attempt: Attempt) -> None:
        """Give back what the attempt holds. Idempotent."""
        snapshots[attempt.context.number] = IDLE
        if attempt.token:
            self._release(attempt)

    def quiet(self) -> Optional[int]:
        """What is published, if that is everything, and nobody waits for a change, holds the token or records; or None.

        None also on a device that decides for other processes, which may write the private parts of their commits.
        """
        device = self._device
        if device is None or device.recalls or self.profile is not None:
            return None
        if (
            self._submitted is not None
            or self._decided.unpublished
            or self._holder is not None
            or self.waiting.sleepers
        ):
            return None
        published = device.published
        return published if published == device.last_timestamp() else None

    def horizon(self) -> int:
        """A timestamp that no snapshot, present or future, is older than."""
        return oldest_snapshot(self.device.published)

    def commit(self, attempt: Attempt, allowance: Optional[Allowance] = None) -> bool:
        """Make the attempt's writes visible, or find that it has to be run again: ``attempt.verdict`` says why.

        An exception leaves memory as before, or as after the whole commit (``attempt.verdict.committed``). Raises
        :class:`TransactionTimeout` or :class:`Cancelled` when the holder of the token is in the way for too long.
        """
        if attempt.shared is not None:
            return attempt.shared.commit(attempt, allowance)
        reads = [location._key for location in attempt.reads]
        writes = [location._key for location in attempt.writes]
        commutes = [location._key for location in attempt.commutes] if attempt.commutes else []
        try:
            timestamp = self._decide(attempt, allowance, self._submit, reads, writes, commutes).timestamp
            if timestamp is None:
                return False
            self._decided.write_back(attempt, timestamp)
            return True
        except BaseException:
            self._complete(attempt)
            raise

    def commit_with_shared(self, attempt: Attempt, request: Request, allowance: Optional[Allowance] = None) -> None:
        """:meth:`commit` for an attempt that has shared writes too, which are in ``request`` and no more in itself."""
        try:
            timestamp = self._decide(attempt, allowance, self._submit_shared, request).timestamp
            request.run()
            if timestamp is not None:
                self._decided.write_back(attempt, timestamp)
        except BaseException:
            self._complete(attempt)
            raise

    def _decide(
        self, attempt: Attempt, allowance: Optional[Allowance], submit: Callable[..., Optional[Verdict]], *request: Any
    ) -> Verdict:
        """The verdict of ``submit(attempt, *request)``, when no holder of the token would be disturbed by a commit.

        ``submit`` is called with the submission lock held. It returns None if a holder in another process would be.
        """
        while True:
            self._gate.enter()
            try:
                if self._submitted is not None:
                    self._settle()
                holder = self._holder
                guarded = holder is not None and holder is not attempt and self._guards(holder, attempt)
                if not guarded:
                    verdict = submit(attempt, *request)
                    if verdict is not None:
                        if verdict.timestamp is not None:
                            self._decided.unpublished[verdict.timestamp] = attempt
                        self._submitted = None
                        return verdict
            finally:
                self._gate.leave()
            if not guarded:
                assert attempt.shared is not None
                attempt.shared.wait_for_holder(allowance)
            elif holder is not None and holder.context is attempt.context:
                raise Reentered("a signal handler cannot change what the transaction that it interrupted has read")
            elif not self._token.wait_for_release(holder, allowance):
                raise TransactionTimeout("an irrevocable transaction was in the way for too long")

    # Submission. All of these are called with the submission lock held.

    def _submit(self, attempt: Attempt, reads: list[int], writes: list[int], commutes: list[int]) -> Verdict:
        if not attempt.registered():
            attempt.verdict = Verdict(False, None, Reason.CONFLICT, None)
            return attempt.verdict
        if self._holder is not None or len(reads) + len(writes) + len(commutes) > self._limit:
            return self._submit_exclusive(attempt, reads, writes, commutes)
        self._submitted = attempt
        try:
            attempt.verdict = verdict = self.device.commit(
                snapshot=attempt.snapshot, reads=reads, writes=writes, commutes=commutes
            )
            return verdict
        except RequestError as error:
            self._submitted = None
            return self._submit_unusual(error, attempt, reads, writes, commutes)

    def _submit_shared(self, attempt: Attempt, request: Request) -> Optional[Verdict]:
        self._submitted = attempt
        if not request.submit():
            self._submitted = None
            return None
        attempt.verdict = verdict = request.decide()
        return verdict

    def _submit_unusual(
        self, error: RequestError, attempt: Attempt, reads: list[int], writes: list[int], commutes: list[int]
    ) -> Verdict:
        """What the device does not take as it is: keys that are too wide for it, or too many."""
        device = self.device
        if isinstance(error, KeyRangeError):
            # Two locations that share a key can only cause a false abort.
            mask = device.parameters.max_key
            for keys in (reads, writes, commutes):
                keys[:] = {key & mask for key in keys}
            self._submitted = attempt
            try:
                attempt.verdict = verdict = device.commit(
                    snapshot=attempt.snapshot, reads=reads, writes=writes, commutes=commutes
                )
                return verdict
            except RequestTooLarge:
                self._submitted = None
        elif not isinstance(error, RequestTooLarge):
            raise error
        return self._submit_exclusive(attempt, reads, writes, commutes)

    def _submit_exclusive(self, attempt: Attempt, reads: list[int], writes: list[int], commutes: list[int]) -> Verdict:
        """Submit without a read set, after validating the reads here, where nothing can change meanwhile.

        For the holder of the token, whose reads are guarded; for others while somebody holds it; and for requests
        with more keys than the device takes.
        """
        device = self.device
        self._decided.drain()
        if not attempt.token and attempt.changed_since() is not None:
            attempt.verdict = Verdict(False, None, Reason.CONFLICT, None)
            return attempt.verdict
        keys = [*writes, *commutes]
        if device.parameters.max_key < 0xFFFFFFFF:
            keys = list({key & device.parameters.max_key for key in keys})
        limit = self._limit
        for _ in range(_SUBMISSIONS):
            self._submitted = attempt
            attempt.verdict = verdict = device.commit(snapshot=device.last_timestamp(), writes=keys[:limit])
            if verdict.timestamp is not None:
                if len(keys) > limit:
                    # The keys that did not fit: now every older snapshot conflicts with every read. Nobody can have
                    # been decided in between.
                    device.raise_floor()
                return verdict
            self._submitted = None
            if not attempt.token:
                return verdict
        raise CommitFailed(f"the device refused a commit {_SUBMISSIONS} times, the last time with {verdict}")

    def _settle(self) -> None:
        """Find out what became of a submission that was cut short, and put it where it can be finished."""
        attempt = self._submitted
        if attempt is None:
            return
        verdict = attempt.verdict
        if verdict is None and attempt.shared is not None:
            attempt.verdict = verdict = attempt.shared.decided() or _NOT_COMMITTED
        if verdict is None and self.device.recalls:
            verdict = self.device.recall(attempt.context.thread) or _NOT_COMMITTED
            if verdict.timestamp is not None and verdict.timestamp <= attempt.snapshot:
                verdict = _NOT_COMMITTED  # this is the transaction before
            attempt.verdict = verdict
        if verdict is None:
            device = self.device
            self._decided.drain()
            last = device.last_timestamp()
            try:
                device.wait_published(last, _RESET_GRACE)
                verdict = _NOT_COMMITTED
            except TimeoutError:
                # Everything else is published, so that this is what holds it up.
                verdict = Verdict(True, device.published + 1, None, None)
            attempt.verdict = verdict
            _log.info("a commit was cut short; the device %s it", "had decided" if verdict.committed else "has not")
        if verdict.timestamp is not None:
            if len(attempt.writes) + len(attempt.commutes or ()) > self._limit:
                self.device.raise_floor()
            self._decided.unpublished[verdict.timestamp] = attempt
        self._submitted = None

    def _guards(self, holder: Attempt, attempt: Attempt) -> bool:
        """Whether ``attempt`` would change what the holder has read."""
        guarded = holder.reads
        return any(location in guarded for location in attempt.writes) or (
            attempt.commutes is not None and any(location in guarded for location in attempt.commutes)
        )

    def _help(self, timestamp: int) -> bool:
        """Write back a commit whose owner makes no progress: what the device calls while it waits."""
        settling = self._submission._is_owned()  # type: ignore[attr-defined]
        known = timestamp in self._decided.unpublished
        if not known and self._submitted is not None and not settling and self._submission.acquire(False):
            try:
                self._settle()
            finally:
                self._submission.release()
        return self._decided.help(timestamp)

    def write_private(self, attempt: Attempt, timestamp: int) -> None:
        """Write back the private part of a commit on shared data that is published, by whomever; all before it are."""
        self._decided.write_private(attempt, timestamp)

    def _complete(self, attempt: Attempt) -> None:
        """Bring an interrupted commit to its end, however often that is interrupted too."""
        for _ in range(_INTERRUPTIONS):
            try:
                self.release_leaked()
                if self._submitted is attempt:
                    with self._submission:
                        if self._submitted is attempt:
                            self._settle()
                verdict = attempt.verdict
                if verdict is not None and verdict.timestamp is not None:
                    self._decided.write_back(attempt, verdict.timestamp, _COMPLETION)
                return
            except TimeoutError:
                # Who interrupts a commit that is held up by others does not want to wait for them.
                _log.warning("an interrupted commit is held up by others, who will finish it")
                return
            except BaseException as error:
                interruption = error
        _log.error("a commit was interrupted %d times; others will finish it", _INTERRUPTIONS, exc_info=interruption)

    def abandon(self) -> None:
        """The calling thread runs no transaction, although an exception may have kept it from saying so."""
        self.release_leaked()
        mine = here.context()
        if mine.era is not None and not mine.era.decided():
            alone.end(mine.era)
        snapshots[mine.number] = IDLE

    def release_leaked(self) -> None:
        """Release the locks that an exception left behind: it can come between the end of a block and the release.

        CPython delivers asynchronous exceptions elsewhere, but trace functions raise there, and PyPy may.
        """
        while self._submission._is_owned():  # type: ignore[attr-defined]
            self._submission.release()
        release_leaked_locks()
        alone.release_leaked()
        device = self._device
        if device is not None:
            device.release_leaked_locks()

    # The token.

    def escalate(self, attempt: Attempt, allowance: Optional[Allowance] = None) -> None:
        """Make ``attempt`` the holder of the token, from where it is: from now on it cannot conflict any more.

        Raises :class:`Restart` when what it has read is no longer the newest, :class:`TransactionTimeout` or
        :class:`Cancelled` when others hold it for too long.
        """
        if attempt.in_place:
            attempt.run_again()
        attempt.token = True
        attempt.plain = False
        here.context().escalations += 1
        if not self._token.acquire(attempt, allowance):
            raise TransactionTimeout("other irrevocable transactions were in the way for too long")
        if attempt.shared is not None:
            attempt.shared.hold(attempt, allowance)
        with self._submission:
            if self._submitted is not None:
                self._settle()
            self._decided.drain()
            if attempt.changed_since() is not None:
                raise Restart
            self._holder = attempt
            attempt.snapshot = self.published()

    def read_guarded(self, attempt: Attempt, location: Location) -> Any:
        """The newest value, for the holder of the token; it stays the newest until the token is released."""
        with self._submission:
            if self._submitted is not None:
                self._settle()
            # Nobody may change it any more. The value comes below, and nobody else reads it from here.
            version = attempt.reads[location] = new_version(None)
            guard = self.device.last_timestamp()
        try:
            self.device.wait_published(guard)
            attempt.snapshot = max(attempt.snapshot, guard)
            newest = location._head
            if newest is IN_PLACE:
                newest = location._settle()
            value = version.value = newest.value
            version.owner = attempt.identity
            return value
        except BaseException:
            attempt.reads.pop(location, None)
            raise

    def give_back(self, attempt: Attempt) -> None:
        """Release the token before the end; the attempt can conflict again from now on."""
        self._release(attempt)

    def _release(self, attempt: Attempt) -> None:
        if attempt.shared is not None:
            attempt.shared.release()
        if self._holder is attempt:
            self._holder = None
        self._token.release(attempt)
        # Last, so that a release that was interrupted is repeated.
        attempt.token = False

    # fork.

    def after_fork(self) -> None:
        """In the child: what was decided becomes visible, everything else never happened, and nothing is shared."""
        renew_locks()
        alone.renew()
        alone.end(alone.active)
        newest = self._inherited
        device = self._device
        if device is not None:
            # This also writes the private part back of what is published in shared memory.
            newest = max(newest, device.published)
        newest = max(newest, self._decided.install_all())
        self._opening = threading.RLock()
        self._inherited = newest
        self._device = None
        self._begin_state()
        self.profile = None
        context.forget_other_threads()


#: The one of this process.
runtime = Runtime()

os.register_at_fork(after_in_child=runtime.after_fork)


def use_device(device: Union[Device, str, None]) -> None:
    """Let another device decide the transactions of this process from now on: a device, or the URL of one.

    None means the default, from ``BLOOMGATE_DEVICE`` or else ``soft:``, opened at the first transaction. A device given
    to the STM belongs to it: nobody else may commit on it. A forked child opens the same URL when it needs a device, or
    the default one if its parent was given an open device. Raises :class:`~bloomgate.stm.TransactionError` while a
    transaction is running.
    """
    runtime.use(device)
