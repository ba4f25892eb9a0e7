"""Entries of the parameter and norm memories from 32-bit units, as the host writes them and as they lie in external memory."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Module, Signal, Value
from amaranth.lib import stream
from amaranth.lib.wiring import Component, In, Out, Signature

from hwattn.rtl.interfaces import (
    NORM_PARAM_BITS,
    PARAM_ADDRESS_BITS,
    WORD_ADDRESS_BITS,
    entry_write,
    param_layout,
)
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.registers import Region

UNIT_BITS = 32
_MULTIPLIER_BITS = 16


def entry_ports() -> dict[str, Signature]:
    """Return the ports that write whole entries of both memories, by name."""
    return {
        "param_write": entry_write(PARAM_ADDRESS_BITS, param_layout()),
        "norm_write": entry_write(PARAM_ADDRESS_BITS, NORM_PARAM_BITS),
    }


def put_entry(region: Region, entry: Any, low: Value, high: Value) -> list[Any]:
    """Return the assignments of an entry of a region from its first and its second unit (``spec.entries``)."""
    if region == Region.NORM:
        return [entry.eq(low | (high << UNIT_BITS))]
    return [
        entry.bias.eq(low),
        entry.multiplier.eq(high[:_MULTIPLIER_BITS]),
        entry.shift.eq(high[_MULTIPLIER_BITS:]),
    ]


class EntryWriter(Component):
    """Takes words of `lanes` bytes apart into units, and writes an entry for every two of them.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    word : In(stream.Signature(8 * lanes))
        Taken with its last unit; holds until then.
    first : In(20)
        Number of the entry that begins a row of words.
    last : In(1)
        The word ends that row.
    norm : In(1)
        The entries are those of the norm memory.
    stop : In(1)
        Forget the word at hand.
    param_write, norm_write : Out(entry_write)
        Always taken.

    Latency
    -------
    A unit per cycle; an entry is written in the cycle of its second unit.

    Bit accuracy
    ------------
    ``hwattn.spec.entries.unpack_entries``.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._units = config.lanes * 8 // UNIT_BITS
        super().__init__(
            {
                "word": In(stream.Signature(8 * config.lanes)),
                "first": In(WORD_ADDRESS_BITS),
                "last": In(1),
                "norm": In(1),
                "stop": In(1),
                **{name: Out(port) for name, port in entry_ports().items()},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        place = Signal(range(self._units))
        second, unit, held = Signal(), Signal(UNIT_BITS), Signal(UNIT_BITS)
        number = Signal(WORD_ADDRESS_BITS)
        m.d.comb += [
            unit.eq(self.word.payload.word_select(place, UNIT_BITS)),
            self.word.ready.eq(place == self._units - 1),
            self.param_write.valid.eq(self.word.valid & second & ~self.norm),
            self.norm_write.valid.eq(self.word.valid & second & self.norm),
        ]
        for region, port in ((Region.PARAM, self.param_write), (Region.NORM, self.norm_write)):
            m.d.comb += [
                port.payload.addr.eq(self.first + number),
                *put_entry(region, port.payload.data, held, unit),
            ]
        with m.If(self.word.valid):
            m.d.sync += [held.eq(unit), second.eq(~second), place.eq(place + 1), number.eq(number + second)]
            with m.If(self.word.ready):
                m.d.sync += place.eq(0)
                with m.If(self.last):
                    m.d.sync += number.eq(0)
                    m.d.sync += Assert(second, "half an entry at the end of a row of words")
        with m.If(self.stop):
            m.d.sync += [place.eq(0), second.eq(0), number.eq(0)]
        return m
