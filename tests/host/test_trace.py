"""The trace format: round trips, and damaged files that must never be taken for a trace by accident."""

import lzma
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from bloomgate.errors import TraceError
from bloomgate.trace import (
    MAX_RECORD_WORDS,
    MAX_WORD,
    Record,
    Summary,
    TraceReader,
    TraceWriter,
    summarise,
    write_trace,
)
from hypothesis import given, settings
from hypothesis import strategies as st

words = st.one_of(st.integers(0, 50), st.integers(0, MAX_WORD))
sets = st.lists(words, max_size=12, unique=True).map(tuple)
records = st.builds(Record, sets, sets)
traces = st.lists(records, min_size=1, max_size=20)

SMALL = [Record((1, 2, 3), (3,)), Record((), ()), Record((MAX_WORD,), (0, 7))]


def encode(trace: list[Record]) -> bytes:
    """The format, written down a second time."""
    return b"".join(struct.pack(f"<II{len(r)}Q{len(w)}Q", len(r), len(w), *r, *w) for r, w in trace)


def read(path: Path) -> list[Record]:
    with TraceReader(path) as reader:
        return list(reader)


def error(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(TraceError) as caught:
        read(path)
    return str(caught.value)


@given(trace=traces, compressed=st.booleans())
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, trace: list[Record], compressed: bool
) -> None:
    path = tmp_path_factory.mktemp("trace") / ("t.trace.xz" if compressed else "t.trace")
    assert write_trace(path, trace) == len(trace)
    data = path.read_bytes()
    assert (lzma.decompress(data) if compressed else data) == encode(trace)
    assert read(path) == trace
    assert [entry.name for entry in path.parent.iterdir()] == [path.name], "a temporary file was left behind"


def test_compression_is_recognised_by_content(tmp_path: Path) -> None:
    (tmp_path / "plain.xz").write_bytes(encode(SMALL))
    (tmp_path / "packed").write_bytes(lzma.compress(encode(SMALL)))
    assert read(tmp_path / "plain.xz") == read(tmp_path / "packed") == SMALL


def test_streams_one_after_the_other_with_padding(tmp_path: Path) -> None:
    path = tmp_path / "t"
    half = lzma.compress(encode(SMALL))
    path.write_bytes(half + b"\0" * 4 + half + b"\0" * 200_000 + half + b"\0" * 200_000)
    assert read(path) == SMALL * 3


def test_a_record_larger_than_the_buffers(tmp_path: Path) -> None:
    big = Record(tuple(range(100_000)), tuple(range(5)))
    for name in ("t", "t.xz"):
        write_trace(tmp_path / name, [SMALL[0], big, SMALL[2]])
        assert read(tmp_path / name) == [SMALL[0], big, SMALL[2]]


def test_reading_is_streaming(tmp_path: Path) -> None:
    """The first record is there although a later one is damaged, and progress is known."""
    path = tmp_path / "t"
    path.write_bytes(encode(SMALL * 10_000) + b"\1")
    with TraceReader(path) as reader:
        assert next(reader) == SMALL[0]
        assert 0 < reader.fraction < 0.5
        with pytest.raises(TraceError, match=r"record 30001 at byte 800000 is truncated: 1 of the 8 bytes"):
            list(reader)
        assert (reader.records, reader.fraction) == (30_000, 1.0)


def test_empty_files(tmp_path: Path) -> None:
    assert "is empty" in error(tmp_path / "t", b"")
    assert "is empty" in error(tmp_path / "t", lzma.compress(b""))
    with pytest.raises(TraceError, match="at least one record"):
        write_trace(tmp_path / "new", [])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("cut", range(1, len(encode(SMALL))))
def test_every_cut_of_a_plain_trace(tmp_path: Path, cut: int) -> None:
    ends = [len(encode(SMALL[:n])) for n in range(len(SMALL) + 1)]
    path = tmp_path / "t"
    if cut in ends:  # cannot be noticed, as the format says
        path.write_bytes(encode(SMALL)[:cut])
        assert read(path) == SMALL[: ends.index(cut)]
        return
    message = error(path, encode(SMALL)[:cut])
    whole = max(n for n, end in enumerate(ends) if end < cut)
    assert f"record {whole + 1} at byte {ends[whole]} is truncated" in message
    assert str(path) in message


def test_every_cut_of_a_compressed_trace(tmp_path: Path) -> None:
    packed = lzma.compress(encode(SMALL))
    for cut in range(1, len(packed)):
        assert "truncated" in error(tmp_path / "t", packed[:cut]) or cut < 6


def test_no_flipped_bit_of_a_compressed_trace_changes_a_record(tmp_path: Path) -> None:
    """xz has checksums over everything but a few padding bits of its coder, which carry no data."""
    packed = lzma.compress(encode(SMALL))
    path = tmp_path / "t"
    noticed = 0
    for position in range(len(packed)):
        for bit in range(8):
            damaged = bytearray(packed)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                assert read(path) == SMALL
            except TraceError:
                noticed += 1
    assert noticed > 8 * len(packed) - 16


