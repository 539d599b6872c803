"""The frames between the ``serial:`` device and the bring-up monitor: the one description of both ends.

``bloomgate_serial.h`` is generated from it for the monitor (``firmware/monitor``). All numbers are little endian.

On the wire
-----------
A frame is a zero byte, its body in COBS (consistent overhead byte stuffing, Cheshire and Baker 1999), and a zero byte.
COBS leaves no zero in the body, so that the next zero always ends whatever garbage came before it, and so that frames
and the text of the monitor's console, which has no zero bytes, share one line.

The body is a header of 12 bytes, a payload of whole words, and the CRC-32 (IEEE 802.3, as in ``zlib.crc32``) of both:

====== ===== =============================================================
offset bytes
====== ===== =============================================================
0      1     an :class:`Operation`, in replies with ``REPLY`` added
1      1     a :class:`Status`; 0 in requests
2      2     sequence number of the request
4      4     session
8      2     words of payload
10     2     0
====== ===== =============================================================

What is not whole, or has another CRC, is dropped in silence; whoever waits for it asks again.

Once and only once
------------------
The host has one request outstanding. It chooses a session number at random, says it in ``HELLO``, and numbers its
requests from 1, modulo 2**16. The monitor keeps its reply to the newest request. A request with the newest number is
that request sent again: the monitor sends the kept reply again and executes nothing. An older number is refused with
``STALE``, another session with ``NO_SESSION``. So a write is executed once however often it is sent, and a monitor that
was restarted, which has no session, cannot be taken for the one that was asked.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from enum import IntEnum
from struct import Struct, pack, unpack
from typing import NamedTuple

__all__ = [
    "BAUD",
    "FRAME_BYTES",
    "HEADER_BYTES",
    "MAX_BURST_WORDS",
    "MAX_PAYLOAD_WORDS",
    "MAX_POLLS",
    "PROTOCOL_VERSION",
    "REPLY",
    "SEQUENCES",
    "WINDOW_BYTES",
    "Decoder",
    "Frame",
    "Operation",
    "PlState",
    "Status",
    "encode",
]

#: Both ends must have the same.
PROTOCOL_VERSION = 1
#: Bits per second of the console, 8N1: what the Parallella's U-Boot leaves on UART1.
BAUD = 115200
#: Words that one request reads or writes at most: 90 ms on the wire.
MAX_BURST_WORDS = 256
#: Reads of one POLL at most, each of up to a burst of words: some milliseconds, far from the watchdog's bite.
MAX_POLLS = 256
#: Words of payload at most: a burst and what precedes it.
MAX_PAYLOAD_WORDS = MAX_BURST_WORDS + 8
#: Bytes from the base address of the device that the monitor gives access to: one section of its page table.
WINDOW_BYTES = 1 << 20
#: Added to the operation in replies.
REPLY = 0x80
#: Sequence numbers.
SEQUENCES = 1 << 16

_HEADER = Struct("<BBHIHH")
HEADER_BYTES = _HEADER.size
_CRC_BYTES = 4
_MAX_BODY = HEADER_BYTES + 4 * MAX_PAYLOAD_WORDS + _CRC_BYTES
#: Bytes of the longest frame between its zeros: COBS adds one for every 254 begun.
FRAME_BYTES = _MAX_BODY + _MAX_BODY // 254 + 1


class Operation(IntEnum):
    """What a request asks for. Offsets are bytes from the base address of the device."""

    #: Begin the session of the header. Reply: protocol version, base address of the device, `PlState`, REBOOT_STATUS.
    HELLO = 1
    #: Payload: offset, words. Reply: the words, read at rising addresses.
    READ = 2
    #: Payload: offset, then the words, written at rising addresses. The reply, when all have arrived, is empty.
    WRITE = 3
    #: Payload: offset, words, mask, value, reads. Reply: as for READ, repeated until the first word, masked, is value.
    POLL = 4


class Status(IntEnum):
    """What became of a request."""

    #: Done.
    OK = 0
    #: Nothing was done: an operation, offset or length that is not allowed.
    BAD_REQUEST = 1
    #: Nothing was done: the session of the header is not the monitor's, e.g. because the monitor was restarted.
    NO_SESSION = 2
    #: Nothing was done: the sequence number is older than the newest.
    STALE = 3
    #: Nothing was done: the fabric must not be accessed now. Payload: `PlState`.
    PL_CLOSED = 4
    #: An access was answered SLVERR or DECERR, later ones were not made. Payload: address, DFSR, words done before.
    ABORTED = 5


class PlState(IntEnum):
    """Whether the fabric will answer. An access that nobody answers stalls the processor for ever."""

    #: Configured, connected, clocked and out of reset.
    READY = 0
    #: No bitstream is loaded: PCFG_DONE in DEVCFG INT_STS is 0.
    NOT_CONFIGURED = 1
    #: SLCR LVL_SHFTR_EN does not connect the fabric in both directions.
    LEVEL_SHIFTERS_OFF = 2
    #: SLCR FPGA_RST_CTRL holds the fabric or its AXI ports in reset.
    IN_RESET = 3
    #: SLCR FPGA0_THR_STA says that FCLK0 does not run.
    CLOCK_STOPPED = 4


class Frame(NamedTuple):
    """A request or a reply."""

    #: An :class:`Operation`, with ``REPLY`` added in replies.
    operation: int
    #: A :class:`Status`.
    status: int
    sequence: int
    session: int
    #: Words.
    payload: tuple[int, ...] = ()


def encode(frame: Frame) -> bytes:
    """The bytes on the wire, with both zeros."""
    operation, status, sequence, session, payload = frame
    body = _HEADER.pack(operation, status, sequence, session, len(payload), 0) + pack(f"<{len(payload)}I", *payload)
    return b"\0" + _stuff(body + pack("<I", zlib.crc32(body))) + b"\0"


def _stuff(body: bytes) -> bytes:
    """COBS: each run of up to 254 bytes without a zero, after one byte that says how long it is."""
    out = bytearray()
    for part in body.split(b"\0"):
        while len(part) >= 254:
            out += b"\xff" + part[:254]
            part = part[254:]
        out.append(len(part) + 1)
        out += part
    return bytes(out)


def _unstuff(stuffed: bytes) -> bytes:
    """The inverse; raises ValueError for what COBS does not write."""
    out = bytearray()
    position = 0
    while position < len(stuffed):
        length = stuffed[position]
        end = position + length
        if length == 0 or end > len(stuffed):
            raise ValueError("a run is longer than the frame")
        out += stuffed[position + 1 : end]
        position = end
        # A zero follows every run but the longest kind and the last.
        if length < 0xFF and position < len(stuffed):
            out.append(0)
    return bytes(out)


def _parse(stuffed: bytes) -> Frame:
    """Raises ValueError for what is not a whole frame."""
    body = _unstuff(stuffed)
    if len(body) < HEADER_BYTES + _CRC_BYTES:
        raise ValueError("too short")
    operation, status, sequence, session, words, zero = _HEADER.unpack_from(body)
    if zero or words > MAX_PAYLOAD_WORDS or len(body) != HEADER_BYTES + 4 * words + _CRC_BYTES:
        raise ValueError("another length than its header says")
    (crc,) = unpack("<I", body[-_CRC_BYTES:])
    if crc != zlib.crc32(body[:-_CRC_BYTES]):
        raise ValueError("another CRC")
    return Frame(operation, status, sequence, session, unpack(f"<{words}I", body[HEADER_BYTES:-_CRC_BYTES]))


class Decoder:
    """Finds the frames in a stream of bytes, whatever else is in it."""

    def __init__(self) -> None:
        self._pending = bytearray()
        #: Bytes since the last zero are more than any frame has: not kept, and not a frame.
        self._too_long = False
        #: Pieces between zeros that were not a frame: garbage, damaged frames, and text of the console.
        self.dropped = 0

    def feed(self, data: Sequence[int]) -> Iterator[Frame]:
        """Take the next bytes of the stream; the frames that they complete."""
        pieces = bytes(data).split(b"\0")
        for piece in pieces[:-1]:
            self._keep(piece)
            stuffed, too_long = bytes(self._pending), self._too_long
            self.reset()
            if not stuffed:
                continue
            try:
                if too_long:
                    raise ValueError("too long")
                yield _parse(stuffed)
            except ValueError:
                self.dropped += 1
        self._keep(pieces[-1])

    def reset(self) -> None:
        """Forget the bytes since the last zero."""
        self._pending.clear()
        self._too_long = False

    def _keep(self, piece: bytes) -> None:
        room = FRAME_BYTES - len(self._pending)
        self._pending += piece[:room]
        self._too_long = self._too_long or len(piece) > room
