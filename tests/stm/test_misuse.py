"""What a newcomer gets wrong is refused where it is written, and says what to write instead."""

import asyncio
import threading

import pytest
from bloomgate import (
    SharedTVar,
    TransactionQueue,
    TVar,
    aio,
    atomic,
    check,
    on_abort,
    on_commit,
    or_else,
    retry,
    use_device,
)

variable = TVar(0, "variable")


async def coroutine() -> None:
    """Would never be awaited."""


def generator():
    yield


MISUSES = {
    "truth": (lambda: bool(variable), TypeError, "variable itself is neither true nor false; use its .value"),
    "condition": (lambda: check(variable), TypeError, "variable itself is neither true nor false; use its .value"),
    "no function": (lambda: atomic(3), TypeError, "atomic must decorate a function, not 3"),
    "timeout": (lambda: atomic(timeout="1"), TypeError, "timeout must be a number of seconds or None, not '1'"),
    "retry": (atomic(lambda: retry("1")), TypeError, "timeout must be a number of seconds or None, not '1'"),
    "cancel": (
        lambda: atomic(cancel=threading.Event()),
        TypeError,
        "cancel must be a Cancellation, not <threading",
    ),
    "or_else": (lambda: or_else(3, print), TypeError, "or_else() needs functions, which it calls, not 3"),
    "threads": (lambda: TransactionQueue(2.5), ValueError, "threads must be an integer of at least 1, not 2.5"),
    "no threads": (lambda: TransactionQueue(0), ValueError, "threads must be an integer of at least 1, not 0"),
    "add": (lambda: TransactionQueue().add(None), TypeError, "add() needs a function, not None"),
    "on_commit": (
        atomic(lambda: on_commit(None)),
        TypeError,
        "on_commit() needs a function and its arguments, not N",
    ),
    "on_abort": (
        atomic(lambda: on_abort(None, 1)),
        TypeError,
        "on_abort() needs a function and its arguments, not N",
    ),
    "transact": (lambda: asyncio.run(aio.transact(3)), TypeError, "transact() needs a function, not 3"),
    **{
        f"transact {name}": (
            lambda lazy=lazy: asyncio.run(aio.transact(lazy)),
            TypeError,
            "transact() needs a function that does its work when it is called, not <function",
        )
        for name, lazy in {
            "coroutine": coroutine,
            "atomic coroutine": atomic(coroutine),
            "generator": generator,
            "atomic generator": atomic(generator),
        }.items()
    },
}


@pytest.mark.parametrize("misuse", MISUSES)
def test_misuse(soft, misuse: str) -> None:
    use, error, message = MISUSES[misuse]
    with pytest.raises(error) as raised:
        use()
    assert str(raised.value).startswith(message)


def test_a_shared_variable_has_no_truth_value_either() -> None:
    use_device("shm:")
    try:
        flag = SharedTVar(0)
        with pytest.raises(TypeError, match="a SharedTVar itself is neither true nor false; use its .value"):
            bool(flag)
    finally:
        use_device(None)