def test_garbage_after_the_stream_is_noticed(tmp_path: Path) -> None:
    assert "damaged" in error(tmp_path / "t", lzma.compress(encode(SMALL)) + b"garbage, longer than a header")


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t"
    first = encode(SMALL[:1])
    at = f"record 2 at byte {len(first)}"
    many = 0xFFFF_FFFF
    assert f"{at} has absurd counts, {many} reads and 1 writes" in error(path, first + struct.pack("<II", many, 1))
    assert f"{at} has absurd counts" in error(path, first + struct.pack("<II", MAX_RECORD_WORDS, 1))
    assert f"{at} is truncated: 0 of the {8 * MAX_RECORD_WORDS} bytes" in error(
        path, first + struct.pack("<II", MAX_RECORD_WORDS, 0)
    )
    assert f"{at} is corrupt: a write word must be from 0 to" in error(
        path, first + struct.pack("<IIQ", 0, 1, MAX_WORD + 1)
    )
    assert f"{at} is corrupt: a read word is repeated" in error(path, first + struct.pack("<IIQQ", 2, 0, 5, 5))
    assert "absurd" in error(path, b"\x1f\x8b\x08\x00" + b"\xff" * 60), "a gzip file"
    assert "absurd" in error(path, b"# not a trace at all\n"), "a text file"


@settings(max_examples=300)
@given(data=st.binary(max_size=200), trace=traces, compressed=st.booleans(), seed=st.integers(0, 2**32))
def test_no_file_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, trace: list[Record], compressed: bool, seed: int
) -> None:
    """Random bytes, and traces with random damage: valid records, then an end or a TraceError."""
    rng = random.Random(seed)
    path = tmp_path_factory.mktemp("fuzz") / "t"
    good = encode(trace)
    if compressed:
        good = lzma.compress(good)
    damaged = bytearray(good)
    for _ in range(rng.randrange(4)):
        position = rng.randrange(len(damaged))
        damaged[position : position + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
        if not damaged:
            break
    for content in (data, bytes(damaged), good[: rng.randrange(len(good))] + data):
        path.write_bytes(content)
        found = []
        try:
            with TraceReader(path) as reader:
                for record in reader:
                    found.append(record)
        except TraceError:
            pass
        else:
            assert found, "an empty trace was accepted"
        for reads, writes in found:
            assert all(0 <= word <= MAX_WORD for word in reads + writes)
            assert len(set(reads)) == len(reads)
            assert len(set(writes)) == len(writes)
        if found and not content.startswith(b"\xfd7zXZ"):
            assert content.startswith(encode(found)), "records that are not in the file"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (Record((-1,), ()), "a read word must be from 0 to"),
        (Record((), (MAX_WORD + 1,)), "a write word must be from 0 to"),
        (Record((4, 4), ()), "a read word is repeated"),
        (Record(tuple(range(MAX_RECORD_WORDS)), (1,)), "at most"),
    ],
    ids=["negative", "large", "repeated", "long"],
)
def test_the_writer_refuses_what_the_reader_would(tmp_path: Path, record: Record, message: str) -> None:
    path = tmp_path / "t"
    path.write_bytes(b"the old file")
    with pytest.raises(TraceError, match=f"record 2 cannot be written: .*{message}"):
        write_trace(path, [SMALL[0], record])
    assert path.read_bytes() == b"the old file", "a failed write must leave the old file alone"
    assert list(tmp_path.iterdir()) == [path]


def test_the_writer_leaves_nothing_when_the_source_fails(tmp_path: Path) -> None:
    def source() -> Iterator[Record]:
        yield SMALL[0]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_trace(tmp_path / "t", source())
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        TraceReader(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        TraceReader(tmp_path)
    with pytest.raises(IsADirectoryError):
        TraceWriter(tmp_path)
    with pytest.raises(FileNotFoundError):
        TraceWriter(tmp_path / "none" / "t")


def test_summary() -> None:
    """Nearest-rank percentile: of 200 values, the 198th."""
    trace = [Record(tuple(range(n)), tuple(range(100, 100 + n // 2))) for n in range(1, 201)]
    assert summarise(trace) == Summary(
        transactions=200,
        reads_mean=100.5,
        reads_p99=198,
        writes_mean=50.0,
        writes_p99=99,
        largest=300,
        words=20_100 + 10_000,
        distinct=200,
    )
    assert summarise([Record((1,), ())]).reads_p99 == 1
    with pytest.raises(TraceError):
        summarise([])


#: The table of ../shared/traces/README.md, the transactions counted.
SHARED = {
    "bayes": (479, 5.6, 30, 1.9, 12),
    "genome": (5912, 7.9, 47, 1.6, 5),
    "intruder": (11260, 10.4, 45, 3.0, 20),
    "kmeans-lo": (10924, 7, 9, 7, 9),
    "labyrinth": (194, 11, 47, 9, 47),
    "ssca2": (20000, 1, 1, 2, 2),
    "vacation-lo": (4096, 76.7, 104, 4.7, 7),
}


@pytest.mark.shared
@pytest.mark.parametrize("name", sorted(SHARED))
def test_shared_traces_are_as_their_readme_says(shared_dir: Path, name: str) -> None:
    transactions, *expected = SHARED[name]
    with TraceReader(shared_dir / "traces" / f"{name}.trace.xz") as reader:
        found = summarise(reader)
    assert found.transactions == transactions
    figures = [found.reads_mean, found.reads_p99, found.writes_mean, found.writes_p99]
    assert figures == pytest.approx(expected, abs=0.6)
