"""Bitstream files of Zynq-7000 parts: what is in one, whether it is whole, and the form that Linux and U-Boot load.

Two containers hold the same configuration words. ``.bit`` has a header (design, part, date, time) and the words most
significant byte first; ``.bit.bin`` has no header and every 32-bit word byte-swapped.

Sources: UG470 chapter 5 (packets and registers), Linux ``drivers/fpga/zynq-fpga.c`` and U-Boot
``drivers/fpga/zynqpl.c`` (what they accept). The header of ``.bit`` and the CRC are not documented by the vendor; the
form of the header is that of the open tools (prjxray), and the CRC's is that by which a bitstream of the vendor's tools
in prjxray's tests (``configuration_test.bit``) has the right values in both places.
"""

from __future__ import annotations

import dataclasses
import sys
from array import array
from collections.abc import Iterator
from typing import Optional

from bloomgate.errors import BloomgateError

__all__ = [
    "FRAME_WORDS",
    "PARTS",
    "BitHeader",
    "BitstreamError",
    "BitstreamInfo",
    "bit_bin_from_bit",
    "bit_file",
    "read_bitstream",
    "split_bit",
    "with_crc",
]

#: Words in a configuration frame (UG470, "Configuration Memory Frames").
FRAME_WORDS = 101

#: Parts by IDCODE without the revision in its top nibble (UG585 table 6-1).
PARTS = {0x3722093: "xc7z010", 0x3727093: "xc7z020"}

#: Frames and bytes of a bitstream of the whole part (UG470 table 1-1; 583 words of it are commands and padding).
_WHOLE = {"xc7z010": (5152, 2_083_740), "xc7z020": (10008, 4_045_564)}

_SYNC = 0xAA995566
#: What U-Boot wants at the very beginning.
_PREAMBLE = [0xFFFFFFFF] * 8 + [0x000000BB, 0x11220044, 0xFFFFFFFF, 0xFFFFFFFF, _SYNC]
_MAGIC = bytes.fromhex("00090ff00ff00ff00ff0000001")

# Configuration registers (UG470 table 5-23).
_CRC, _FDRI, _CMD, _IDCODE = 0, 2, 4, 12
# Commands in CMD (UG470 table 5-25).
_RCRC, _DESYNC = 7, 13
#: The packet of type 1 that writes one word to CRC.
_WRITE_CRC = 0x30000001


class BitstreamError(BloomgateError):
    """A file is no bitstream, or is damaged or cut short."""


@dataclasses.dataclass(frozen=True)
class BitHeader:
    """The texts at the beginning of a ``.bit`` file."""

    design: str
    part: str
    date: str
    time: str


@dataclasses.dataclass(frozen=True)
class BitstreamInfo:
    """What a whole, well-formed bitstream says about itself."""

    #: "bit" or "bit.bin".
    container: str
    #: None for ``.bit.bin``.
    header: Optional[BitHeader]
    #: Length of the configuration data in bytes, without header.
    data_bytes: int
    #: Byte offset of the sync word in the configuration data.
    sync_offset: int
    #: With the revision, as the bitstream has it; the device compares it with its own.
    idcode: int
    #: From the IDCODE.
    part: str
    #: Frames written, with those that only flush the last frame of a row.
    frames: int
    #: "none" when the bitstream never asks the device to compare, else "correct": another value is an error.
    crc: str


def split_bit(data: bytes) -> tuple[BitHeader, bytes]:
    """Header and configuration data of a ``.bit`` file. Raises BitstreamError if it is none or cut short."""
    if not data.startswith(_MAGIC):
        raise BitstreamError("this is no .bit file: it does not begin with the header of one")
    at = len(_MAGIC)
    texts = []
    for key in "abcd":
        if at + 3 > len(data) or data[at : at + 1] != key.encode():
            raise BitstreamError(f"the header of the .bit file is damaged: no field {key!r} at byte {at}")
        length = int.from_bytes(data[at + 1 : at + 3], "big")
        field = data[at + 3 : at + 3 + length]
        if len(field) != length or not field.endswith(b"\0"):
            raise BitstreamError(f"the header of the .bit file is damaged: field {key!r} at byte {at} does not end")
        texts.append(field[:-1].decode("latin-1"))
        at += 3 + length
    if data[at : at + 1] != b"e" or at + 5 > len(data):
        raise BitstreamError(f"the header of the .bit file is damaged: no field 'e' at byte {at}")
    length = int.from_bytes(data[at + 1 : at + 5], "big")
    payload = data[at + 5 :]
    if len(payload) < length:
        raise BitstreamError(f"the .bit file is cut short: {len(payload)} of {length} bytes of configuration data")
    if len(payload) > length:
        raise BitstreamError(f"the .bit file has {len(payload) - length} bytes after its configuration data")
    return BitHeader(*texts), payload


