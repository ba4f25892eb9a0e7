"""What hwattn knows of a board."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from hwattn.rtl.multipliers import MultiplierStyle
from hwattn.spec.errors import RefusedError


@dataclass(frozen=True)
class Resources:
    """What a device has: look-up tables (4 inputs), flip-flops, multiplier blocks, block RAMs."""

    lut: int
    ff: int
    dsp: int
    ram: int


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
    clock_mhz : float
        The oscillator that the machine runs at.
    memory : str
        Memory beside the device, and whether hwattn uses it.
    host : str
        How a host reaches the machine.
    baud : int
        Of the serial link; the clock divided by it is a whole number, 4 or more.
    preset : str
        Preset of AcceleratorConfig that fits.
    flow : str
        Name of the flow that makes the bitstream.
    needs : str
        What the flow needs.
    program_with : str
        How to write the bitstream to the board.
    platform : callable
        Returns the Amaranth platform, made anew.
    multiplier_style : MultiplierStyle
        What the device's multiplier blocks serve best.
    """

    name: str
    title: str
    device: str
    resources: Resources
    ram_bits: int
    clock_mhz: float
    memory: str
    host: str
    baud: int
    preset: str
    flow: str
    needs: str
    program_with: str
    platform: Callable[[], Any]
    multiplier_style: MultiplierStyle = MultiplierStyle.SINGLE

    @property
    def divisor(self) -> int:
        """Clock cycles per bit on the serial line."""
        return round(self.clock_mhz * 1e6 / self.baud)


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
