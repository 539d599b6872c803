"""The serial: device: pyserial, the monitor in QEMU and the gateware, on a line on which anything may happen."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import serial
from bloomgate import (
    BloomgateError,
    DeviceTimeout,
    DeviceURLError,
    Reason,
    Verdict,
    VersionMismatch,
    boardtest_flights,
    open_device,
)
from bloomgate.backends.serial import BusError, SerialDevice
from bloomgate.errors import DeviceUnavailable
from bloomgate.parameters import Parameters
from bloomgate.registers import BASE_ADDRESS, CONTROL_PAGE, PAGE_BYTES, SLOT_PAGE, slot_page_offset
from bloomgate.serial_protocol import (
    MAX_BURST_WORDS,
    MAX_POLLS,
    PROTOCOL_VERSION,
    REPLY,
    SEQUENCES,
    WINDOW_BYTES,
    Decoder,
    Frame,
    Operation,
    PlState,
    Status,
    encode,
)
from bloomgate_sim.device import SimulatedBus

from tests.board.monitor_board import MonitorBoard, monitor_board
from tests.board.serial_line import LIMIT, Terminal, as_it_is
from tests.host import test_device_contract as contract

pytestmark = pytest.mark.xdist_group("sim")

#: tests.device_urls.SMALL.
SMALL = Parameters(K=2, D=16, timestamp_bits=4, key_bits=6, aperture_depth=16)
#: Bytes from the base address: a register that keeps what is written.
EPOCH = CONTROL_PAGE.register("INITIAL_EPOCH").offset
#: Seconds that an answer may take here, where the line holds nothing back but the machine may be busy.
SLACK = 0.1
#: For a line on which many requests are lost.
ATTEMPTS = 40


@pytest.fixture(scope="module")
def monitor() -> Iterator[MonitorBoard]:
    """One monitor for all tests, which runs on whatever they do to it."""
    bus = SimulatedBus(SMALL)
    with monitor_board(bus) as board:
        terminal = Terminal(board.line.port)
        terminal.wait_for_prompt()
        terminal.close()
        yield board
        bus.close()


@pytest.fixture
def board(monitor: MonitorBoard, request: pytest.FixtureRequest) -> Iterator[MonitorBoard]:
    """With gateware as after power-up, and a good line. Parametrize it indirectly with another geometry."""
    bus = SimulatedBus(getattr(request, "param", SMALL))
    monitor.zynq.bus, monitor.zynq.answering = bus, True
    yield monitor
    monitor.line.to_board = monitor.line.to_host = as_it_is
    bus.close()


def opened(board: MonitorBoard) -> SerialDevice:
    return SerialDevice(board.line.port, slack=SLACK, attempts=ATTEMPTS)


@pytest.fixture
def device(board: MonitorBoard) -> Iterator[SerialDevice]:
    with opened(board) as device:
        yield device


# -- the contract --------------------------------------------------------------------------


#: One of each way through the driver: every test opens the device anew, on a line of 115200 bits/s.
CASES = (
    contract.test_timestamps_count_from_one,
    contract.test_a_request_without_effects_gets_no_timestamp,
    contract.test_the_first_conflicting_key_in_the_order_of_the_request,
    contract.test_commutes_are_inserted_like_writes,
    contract.test_extreme_keys,
    contract.test_a_snapshot_of_the_future_is_a_bad_request,
    contract.test_reset_ends_the_epoch,
    contract.test_the_floor_refuses_older_snapshots_that_read,
    contract.test_bad_words_hide_no_conflict,
    contract.test_publish_and_wait,
    contract.test_wait_published_helps,
)


@pytest.mark.parametrize("board", [Parameters()], indirect=True, ids=["default"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_contract(case: Callable[..., None], device: SerialDevice) -> None:
    case(device)


@pytest.mark.parametrize("board", [Parameters()], indirect=True, ids=["default"])
def test_the_largest_request(device: SerialDevice) -> None:
    contract.test_the_largest_request(device, "all")


def test_rollover(device: SerialDevice) -> None:
    contract.test_rollover(device)


def test_transactions_in_flight(device: SerialDevice) -> None:
    boardtest_flights.doom(device)
    boardtest_flights.token(device)


def test_by_url(board: MonitorBoard) -> None:
    with open_device(f"serial:{board.line.port}?baud=115200&initial_epoch=7") as device:
        info = device.info()
        assert (info.backend, info.parameters) == ("serial", SMALL)
        assert info.description == f"the gateware in the FPGA, through the bring-up monitor on {board.line.port}"
        assert device.last_timestamp() == SMALL.timestamp(7, 0)
    with pytest.raises(VersionMismatch, match="the gateware was built as"):
        open_device(f"serial:{board.line.port}?K=4")


def test_threads(device: SerialDevice) -> None:
    """One bus access at a time, several requests in flight."""
    verdicts: list[Verdict] = []

    def client(key: int) -> None:
        verdicts.extend(device.commit(snapshot=0, commutes=[key]) for _ in range(4))

    threads = [threading.Thread(target=client, args=(key,)) for key in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert sorted(verdict.timestamp for verdict in verdicts) == list(range(1, 13))


@pytest.mark.parametrize("board", [Parameters()], indirect=True, ids=["default"])
def test_long_bursts(device: SerialDevice, board: MonitorBoard) -> None:
    """More words than a frame has, at rising addresses, each once."""
    reads, writes = SLOT_PAGE.window("READ_APERTURE"), SLOT_PAGE.window("WRITE_APERTURE")
    assert reads.offset + reads.size == writes.offset
    assert reads.size == 4 * MAX_BURST_WORDS
    page = slot_page_offset(0)
    before = board.zynq.accesses
    device.bus.write(page + reads.offset, range(MAX_BURST_WORDS + 9))
    assert board.zynq.accesses - before == MAX_BURST_WORDS + 9
    read, written = SLOT_PAGE.register("READ_COUNT"), SLOT_PAGE.register("WRITE_COUNT")
    assert written.offset == read.offset + 4
    assert device.bus.read(page + read.offset, 2) == [MAX_BURST_WORDS, 9]
    device.bus.write(page + SLOT_PAGE.register("DISCARD").offset, [0])
    # What can only be written reads as 0.
    before = board.zynq.accesses
    assert device.bus.read(page + reads.offset, MAX_BURST_WORDS + 9) == [0] * (MAX_BURST_WORDS + 9)
    assert board.zynq.accesses - before == MAX_BURST_WORDS + 9


# -- a bad line ----------------------------------------------------------------------------


class Damage:
    """Loses, turns over, adds and cuts bytes, with a probability for each byte."""

    def __init__(self, seed: int, probability: float) -> None:
        self._random = random.Random(seed)
        self._probability = probability
        self.count = 0

    def __call__(self, data: bytes) -> bytes:
        out = bytearray()
        for place, byte in enumerate(data):
            if self._random.random() >= self._probability:
                out.append(byte)
                continue
            self.count += 1
            kind = self._random.randrange(6)
            if kind == 0:
                out.append(byte ^ 1 << self._random.randrange(8))
            elif kind == 1:
                out += bytes([byte]) + self._random.randbytes(self._random.randrange(40))
            elif kind == 2:
                out += b"\0" + bytes([byte])
            elif kind == 3:
                # What the console would do, if it took it for typed.
                out += bytes([byte]) + b"\rpoke %#x 0xBAD\r" % (BASE_ADDRESS + EPOCH)
            elif kind == 4:
                break  # cut: the rest of what is under way is lost
            assert place >= 0  # kind 5: this byte is lost
        return bytes(out)


def test_noise(board: MonitorBoard, seed: int) -> None:
    """Whatever the line does, each request is decided exactly once, as on a good line."""
    with opened(board) as device, open_device("model:?K=2&D=16&timestamp_bits=4&key_bits=6&aperture_depth=16") as model:
        damages = board.line.to_board, board.line.to_host = Damage(seed, 0.004), Damage(~seed, 0.004)
        source = random.Random(seed)
        for _ in range(25):
            sets = [[source.randrange(12) for _ in range(source.randrange(4))] for _ in range(3)]
            request = dict(zip(("reads", "writes", "commutes"), sets, strict=True))
            snapshot = max(0, model.last_timestamp() - source.randrange(3))
            assert device.commit(snapshot=snapshot, **request) == model.commit(snapshot=snapshot, **request)
        board.line.to_board = board.line.to_host = as_it_is
        assert device.last_timestamp() == model.last_timestamp()
        found, expected = device.stats(), model.stats()
        assert {name: found[name] for name in expected} == expected
        assert device.bus.resends > 0
        assert all(damage.count > 0 for damage in damages)
        # A console that had taken noise for commands would have written here.
        assert device.bus.read(EPOCH, 1) == [0]


def test_every_request_twice(board: MonitorBoard) -> None:
    """The line doubles what is sent, so that every request comes a second time when it is executed already."""
    # So patient that it sends nothing twice by itself.
    with SerialDevice(board.line.port, slack=LIMIT) as device:
        before = board.zynq.accesses
        board.line.to_board = lambda data: data + data
        assert device.commit(snapshot=0, reads=[1], writes=[2]) == Verdict(True, 1, None, None)
        assert device.commit(snapshot=0, reads=[2]) == Verdict(False, None, Reason.CONFLICT, 2)
        board.line.to_board = as_it_is
        assert device.stats()["keys_validated"] == 2
        assert device.stats()["commits"] == 1
        assert device.bus.resends == 0
        assert board.zynq.accesses > before


@pytest.mark.parametrize("lost", range(4))
def test_a_lost_answer(board: MonitorBoard, lost: int) -> None:
    """To each request that a commit makes in turn: it is sent again, and not executed again."""
    with opened(board) as device:
        answers, decoder = 0, Decoder()

        def lose(data: bytes) -> bytes:
            """Drop the piece that ends the answer."""
            nonlocal answers
            before = answers
            answers += len(list(decoder.feed(data)))
            return b"" if before <= lost < answers else data

        board.line.to_host = lose
        assert device.commit(snapshot=0, reads=[1], writes=[2]) == Verdict(True, 1, None, None)
        board.line.to_host = as_it_is
        assert device.bus.resends >= 1
        assert device.last_timestamp() == 1
        stats = device.stats()
        assert (stats["keys_validated"], stats["keys_inserted"], stats["errors"]) == (1, 1, 0)


def test_a_cut_line(board: MonitorBoard) -> None:
    """No answer at all: an error in time, and afterwards everything as if the request had not been made."""
    with opened(board) as device:
        device.bus.attempts = 2
        device.publish(device.commit(snapshot=0, writes=[1]).timestamp)
        board.line.to_board = lambda data: b""
        with pytest.raises(DeviceTimeout, match="no answer from the monitor on .* to 2 times the same request; a term"):
            device.commit(snapshot=1, writes=[2])
        board.line.to_board = as_it_is
        board.line.to_host = lambda data: b""
        with pytest.raises(DeviceTimeout):
            device.commit(snapshot=1, writes=[3])
        board.line.to_host = as_it_is
        device.bus.attempts = ATTEMPTS
        verdict = device.commit(snapshot=device.last_timestamp(), writes=[4])
        device.publish(verdict.timestamp)
        device.wait_published(verdict.timestamp, timeout=LIMIT)
        assert device.published == device.last_timestamp() == verdict.timestamp


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_a_command_in_a_session(board: MonitorBoard, frames: int) -> None:
    """A program has the line: what looks like a command there is noise, between frames and beside one that has come."""
    request = encode(Frame(Operation.READ, 0, 1, 1, (EPOCH, 1))) * frames
    with opened(board) as device:
        board.line.inject(request + b"\rpoke %#x 0xBAD\r" % (BASE_ADDRESS + EPOCH))
        assert device.bus.read(EPOCH, 1) == [0]


def test_a_person_takes_the_line_back(board: MonitorBoard) -> None:
    poke, peek = f"poke {BASE_ADDRESS + EPOCH:#x} 7", f"peek {BASE_ADDRESS + EPOCH:#x}"
    opened(board).bus.close()  # a program that went without a word
    terminal = Terminal(board.line.port)
    terminal.begin("anybody")
    for command in (poke, peek, "help", "consoles"):
        assert terminal.say(command) == "a program uses this line; say console to end its session\n"
    assert terminal.say("console") == ""
    assert terminal.say(poke) == ""
    assert terminal.say(peek).endswith(": 0x00000007\n")
    terminal.close()


def test_a_person_in_the_middle(board: MonitorBoard) -> None:
    """The program whose session was ended is told, and nothing of it is done."""
    device = opened(board)
    board.line.inject(b"\rconsole\r")
    with pytest.raises(DeviceUnavailable, match="serves another program or a person; what was asked last"):
        device.commit(snapshot=0, writes=[1])
    device.bus.close()
    with opened(board) as another:
        assert another.stats()["commits"] == 0


def test_half_a_frame_and_then_a_person(board: MonitorBoard) -> None:
    """The monitor gives up waiting for the rest, and takes what follows as typed."""
    terminal = Terminal(board.line.port)
    terminal.begin("console")
    terminal.type("peek 0xF8")
    terminal.wait_for("peek 0xF8")
    board.line.inject(encode(Frame(Operation.READ, 0, 1, 1, (0, 1)))[:-5])
    # What is typed before the monitor gives up belongs to the frame, and is not answered.
    while "no such command" not in terminal.seen:
        terminal.type("nonsense\r")
        terminal.read(1.0)
    terminal.wait_for_prompt()
    terminal.close()
    assert "the address must be" not in terminal.seen, "the half line was forgotten"
    with opened(board) as device:
        assert device.commit(snapshot=0, writes=[1]).committed


# -- the protocol --------------------------------------------------------------------------


class Wire:
    """Frames by hand."""

    def __init__(self, board: MonitorBoard, session: int) -> None:
        self.port = serial.Serial(board.line.port, 115200, timeout=0.05)
        self.session = session
        self.decoder = Decoder()
        assert self.ask(Operation.HELLO, 0).status == Status.OK

    def ask(self, operation: int, sequence: int, *payload: int, session: int | None = None) -> Frame:
        session = self.session if session is None else session
        self.port.write(encode(Frame(operation, 0, sequence, session, payload)))
        for _ in range(int(LIMIT / 0.05)):
            for frame in self.decoder.feed(self.port.read(4096)):
                assert frame[0:4:2] == (operation | REPLY, sequence)
                assert frame.session == session
                return frame
        raise TimeoutError("no answer")


@pytest.fixture
def wire(board: MonitorBoard) -> Iterator[Wire]:
    opened = Wire(board, next(SESSIONS))
    yield opened
    opened.port.close()


#: Of another program each.
SESSIONS = itertools.count(0x1000_0000)
EPOCH = CONTROL_PAGE.register("INITIAL_EPOCH").offset


def test_hello(wire: Wire) -> None:
    reply = wire.ask(Operation.HELLO, 0, session=0x2000_0000)
    assert reply.payload == (PROTOCOL_VERSION, 0x43C0_0000, PlState.READY, 0x0040_0000)


def test_once_and_only_once(wire: Wire, board: MonitorBoard) -> None:
    first = wire.ask(Operation.WRITE, 1, EPOCH, 11)
    accesses = board.zynq.accesses
    assert first == Frame(Operation.WRITE | REPLY, Status.OK, 1, wire.session)
    assert wire.ask(Operation.WRITE, 1, EPOCH, 12) == first
    assert board.zynq.accesses == accesses
    assert wire.ask(Operation.READ, 2, EPOCH, 1).payload == (11,)
    assert wire.ask(Operation.WRITE, 1, EPOCH, 13).status == Status.STALE
    # A refusal does not take the place of the answer that is kept, and a hello of the same session ends nothing.
    assert wire.ask(Operation.HELLO, 0).status == Status.OK
    assert wire.ask(Operation.WRITE, 1, EPOCH, 13).status == Status.STALE
    assert wire.ask(Operation.READ, 2, EPOCH, 1).payload == (11,)
    # Numbers may be left out, and begin again after the last.
    assert wire.ask(Operation.WRITE, 2 + SEQUENCES // 2 - 1, EPOCH, 14).status == Status.OK
    assert wire.ask(Operation.WRITE, SEQUENCES - 1, EPOCH, 15).status == Status.OK
    assert wire.ask(Operation.WRITE, 0, EPOCH, 16).status == Status.OK
    assert wire.ask(Operation.WRITE, SEQUENCES - 1, EPOCH, 17).status == Status.STALE
    assert wire.ask(Operation.READ, 1, EPOCH, 1).payload == (16,)


def test_another_session(wire: Wire) -> None:
    assert wire.ask(Operation.WRITE, 1, EPOCH, 11).status == Status.OK
    assert wire.ask(Operation.WRITE, 2, EPOCH, 12, session=5).status == Status.NO_SESSION
    assert wire.ask(Operation.HELLO, 0, session=5).status == Status.OK
    # The number 1 of the new session is not that of the old.
    assert wire.ask(Operation.READ, 1, EPOCH, 1, session=5).payload == (11,)
    assert wire.ask(Operation.WRITE, 3, EPOCH, 13).status == Status.NO_SESSION
    # Nothing was answered in it yet, so that there is nothing to say again.
    assert wire.ask(Operation.HELLO, 0, session=6).status == Status.OK
    assert wire.ask(Operation.READ, 0, EPOCH, 1, session=6).status == Status.STALE


@pytest.mark.parametrize(
    ("operation", "payload"),
    [
        (0, ()),
        (5, (0, 1)),
        (Operation.READ | REPLY, (0, 1)),
        (Operation.READ, ()),
        (Operation.READ, (0,)),
        (Operation.READ, (0, 1, 1)),
        (Operation.READ, (2, 1)),
        (Operation.READ, (0, 0)),
        (Operation.READ, (0, MAX_BURST_WORDS + 1)),
        (Operation.READ, (0, 2**32 - 1)),
        (Operation.READ, (WINDOW_BYTES - 4, 2)),
        (Operation.READ, (2**32 - 4, 1)),
        (Operation.WRITE, ()),
        (Operation.WRITE, (0,)),
        (Operation.WRITE, (WINDOW_BYTES, 1)),
        (Operation.WRITE, (0, *[0] * (MAX_BURST_WORDS + 1))),
        (Operation.POLL, (0, 1, 0, 0)),
        (Operation.POLL, (0, 1, 0, 0, 0)),
        (Operation.POLL, (0, 1, 0, 0, MAX_POLLS + 1)),
    ],
)
def test_bad_requests(wire: Wire, board: MonitorBoard, operation: int, payload: tuple[int, ...]) -> None:
    before = board.zynq.accesses
    assert wire.ask(operation, 1, *payload)[1:] == (Status.BAD_REQUEST, 1, wire.session, ())
    assert board.zynq.accesses == before


def test_poll(wire: Wire, board: MonitorBoard) -> None:
    before = board.zynq.accesses
    reply = wire.ask(Operation.POLL, 1, 0, 2, 0, 0, 99)
    assert len(reply.payload) == 2
    assert board.zynq.accesses - before == 2, "the value was there at once"
    assert wire.ask(Operation.POLL, 2, 0, 2, 0xFFFF, 0, 7).payload == reply.payload
    assert board.zynq.accesses - before == 2 + 2 * 7


# -- what goes wrong on the board ----------------------------------------------------------


def test_a_refused_access(device: SerialDevice) -> None:
    """A read across the first hole of the control page, a write to what can only be read, and far behind the slots."""
    first = next(
        offset
        for offset in range(0, PAGE_BYTES, 4)
        if not any(item.offset <= offset < item.offset + item.size for item in CONTROL_PAGE)
    )
    message = rf"^the read at {BASE_ADDRESS + first:#x} was answered SLVERR \(DFSR 0x1008\), after 2 words: see docs"
    with pytest.raises(BusError, match=message):
        device.bus.read(first - 8, 4)
    message = rf"^the write at {BASE_ADDRESS:#x} was answered SLVERR \(DFSR 0x1[0-9a-f]06\), after 0 words: see docs"
    with pytest.raises(BusError, match=message):
        device.bus.write(0, [0])
    message = rf"^the read at {BASE_ADDRESS + 0x8_0000:#x} was answered DECERR \(DFSR 0x8\), after 0 words: see docs"
    with pytest.raises(BusError, match=message):
        device.bus.read(0x8_0000, 1)
    assert device.commit(snapshot=0, writes=[1]).committed


def test_without_a_bitstream(board: MonitorBoard) -> None:
    bus, board.zynq.bus = board.zynq.bus, None
    with pytest.raises(DeviceUnavailable, match="^the fabric cannot be accessed: no bitstream is loaded; load one"):
        opened(board)
    board.zynq.bus = bus
    with opened(board) as device:
        board.zynq.bus = None
        with pytest.raises(DeviceUnavailable, match="^the fabric cannot be accessed: no bitstream is loaded; load one"):
            device.commit(snapshot=0, writes=[1])
        board.zynq.bus = bus
        assert device.commit(snapshot=0, writes=[1]).committed


def test_the_watchdog_bites(board: MonitorBoard) -> None:
    """An access without an answer: the board begins anew, and the host learns that its request may have been done."""
    with opened(board) as device:
        bites = board.zynq.bites
        # The monitor identifies the core when it begins, so it must not stall there again.
        board.zynq.answering = False
        board.line.to_host = as_it_is
        reopened = threading.Event()

        def answer_again(data: bytes) -> bytes:
            if board.zynq.bites > bites:
                board.zynq.answering = True
                reopened.set()
            return data

        board.line.to_host = answer_again
        with pytest.raises(DeviceUnavailable, match="^the monitor has begun anew, or serves another program"):
            device.commit(snapshot=0, writes=[1])
        assert reopened.is_set()
    with opened(board) as device:
        assert device.commit(snapshot=device.last_timestamp(), writes=[1]).committed


def test_a_second_program(board: MonitorBoard, device: SerialDevice) -> None:
    """It takes over; the first is told."""
    Wire(board, next(SESSIONS)).port.close()
    with pytest.raises(DeviceUnavailable, match="serves another program"):
        device.commit(snapshot=0, writes=[1])


# -- what goes wrong on the host -----------------------------------------------------------


def test_nobody_answers() -> None:
    master, slave = os.openpty()
    try:
        message = "^no answer from the monitor on .* at 9600 bits/s; a terminal program there should show its"
        with pytest.raises(DeviceTimeout, match=message):
            SerialDevice(os.ttyname(slave), baud=9600, slack=0.01, attempts=2)
    finally:
        os.close(master)
        os.close(slave)


def test_no_such_port(tmp_path) -> None:
    with pytest.raises(DeviceUnavailable, match=f"^the serial port {tmp_path}/tty cannot be opened: .*dialout"):
        open_device(f"serial:{tmp_path}/tty")


def test_one_program_at_a_time(device: SerialDevice, board: MonitorBoard) -> None:
    with pytest.raises(DeviceUnavailable, match="cannot be opened: .*one program at a time"):
        opened(board)


def test_the_cable_is_pulled(board: MonitorBoard) -> None:
    master, slave = os.openpty()
    port = os.ttyname(slave)
    answered = threading.Event()

    def answer() -> None:
        """What the monitor says to the first frame; then the adapter goes away."""
        decoder = Decoder()
        while True:
            for frame in decoder.feed(os.read(master, 4096)):
                reply = (PROTOCOL_VERSION, 0, PlState.READY, 0)
                os.write(master, encode(frame._replace(operation=frame.operation | REPLY, payload=reply)))
                answered.set()
                return

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    from bloomgate.backends.serial import SerialBus

    bus = SerialBus(port, slack=LIMIT / 6)
    thread.join(LIMIT)
    os.close(slave)
    os.close(master)
    assert answered.is_set()
    with pytest.raises(DeviceUnavailable, match=f"^the serial port {port} is gone: "):
        bus.read(0, 1)
    bus.close()


def test_without_pyserial() -> None:
    code = (
        "import sys; sys.modules['serial'] = None\n"
        "from bloomgate import open_device\n"
        "open_device('serial:/dev/ttyUSB0')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "BloomgateError: serial: needs pyserial: pip install 'bloomgate[serial]'" in result.stderr


def test_the_url_needs_a_port() -> None:
    with pytest.raises(DeviceURLError, match="a serial: URL names a port"):
        open_device("serial:?baud=9600")
    assert issubclass(BusError, BloomgateError)
