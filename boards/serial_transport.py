"""A serial port as a transport of the driver."""

from __future__ import annotations

from types import TracebackType

import serial

from hwattn.spec.errors import RefusedError

ANSWER_SECONDS = 0.5
"""How long an answer may take beyond the time on the line."""


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
        try:
            self._port = serial.Serial(port, baud, timeout=ANSWER_SECONDS, write_timeout=ANSWER_SECONDS)
        except (serial.SerialException, ValueError) as error:
            raise RefusedError(
                f"the serial port {port} cannot be opened ({error})",
                "a port with a board on it",
                "check the cable, the name of the port and your rights to it",
            ) from error

    def send(self, frame: bytes) -> None:
        """Send bytes, after throwing away what was received before."""
        self._port.reset_input_buffer()
        self._port.write(frame)

    def receive(self, count: int) -> bytes:
        """Return `count` bytes, or fewer when no more have come in time."""
        return bytes(self._port.read(count))

    def close(self) -> None:
        """Close the port."""
        self._port.close()

    def __enter__(self) -> SerialTransport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
