"""A machine's bus over the serial link: frames with length, number and CRC, sent until a good answer comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from hwattn.spec.errors import FailedError
from hwattn.spec.link import COUNT_MAX, LinkStatus, Operation, answer_bytes, parse_answer, request_frame
from hwattn.spec.registers import Region, Register, address

TRIES = 6
"""How often a frame is sent before the bus gives up."""


class Transport(Protocol):
    """Carries bytes to a machine and back: a serial port, or simulated pins."""

    def send(self, frame: bytes) -> None:
        """Send bytes, after throwing away what was received before."""

    def receive(self, count: int) -> bytes:
        """Return `count` bytes, or fewer when no more have come in time."""

    def settle(self) -> None:
        """Wait until the machine has forgotten a frame that it may be in the middle of (``spec.link.SILENCE_BYTES``)."""


class LinkBus:
    """Reads and writes units over a line that may lose, double and change bytes.

    Parameters
    ----------
    transport : Transport

    Notes
    -----
    Reads and writes are numbered apart. A frame that is sent again keeps its number, so that a late answer to it is as good as the
    second one, and a write that had arrived is not done twice. An answer with another number is none.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self._sequence = dict.fromkeys(Operation, 0)
        self._begun = False

    def write(self, target: int, units: Sequence[int]) -> None:
        """Write consecutive units from address `target` on."""
        if not self._begun:
            # the machine skips a write numbered like the write before it, and an earlier host may have ended with any number
            self._begun = True
            self._exchange(Operation.WRITE, address(Region.CSR, Register.CONTROL), 1, [0])
        for start, count in _frames(len(units)):
            part = [int(unit) for unit in units[start : start + count]]
            self._exchange(Operation.WRITE, target + start, count, part)

    def read(self, source: int, count: int) -> list[int]:
        """Read consecutive units from address `source` on."""
        return [
            unit
            for start, part in _frames(count)
            for unit in self._exchange(Operation.READ, source + start, part, [])
        ]

    def _exchange(self, operation: Operation, target: int, count: int, units: Sequence[int]) -> list[int]:
        """Send a frame until a good answer comes."""
        # counted apart: after 255 reads a write would else be numbered like the one before it, and skipped
        number = self._sequence[operation] = (self._sequence[operation] + 1) & 255
        frame = request_frame(number, operation, target, count, units)
        for _ in range(TRIES):
            self.transport.send(frame)
            answer = parse_answer(self.transport.receive(answer_bytes(operation, count)))
            if answer is not None:
                sequence, status, values = answer
                expected = count if operation == Operation.READ else 0
                if sequence == number and status == LinkStatus.OK and len(values) == expected:
                    return values
            # what is left of a damaged frame must not swallow the next one
            self.transport.settle()
        raise FailedError(
            f"no good answer after {TRIES} tries",
            "a machine on the other end of the line",
            "check the port, the speed of the line and that the board holds the bitstream",
        )


def _frames(count: int) -> Iterator[tuple[int, int]]:
    """Cut `count` units into frames: start and length of each."""
    for start in range(0, count, COUNT_MAX):
        yield start, min(COUNT_MAX, count - start)
