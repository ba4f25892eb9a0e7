"""The host's driver: loads programs, runs images, reads results and counters; the same calls however the machine is reached."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hwattn.boards.external_buffer import ExternalBuffer
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.errors import FailedError, RefusedError
from hwattn.spec.program import Program
from hwattn.spec.registers import (
    COUNTERS,
    IDENTIFICATION,
    VERSION,
    Control,
    ErrorCause,
    Region,
    Register,
    Status,
    address,
)
from hwattn.spec.transfer import (
    Block,
    image_block,
    output_integers,
    output_values,
    output_words,
    program_blocks,
    window_blocks,
)

SCAN_WORDS = 1024
"""Words of external memory in one scan: so few that its answer comes before a line's time-out."""


class Bus(Protocol):
    """Reads and writes 32-bit units of a machine (``spec.registers``)."""

    def write(self, target: int, units: Sequence[int]) -> None:
        """Write consecutive units from address `target` on; when this returns they have arrived, each once."""

    def read(self, source: int, count: int) -> list[int]:
        """Read consecutive units from address `source` on."""


@dataclass(frozen=True)
class Identity:
    """What a machine says of itself: hash of its configuration, hash of the program in its memories."""

    config_hash: int
    program_hash: int


@dataclass(frozen=True)
class RunResult:
    """One image of one task.

    Parameters
    ----------
    outputs : dict of str to ndarray of float32
        Under the ONNX output names, without a batch axis.
    integers : dict of str to ndarray of int16, shape (rows, columns)
    counters : dict of int to int
        By register number (``spec.registers``).
    """

    outputs: dict[str, NDArray[np.float32]]
    integers: dict[str, NDArray[np.int16]]
    counters: dict[int, int]


