"""Parity of words stored in block RAM.

A 36-bit block RAM word holds 32 data bits and one parity bit for each byte of them (UG473, "Parity bits"). The parity
is odd, so that neither an all-zeros nor an all-ones word (RAM never written, or its output stuck) passes as good.
"""

from amaranth.hdl import Cat, Value, ValueCastable

__all__ = ["is_bad", "parity_of", "protected_bits"]

_BYTE_BITS = 8


def protected_bits(data_bits: int) -> int:
    """Width of ``data_bits`` of data with their parity bits."""
    return data_bits + -(-data_bits // _BYTE_BITS)


def parity_of(data: Value) -> Value:
    """One odd parity bit for each byte of ``data``, the last byte may be narrower."""
    data = Value.cast(data)
    return Cat(~data[start : start + _BYTE_BITS].xor() for start in range(0, len(data), _BYTE_BITS))


def is_bad(word: Value | ValueCastable, data_bits: int) -> Value:
    """1 bit: ``word``, which is ``Cat(data, parity_of(data))``, has bad parity."""
    word = Value.cast(word)
    return word[data_bits:] != parity_of(word[:data_bits])
