"""Address decoding from the register map."""

from amaranth.hdl import Value
from bloomgate.registers import Register, Window

__all__ = ["PAGE_WORD_BITS", "selects"]

#: Width of a word offset within a page, in bits.
PAGE_WORD_BITS = 10


def selects(item: Register | Window, word: Value) -> Value:
    """1 bit: the word offset ``word`` within a page lies in ``item``."""
    if isinstance(item, Register):
        return word == item.word
    words = item.size // 4
    if words & (words - 1) == 0 and item.word % words == 0:
        return word[words.bit_length() - 1 :] == item.word // words
    return (word >= item.word) & (word < item.word + words)
