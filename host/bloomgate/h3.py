"""The H3 hash family (Carter & Wegman, "Universal Classes of Hash Functions", JCSS 1979).

A hash is the XOR of one matrix word for each key bit that is set, so in gateware each row bit is one XOR tree.
Gateware, model and C code all take their matrices from :func:`matrices`; nothing else knows the seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from bloomgate.parameters import Parameters

__all__ = ["H3", "matrices"]

Matrix = tuple[int, ...]


def _rank(words: Sequence[int]) -> int:
    """Rank over GF(2) of the matrix whose rows are ``words``."""
    pivots: list[int] = []
    for word in words:
        for pivot in pivots:
            word = min(word, word ^ pivot)
        if word:
            pivots.append(word)
    return len(pivots)


def _draw(seed: int, table: int, attempt: int, key_bits: int, row_bits: int) -> Matrix:
    words = []
    for bit in range(key_bits):
        text = f"bloomgate H3 seed={seed:#010x} table={table} attempt={attempt} bit={bit}"
        digest = hashlib.sha256(text.encode("ascii")).digest()
        words.append(int.from_bytes(digest[:4], "little") & ((1 << row_bits) - 1))
    return tuple(words)


def matrices(parameters: Parameters) -> tuple[Matrix, ...]:
    """K matrices; word ``[table][bit]`` (row_bits wide) is what key bit ``bit`` contributes to the row number.

    Each word is the low row_bits of the first four bytes, little endian, of the SHA-256 of the text
    ``bloomgate H3 seed=0x%08x table=%d attempt=%d bit=%d``. ``attempt`` counts up from 0 until the matrix has full
    rank, so that every row of a table is hit by equally many keys.
    """
    result = []
    for table in range(parameters.K):
        attempt = 0
        while True:
            matrix = _draw(parameters.hash_seed, table, attempt, parameters.key_bits, parameters.row_bits)
            if _rank(matrix) == parameters.row_bits:
                break
            attempt += 1
        result.append(matrix)
    return tuple(result)


class H3:
    """The K hash functions of one device, for Python models."""

    def __init__(self, parameters: Parameters) -> None:
        self._matrices = matrices(parameters)

    def rows(self, key: int) -> tuple[int, ...]:
        """The row of ``key`` in each of the K tables, straight from the definition."""
        rows = []
        for matrix in self._matrices:
            row = 0
            for bit, word in enumerate(matrix):
                if key >> bit & 1:
                    row ^= word
            rows.append(row)
        return tuple(rows)
