"""Bitstream files made here, word by word from UG470, whole and broken."""

import json
import struct
import subprocess
import sys

import pytest
from bloomgate.bitstream import (
    BitHeader,
    BitstreamError,
    bit_bin_from_bit,
    bit_file,
    read_bitstream,
    split_bit,
    with_crc,
)

HEADER = BitHeader("bloomgate_parallella_7010", "xc7z010clg400-1", "2026/01/02", "03:04:05")
SYNC = 0xAA995566
NOP = 0x20000000
DESYNC = 13
FRAMES = 5
#: Where the first word of frame data is in `stream`.
AT_FRAMES = 25


def type1(register, *data):
    return [0x30000000 | register << 13 | len(data), *data]


def stream(idcode=0x03722093, frames=FRAMES, crc=None, tail=()):
    """The words of a bitstream; ``crc`` is what it tells the device to compare."""
    frame_data = [0x1000 + word for word in range(101 * frames)]
    return [
        *[0xFFFFFFFF] * 8,
        *[0xBB, 0x11220044, 0xFFFFFFFF, 0xFFFFFFFF, SYNC],
        NOP,
        *type1(4, 7),  # CMD RCRC
        NOP,
        *type1(12, idcode),
        *type1(1, 0),  # FAR
        *type1(4, 1),  # CMD WCFG
        *type1(2),  # FDRI, length in the packet that follows
        *[0x50000000 | len(frame_data), *frame_data],
        *(type1(0, crc) if crc is not None else []),
        *type1(4, DESYNC),
        *[NOP] * 4,
        *tail,
    ]


def payload(words, order=">"):
    return struct.pack(f"{order}{len(words)}I", *words)


def bit(words, header=HEADER):
    return bit_file(header, payload(words))


def crc_bit_by_bit(words):
    """The CRC that the device has after the frame data, computed without tables (UG470 and prjxray)."""
    crc, at, register = 0, 13, 0
    while at < len(words):
        header = words[at]
        at += 1
        if header >> 29 == 1:
            register, count = header >> 13 & 0x1F, header & 0x7FF
        else:
            count = header & 0x7FFFFFF
        if header >> 27 & 3 == 2:
            for word in words[at : at + count]:
                if (register, word) == (4, DESYNC):
                    return crc
                value = register << 32 | word
                for _ in range(37):
                    crc = crc >> 1 ^ (0x82F63B78 if (crc ^ value) & 1 else 0)
                    value >>= 1
                if (register, word) == (4, 7):
                    crc = 0
        at += count
    raise AssertionError


def test_a_bit_file_is_described():
    info = read_bitstream(bit(stream()))
    assert info.container == "bit"
    assert info.header == HEADER
    assert info.part == "xc7z010"
    assert info.idcode == 0x03722093
    assert info.frames == FRAMES
    assert info.sync_offset == 48
    assert info.data_bytes == 4 * len(stream())
    assert info.crc == "none"


@pytest.mark.parametrize(
    ("idcode", "part"), [(0x03722093, "xc7z010"), (0x13722093, "xc7z010"), (0x23727093, "xc7z020")]
)
def test_the_revision_does_not_matter(idcode, part):
    info = read_bitstream(payload(stream(idcode), "<"))
    assert (info.part, info.idcode) == (part, idcode)


def test_conversion_swaps_every_word_and_drops_the_header():
    words = stream()
    converted = bit_bin_from_bit(bit(words))
    assert converted == payload(words, "<")
    # What drivers/fpga/zynq-fpga.c looks for.
    assert len(converted) % 4 == 0
    assert converted[48:52] == bytes.fromhex("665599aa")
    info = read_bitstream(converted)
    assert (info.container, info.header, info.frames) == ("bit.bin", None, FRAMES)


def test_header_and_data_come_back():
    assert split_bit(bit(stream())) == (HEADER, payload(stream()))


def test_the_crc_is_compared():
    crc = crc_bit_by_bit(stream())
    assert read_bitstream(bit(stream(crc=crc))).crc == "correct"
    with pytest.raises(BitstreamError, match=f"its CRC is {crc:#010x}, the bitstream has 0x00000001"):
        read_bitstream(bit(stream(crc=1)))


@pytest.mark.parametrize("word", [AT_FRAMES, AT_FRAMES + 101 * FRAMES - 1])
def test_one_flipped_bit_is_found_by_the_crc(word):
    words = stream(crc=crc_bit_by_bit(stream()))
    words[word] ^= 0x100
    with pytest.raises(BitstreamError, match="the data is damaged"):
        read_bitstream(bit(words))


def resetting_stream():
    """As prjxray's tools write it: RCRC behind the frames, and before the end."""
    words = stream()
    end = AT_FRAMES + 101 * FRAMES
    return [*words[:end], *type1(4, 7), NOP, *type1(4, 3), *type1(4, 7), *words[end:]]


def test_the_device_is_told_to_compare_the_crc():
    """In the place of RCRC, so that nothing else changes; a bit that is wrong later is found, wherever it is."""
    before = resetting_stream()
    assert read_bitstream(bit(before)).crc == "none"
    after = list(struct.unpack(f">{len(before)}I", with_crc(payload(before))))
    first, last = AT_FRAMES + 101 * FRAMES, AT_FRAMES + 101 * FRAMES + 5
    assert [at for at, word in enumerate(before) if word != after[at]] == [first, first + 1, last, last + 1]
    # A comparison that was right leaves 0, as a reset does.
    assert after[first : first + 2] == type1(0, crc_bit_by_bit(stream()))
    assert after[last] == type1(0, 0)[0]
    for data in (bit(after), bit_bin_from_bit(bit(after))):
        assert read_bitstream(data).crc == "correct"
    for at in (AT_FRAMES - 3, *range(AT_FRAMES, first), first + 1, first + 4, last + 1):
        for flipped in (1, 1 << 31):
            wrong = [*after[:at], after[at] ^ flipped, *after[at + 1 :]]
            with pytest.raises(BitstreamError):
                read_bitstream(bit(wrong))


