"""What ``bloomgate boardtest`` does with transactions in flight."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Callable

from bloomgate.device import Device
from bloomgate.in_flight import Conflict, Doom, Token, Wake
from bloomgate.selftest import SelftestFailure
from bloomgate.slots import Slot
from bloomgate.verdict import Reason, Verdict

__all__ = ["doom", "token", "wake_up_seconds"]

#: Seconds for what should come at once.
_SECONDS = 10.0
#: Slots that sleep until they are woken.
_SLEEPS = 10


def _equal(what: str, found: object, right: object) -> None:
    if found != right:
        raise SelftestFailure(f"in flight, {what}: {found}, and should be {right}")


def _until(what: str, condition: Callable[[], bool]) -> None:
    """A device that is a wire away needs some time for what follows from a commit."""
    deadline = time.monotonic() + _SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise SelftestFailure(f"in flight, {what}: not within {_SECONDS:.0f} s")


def _change(device: Device, slot: Slot, key: int) -> int:
    """Commit a write of the key and write it back; its timestamp."""
    slot.begin(device.last_timestamp())
    verdict = slot.commit(writes=[key])
    if verdict.timestamp is None:
        raise SelftestFailure(f"in flight: a write that nothing stands against got {verdict}")
    device.publish(verdict.timestamp)
    return verdict.timestamp


def doom(device: Device) -> None:
    """A commit of one slot dooms another that has announced the key; it is logged, counted, and ends as foretold."""
    key = device.parameters.max_key
    with contextlib.closing(device.open_slot()) as reader, contextlib.closing(device.open_slot()) as writer:
        device.conflicts()
        reader.begin(device.last_timestamp())
        reader.announce([key - 1])
        reader.announce_log([key])
        _equal("before the conflict", reader.doomed, None)
        timestamp = _change(device, writer, key)
        _until("the doom", lambda: reader.doomed is not None)
        _equal("the doom", reader.doomed, Doom(key, timestamp))
        _equal("the conflict log", device.conflicts(), [Conflict(writer.number, reader.number, key, timestamp)])
        _equal("the doomed commit", reader.commit(), Verdict(False, None, Reason.CONFLICT, key))
        _equal("dooms counted", reader.stats()["dooms"], 1)
        # Announced in time, and nothing has changed it: only what is new is looked at.
        reader.begin(device.last_timestamp())
        reader.announce_log([key])
        _equal("nothing in the way", reader.commit(), Verdict(True, None, None, None))


def wake_up_seconds(device: Device) -> float:
    """From the beginning of a commit to the awakening of a slot that waits for it, on average."""
    key = device.parameters.max_key
    total = 0.0
    with contextlib.closing(device.open_slot()) as sleeper, contextlib.closing(device.open_slot()) as writer:
        for _ in range(_SLEEPS):
            woken: list[tuple[float, object]] = []
            thread = threading.Thread(target=_sleep, args=(sleeper, key, woken), daemon=True)
            before = sleeper.last_wake.sequence
            sleeper.begin(device.last_timestamp())
            sleeper.announce([key])
            thread.start()
            _until("parked", lambda: sleeper.parked)
            began = time.monotonic()
            timestamp = _change(device, writer, key)
            thread.join(_SECONDS)
            if not woken:
                raise SelftestFailure(
                    f"in flight: a commit did not wake the slot that waits for it in {_SECONDS:.0f} s"
                )
            _equal("the wake", woken[0][1], Wake((before + 1) % (1 << 16), timestamp))
            total += woken[0][0] - began
    return total / _SLEEPS


def _sleep(slot: Slot, key: int, woken: list[tuple[float, object]]) -> None:
    try:
        result: object = slot.wait(_SECONDS)
    except Exception as error:
        result = error
    woken.append((time.monotonic(), result))


def token(device: Device) -> None:
    """The holder of the token cannot be refused, who is in its way is; and it can be taken away."""
    key = device.parameters.max_key
    with contextlib.closing(device.open_slot()) as holder, contextlib.closing(device.open_slot()) as other:
        holder.begin(device.last_timestamp())
        _equal("the token", holder.irrevocable(_SECONDS), Verdict(True, None, None, None))
        holder.read_guarded([key], _SECONDS)
        other.begin(device.last_timestamp())
        refused = other.commit(writes=[key])
        _equal("in the holder's way", refused, Verdict(False, None, Reason.IRREVOCABLE, key))
        kept = holder.commit(reads=[key], writes=[key])
        _equal("the holder's commit", kept.reason, None)
        device.publish(kept.timestamp)
        _equal("when it is free again", _change(device, other, key), (kept.timestamp or 0) + 1)
        holder.begin(device.last_timestamp())
        _equal("the token again", holder.irrevocable(_SECONDS), Verdict(True, None, None, None))
        _equal("who had it", device.revoke_token(), holder.number)
        _until("taken away", lambda: holder.token is Token.REVOKED)
        _equal("without it", holder.commit(writes=[key]).reason, Reason.REVOKED)
