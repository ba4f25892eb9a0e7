"""Registers between a simulated chip of memory and its controller, in the place of those in a board's pins."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal


def registered(m: Module, pins: Any) -> tuple[dict[str, Signal], Signal]:
    """Add a register behind each output of a controller's `pins`, and one before its `input`.

    Returns
    -------
    dict of str to Signal
        What the chip is given, by the names of the pins: one cycle later.
    Signal
        What the chip drives; the controller has it one cycle later.
    """
    outputs = {name: getattr(pins, name) for name in pins.signature.members if name != "input"}
    behind = {name: Signal.like(value, name=f"pin_{name}") for name, value in outputs.items()}
    arriving = Signal.like(pins.input)
    m.d.sync += [behind[name].eq(value) for name, value in outputs.items()]
    m.d.sync += pins.input.eq(arriving)
    return behind, arriving
