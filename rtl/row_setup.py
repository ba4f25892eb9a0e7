"""What post-processing must know of every row before its columns: address, gate weight, reciprocal of the sum."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from hwattn.rtl.commands import command_layout
from hwattn.rtl.interfaces import (
    GATE_BITS,
    MULTIPLIER_BITS,
    SHIFT_BITS,
    WORD_ADDRESS_BITS,
    entry_port,
    sum_port,
)
from hwattn.rtl.reciprocal import Reciprocal
from hwattn.spec import isa
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.isa import Stage2


class RowSetup(wiring.Component):
    """Fill the tables of a command's rows, one row after the other, while its columns are already being processed.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    command : In, fields of `Post`
        Hold from `start` on.
    start : In
        Begin with row 0.
    entry : Out, token and gate weight of a row of an expert
    sums : Out, look-up of the sum of one row of a softmax state
    scaling : Out
        The command multiplies every row by a factor of its own.
    scaled : Out
        Number of rows whose factor is known.
    scale_chunk, scales : In, Out
        Multipliers and shifts of the rows of a chunk, by the reciprocals of their sums; in the same cycle.
    gate_chunk, gates : In, Out
        Gate weights of the rows of a chunk, in the same cycle.
    addresses : Out
        Number of rows whose address is known.
    address_row, address : In, Out
        Word address of a row's first word, ``base + index * stride``, index the row or its token; in the same cycle.

    Latency
    -------
    Addresses and gates: the first row after 3 cycles, then one per cycle. Reciprocals: see `Reciprocal`.

    Bit accuracy
    ------------
    `hwattn.sim.model.post.reciprocal`.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        width = config.post_lanes
        self._chunks = -(-config.rows // width)
        chunk, count = range(self._chunks), range(config.rows + 1)
        self._scale = data.StructLayout({"multiplier": MULTIPLIER_BITS, "shift": SHIFT_BITS})
        super().__init__(
            {
                "command": In(command_layout(isa.Post)),
                "start": In(1),
                "entry": Out(entry_port()),
                "sums": Out(sum_port(config)),
                "scaling": Out(1),
                "scaled": Out(count),
                "scale_chunk": In(chunk),
                "scales": Out(data.ArrayLayout(self._scale, width)),
                "gate_chunk": In(chunk),
                "gates": Out(data.ArrayLayout(GATE_BITS, width)),
                "addresses": Out(count),
                "address_row": In(range(config.rows)),
                "address": Out(WORD_ADDRESS_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        command, width = self.command, self._config.post_lanes
        m.submodules.reciprocal = reciprocal = Reciprocal(self._config)
        connect(m, flipped(self.sums), reciprocal.sums)
        by_gate = command.stage2 == Stage2.GATE
        m.d.comb += [
            reciprocal.start.eq(self.start & command.row_scale),
            reciprocal.rows.eq(command.rows),
            reciprocal.state.eq(command.state),
            reciprocal.m2.eq(command.m2),
            reciprocal.s2.eq(command.s2),
            self.scaling.eq(command.row_scale | by_gate),
        ]

        # Ask for the entry, multiply its token, write the address
        row, asking = Signal(len(command.rows)), Signal()
        answered, multiplied = Signal(), Signal()
        answered_row = Signal.like(row)
        product = Signal(WORD_ADDRESS_BITS)
        m.submodules.address_memory = memory = Memory(
            shape=WORD_ADDRESS_BITS, depth=self._config.rows, init=[]
        )
        write, read = memory.write_port(), memory.read_port(domain="comb")
        m.d.comb += [
            self.entry.expert.eq(command.expert),
            self.entry.index.eq(command.first + row),
            write.addr.eq(self.addresses),
            write.data.eq(command.base + product),
            write.en.eq(multiplied),
            read.addr.eq(self.address_row),
            self.address.eq(read.data),
        ]
        m.d.sync += [
            answered.eq(asking),
            answered_row.eq(row),
            multiplied.eq(answered),
            product.eq(Mux(command.scatter, self.entry.token, answered_row) * command.stride),
        ]
        with m.If(asking):
            m.d.sync += [row.eq(row + 1), asking.eq(row != command.rows - 1)]
        with m.If(multiplied):
            m.d.sync += self.addresses.eq(self.addresses + 1)

        # Factors arrive in order of their rows: gate weights or reciprocals
        valid = Mux(command.row_scale, reciprocal.valid, answered & by_gate)
        scale = Signal(self._scale)
        chunk, lane = Signal(range(self._chunks)), Signal(range(width))
        m.d.comb += [
            scale.multiplier.eq(Mux(command.row_scale, reciprocal.multiplier, self.entry.gate)),
            scale.shift.eq(reciprocal.shift),
        ]
        with m.If(valid):
            m.d.sync += [self.scaled.eq(self.scaled + 1), lane.eq(lane + 1)]
            with m.If(lane == width - 1):
                m.d.sync += [lane.eq(0), chunk.eq(chunk + 1)]
        for i in range(width):
            m.submodules[f"scale_{i}"] = factors = Memory(shape=self._scale, depth=self._chunks, init=[])
            scale_write = factors.write_port()
            scale_read, gate_read = factors.read_port(domain="comb"), factors.read_port(domain="comb")
            m.d.comb += [
                scale_write.addr.eq(chunk),
                scale_write.data.eq(scale),
                scale_write.en.eq(valid & (lane == i)),
                scale_read.addr.eq(self.scale_chunk),
                self.scales[i].eq(scale_read.data),
                gate_read.addr.eq(self.gate_chunk),
                self.gates[i].eq(gate_read.data.multiplier),
            ]
        with m.If(self.start):
            # a command that needs no address may have ended before its last row was asked for
            m.d.sync += [asking.eq(1), answered.eq(0), multiplied.eq(0)]
            m.d.sync += [each.eq(0) for each in (row, self.addresses, self.scaled, chunk, lane)]
        return m
