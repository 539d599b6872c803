"""A travel agency: tables of cars, flights and rooms, and the customers who reserve them.

After STAMP's vacation (Cao Minh et al., IISWC 2008), written anew. Each table is a search tree of items (number,
total, free, price); the customers are a hash table whose chains hold customers, each with a list of reservations.
A transaction of a customer looks up a number of items on its way through the trees, and reserves the cheapest of each
kind that has a free place; one of the agency changes the stock or the prices of a few items; a customer who has enough
reservations gives them all back. A reader only asks for prices.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice

from bloomgate.trace import Record
from bloomgate.workloads.memory import Chooser, Memory, Transaction, executed

__all__ = ["Agency", "generate"]

KINDS = 3
#: Items that a transaction looks up, at most.
QUERIES = 5
#: Items whose stock or price one transaction of the agency changes, at most.
UPDATES = 2
#: Reservations that a customer collects before giving them back.
RESERVATIONS = 6
#: Of the transactions that write, the share of the agency's own.
AGENCY_SHARE = 0.1
#: Places of an item at the beginning.
STOCK = 100
#: Customers for each chain of their hash table.
CHAIN = 2

# Words of an item, which is a node of a tree.
_NUMBER, _LEFT, _RIGHT, _TOTAL, _FREE, _PRICE, _ITEM_WORDS = 0, 1, 2, 3, 4, 5, 6
# Words of a customer, who is a link of a chain.
_NAME, _NEXT, _FIRST, _CUSTOMER_WORDS = 0, 1, 2, 3
# Words of a reservation, which is a link of a customer's list.
_ITEM, _PAID, _FOLLOWING, _RESERVATION_WORDS = 0, 1, 2, 3


class Agency:
    """The tables in memory, with ``size`` items of each kind and as many customers."""

    def __init__(self, memory: Memory, rng: random.Random, size: int) -> None:
        self._memory = memory
        #: The words that hold the root of each tree.
        self.roots = list(islice(memory.segment(), KINDS))
        #: The items of each kind, by number.
        self.items: list[list[int]] = []
        for root in self.roots:
            segment = memory.segment()
            items = [_take(segment, _ITEM_WORDS) for _ in range(size)]
            for number, item in enumerate(items):
                memory[item + _NUMBER] = number
                memory[item + _TOTAL] = memory[item + _FREE] = STOCK
                memory[item + _PRICE] = rng.randrange(50, 500)
            self.items.append(items)
            memory[root] = self._balanced(items)
        self._buckets = list(islice(memory.segment(), max(1, size // CHAIN)))
        segment = memory.segment()
        #: The customers, by name.
        self.customers = [_take(segment, _CUSTOMER_WORDS) for _ in range(size)]
        for name, customer in enumerate(self.customers):
            bucket = self._buckets[name % len(self._buckets)]
            memory[customer + _NAME] = name
            memory[customer + _NEXT] = memory[bucket]
            memory[bucket] = customer
        self._reservations = memory.segment()
        #: Reservations that were given back, to be used again.
        self._returned: list[int] = []

    def _balanced(self, items: list[int]) -> int:
        """Make a tree of items in order; its root, 0 when there is none."""
        if not items:
            return 0
        middle = len(items) // 2
        root = items[middle]
        self._memory[root + _LEFT] = self._balanced(items[:middle])
        self._memory[root + _RIGHT] = self._balanced(items[middle + 1 :])
        return root

    def find_item(self, tx: Transaction, kind: int, number: int) -> int:
        """Walk down the tree of a kind."""
        item = tx.read(self.roots[kind])
        while item:
            here = tx.read(item + _NUMBER)
            if here == number:
                return item
            item = tx.read(item + (_LEFT if number < here else _RIGHT))
        raise KeyError(number)

    def find_customer(self, tx: Transaction, name: int) -> int:
        """Walk along a chain of the hash table."""
        customer = tx.read(self._buckets[name % len(self._buckets)])
        while tx.read(customer + _NAME) != name:
            customer = tx.read(customer + _NEXT)
        return customer

    def cheapest(self, tx: Transaction, wishes: list[tuple[int, int]]) -> dict[int, int]:
        """Of the (kind, number) asked for, the cheapest item of each kind that has a free place."""
        best: dict[int, tuple[int, int]] = {}
        for kind, number in wishes:
            item = self.find_item(tx, kind, number)
            if tx.read(item + _FREE) > 0:
                price = tx.read(item + _PRICE)
                best[kind] = min(best.get(kind, (price, item)), (price, item))
        return {kind: item for kind, (_, item) in best.items()}

    def reserve(self, tx: Transaction, name: int, wishes: list[tuple[int, int]]) -> None:
        """A customer takes the cheapest of each kind; one with enough reservations gives all of them back."""
        chosen = self.cheapest(tx, wishes)
        customer = self.find_customer(tx, name)
        held = self._held(tx, customer)
        if len(held) + len(chosen) > RESERVATIONS:
            for reservation in held:
                tx.add(tx.read(reservation + _ITEM) + _FREE, 1)
                self._returned.append(reservation)
            tx.write(customer + _FIRST, 0)
            return
        for item in chosen.values():
            tx.add(item + _FREE, -1)
            reservation = self._returned.pop() if self._returned else _take(self._reservations, _RESERVATION_WORDS)
            tx.write(reservation + _ITEM, item)
            tx.write(reservation + _PAID, tx.read(item + _PRICE))
            tx.write(reservation + _FOLLOWING, tx.read(customer + _FIRST))
            tx.write(customer + _FIRST, reservation)

    def _held(self, tx: Transaction, customer: int) -> list[int]:
        held = []
        reservation = tx.read(customer + _FIRST)
        while reservation:
            held.append(reservation)
            reservation = tx.read(reservation + _FOLLOWING)
        return held

    def reprice(self, tx: Transaction, kind: int, number: int, price: int) -> None:
        """The agency sets a price."""
        tx.write(self.find_item(tx, kind, number) + _PRICE, price)

    def restock(self, tx: Transaction, kind: int, number: int, places: int) -> None:
        """The agency adds places."""
        item = self.find_item(tx, kind, number)
        tx.add(item + _TOTAL, places)
        tx.add(item + _FREE, places)

    def unaccounted(self) -> int:
        """Places that are neither free nor reserved: 0, whatever happened."""
        memory = self._memory
        missing = sum(memory[item + _TOTAL] - memory[item + _FREE] for items in self.items for item in items)
        for customer in self.customers:
            reservation = memory[customer + _FIRST]
            while reservation:
                missing -= 1
                reservation = memory[reservation + _FOLLOWING]
        return missing


def _take(segment: Iterator[int], count: int) -> int:
    """The first of the next ``count`` words."""
    return next(islice(segment, count - 1, None)) - (count - 1)


def generate(rng: random.Random, transactions: int, size: int, contention: float, read_mix: float) -> Iterator[Record]:
    """``size`` items of each kind and customers. ``contention`` chooses items and customers; ``read_mix``: readers."""
    memory = Memory()
    agency = Agency(memory, rng, size)
    chooser = Chooser(rng, contention)

    def bodies() -> Iterator[Callable[[Transaction], None]]:
        for _ in range(transactions):
            if rng.random() < read_mix:
                yield ask
            else:
                yield update if rng.random() < AGENCY_SHARE else reserve

    def wishes(most: int) -> list[tuple[int, int]]:
        return [(rng.randrange(KINDS), chooser.index(size)) for _ in range(rng.randint(1, most))]

    def ask(tx: Transaction) -> None:
        agency.cheapest(tx, wishes(QUERIES))

    def reserve(tx: Transaction) -> None:
        agency.reserve(tx, chooser.index(size), wishes(QUERIES))

    def update(tx: Transaction) -> None:
        for kind, number in wishes(UPDATES):
            if rng.random() < 0.5:
                agency.reprice(tx, kind, number, rng.randrange(50, 500))
            else:
                agency.restock(tx, kind, number, rng.randint(1, 10))

    return executed(memory, bodies())
