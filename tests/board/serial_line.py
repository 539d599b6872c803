"""A serial line between a virtual board and a pseudo-terminal, on which anything may happen."""

from __future__ import annotations

import os
import select
import threading
import time
import tty
from collections.abc import Callable
from pathlib import Path

import serial

from tests.board.virtual_zynq import LIMIT, connect


def as_it_is(data: bytes) -> bytes:
    return data


class SerialLine:
    """Carries bytes between QEMU's end of a UART, a socket, and ``port``, where a program opens a serial port."""

    def __init__(self, console: Path) -> None:
        self._board = connect(console)
        self._master, self._slave = os.openpty()
        # Or the line would echo what the board says before somebody opens it.
        tty.setraw(self._slave)
        #: Path of the serial port.
        self.port = os.ttyname(self._slave)
        #: What becomes of the bytes on the way.
        self.to_board: Callable[[bytes], bytes] = as_it_is
        self.to_host: Callable[[bytes], bytes] = as_it_is
        #: Bytes that were sent, before anything became of them.
        self.sent = 0
        self.received = 0
        self._stop, self._stopped = os.pipe()
        self._thread = threading.Thread(target=self._carry, name="serial line", daemon=True)
        self._thread.start()

    def inject(self, data: bytes) -> None:
        """Bytes to the board that nobody sent."""
        self._board.sendall(data)

    def close(self) -> None:
        os.close(self._stopped)
        self._thread.join(LIMIT)
        self._board.close()
        for descriptor in (self._master, self._slave, self._stop):
            os.close(descriptor)

    def _carry(self) -> None:
        while True:
            ready, _, _ = select.select([self._board, self._master, self._stop], [], [])
            if self._stop in ready:
                return
            try:
                if self._master in ready:
                    data = os.read(self._master, 4096)
                    self.sent += len(data)
                    self._board.sendall(self.to_board(data))
                if self._board in ready:
                    data = self._board.recv(4096)
                    if not data:
                        return
                    self.received += len(data)
                    os.write(self._master, self.to_host(data))
            except OSError:
                return  # QEMU has gone


class _Port(serial.Serial):
    """Opened without a flush: what the board has said before is still to be read."""

    def _reset_input_buffer(self) -> None:
        pass


class Terminal:
    """A person at the console."""

    PROMPT = "monitor> "

    def __init__(self, port: str) -> None:
        self._port = _Port(port, 115200)
        #: Everything that the board has said.
        self.seen = ""
        #: What it said before that which was waited for last.
        self.said = ""
        self._unread = ""

    def wait_for(self, text: str) -> str:
        """What the board says, up to and without ``text``."""
        deadline = time.monotonic() + LIMIT
        while text not in self._unread:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the board never said {text!r}; it said {self.seen[-2000:]!r}")
            self.read()
        said, _, self._unread = self._unread.partition(text)
        self.said = said.replace("\r\n", "\n")
        return self.said

    def read(self, seconds: float = 0.05) -> None:
        """Take what the board says in that time."""
        self._port.timeout = seconds
        data = self._port.read(4096).decode("latin-1")
        self.seen += data
        self._unread += data

    def wait_for_prompt(self) -> str:
        return self.wait_for(self.PROMPT)

    def type(self, text: str) -> None:
        self._port.write(text.encode("latin-1"))

    def begin(self, command: str) -> str:
        """What the board answers to the first command, behind what it had said to others."""
        self.type(f"{command}\r")
        self.wait_for(f"{command}\r\n")
        return self.wait_for_prompt()

    def say(self, command: str) -> str:
        """What the board answers to a command."""
        self.type(f"{command}\r")
        answer = self.wait_for_prompt()
        echo, newline, rest = answer.partition("\n")
        assert (echo, newline) == (command, "\n"), answer
        return rest

    def close(self) -> None:
        self._port.close()