class Driver:
    """Drives a machine of one configuration.

    Parameters
    ----------
    bus : Bus
        How the machine is reached: over a serial link (`boards.link_bus`), mapped into memory (`boards.mapped_bus`), or in a simulation.
    config : AcceleratorConfig
        What the machine is expected to be; another one is refused before anything is written.
    buffer : ExternalBuffer, optional
        Memory of the host's processor that is the machine's external memory; the machine is told where it lies.
    """

    def __init__(self, bus: Bus, config: AcceleratorConfig, buffer: ExternalBuffer | None = None) -> None:
        self.bus = bus
        self.config = config
        self.buffer = buffer
        self.identity = self._identify()
        if buffer is not None and config.external_words:
            self._place(buffer)

    def load(self, program: Program) -> None:
        """Write a program into the machine's memories, unless it is there already; what lies in external memory is verified there.

        Raises
        ------
        RefusedError
            The program was compiled for another configuration.
        FailedError
            External memory does not hold what was written.
        """
        self._check_program(program)
        if self.identity.program_hash == program.hash:
            return
        # a load that breaks off must not look complete
        self.write(address(Region.CSR, Register.PROGRAM_HASH), [0])
        for block in program_blocks(program):
            if block.region == Region.EXTERNAL:
                self._load_external(block)
            else:
                self._write_block(block)
        self.identity = self._identify()
        if self.identity.program_hash != program.hash:
            raise FailedError(
                "the program hash did not arrive", "the machine to keep it", "load the program again"
            )

    def run(
        self, program: Program, image: NDArray[np.float32], task: int, seconds: float = 10.0
    ) -> RunResult:
        """Run one image through one task.

        Parameters
        ----------
        program : Program
            The one that is loaded.
        image : ndarray of float32, shape (channels, height, width)
        task : int
        seconds : float
            After so long without an end the machine is reset.

        Raises
        ------
        RefusedError
            Another program is loaded.
        FailedError
            The machine stopped with an error, or did not stop.
        """
        self._check_program(program)
        if self.identity.program_hash != program.hash:
            raise RefusedError(
                f"the machine holds program {self.identity.program_hash:08x}",
                f"program {program.hash:08x}",
                "load the program first",
            )
        self._write_block(image_block(program.image, image))
        self.write(address(Region.CSR, Register.ENTRY), [program.entries[task]])
        self.write(address(Region.CSR, Register.CONTROL), [Control.START])
        self._wait(seconds)
        integers = {
            port.name: output_integers(port, self.act_words(*output_words(port, self.config.lanes)))
            for port in program.outputs
            if port.task == task
        }
        outputs = {
            port.name: output_values(port, integers[port.name])
            for port in program.outputs
            if port.name in integers
        }
        return RunResult(outputs, integers, self.counters())

    def act_words(self, first: int, words: int) -> NDArray[np.uint8]:
        """Read `words` words of the activation memory from word `first` on: uint8 (words, lanes)."""
        units_in_word = self.config.lanes // 4
        units = self.read(address(Region.ACT, first * units_in_word), words * units_in_word)
        return np.array(units, "<u4").view(np.uint8).reshape(words, self.config.lanes)

    def counters(self) -> dict[int, int]:
        """Read every counter, by register number."""
        values = self.read(address(Region.CSR, COUNTERS.start), len(COUNTERS))
        return dict(zip(COUNTERS, values, strict=True))

    def write(self, target: int, units: Sequence[int]) -> None:
        """Write consecutive 32-bit units from address `target` on."""
        self.bus.write(target, units)

    def read(self, source: int, count: int) -> list[int]:
        """Read consecutive 32-bit units."""
        return self.bus.read(source, count)

    def _place(self, buffer: ExternalBuffer) -> None:
        """Tell the machine where its external memory lies; what it held elsewhere is not there."""
        page = address(Region.CSR, Register.EXTERNAL_PAGE)
        if self.read(page, 1) != [buffer.page]:
            self.write(address(Region.CSR, Register.PROGRAM_HASH), [0])
            self.write(page, [buffer.page])
            self.identity = self._identify()

    def _write_block(self, block: Block) -> None:
        if block.region != Region.EXTERNAL:
            self.write(address(block.region, block.first), [int(unit) for unit in block.units])
            return
        if self.buffer and self.buffer.memory is not None:
            self.buffer.stripes.write(self.buffer.memory, block.first, block.units)
            return
        for window, part in window_blocks(block):
            self.write(address(Region.CSR, Register.EXTERNAL_WINDOW), [window])
            self.write(address(part.region, part.first), [int(unit) for unit in part.units])

    def _load_external(self, block: Block) -> None:
        """Write the contents of external memory, and compare their CRC part by part."""
        self._write_block(block)
        words = block.units.view(np.uint8).reshape(-1, self.config.lanes)
        for first in range(0, len(words), SCAN_WORDS):
            part = words[first : first + SCAN_WORDS]
            self.write(address(Region.CSR, Register.SCAN_BASE), [first, len(part)])
            self.write(address(Region.CSR, Register.CONTROL), [Control.SCAN_EXTERNAL])
            (found,) = self.read(address(Region.CSR, Register.SCAN_CRC), 1)
            expected = zlib.crc32(part.tobytes())
            if found != expected:
                raise FailedError(
                    f"words {first} to {first + len(part) - 1} of external memory have the CRC {found:08x}",
                    f"that of the program, {expected:08x}",
                    "check the memory and its clock, then load the program again",
                )

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while True:
            (status,) = self.read(address(Region.CSR, Register.STATUS), 1)
            if status & Status.DONE:
                return
            if status & Status.ERROR:
                cause, position = self.read(address(Region.CSR, Register.ERROR), 2)
                raise FailedError(
                    f"the machine stopped at instruction {position}: {_cause(cause)}",
                    "a run to the end",
                    "load the program again",
                )
            if time.monotonic() > end:
                self.write(address(Region.CSR, Register.CONTROL), [Control.RESET])
                raise FailedError(
                    f"the machine has not stopped after {seconds:g} s",
                    "a run to the end",
                    "load the program again",
                )

    def _identify(self) -> Identity:
        identification, version, config_hash, program_hash = self.read(
            address(Region.CSR, Register.IDENTIFICATION), 4
        )
        if identification != IDENTIFICATION or version != VERSION:
            raise RefusedError(
                f"identification {identification:08x}, version {version}",
                f"{IDENTIFICATION:08x}, version {VERSION}",
                "write an hwattn bitstream of this version to the board",
            )
        if config_hash != self.config.hash:
            raise RefusedError(
                f"a machine of configuration {config_hash:08x}",
                f"configuration {self.config.hash:08x} ({self.config.rows} rows, {self.config.lanes} lanes)",
                "write the bitstream that belongs to these settings, or compile for the machine's configuration",
            )
        return Identity(config_hash, program_hash)

    def _check_program(self, program: Program) -> None:
        if program.config != self.config:
            raise RefusedError(
                f"a program for configuration {program.config.hash:08x}",
                f"one for the machine's, {self.config.hash:08x}",
                "compile the model for this machine",
            )


def _cause(number: int) -> str:
    """Return the words for a number of `ErrorCause`."""
    known = ErrorCause._value2member_map_.get(number)
    return known.name.lower().replace("_", " ") if isinstance(known, ErrorCause) else f"cause {number}"