def bit_file(header: BitHeader, payload: bytes) -> bytes:
    """A ``.bit`` file; the inverse of :func:`split_bit`."""
    parts = [_MAGIC]
    for key, text in zip("abcd", dataclasses.astuple(header)):
        field = text.encode("latin-1") + b"\0"
        parts.append(key.encode() + len(field).to_bytes(2, "big") + field)
    parts.append(b"e" + len(payload).to_bytes(4, "big") + payload)
    return b"".join(parts)


def bit_bin_from_bit(data: bytes) -> bytes:
    """The ``.bit.bin`` for Linux and U-Boot. Raises BitstreamError for a ``.bit`` file that they would not take."""
    _, payload = split_bit(data)
    _require_words(payload)
    words = array("I", payload)
    words.byteswap()
    swapped = words.tobytes()
    info = read_bitstream(swapped)
    if info.container != "bit.bin":
        raise BitstreamError("the swapped words do not read as .bit.bin")
    return swapped


def with_crc(payload: bytes) -> bytes:
    """Configuration data of a ``.bit`` file that has the device compare the CRC behind the frames, and at the end.

    There the vendor's tools write the CRC, and those of prjxray reset it, in as many words: so these become those.
    With another value the device stops and does not start up. Raises BitstreamError for data without such a place.
    """
    _require_words(payload)
    words = _words(payload, swapped=False)
    if _SYNC not in words:
        raise BitstreamError("there is no sync word in the configuration data")
    crc, frames, places = 0, False, 0
    for register, first, count in list(_packets(words, words.index(_SYNC) + 1)):
        frames = frames or (register == _FDRI and count > 0)
        if frames and register == _CMD and list(words[first : first + count]) == [_RCRC]:
            words[first - 1 : first + 1] = array("I", [_WRITE_CRC, crc])
            register = _CRC
            places += 1
        for word in words[first : first + count]:
            crc = _extend_crc(crc, register, word)
    if places == 0:
        raise BitstreamError("the configuration data resets no CRC behind its frames, so there is no room for one")
    if sys.byteorder == "little":
        words.byteswap()
    return words.tobytes()


def read_bitstream(data: bytes) -> BitstreamInfo:
    """What a ``.bit`` or ``.bit.bin`` file holds. Raises BitstreamError, with the reason, unless it is a whole one."""
    if not data:
        raise BitstreamError("the file is empty")
    header: Optional[BitHeader] = None
    if data.startswith(_MAGIC):
        container = "bit"
        header, payload = split_bit(data)
    else:
        container, payload = "bit.bin", data
    _require_words(payload)
    swapped = _swapped(payload)
    if swapped is None:
        raise BitstreamError("there is no sync word on a 4-byte boundary: this is no bitstream, or a damaged one")
    if swapped != (container == "bit.bin"):
        order = "are byte-swapped in a .bit file" if swapped else "are not byte-swapped; use a .bit.bin file"
        raise BitstreamError(f"the words {order}")
    words = _words(payload, swapped)
    sync = words.index(_SYNC)
    # Linux only looks for the sync word; U-Boot compares all of this, and so does this project.
    if list(words[: len(_PREAMBLE)]) != _PREAMBLE:
        raise BitstreamError(
            "the data does not begin with 8 dummy words, bus width detection and sync word, as U-Boot wants"
        )
    idcode, frames, crc = _walk(words, sync + 1)
    part = PARTS.get(idcode & 0x0FFFFFFF)
    if part is None:
        known = ", ".join(f"{code:#09x} {name}" for code, name in PARTS.items())
        raise BitstreamError(f"the bitstream is for another part: IDCODE {idcode:#010x} is none of {known}")
    whole_frames, whole_bytes = _WHOLE[part]
    # What is behind the last command moves the start-up on, and all tools write as much of it.
    if frames == whole_frames and len(payload) < whole_bytes:
        raise BitstreamError(f"the data is cut short: {whole_bytes - len(payload)} bytes are missing at its end")
    if header is not None and not header.part.removeprefix("xc").startswith(part.removeprefix("xc")):
        raise BitstreamError(f"the header says {header.part}, the IDCODE {idcode:#010x} says {part}")
    return BitstreamInfo(
        container=container,
        header=header,
        data_bytes=len(payload),
        sync_offset=4 * sync,
        idcode=idcode,
        part=part,
        frames=frames,
        crc=crc,
    )


