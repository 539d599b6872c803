"""Parity of words stored in block RAM.

A 36-bit block RAM word holds 32 data bits and one parity bit for each byte of them (UG473, "Parity bits"). The parity
of the first byte is odd, so that an all-zeros word (RAM never written, or its output stuck) is bad. A whole byte of
ones has odd parity too, so the parity of the bytes behind the first is even, and an all-ones word is bad as well; in
general each of these has the parity that its ones would break. Only a single byte of even width is bad for zeros alone.
"""

from amaranth.hdl import Cat, Value, ValueCastable

__all__ = ["is_bad", "parity_of", "protected_bits"]

_BYTE_BITS = 8


def protected_bits(data_bits: int) -> int:
    """Width of ``data_bits`` of data with their parity bits."""
    return data_bits + -(-data_bits // _BYTE_BITS)


def parity_of(data: Value) -> Value:
    """One parity bit for each byte of ``data``, the last byte may be narrower."""
    data = Value.cast(data)
    parity = []
    for start in range(0, len(data), _BYTE_BITS):
        byte = data[start : start + _BYTE_BITS]
        odd = start == 0 or len(byte) % 2 == 1
        parity.append(~byte.xor() if odd else byte.xor())
    return Cat(parity)


def is_bad(word: Value | ValueCastable, data_bits: int) -> Value:
    """1 bit: ``word``, which is ``Cat(data, parity_of(data))``, has bad parity."""
    word = Value.cast(word)
    return word[data_bits:] != parity_of(word[:data_bits])
