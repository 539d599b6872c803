"""``serial:``, the gateware in the FPGA of a board without Linux: through the bring-up monitor on its UART.

URLs: ``serial:/dev/ttyUSB0``, ``serial:/dev/ttyUSB0?baud=115200``, or any other port that pyserial knows, e.g.
``serial:socket://localhost:4000``.

The monitor (``firmware/monitor``) makes the accesses; :mod:`bloomgate.serial_protocol` says how it is asked. A request
that gets no answer is sent again, a few times, and executed once. The line is slow, so that one request carries a
whole burst, and a poll is repeated by the monitor.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any, Optional

import serial

from bloomgate.driver import ProgrammedIODevice, RegisterBus
from bloomgate.errors import BloomgateError, BusError, DeviceClosed, DeviceTimeout, DeviceUnavailable, VersionMismatch
from bloomgate.parameters import Parameters
from bloomgate.serial_protocol import (
    BAUD,
    HEADER_BYTES,
    MAX_BURST_WORDS,
    MAX_POLLS,
    PROTOCOL_VERSION,
    REPLY,
    SEQUENCES,
    Decoder,
    Frame,
    Operation,
    PlState,
    Status,
    encode,
)

__all__ = ["BusError", "SerialBus", "SerialDevice"]

#: How often a request is sent before it counts as lost.
ATTEMPTS = 6
#: Seconds that an answer may take beyond its time on the wire: USB adapters and terminal servers hold bytes back.
SLACK = 0.3
#: Seconds after which a read of the port looks at the clock.
_TICK = 0.05
#: Bits on the wire for each byte: start, eight, stop.
_BITS_PER_BYTE = 10
#: Bytes of a frame beside its payload: zeros, stuffing, header and CRC.
_OVERHEAD_BYTES = HEADER_BYTES + 4 + 8
#: In the fault status of a Cortex-A9: SLVERR, not DECERR.
_SLVERR = 1 << 12

_REMEDIES = {
    PlState.NOT_CONFIGURED: "no bitstream is loaded; load one from U-Boot (fpga load), then open again",
    PlState.LEVEL_SHIFTERS_OFF: "its level shifters are off; say `connect` at the monitor's prompt, then open again",
    PlState.IN_RESET: "it is held in reset; say `connect` at the monitor's prompt, then open again",
    PlState.CLOCK_STOPPED: "its clock FCLK0 is stopped; set it up in the boot loader, then open again",
}


class SerialBus(RegisterBus):
    """The registers, through the monitor."""

    def __init__(self, port: str, *, baud: int = BAUD, attempts: int = ATTEMPTS, slack: float = SLACK) -> None:
        """Begin a session. ``baud``: bits per second. ``attempts``, ``slack`` (seconds): patience with the line.

        Raises DeviceUnavailable if the port cannot be opened or the fabric must not be accessed, DeviceTimeout if
        nobody answers, and VersionMismatch for another version of the monitor.
        """
        self._name, self._baud = port, baud
        #: As above; may be changed.
        self.attempts, self.slack = attempts, slack
        #: Requests that were sent again.
        self.resends = 0
        self._decoder = Decoder()
        self._sequence = 0
        # Another session than that of any program before: its replies are not for us.
        self._session = random.SystemRandom().getrandbits(32)
        #: Of a class of pyserial's; that of its types lacks `in_waiting`.
        self._port: Any = None
        try:
            self._port = serial.serial_for_url(port, baudrate=baud, timeout=_TICK, write_timeout=5.0, exclusive=True)
            self._port.reset_input_buffer()
        except (OSError, ValueError) as error:
            raise DeviceUnavailable(
                f"the serial port {port} cannot be opened: {error}; its users are usually the members of the group"
                " dialout, one program at a time"
            ) from error
        try:
            self._hello()
        except BaseException:
            self.close()
            raise

    def read(self, offset: int, words: int) -> list[int]:
        result: list[int] = []
        for done in range(0, words, MAX_BURST_WORDS):
            burst = min(words - done, MAX_BURST_WORDS)
            result += self._request(Operation.READ, (offset + 4 * done, burst), burst)
        return result

    def write(self, offset: int, values: Sequence[int]) -> None:
        for done in range(0, len(values), MAX_BURST_WORDS):
            burst = values[done : done + MAX_BURST_WORDS]
            self._request(Operation.WRITE, (offset + 4 * done, *burst), 0)

    def poll(self, offset: int, words: int, mask: int, value: int) -> list[int]:
        return list(self._request(Operation.POLL, (offset, words, mask, value, MAX_POLLS), words))

    def close(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            port.close()

    def _hello(self) -> None:
        try:
            version, _, state, _ = self._exchange(Frame(Operation.HELLO, 0, 0, self._session), 4).payload
        except DeviceTimeout:
            raise DeviceTimeout(
                f"no answer from the monitor on {self._name} at {self._baud} bits/s; a terminal program there should"
                " show its prompt `monitor>`: if it shows U-Boot or Linux, start the monitor (firmware/README.md), if"
                " nothing, look at the cable, the port and the power"
            ) from None
        if version != PROTOCOL_VERSION:
            raise VersionMismatch(
                f"the monitor speaks version {version} of the serial protocol, and this host {PROTOCOL_VERSION}; use"
                " monitor and host of one release"
            )
        self._require_ready(state)

    @staticmethod
    def _require_ready(state: int) -> None:
        if state != PlState.READY:
            remedy = _REMEDIES.get(PlState(state)) if state in list(PlState) else f"state {state}"
            raise DeviceUnavailable(f"the fabric cannot be accessed: {remedy}")

    def _request(self, operation: Operation, payload: tuple[int, ...], words: int) -> tuple[int, ...]:
        """Have the monitor do it, once. ``words``: what it replies when that succeeds."""
        # Whatever interrupts this: the next request has another number, so that no late reply is taken for its own.
        self._sequence = (self._sequence + 1) % SEQUENCES
        reply = self._exchange(Frame(operation, 0, self._sequence, self._session, payload), words)
        if reply.status == Status.OK and len(reply.payload) == words:
            return reply.payload
        if reply.status == Status.ABORTED:
            address, status, done = reply.payload
            kind = "SLVERR" if status & _SLVERR else "DECERR"
            raise BusError(
                f"the {operation.name.lower()} at {address:#010x} was answered {kind} (DFSR {status:#x}), after"
                f" {done} words: see docs/registers.md"
            )
        if reply.status == Status.PL_CLOSED:
            self._require_ready(*reply.payload)
        if reply.status == Status.NO_SESSION:
            raise DeviceUnavailable(
                "the monitor has begun anew, or serves another program or a person; what was asked last may have been"
                " done; open the device again"
            )
        raise BloomgateError(f"the monitor refused a {operation.name} request of {len(payload)} words: {reply}")

    def _exchange(self, request: Frame, words: int) -> Frame:
        """Send until there is an answer."""
        data = encode(request)
        seconds = (len(data) + _OVERHEAD_BYTES + 4 * words) * _BITS_PER_BYTE / self._baud + self.slack
        for attempt in range(self.attempts):
            self.resends += attempt > 0
            try:
                port = self._require_open()
                port.write(data)
                reply = self._receive(port, request, time.monotonic() + seconds)
            except serial.SerialTimeoutException:
                continue  # nobody takes the bytes
            except OSError as error:
                raise DeviceUnavailable(
                    f"the serial port {self._name} is gone: {error}; open the device again"
                ) from error
            if reply is not None:
                return reply
        raise DeviceTimeout(
            f"no answer from the monitor on {self._name} to {self.attempts} times the same request; a terminal program"
            " there shows whether it is still running; restart it, then open the device again"
        )

    def _receive(self, port: Any, request: Frame, deadline: float) -> Optional[Frame]:
        """The answer to a request, whatever else comes before it; None when it does not come."""
        expected = (request.operation | REPLY, request.sequence, request.session)
        while True:
            for frame in self._decoder.feed(port.read(max(1, port.in_waiting))):
                if (frame.operation, frame.sequence, frame.session) == expected:
                    return frame
            if time.monotonic() > deadline:
                return None

    def _require_open(self) -> Any:
        if self._port is None:
            raise DeviceClosed("the device is closed; open it again with bloomgate.open_device()")
        return self._port


class SerialDevice(ProgrammedIODevice):
    """The gateware, over a serial line."""

    def __init__(
        self,
        port: str,
        *,
        baud: int = BAUD,
        attempts: int = ATTEMPTS,
        slack: float = SLACK,
        expected: Optional[Parameters] = None,
        initial_epoch: int = 0,
    ) -> None:
        """``expected``: the geometry that it must have. Raises what SerialBus and ProgrammedIODevice raise."""
        self._require_epoch(initial_epoch)
        #: The bus, for what the driver does not do.
        self.bus = SerialBus(port, baud=baud, attempts=attempts, slack=slack)
        super().__init__(
            self.bus,
            backend="serial",
            description=f"the gateware in the FPGA, through the bring-up monitor on {port}",
            expected=expected,
            initial_epoch=initial_epoch,
        )