def _swapped(payload: bytes) -> Optional[bool]:
    """Whether the words are byte-swapped, by the first sync word on a 4-byte boundary; None without one."""
    for pattern, swapped in ((_SYNC.to_bytes(4, "big"), False), (_SYNC.to_bytes(4, "little"), True)):
        at = payload.find(pattern, 0, 4096)
        while at > 0 and at % 4:
            at = payload.find(pattern, at + 1, 4096)
        if at >= 0:
            return swapped
    return None


def _require_words(payload: bytes) -> None:
    if len(payload) % 4:
        raise BitstreamError(f"the configuration data must be whole 32-bit words, not {len(payload)} bytes")


def _words(payload: bytes, swapped: bool) -> array[int]:
    """The 32-bit words of configuration data."""
    words = array("I", payload)
    if (sys.byteorder == "little") != swapped:
        words.byteswap()
    return words


def _packets(words: array[int], at: int) -> Iterator[tuple[int, int, int]]:
    """Register, first word and number of words of every write, up to the DESYNC command."""
    register = None
    while at < len(words):
        header = words[at]
        kind, operation = header >> 29, header >> 27 & 3
        at += 1
        if kind == 1:
            register, count = header >> 13 & 0x1F, header & 0x7FF
        elif kind == 2:
            if register is None:
                raise BitstreamError(f"a packet of type 2 at word {at - 1} follows none of type 1")
            count = header & 0x7FFFFFF
        else:
            raise BitstreamError(f"there is no packet at word {at - 1} but {header:#010x}: the file is damaged")
        if at + count > len(words):
            raise BitstreamError(
                f"the data is cut short: a packet at word {at - 1} has {count} words, {len(words) - at} follow"
            )
        if operation == 2:
            yield register, at, count
            if register == _CMD and count and words[at] == _DESYNC:
                return
        elif operation or count:
            raise BitstreamError(f"there is no write but {header:#010x} at word {at - 1}: the file is damaged")
        at += count
    raise BitstreamError("the data is cut short: it ends before the DESYNC command")


def _walk(words: array[int], at: int) -> tuple[int, int, str]:
    """IDCODE, frames written, and what there is to be said of the CRC."""
    idcode: Optional[int] = None
    frame_words = 0
    writes = []
    compared = False
    for register, first, count in _packets(words, at):
        writes.append((register, first, count))
        if register == _IDCODE and count == 1:
            if idcode is not None and idcode != words[first]:
                raise BitstreamError(f"the bitstream names two parts: IDCODE {idcode:#010x} and {words[first]:#010x}")
            idcode = words[first]
        elif register == _FDRI:
            if idcode is None:
                raise BitstreamError("the bitstream writes frames before it names its part")
            frame_words += count
        elif register == _CRC and count == 1:
            compared = True
    if idcode is None:
        raise BitstreamError("the bitstream names no part: there is no IDCODE in it")
    if not frame_words or frame_words % FRAME_WORDS:
        raise BitstreamError(f"{frame_words} words of frame data must be a multiple of {FRAME_WORDS}, and some")
    if not compared:
        return idcode, frame_words // FRAME_WORDS, "none"

    crc = 0
    for register, first, count in writes:
        for word in words[first : first + count]:
            if register == _CRC and word != crc:
                raise BitstreamError(f"the data is damaged: its CRC is {crc:#010x}, the bitstream has {word:#010x}")
            crc = _extend_crc(crc, register, word)
    return idcode, frame_words // FRAME_WORDS, "correct"


def _table(bits: int) -> list[int]:
    """What ``bits`` bits at the end of the register do to a reflected CRC-32C."""
    table = []
    for value in range(1 << bits):
        for _ in range(bits):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_BYTE, _ADDRESS = _table(8), _table(5)


def _extend_crc(crc: int, register: int, word: int) -> int:
    """CRC-32C over 37 bits, least significant first: the word, then the register's address. RCRC begins it anew."""
    if register == _CMD and word == _RCRC:
        return 0
    crc ^= word
    crc = _BYTE[crc & 0xFF] ^ crc >> 8
    crc = _BYTE[crc & 0xFF] ^ crc >> 8
    crc = _BYTE[crc & 0xFF] ^ crc >> 8
    crc = _BYTE[crc & 0xFF] ^ crc >> 8
    crc ^= register
    return _ADDRESS[crc & 0x1F] ^ crc >> 5
