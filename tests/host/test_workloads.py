"""The generated workloads: that they are the programs they say they are, and that their parameters do what they say."""

import itertools
import random
from collections.abc import Callable

import pytest
from bloomgate.errors import ParameterError
from bloomgate.parameters import Parameters
from bloomgate.trace import Record, summarise
from bloomgate.workloads import WORKLOADS, bank, generate, kmeans, queue, vacation
from bloomgate.workloads.memory import Chooser, Memory, Transaction
from hypothesis import given, settings
from hypothesis import strategies as st

every_workload = pytest.mark.parametrize("name", sorted(WORKLOADS))


def conflict_share(trace: list[Record], window: int = 7) -> float:
    """The share of transactions that read what one of the few before them wrote."""
    hits = 0
    for index, record in enumerate(trace):
        before = trace[max(0, index - window) : index]
        hits += any(set(record.reads) & set(other.writes) for other in before)
    return hits / len(trace)


@every_workload
@settings(max_examples=15)
@given(data=st.data())
def test_any_parameters_make_a_legal_trace(name: str, data: st.DataObject) -> None:
    workload = WORKLOADS[name]
    transactions = data.draw(st.integers(1, 60), "transactions")
    trace = list(
        generate(
            name,
            transactions=transactions,
            size=data.draw(st.integers(workload.smallest, min(workload.largest, 300)), "size"),
            contention=data.draw(st.floats(0, workload.max_contention), "contention"),
            read_mix=data.draw(st.floats(0, 1), "read_mix"),
            seed=data.draw(st.integers(0, 2**32), "seed"),
        )
    )
    assert len(trace) == transactions
    for reads, writes in trace:
        assert reads or writes
        assert len(set(reads)) == len(reads)
        assert len(set(writes)) == len(writes)
        assert all(0 < word < 2**61 for word in reads + writes)


@every_workload
def test_same_parameters_same_trace(name: str) -> None:
    first, again, other = (list(generate(name, transactions=100, seed=seed)) for seed in (5, 5, 6))
    assert first == again
    # disjoint touches the same words whatever the seed, but writes others
    assert first != other


@every_workload
def test_defaults_fit_the_default_device(name: str) -> None:
    summary = summarise(generate(name, transactions=500))
    assert summary.largest <= Parameters().aperture_depth
    assert summary.reads_mean > 0
    assert summary.writes_mean > 0


@pytest.mark.parametrize("name", ["bank", "queue", "vacation", "kmeans"])
def test_contention_makes_conflicts(name: str) -> None:
    shares = [
        conflict_share(list(generate(name, transactions=600, contention=contention, read_mix=0.1, seed=3)))
        for contention in (0.0, 0.5, 1.0)
    ]
    assert shares[0] < shares[1] < shares[2]


@pytest.mark.parametrize("name", ["bank", "vacation"])
def test_size_spreads_conflicts(name: str) -> None:
    small, large = (
        conflict_share(list(generate(name, transactions=400, size=size, contention=0, seed=3))) for size in (16, 2000)
    )
    assert small > 2 * large


def test_more_centres_fewer_conflicts() -> None:
    small, large = (conflict_share(list(generate("kmeans", transactions=400, size=size))) for size in (4, 200))
    assert small > 2 * large


@pytest.mark.parametrize("name", ["bank", "queue", "vacation", "kmeans"])
@pytest.mark.parametrize("read_mix", [0.0, 0.5, 1.0])
def test_read_mix_is_the_share_of_readers(name: str, read_mix: float) -> None:
    trace = list(generate(name, transactions=1000, read_mix=read_mix, seed=3))
    readers = sum(not record.writes for record in trace) / len(trace)
    assert readers == pytest.approx(read_mix, abs=0.05)


def test_read_mix_of_disjoint_is_a_share_of_words() -> None:
    for read_mix in (0.0, 0.3, 1.0):
        summary = summarise(generate("disjoint", transactions=500, size=20, read_mix=read_mix))
        assert summary.writes_mean == pytest.approx(20 * (1 - read_mix), abs=1)
        assert summary.reads_mean == 20


def test_disjoint_never_uses_a_word_twice() -> None:
    words = [word for record in generate("disjoint", transactions=500) for word in record.reads]
    assert len(set(words)) == len(words)
    assert all(set(record.writes) <= set(record.reads) for record in generate("disjoint", transactions=500))


def run(memory: Memory, body: Callable[[Transaction], object]) -> tuple[object, Record]:
    transaction = Transaction(memory)
    return body(transaction), transaction.commit()


def test_bank_keeps_its_money(seed: int) -> None:
    rng, memory = random.Random(seed), Memory()
    accounts = bank.Bank(memory, 50)
    for _ in range(500):
        source, target = rng.sample(range(50), 2)
        _, record = run(
            memory,
            lambda tx, s=source, t=target: accounts.transfer(tx, s, t, rng.randrange(1, 2000)),  # type: ignore[misc]
        )
        assert len(record.writes) == 2
        assert set(record.writes) <= set(record.reads)
    values = [memory[word] for word in accounts.balances()]
    assert sum(values) == 50 * bank.OPENING_BALANCE
    assert min(values) >= 0
    assert len(set(values)) > 10
    total, record = run(memory, lambda tx: accounts.audit(tx, 40))
    assert total == sum(values[32:50])
    assert record == Record(tuple(accounts.balances()[32:50]), ())


