"""The frames of the serial: device: the Python side alone, and the C side of the monitor against it."""

from __future__ import annotations

import random
import shutil
import subprocess
import zlib
from pathlib import Path

import pytest
from bloomgate.serial_protocol import FRAME_BYTES, MAX_PAYLOAD_WORDS, Decoder, Frame, encode
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]

words = st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 0x0100_0000, 0xFFFF_FFFF, 0x01FF_00FE])
frames = st.builds(
    Frame,
    operation=st.integers(0, 255),
    status=st.integers(0, 255),
    sequence=st.integers(0, 2**16 - 1),
    session=words,
    payload=st.lists(words, max_size=80).map(tuple),
)
#: Text and other bytes that are on the line beside the frames.
garbage = st.binary(max_size=40)


def decode(stream: bytes) -> list[Frame]:
    return list(Decoder().feed(stream))


def test_a_frame_by_hand() -> None:
    """Header, payload, CRC; then COBS, by its rules and not by this code."""
    body = bytes.fromhex("02 00 0100 78563412 0200 0000 1c000000 04000000")
    body += zlib.crc32(body).to_bytes(4, "little")
    groups = (part for part in body.split(b"\0"))
    stuffed = b"".join(bytes([len(part) + 1]) + part for part in groups)
    assert encode(Frame(2, 0, 1, 0x12345678, (0x1C, 4))) == b"\0" + stuffed + b"\0"
    assert stuffed[:4] == bytes([2, 2, 2, 1]), "operation, status 0, sequence 1 and its high byte 0"


def test_the_longest_frame() -> None:
    frame = Frame(255, 255, 65535, 2**32 - 1, (2**32 - 1,) * MAX_PAYLOAD_WORDS)
    stream = encode(frame)
    assert len(stream) <= FRAME_BYTES + 2
    assert decode(stream) == [frame]
    assert decode(b"\0" + b"x" * 5000 + stream) == [frame], "behind too much garbage"


@given(st.lists(st.tuples(garbage, frames), max_size=5), garbage, st.data())
def test_frames_are_found_in_anything(stretches, end, data) -> None:
    stream = b"".join(before + encode(frame) for before, frame in stretches) + end
    decoder = Decoder()
    found: list[Frame] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += decoder.feed(stream[:size])
        stream = stream[size:]
    assert found == [frame for _, frame in stretches]


@given(frames, st.data())
def test_a_damaged_frame_is_no_frame(frame: Frame, data) -> None:
    stream = bytearray(encode(frame))
    # Not the zeros around it: two in a row are one.
    place = data.draw(st.integers(1, len(stream) - 2))
    kind = data.draw(st.sampled_from(["bit", "lost", "twice"]))
    if kind == "bit":
        stream[place] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "lost":
        del stream[place]
    else:
        stream.insert(place, data.draw(st.integers(1, 255)))
    decoder = Decoder()
    assert list(decoder.feed(bytes(stream))) in ([], [frame])
    assert decoder.dropped or bytes(stream) == encode(frame) or kind == "twice"


def test_reset_forgets_the_beginning_of_a_frame() -> None:
    decoder = Decoder()
    stream = encode(Frame(1, 0, 0, 7))
    assert list(decoder.feed(stream[:9])) == []
    decoder.reset()
    assert list(decoder.feed(stream[9:])) == []
    assert list(decoder.feed(stream)) == [Frame(1, 0, 0, 7)]


# -- the monitor's side --------------------------------------------------------------------

ECHO = """
#include <stdio.h>
#include "frame.h"

static void put(uint8_t byte) { putchar(byte); }

/* As main.c does it: a byte that belongs to no frame is text, and every frame that comes is sent back. */
int main(void)
{
    static struct frame_receiver receiver;
    static struct frame copy;
    int byte;

    while ((byte = getchar()) != EOF) {
        if (byte && !receiver.receiving)
            continue;
        if (frame_receive(&receiver, (uint8_t)byte)) {
            copy = receiver.frame;
            frame_send(&copy, put);
        }
    }
    return 0;
}
"""


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: apt-get install gcc")
    folder = tmp_path_factory.mktemp("echo")
    (folder / "echo.c").write_text(ECHO)
    monitor = ROOT / "firmware" / "monitor"
    command = [compiler, "-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"]
    command += ["-fno-sanitize-recover=all", f"-I{monitor}", f"-I{ROOT / 'host' / 'bloomgate' / 'include'}"]
    command += [str(folder / "echo.c"), str(monitor / "frame.c"), "-o", str(folder / "echo")]
    subprocess.run(command, check=True, timeout=60)
    return folder / "echo"


def some_frame(source: random.Random) -> Frame:
    size = source.choice((0, 1, 5, 61, 62, 63, 64, 126, source.randrange(MAX_PAYLOAD_WORDS + 1), MAX_PAYLOAD_WORDS))
    fill = source.choice((lambda: 0, lambda: 2**32 - 1, lambda: source.getrandbits(32), lambda: source.randrange(3)))
    return Frame(
        source.randrange(256),
        source.randrange(256),
        source.randrange(2**16),
        source.getrandbits(32),
        tuple(fill() for _ in range(size)),
    )


#: Zeros, too much, and the longest runs of COBS to the end of the buffer and beyond it.
ODDITIES = (b"\0", b"\0\0\0", b"\xff" * 3000, b"\0" + b"\xff" * 3000, b"\0" + b"\xff" * FRAME_BYTES + b"\0")


def test_the_monitor_understands_and_says_the_same(echo: Path, seed: int) -> None:
    """Every whole frame comes back as Python writes it, and nothing else does."""
    source = random.Random(seed)
    stream = b""
    whole: list[Frame] = []
    for _ in range(600):
        kind = source.random()
        frame = some_frame(source)
        sent = bytearray(encode(frame))
        if kind < 0.5:
            whole.append(frame)
        elif kind < 0.6:
            sent[source.randrange(1, len(sent) - 1)] ^= 1 << source.randrange(8)
        elif kind < 0.7:
            del sent[source.randrange(len(sent) - 1) :]  # with its last zero alone it would end at the next frame
        elif kind < 0.8:
            sent = bytearray(source.randbytes(source.randrange(60)))
        elif kind < 0.9:
            sent = bytearray(b"peek 0x43C00000\r\n")
        else:
            sent = bytearray(source.choice(ODDITIES))
        stream += sent
    answer = subprocess.run([echo], input=stream, capture_output=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stderr.decode()
    found = decode(answer.stdout)
    assert answer.stdout == b"".join(encode(frame) for frame in found)
    # What only looked damaged, e.g. a bit of a run's length that did not matter, may be a frame to both.
    assert [frame for frame in found if frame in whole] == whole
    assert set(found) <= set(decode(stream))
