"""A machine behind a serial line in plain Python: frames, registers and memories as spec.link and spec.registers say."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np

from hwattn.sim.model.executor import Executor
from hwattn.spec.link import ANSWER, COUNT_MAX, HEADER_BYTES, REQUEST, LinkStatus, Operation
from hwattn.spec.program import Program
from hwattn.spec.registers import (
    COUNTERS,
    IDENTIFICATION,
    VERSION,
    WINDOW_UNITS,
    Control,
    Region,
    Register,
    Status,
    address,
)

Line = Callable[[bytes], bytes]


def clean(frame: bytes) -> bytes:
    """A line that changes nothing."""
    return frame


class FakeMachine:
    """A transport with a machine at its other end.

    Parameters
    ----------
    program : Program
        What it can run once it is started with that program's hash in its register.
    preloaded : bool
        Hold the program's hash from the start.
    to_machine, to_host : callable
        The line in each direction: gets a frame, returns what arrives of it.
    """

    def __init__(
        self, program: Program, preloaded: bool = True, to_machine: Line = clean, to_host: Line = clean
    ) -> None:
        self.program = program
        self.to_machine, self.to_host = to_machine, to_host
        self.units: dict[int, int] = {}
        self.order: list[int] = []
        self.frames = 0
        self.last_write: int | None = None
        self.ends_with = Status.DONE
        self.error = (0, 0)
        self.external: dict[int, int] = {}
        """Units of external memory by number."""
        self._answers = b""
        self.set(Register.IDENTIFICATION, IDENTIFICATION)
        self.set(Register.VERSION, VERSION)
        self.set(Register.CONFIG_HASH, program.config.hash)
        self.set(Register.PROGRAM_HASH, program.hash if preloaded else 0)

    def set(self, register: int, value: int) -> None:
        self.units[address(Region.CSR, register)] = value

    def external_unit(self, number: int) -> int:
        """Return a unit of external memory."""
        return self.external.get(number, 0)

    def get(self, register: int) -> int:
        return self.units.get(address(Region.CSR, register), 0)

    def send(self, frame: bytes) -> None:
        self.frames += 1
        self._answers = b""
        answer = self._serve(self.to_machine(frame))
        if answer is not None:
            self._answers = self.to_host(answer)

    def receive(self, count: int) -> bytes:
        taken, self._answers = self._answers[:count], self._answers[count:]
        return taken

    def settle(self) -> None:
        """A frame is whole or forgotten."""

    def _serve(self, frame: bytes) -> bytes | None:
        if len(frame) < 1 + HEADER_BYTES or frame[0] != REQUEST:
            return None
        sequence, operation, count, target = struct.unpack("<BBBI", frame[1 : 1 + HEADER_BYTES])
        if operation > Operation.WRITE or not 1 <= count <= COUNT_MAX:
            return self._answer(sequence, LinkStatus.BAD_REQUEST, [])
        end = 1 + HEADER_BYTES + (4 * count if operation == Operation.WRITE else 0)
        if len(frame) < end + 4:
            return None
        if zlib.crc32(frame[1:end]) != struct.unpack("<I", frame[end : end + 4])[0]:
            return self._answer(sequence, LinkStatus.BAD_CRC, [])
        if operation == Operation.READ:
            return self._answer(
                sequence, LinkStatus.OK, [self.units.get(target + index, 0) for index in range(count)]
            )
        if sequence != self.last_write:
            self.last_write = sequence
            for index, unit in enumerate(struct.unpack(f"<{count}I", frame[1 + HEADER_BYTES : end])):
                self._write(target + index, unit)
        return self._answer(sequence, LinkStatus.OK, [])

    @staticmethod
    def _answer(sequence: int, status: LinkStatus, units: list[int]) -> bytes:
        body = struct.pack(f"<BBB{len(units)}I", sequence, status, len(units), *units)
        return bytes([ANSWER]) + body + struct.pack("<I", zlib.crc32(body))

    def _write(self, target: int, unit: int) -> None:
        self.order.append(target)
        if target == address(Region.CSR, Register.CONTROL):
            self._control(unit)
        elif target >= address(Region.EXTERNAL, 0):
            window = self.get(Register.EXTERNAL_WINDOW) * WINDOW_UNITS
            self.external[window + target - address(Region.EXTERNAL, 0)] = unit
        else:
            self.units[target] = unit

    def _control(self, bits: int) -> None:
        if bits & Control.RESET:
            self.set(Register.STATUS, 0)
        if bits & Control.SCAN_EXTERNAL:
            units = self.program.config.lanes // 4
            first, words = self.get(Register.SCAN_BASE), self.get(Register.SCAN_WORDS)
            scanned = [self.external_unit(first * units + unit) for unit in range(words * units)]
            self.set(Register.SCAN_CRC, zlib.crc32(struct.pack(f"<{len(scanned)}I", *scanned)))
        if bits & Control.START:
            self.set(Register.STATUS, self.ends_with)
            cause, position = self.error
            self.set(Register.ERROR, cause)
            self.set(Register.PC, position)
            if self.ends_with == Status.DONE:
                self._run()

    def _run(self) -> None:
        """Execute the task at ENTRY on what lies in the activation memory, and of external memory in the words that change."""
        program, config = self.program, self.program.config
        executor = Executor(program)
        state = executor.start(np.zeros((1, *program.image.shape), np.float32))
        base = address(Region.ACT, 0)
        words = np.array(
            [self.units.get(base + unit, 0) for unit in range(config.act_total_words * config.lanes // 4)],
            "<u4",
        )
        state.words[0] = words.view(np.uint8).reshape(config.act_total_words, config.lanes)
        first, count = (number * config.lanes // 4 for number in program.scratch)
        scratch = np.array([self.external_unit(first + unit) for unit in range(count)], "<u4")
        state.scratch[0] = scratch.view(np.uint8).reshape(state.scratch[0].shape)
        executor.execute(state, program.entries.index(self.get(Register.ENTRY)))
        for index, unit in enumerate(state.words[0].reshape(-1).view("<u4").tolist()):
            self.units[base + index] = unit
        for counter in COUNTERS:
            self.set(counter, counter * 1000)