def test_queue_is_first_in_first_out(seed: int) -> None:
    rng, memory = random.Random(seed), Memory()
    modelled, expected = queue.Queue(memory, 7), []
    numbers = itertools.count(1)
    for _ in range(500):
        if rng.random() < 0.5:
            values = list(itertools.islice(numbers, rng.randint(1, 4)))
            done, record = run(memory, lambda tx, v=values: modelled.put(tx, v))  # type: ignore[misc]
            assert done == (len(expected) + len(values) <= 7)
            if done:
                expected += values
            assert len(record.writes) == (len(values) + 1 if done else 0)
        else:
            count = rng.randint(1, 4)
            taken, record = run(memory, lambda tx, n=count: modelled.take(tx, n))  # type: ignore[misc]
            assert taken == expected[:count]
            del expected[:count]
            assert record.writes == ((modelled.head,) if taken else ())
        oldest, record = run(memory, modelled.peek)
        assert oldest == (expected[0] if expected else 0)
        assert not record.writes


def test_kmeans_adds_every_point_to_its_nearest_centre(seed: int) -> None:
    rng, memory = random.Random(seed), Memory()
    means = [[1000 * centre] * kmeans.DIMENSIONS for centre in range(5)]
    clustering = kmeans.Clustering(memory, means)
    segment = memory.segment()
    sums = [[0] * (1 + kmeans.DIMENSIONS) for _ in means]
    for _ in range(100):
        centre = rng.randrange(5)
        words = list(itertools.islice(segment, kmeans.DIMENSIONS))
        point = [1000 * centre + rng.randint(-400, 400) for _ in words]
        for word, value in zip(words, point, strict=True):
            memory[word] = value
        _, record = run(memory, lambda tx, w=words: clustering.add(tx, w))  # type: ignore[misc]
        assert record == Record((*words, *clustering.accumulators[centre]), tuple(clustering.accumulators[centre]))
        sums[centre] = [total + value for total, value in zip(sums[centre], [1, *point], strict=True)]
    assert [[memory[word] for word in words] for words in clustering.accumulators] == sums
    mean, record = run(memory, lambda tx: clustering.mean(tx, 2))
    assert mean == [value // max(1, sums[2][0]) for value in sums[2][1:]]
    assert not record.writes


def test_vacation_loses_no_reservation(seed: int) -> None:
    rng, memory = random.Random(seed), Memory()
    agency = vacation.Agency(memory, rng, 20)
    assert agency.unaccounted() == 0
    changed = 0
    for _ in range(600):
        wishes = [(rng.randrange(vacation.KINDS), rng.randrange(20)) for _ in range(4)]
        name = rng.randrange(20)
        kind, item = wishes[0]
        body = rng.choice(
            [
                lambda tx: agency.reserve(tx, name, wishes),  # noqa: B023
                lambda tx: agency.reserve(tx, name, wishes),  # noqa: B023
                lambda tx: agency.restock(tx, kind, item, 3),  # noqa: B023
                lambda tx: agency.reprice(tx, kind, item, rng.randrange(50, 500)),  # noqa: B023
            ]
        )
        _, record = run(memory, body)
        changed += bool(record.writes)
        assert agency.unaccounted() == 0
    assert changed > 300


def test_vacation_searches_its_trees() -> None:
    """All items are found, on paths no longer than a balanced tree has; the cheapest free one of a kind is chosen."""
    memory = Memory()
    agency = vacation.Agency(memory, random.Random(1), 100)
    for kind in range(vacation.KINDS):
        for number in range(100):
            item, record = run(memory, lambda tx, k=kind, n=number: agency.find_item(tx, k, n))  # type: ignore[misc]
            assert item == agency.items[kind][number]
            assert len(record.reads) <= 2 * 7
    prices = {number: memory[agency.items[1][number] + vacation._PRICE] for number in (3, 50, 99)}
    chosen, record = run(memory, lambda tx: agency.cheapest(tx, [(1, number) for number in prices]))
    assert chosen == {1: agency.items[1][min(prices, key=lambda number: prices[number])]}
    assert not record.writes


def test_own_writes_are_not_reads() -> None:
    memory = Memory()
    transaction = Transaction(memory)
    transaction.write(8, 1)
    assert transaction.read(8) == 1
    transaction.add(9, 2)
    assert memory[8] == 0, "nothing is visible before the commit"
    assert transaction.commit() == Record((9,), (8, 9))
    assert (memory[8], memory[9]) == (1, 2)


def test_the_chooser_favours_the_first_hundredth() -> None:
    chooser = Chooser(random.Random(1), 0.5)
    hot = sum(chooser.index(1000) < 10 for _ in range(10_000))
    assert 4800 < hot < 5400
    assert [Chooser(random.Random(1), 1.0).index(5) for _ in range(20)] == [0] * 20
    assert sorted(Chooser(random.Random(1), 1.0).distinct(4, 4)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("tpcc", {}, "a workload must be one of bank, vacation, queue, kmeans, disjoint, not 'tpcc'"),
        ("bank", {"size": 1}, r"bank: size \(accounts\) must be between 2 and 1000000, not 1"),
        ("queue", {"size": 3}, r"queue: size \(cells of each queue\) must be between 4 and"),
        ("bank", {"transactions": 0}, "bank: transactions must be between 1 and 10000000, not 0"),
        ("bank", {"contention": 1.5}, "bank: contention must be between 0 and 1, not 1.5"),
        ("bank", {"contention": float("nan")}, "bank: contention must be between 0 and 1, not nan"),
        ("kmeans", {"read_mix": -0.1}, "kmeans: read_mix must be between 0 and 1, not -0.1"),
        ("disjoint", {"contention": 0.1}, "disjoint: contention must be 0, not 0.1: its transactions share nothing"),
    ],
    ids=["workload", "size", "cells", "transactions", "contention", "nan", "read_mix", "disjoint"],
)
def test_parameters_out_of_range(name: str, parameters: dict[str, float], message: str) -> None:
    """At the call, not when the first record is asked for."""
    with pytest.raises(ParameterError, match=message):
        generate(name, **parameters)  # type: ignore[arg-type]
