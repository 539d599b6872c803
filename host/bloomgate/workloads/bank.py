"""Accounts between which money is moved, and audits that add up a branch.

An account is four words (owner, opened, balance, limit); a transfer reads the limit and the balance of one account and
the balance of another, and writes both balances. An audit reads the balances of one branch of 32 accounts and
writes nothing. The total of all balances never changes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice

from bloomgate.trace import Record
from bloomgate.workloads.memory import Chooser, Memory, Transaction, executed

__all__ = ["ACCOUNTS_PER_BRANCH", "Bank", "generate"]

ACCOUNTS_PER_BRANCH = 32
OPENING_BALANCE = 1000

_BALANCE, _LIMIT, _ACCOUNT_WORDS = 2, 3, 4


class Bank:
    """``accounts`` accounts in memory."""

    def __init__(self, memory: Memory, accounts: int) -> None:
        words = list(islice(memory.segment(), accounts * _ACCOUNT_WORDS))
        #: First word of each account.
        self._accounts = words[::_ACCOUNT_WORDS]
        for account in self._accounts:
            memory[account + _BALANCE] = OPENING_BALANCE

    def balances(self) -> list[int]:
        """The words that hold the balances."""
        return [account + _BALANCE for account in self._accounts]

    def transfer(self, tx: Transaction, source: int, target: int, amount: int) -> None:
        """Move what the limit allows."""
        giver, taker = self._accounts[source], self._accounts[target]
        amount = min(amount, tx.read(giver + _BALANCE) - tx.read(giver + _LIMIT))
        tx.add(giver + _BALANCE, -amount)
        tx.add(taker + _BALANCE, amount)

    def audit(self, tx: Transaction, account: int) -> int:
        """The sum of the branch of an account."""
        first = account - account % ACCOUNTS_PER_BRANCH
        branch = self._accounts[first : first + ACCOUNTS_PER_BRANCH]
        return sum(tx.read(account + _BALANCE) for account in branch)


def generate(rng: random.Random, transactions: int, size: int, contention: float, read_mix: float) -> Iterator[Record]:
    """``size`` accounts. ``contention`` chooses accounts, ``read_mix`` is the share of audits."""
    memory = Memory()
    bank = Bank(memory, size)
    chooser = Chooser(rng, contention)

    def bodies() -> Iterator[Callable[[Transaction], None]]:
        for _ in range(transactions):
            yield audit if rng.random() < read_mix else transfer

    def audit(tx: Transaction) -> None:
        bank.audit(tx, chooser.index(size))

    def transfer(tx: Transaction) -> None:
        source, target = chooser.distinct(size, 2)
        bank.transfer(tx, source, target, rng.randrange(1, 100))

    return executed(memory, bodies())
