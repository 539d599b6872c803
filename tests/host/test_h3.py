"""The hash family, against its definition and against its purpose."""

import hashlib
import itertools
import random
from collections import Counter

import pytest
from bloomgate import Parameters
from bloomgate.h3 import H3, matrices

GEOMETRIES = [
    Parameters(),
    Parameters(K=8, D=65536),
    Parameters(K=3, D=16, key_bits=4),
    Parameters(K=2, D=256, key_bits=9, hash_seed=0),
]


def test_known_words() -> None:
    """Fixed for ever: data in memory and gateware that is already built depend on them."""
    first, *_, last = matrices(Parameters())
    assert first[:3] == (0x82F, 0x723, 0x8B6)
    assert last[-1] == 0x179


@pytest.mark.parametrize("parameters", GEOMETRIES, ids=str)
def test_a_matrix_is_what_the_documentation_says(parameters: Parameters) -> None:
    for table, matrix in enumerate(matrices(parameters)):
        assert len(matrix) == parameters.key_bits
        for attempt in itertools.count():
            texts = [
                f"bloomgate H3 seed=0x{parameters.hash_seed:08x} table={table:d} attempt={attempt:d} bit={bit:d}"
                for bit in range(parameters.key_bits)
            ]
            digests = [hashlib.sha256(text.encode()).digest() for text in texts]
            words = tuple((d[0] | d[1] << 8 | d[2] << 16 | d[3] << 24) % parameters.D for d in digests)
            if words == matrix:
                break
            assert attempt < 1000, f"table {table} is not of any attempt"


@pytest.mark.parametrize("parameters", [p for p in GEOMETRIES if p.key_bits <= 9], ids=str)
def test_every_row_has_equally_many_keys(parameters: Parameters) -> None:
    h3 = H3(parameters)
    for table in range(parameters.K):
        hits = Counter(h3.rows(key)[table] for key in range(1 << parameters.key_bits))
        assert set(hits.values()) == {(1 << parameters.key_bits) // parameters.D}
        assert len(hits) == parameters.D


@pytest.mark.parametrize("parameters", GEOMETRIES, ids=str)
def test_linear(parameters: Parameters, seed: int) -> None:
    rng = random.Random(seed)
    h3 = H3(parameters)
    assert h3.rows(0) == (0,) * parameters.K
    for bit in range(parameters.key_bits):
        assert h3.rows(1 << bit) == tuple(matrix[bit] for matrix in matrices(parameters))
    for _ in range(100):
        a, b = (rng.getrandbits(parameters.key_bits) for _ in range(2))
        assert h3.rows(a ^ b) == tuple(x ^ y for x, y in zip(h3.rows(a), h3.rows(b), strict=True))
        assert all(0 <= row < parameters.D for row in h3.rows(a))


def test_tables_and_seeds_differ() -> None:
    drawn = [*matrices(Parameters(K=8)), *matrices(Parameters(K=8, hash_seed=1))]
    assert len(set(drawn)) == 16
    # More tables do not change the first ones.
    assert matrices(Parameters(K=8))[:4] == matrices(Parameters(K=4))


def test_no_two_keys_share_all_their_rows() -> None:
    """At the default geometry the rows of all tables together identify a 32-bit key: elimination finds no kernel."""
    tables = matrices(Parameters())
    columns = [sum(matrix[bit] << 12 * table for table, matrix in enumerate(tables)) for bit in range(32)]
    rank = 0
    while columns:
        pivot = max(columns)
        columns = [column ^ pivot if column ^ pivot < column else column for column in columns]
        columns = [column for column in columns if column]
        rank += 1
    assert rank == 32
