"""A serial port as a transport of the link."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import serial

from hwattn.spec.errors import FailedError, RefusedError
from hwattn.spec.link import COUNT_MAX, SILENCE_BYTES, Operation, answer_bytes

ANSWER_SECONDS = 0.5
"""How long an answer may take beyond its time on the line."""

BITS_PER_BYTE = 10

SETTLE = 2
"""How much longer than the machine's silence the host waits: the line may be buffered on the way."""


class SerialTransport:
    """Bytes over a serial port, eight data bits, no parity, one stop bit.

    Parameters
    ----------
    port : str
        Such as ``/dev/ttyUSB0``.
    baud : int

    Raises
    ------
    RefusedError
        The port cannot be opened.
    """

    def __init__(self, port: str, baud: int) -> None:
        # a request is as long as an answer, but for a few bytes
        line_seconds = 2 * answer_bytes(Operation.READ, COUNT_MAX) * BITS_PER_BYTE / baud
        limit = ANSWER_SECONDS + line_seconds
        self._silence = SETTLE * SILENCE_BYTES * BITS_PER_BYTE / baud
        try:
            self._port = serial.Serial(port, baud, timeout=limit, write_timeout=limit)
        except (serial.SerialException, ValueError) as error:
            raise RefusedError(
                f"the serial port {port} cannot be opened ({error})",
                "a port with a board on it",
                "check the cable, the name of the port and your rights to it",
            ) from error

    def send(self, frame: bytes) -> None:
        """Send bytes, after throwing away what was received before."""
        with self._failures():
            self._port.read(self._port.in_waiting)
            self._port.write(frame)

    def receive(self, count: int) -> bytes:
        """Return `count` bytes, or fewer when no more have come in time."""
        with self._failures():
            return bytes(self._port.read(count))

    def settle(self) -> None:
        """Wait until the machine has forgotten a frame that it may be in the middle of."""
        time.sleep(self._silence)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn a port that fails, as when its cable is pulled, into an error for people."""
        try:
            yield
        except OSError as error:
            raise FailedError(
                f"the serial port {self._port.port} failed ({error})",
                "a port that stays open",
                "check the cable and start again",
            ) from error

    def close(self) -> None:
        """Close the port."""
        self._port.close()

    def __enter__(self) -> SerialTransport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
