"""What hwattn knows of a board."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from hwattn.boards.processor_memory import ProcessorMemory
from hwattn.rtl.multipliers import MultiplierStyle
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.ddr3 import Ddr3
from hwattn.spec.dram import DramTiming
from hwattn.spec.errors import RefusedError
from hwattn.spec.external import ExternalMemory
from hwattn.spec.sdram import Sdram

LEAST_DIVISOR = 4
"""Clock cycles per bit that a UART's receiver needs (``rtl.uart``)."""

BAUD_ERROR = 0.01
"""How far a serial line's speed may be off: ten bits later that is a tenth of a bit."""


@dataclass(frozen=True)
class Resources:
    """What a device has: look-up tables (4 inputs), flip-flops, multiplier blocks, block RAMs."""

    lut: int
    ff: int
    dsp: int
    ram: int


@dataclass(frozen=True)
class VivadoTarget:
    """A board as Vivado knows it.

    Parameters
    ----------
    part : str
        Full part name.
    board_part : str
        Name of the board files, which Vivado uses where they are installed.
    processor : str
        ``zynq_ultra_ps_e``, ``processing_system7``, or an empty string where there is none: then the machine has a serial port.
    pins : dict of str to (str, str)
        Package pin and I/O standard by port of the wrapper, for boards without a processor.
    memory : ProcessorMemory, optional
        The processor's memory, which is external memory of machines that have some.
    """

    part: str
    board_part: str
    processor: str
    pins: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    memory: ProcessorMemory | None = None


@dataclass(frozen=True)
class Board:
    """One board; each has a file of its own in this folder, which holds it as `BOARD`.

    Parameters
    ----------
    name : str
        As ``--board`` takes it.
    title : str
        As its makers call it.
    device : str
        Device, package and speed grade.
    resources : Resources
        Of the device.
    ram_bits : int
        Bits of one block RAM.
    oscillator_mhz : float
        The oscillator on the board.
    clock_mhz : float
        What the machine runs at unless ``--clock`` says otherwise; a PLL makes it where it is not the oscillator's.
    memory : str
        Memory beside the device, and whether hwattn uses it.
    host : str
        How a host reaches the machine.
    baud : int
        Of the serial link; the clock divided by it is 4 or more, and within 1 % of a whole number.
    preset : str
        Preset of AcceleratorConfig that fits.
    flow : str
        Name of the flow that makes the bitstream (``boards.flows``).
    needs : str
        What the flow needs.
    program_with : str
        How to write the bitstream to the board.
    multiplier_style : MultiplierStyle
        What the device's multiplier blocks serve best.
    array_blocks : int, optional
        Multiplier blocks that the matrix unit may take, where it and the other units would fill the device; the rows that are left get multipliers
        made of look-up tables. Without one all rows are made of blocks.
    sdram : Sdram or Ddr3, optional
        The chip that is external memory, for boards whose platform has a resource ``sdram`` or ``ddr3``.
    platform : callable, optional
        Returns the Amaranth platform, made anew; boards of an open flow have one.
    vivado : VivadoTarget, optional
        What the project writer needs to know; boards of the Vivado flow have one.
    """

    name: str
    title: str
    device: str
    resources: Resources
    ram_bits: int
    oscillator_mhz: float
    clock_mhz: float
    memory: str
    host: str
    baud: int
    preset: str
    flow: str
    needs: str
    program_with: str
    multiplier_style: MultiplierStyle = MultiplierStyle.SINGLE
    array_blocks: int | None = None
    sdram: Sdram | Ddr3 | None = None
    platform: Callable[[], Any] | None = None
    vivado: VivadoTarget | None = None

    @property
    def divisor(self) -> int:
        """Clock cycles per bit on the serial line."""
        return round(self.clock_mhz * 1e6 / self.baud)

    @property
    def processor_memory(self) -> ProcessorMemory | None:
        """The memory of the board's processor, if machines on this board can use it."""
        return self.vivado.memory if self.vivado else None

    @property
    def has_memory(self) -> bool:
        """Whether machines on this board can have external memory."""
        return self.sdram is not None or self.processor_memory is not None

    def soft_rows(self, config: AcceleratorConfig) -> range:
        """Return the rows of the matrix unit whose multipliers are made of look-up tables."""
        if self.array_blocks is None:
            return range(0)
        return range(min(config.rows, self.array_blocks // config.lanes), config.rows)

    def external(self, config: AcceleratorConfig) -> DramTiming | None:
        """Return the external memory of a machine on this board, at its clock; None where the machine has none.

        Raises
        ------
        RefusedError
            The board's memory is not connected, or is too small, or the clock is too fast for it.
        """
        if not config.external_words:
            return None
        if self.sdram is None:
            raise RefusedError(
                f"external_words={config.external_words}: the external memory of {self.name} ({self.memory}) is not connected",
                "a configuration whose weights lie on chip, or a board with SDRAM (hwattn boards)",
                "take --set external_words=0 and a weight_words that holds the weights, or simulate it (hwattn sim)",
            )
        largest = self.sdram.bytes // config.lanes
        if config.external_words > largest:
            raise RefusedError(
                f"external_words={config.external_words} of {config.lanes} bytes",
                f"up to {largest}: {self.name} has {self.sdram.bytes >> 20} MiB",
                f"take --set external_words={largest}",
            )
        return self.sdram.at(self.clock_mhz)

    def external_memory(self, config: AcceleratorConfig) -> ExternalMemory | None:
        """How fast that memory is; None where the machine has none.

        Raises
        ------
        RefusedError
            As `external`, or as `ProcessorMemory.stripes`.
        """
        if self.processor_memory and config.external_words:
            return self.processor_memory.external_memory(config, self.clock_mhz)
        timing = self.external(config)
        return timing.external_memory(config.lanes) if timing else None

    def at_clock(self, clock_mhz: float) -> Board:
        """Return the same board with its machine at another clock.

        Raises
        ------
        RefusedError
            The serial line's speed cannot be made from that clock.
        """
        changed = dataclasses.replace(self, clock_mhz=clock_mhz)
        cycles = clock_mhz * 1e6 / self.baud
        if changed.divisor < LEAST_DIVISOR or abs(changed.divisor - cycles) > BAUD_ERROR * cycles:
            raise RefusedError(
                f"a clock of {clock_mhz:g} MHz, {cycles:.2f} cycles for each bit on the serial line of {self.baud:,} baud",
                f"a whole number of cycles within {BAUD_ERROR:.0%}, {LEAST_DIVISOR} or more",
                f"take a multiple of {self.baud / 1e6:g} MHz",
            )
        return changed


@cache
def boards() -> dict[str, Board]:
    """Return every board by name: the modules of this package that hold a `BOARD`."""
    package = importlib.import_module("hwattn.boards")
    found = {}
    for module in pkgutil.iter_modules(package.__path__):
        board = getattr(importlib.import_module(f"hwattn.boards.{module.name}"), "BOARD", None)
        if isinstance(board, Board):
            found[board.name] = board
    return dict(sorted(found.items()))


def find_board(name: str) -> Board:
    """Return a board by name.

    Raises
    ------
    RefusedError
        There is none of that name.
    """
    if name not in boards():
        raise RefusedError(f"no board {name}", f"one of {', '.join(boards())}", "run: hwattn boards")
    return boards()[name]
