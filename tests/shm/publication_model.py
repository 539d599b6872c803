"""The protocol of publication.c, array.c and redo.c in Python, one access to shared memory at a time.

As small as it can be while everything still happens: two words a version, two versions a location, two locations, rings
of one entry. The device is one indivisible step, because it is not what is examined here. Each rule can be broken, to
see that the checker notices: see :class:`Rules`.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from tests.shm.interleavings import Access, Continue, load, store, swap

LOCATIONS = range(2)
PIECES = range(2)
VERSIONS = range(2)
#: Initial value, and the tag that it has.
INITIAL = 0
FIRST = 1

Steps = Generator[Any, Any, Any]
#: Location, and the digit that is appended to its value.
Operation = tuple[int, int]


@dataclass(frozen=True)
class Rules:
    """What the protocol keeps to. Each of them is needed."""

    #: A commit is installed only when everything before it is published.
    in_order: bool = True
    #: Who finds a version begun completes it, rather than taking it for done.
    completes: bool = True
    #: Words of versions change by compare and swap from what was read when the version was chosen.
    swaps_words: bool = True
    #: `position` changes by compare and swap.
    swaps_position: bool = True
    #: The serial number of a redo record is the same before and after it is copied.
    checks_serial: bool = True
    #: The serial number is read before the completion, not after it.
    serial_first: bool = True
    #: A redo record is used again only when its commit is published.
    keeps_record: bool = True
    #: The redo record is complete before the request is submitted.
    record_first: bool = True
    #: A reader looks again whether the version that it chose is still there.
    looks_twice: bool = True


def memory(clients: int) -> dict[Any, Any]:
    words: dict[Any, Any] = {"position": FIRST, "last": FIRST, "order": ()}
    for location in LOCATIONS:
        for version in VERSIONS:
            for piece in PIECES:
                words[location, version, piece] = (INITIAL, FIRST if version == 0 else 0)
    for client in range(clients):
        words[client, "completion"] = None
        words[client, "serial"] = 0
        words[client, "sequence"] = None
        words[client, "operation"] = None
    return words


def expected(order: tuple[Operation, ...], tag: int, location: int) -> int:
    """The value after the commits up to a tag. Each commit appends a digit, so that order and repetition show."""
    value = INITIAL
    for where, digit in order[: tag - FIRST]:
        if where == location:
            value = 10 * value + digit
    return value


def decide(client: int, sequence: int, operation: Operation) -> Access:
    """The device commits, and writes the completion entry."""

    def action(state: dict[Any, Any]) -> int:
        state["last"] += 1
        state["order"] = (*state["order"], operation)
        state[client, "completion"] = (sequence, state["last"])
        return state["last"]

    return Access(action, f"decide {client} {operation}")


def committer(rules: Rules, clients: int, me: int, operations: tuple[Operation, ...]) -> Steps:
    """A client with so many commits, one after the other."""
    if not operations:
        return
    operation, rest = operations[0], operations[1:]
    # So short that it repeats at once, as the 16 bits of the real one do after a while.
    sequence = len(rest) % 2
    if not rules.record_first:
        timestamp = yield decide(me, sequence, operation)
    serial = (yield load((me, "serial"))) | 1
    yield store((me, "serial"), serial)
    yield store((me, "sequence"), sequence)
    yield store((me, "operation"), operation)
    yield store((me, "serial"), serial + 1)
    if rules.record_first:
        timestamp = yield decide(me, sequence, operation)
    if not rules.in_order:
        yield from install(rules, timestamp, operation)
    if rules.keeps_record:
        yield Continue(finish, (rules, clients, me, timestamp, operation, rest))
    else:
        yield Continue(committer, (rules, clients, me, rest))


def finish(rules: Rules, clients: int, me: int, timestamp: int, mine: Operation, rest: tuple[Operation, ...]) -> Steps:
    """Wait for the own commit, as its owner: install it when its turn has come, help before."""
    here = yield load("position")
    if here >= timestamp:
        yield Continue(committer, (rules, clients, me, rest))
    elif here + 1 == timestamp:
        yield from install(rules, timestamp, mine)
        yield from step(rules, here)
        yield Continue(committer, (rules, clients, me, rest))
    else:
        yield from help_at(rules, clients, here)
        yield Continue(finish, (rules, clients, me, timestamp, mine, rest))


def helper(rules: Rules, clients: int) -> Steps:
    """One who commits nothing, and helps until there is nothing to do."""
    here = yield load("position")
    if here < (yield load("last")):
        yield from help_at(rules, clients, here)
        yield Continue(helper, (rules, clients))


def help_at(rules: Rules, clients: int, here: int) -> Steps:
    for client in range(clients):
        if rules.serial_first:
            serial = yield load((client, "serial"))
            if serial % 2 and rules.checks_serial:
                continue
        completion = yield load((client, "completion"))
        if completion is None or completion[1] != here + 1:
            continue
        if not rules.serial_first:
            serial = yield load((client, "serial"))
        if (yield load((client, "sequence"))) != completion[0]:
            continue
        operation = yield load((client, "operation"))
        if rules.checks_serial and (yield load((client, "serial"))) != serial:
            continue
        yield from install(rules, here + 1, operation)
        yield from step(rules, here)
        return


def install(rules: Rules, tag: int, operation: Operation) -> Steps:
    location, digit = operation
    seen = {}
    for version in VERSIONS:
        for piece in PIECES:
            word = seen[version, piece] = yield load((location, version, piece))
            if word[1] > tag or (word[1] == tag and not rules.completes):
                return
    begun = [version for version in VERSIONS if any(seen[version, piece][1] == tag for piece in PIECES)]
    target = begun[0] if begun else min(VERSIONS, key=lambda version: seen[version, 0][1])
    base = max((v for v in VERSIONS if v != target), key=lambda version: seen[version, 0][1])
    value = 10 * (100 * seen[base, 1][0] + seen[base, 0][0]) + digit
    for piece, part in ((0, value % 100), (1, value // 100)):
        if seen[target, piece][1] < tag:
            if rules.swaps_words:
                yield swap((location, target, piece), seen[target, piece], (part, tag))
            else:
                yield store((location, target, piece), (part, tag))


def step(rules: Rules, here: int) -> Steps:
    if rules.swaps_position:
        yield swap("position", here, here + 1)
    else:
        yield store("position", here + 1)


def reader(rules: Rules) -> Steps:
    """Reads a location at one snapshot; its value must be the snapshot's."""
    snapshot = yield load("position")
    yield Continue(read_at, (rules, snapshot))


