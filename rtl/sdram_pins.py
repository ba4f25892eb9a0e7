"""The pins of an SDRAM chip and its commands."""

from __future__ import annotations

from enum import IntEnum

from amaranth.lib.wiring import In, Out, Signature

from hwattn.spec.sdram import Sdram

ALL_BANKS = 1 << 10
"""Address bit of a precharge that closes every bank."""


class Command(IntEnum):
    """RAS, CAS and WE from the lowest bit up, 1 where the pin is active."""

    NONE = 0b000
    ACTIVATE = 0b001
    READ = 0b010
    REFRESH = 0b011
    PRECHARGE = 0b101
    WRITE = 0b110
    MODE = 0b111


def sdram_pins(chip: Sdram) -> Signature:
    """Return a chip's pins but clock, clock enable and chip select, which do not change, from the point of view of the controller.

    All are active high. Each output has a flip-flop behind it, and each input one before it: `input` holds a column `cas_latency` + 1
    cycles after its READ. The chip's clock is that of these flip-flops, inverted. `mask` is there where the chip's is connected.
    """
    mask = {"mask": Out(chip.data_bytes)} if chip.masked else {}
    return Signature(
        {
            "command": Out(3),
            "bank": Out(chip.bank_bits),
            "address": Out(chip.row_bits),
            **mask,
            "drive": Out(1),
            "output": Out(8 * chip.data_bytes),
            "input": In(8 * chip.data_bytes),
        }
    )
