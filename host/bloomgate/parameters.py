"""The geometry of one bloomgate device: every width in gateware, drivers and models comes from here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from bloomgate.errors import ParameterError

__all__ = ["EPOCH_BITS", "LANES", "Parameters"]

#: Width of the epoch register, in bits. On the wire a timestamp is (epoch, count), two 32-bit words.
EPOCH_BITS = 32

#: Keys the gateware hashes, queries or inserts per clock cycle: one for each port of the block RAM.
LANES = 2


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


@dataclass(frozen=True)
class Parameters:
    """Geometry of a device. Frozen and validated: an instance that exists is buildable.

    Raises :class:`~bloomgate.errors.ParameterError` with the allowed range when a value is outside it.
    """

    #: Hash tables in the recency filter (``k`` in the Bloom filter literature); 1 to 8.
    K: int = 4
    #: Entries (timestamps) in each table; a power of two, 4 to 65536.
    D: int = 4096
    #: Width of the commit count T within an epoch, in bits; 2 to 32. An epoch holds 2**T - 1 commits.
    timestamp_bits: int = 32
    #: Width of a conflict key, in bits; 4 to 32.
    key_bits: int = 32
    #: Clients, each with a register page of its own; 1 to 32.
    slots: int = 16
    #: Keys one slot can buffer for a programmed-I/O request, all sets together; a power of two, 4 to 4096.
    aperture_depth: int = 512
    #: Entries of each submission and each completion ring; a power of two, 2 to 256.
    queue_entries: int = 16
    #: Requests from queue pairs that are fetched and decided at the same time, over all slots; 2 to 7: each has an
    #: AXI ID of its own, as the fetch of entries has, and S_AXI_ACP has eight.
    request_buffers: int = 2
    #: Keys of the write and commute sets of a queued request that are inserted one by one (more raise the floor), and
    #: of a read set that are validated without a pause, a *chunk*; a power of two, 64 to 4096.
    buffer_depth: int = 512
    #: Seed of the H3 matrices (see :mod:`bloomgate.h3`); 32 bits.
    hash_seed: int = 0xB1006A7E

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ParameterError(f"{field.name} must be an integer, not {value!r}")
        self._require_range("K", 1, 8)
        self._require_range("D", 4, 65536)
        self._require_range("timestamp_bits", 2, 32)
        self._require_range("key_bits", 4, 32)
        self._require_range("slots", 1, 32)
        self._require_range("aperture_depth", 4, 4096)
        self._require_range("queue_entries", 2, 256)
        self._require_range("request_buffers", 2, 7)
        self._require_range("buffer_depth", 64, 4096)
        self._require_range("hash_seed", 0, 2**32 - 1)
        for name in ("D", "aperture_depth", "queue_entries", "buffer_depth"):
            if not _is_power_of_two(getattr(self, name)):
                raise ParameterError(f"{name} must be a power of two, not {getattr(self, name)}")
        if self.row_bits > self.key_bits:
            raise ParameterError(
                f"D must be at most 2**key_bits = {2**self.key_bits}, not {self.D}:"
                " a table cannot have more rows than there are keys"
            )

    def _require_range(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        if not low <= value <= high:
            raise ParameterError(f"{name} must be between {low} and {high}, not {value}")

    @property
    def row_bits(self) -> int:
        """Width of a row number in one table, in bits: log2(D)."""
        return self.D.bit_length() - 1

    @property
    def slot_bits(self) -> int:
        """Width of a slot number, in bits; at least 1."""
        return max(1, (self.slots - 1).bit_length())

    @property
    def max_count(self) -> int:
        """The last count of an epoch, 2**timestamp_bits - 1. Assigning it ends the epoch."""
        return (1 << self.timestamp_bits) - 1

    @property
    def max_key(self) -> int:
        """The largest key, 2**key_bits - 1."""
        return (1 << self.key_bits) - 1

    @property
    def max_timestamp(self) -> int:
        """The largest timestamp the wire can carry: the last count of the last epoch."""
        return (1 << (EPOCH_BITS + self.timestamp_bits)) - 1

    def timestamp(self, epoch: int, count: int) -> int:
        """The host's integer for the wire's (epoch, count)."""
        return (epoch << self.timestamp_bits) + count

    def epoch_and_count(self, timestamp: int) -> tuple[int, int]:
        """The wire's (epoch, count) for the host's integer."""
        return timestamp >> self.timestamp_bits, timestamp & self.max_count