def read_at(rules: Rules, snapshot: int) -> Steps:
    found: dict[int, tuple[Any, ...]] = {}
    for version in VERSIONS:
        words = []
        for piece in PIECES:
            words.append((yield load((0, version, piece))))
        if words[0][1] == words[1][1] and 0 < words[0][1] <= snapshot:
            found[words[0][1]] = (version, tuple(words))
    if not found:
        return  # the version is gone: a new snapshot
    version, chosen = found[max(found)]
    if rules.looks_twice:
        for piece in PIECES:
            if (yield load((0, version, piece))) != chosen[piece]:
                yield Continue(read_at, (rules, snapshot))
    order = yield load("order")
    value = 100 * chosen[1][0] + chosen[0][0]
    right = expected(order, snapshot, 0)
    assert value == right, f"read {value} instead of {right} at {snapshot}"


def consistent(state: dict[Any, Any]) -> None:
    """What is published is there, whole and right."""
    position = state["position"]
    for location in LOCATIONS:
        newest, value = 0, None
        for version in VERSIONS:
            words = [state[location, version, piece] for piece in PIECES]
            if newest < words[0][1] == words[1][1] <= position:
                newest, value = words[0][1], 100 * words[1][0] + words[0][0]
        right = expected(state["order"], position, location)
        assert value == right, f"location {location} is {value} instead of {right} at {position}"


def finished_by_the_next(state: dict[Any, Any], clients: int) -> None:
    """Whoever comes when all others are gone can finish everything, and then no timestamp is lost."""
    program: tuple[Any, ...] = (helper, (Rules(), clients))
    for _ in range(100):
        generator = program[0](*program[1])
        result = None
        try:
            yielded = generator.send(None)
            while isinstance(yielded, Access):
                result = yielded.action(state)
                yielded = generator.send(result)
            program = yielded
        except StopIteration:
            break
    assert state["position"] == state["last"], f"published {state['position']} of {state['last']}"
    consistent(state)
