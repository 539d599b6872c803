"""Address decoding from the register map."""

from amaranth.hdl import Value
from bloomgate.registers import SLOT_PAGE, Page, Register, Window

__all__ = ["APERTURE_PAGE", "PAGE_WORD_BITS", "QUEUE_PAGE", "selects"]

#: Width of a word offset within a page, in bits.
PAGE_WORD_BITS = 10

_QUEUE_NAMES = ("COMPLETION_HEAD", "SUBMISSION_TAIL", "SUBMISSION_HEAD", "QUEUE_STATUS")
#: The registers of a slot page that belong to its queue pair, and all others.
QUEUE_PAGE = Page("SLOT", *(item for item in SLOT_PAGE if item.name in _QUEUE_NAMES))
APERTURE_PAGE = Page("SLOT", *(item for item in SLOT_PAGE if item.name not in _QUEUE_NAMES))


def selects(item: Register | Window, word: Value) -> Value:
    """1 bit: the word offset ``word`` within a page lies in ``item``."""
    if isinstance(item, Register):
        return word == item.word
    words = item.size // 4
    if words & (words - 1) == 0 and item.word % words == 0:
        return word[words.bit_length() - 1 :] == item.word // words
    return (word >= item.word) & (word < item.word + words)