def test_there_must_be_a_place_for_the_crc():
    with pytest.raises(BitstreamError, match="there is no room for one"):
        with_crc(payload(stream()))
    with pytest.raises(BitstreamError, match="no sync word"):
        with_crc(payload([NOP] * 20))
    with pytest.raises(BitstreamError, match="whole 32-bit words"):
        with_crc(payload(resetting_stream()) + b"x")
    with pytest.raises(BitstreamError, match="cut short"):
        with_crc(payload(resetting_stream()[:-6]))


@pytest.mark.parametrize("container", ["bit", "bit.bin"])
def test_every_truncation_is_found(container):
    whole = bit(stream(frames=1)) if container == "bit" else payload(stream(frames=1), "<")
    read_bitstream(whole)
    # Without a length, and of some frames only, nothing tells how much padding was behind the last command.
    end = len(whole) - (16 if container == "bit.bin" else 0)
    for length in [*range(0, 200), *range(200, end, 7), end - 1]:
        with pytest.raises(BitstreamError):
            read_bitstream(whole[:length])


@pytest.mark.parametrize(("idcode", "frames", "size"), [(0x3722093, 5152, 2083740), (0x3727093, 10008, 4045564)])
def test_the_padding_of_a_whole_part_is_not_lost(idcode, frames, size):
    words = stream(idcode=idcode, frames=frames)
    words += [NOP] * (size // 4 - len(words))
    assert read_bitstream(payload(words, "<")).frames == frames
    with pytest.raises(BitstreamError, match="the data is cut short: 4 bytes are missing at its end"):
        read_bitstream(payload(words[:-1], "<"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"\x7fELF" + bytes(4096), "no sync word on a 4-byte boundary"),
        (b"\0" + payload(stream(), "<") + b"\0\0\0", "no sync word on a 4-byte boundary"),
        (payload(stream(), "<") + b"\0", "must be whole 32-bit words"),
        (payload(stream(), ">"), r"the words are not byte-swapped; use a \.bit\.bin file"),
        (bit_file(HEADER, payload(stream(), "<")), r"the words are byte-swapped in a \.bit file"),
        (bit(stream())[:-4], "the .bit file is cut short: .* bytes of configuration data"),
        (bit(stream()) + b"x", "has 1 bytes after its configuration data"),
        (bit(stream())[:20], "header of the .bit file is damaged: field 'a' at byte 13 does not end"),
        (payload(stream()[2:], "<"), "8 dummy words, bus width detection and sync word, as U-Boot wants"),
        (payload(stream(idcode=0x0372D093), "<"), "another part: IDCODE 0x0372d093 is none of 0x3722093 xc7z010"),
        (bit(stream(idcode=0x03727093)), "the header says xc7z010clg400-1, the IDCODE 0x03727093 says xc7z020"),
        (payload(stream(frames=0), "<"), "0 words of frame data must be a multiple of 101"),
        (payload(stream()[:-6], "<"), "ends before the DESYNC command"),
        (payload(stream()[: AT_FRAMES + 50], "<"), r"a packet at word 24 has 505 words, 50 follow"),
        (payload(stream()[:13] + type1(4, DESYNC), "<"), "names no part"),
        (payload(stream()[:13] + [0xDEADBEEF], "<"), "no packet at word 13 but 0xdeadbeef"),
        (payload(stream()[:13] + [0x50000001, 0], "<"), "type 2 at word 13 follows none of type 1"),
        (payload(stream()[:13] + type1(2, 0), "<"), "writes frames before it names its part"),
        (payload([*stream()[:19], *type1(12, 0x03727093), *stream()[19:]], "<"), "names two parts"),
    ],
)
def test_broken_files_are_told_apart(data, message):
    with pytest.raises(BitstreamError, match=message):
        read_bitstream(data)


def test_only_a_bit_file_is_converted():
    with pytest.raises(BitstreamError, match=r"this is no \.bit file"):
        bit_bin_from_bit(payload(stream(), "<"))
    with pytest.raises(BitstreamError, match="whole 32-bit words"):
        bit_bin_from_bit(bit_file(HEADER, payload(stream()) + b"\0"))


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "bloomgate", "bitstream", "info", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_command(tmp_path):
    path = tmp_path / "x.bit"
    path.write_bytes(bit(stream()))
    text = command(path)
    assert text.returncode == 0, text.stderr
    for words in ("xc7z010clg400-1", "2026/01/02 03:04:05", "0x03722093", "xc7z010", "byte 48", f"{FRAMES}", "none"):
        assert words in text.stdout
    document = json.loads(command("--json", path).stdout)
    assert document["idcode"] == "0x03722093"
    assert document["header"]["part"] == "xc7z010clg400-1"
    assert document["frames"] == FRAMES


def test_command_on_a_broken_file(tmp_path):
    path = tmp_path / "x.bit"
    path.write_bytes(bit(stream())[:-100])
    result = command(path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"bloomgate: error: {path}: the .bit file is cut short: ")
    missing = command(tmp_path / "none")
    assert missing.returncode == 2
    assert "No such file" in missing.stderr
