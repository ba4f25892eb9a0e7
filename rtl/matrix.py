"""The matrix unit: rows of a matrix stream past resident rows, one word per cycle."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from amaranth.hdl import Array, Assert, Cat, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from hwattn.rtl.adder_tree import tree_stages
from hwattn.rtl.commands import command_layout, command_stream
from hwattn.rtl.dot_products import DotProducts
from hwattn.rtl.interfaces import (
    GROWTH_BITS,
    accumulator_port,
    growth_port,
    read_port,
    resident_port,
)
from hwattn.rtl.matrix_row import MatrixRow
from hwattn.rtl.multipliers import MultiplierStyle
from hwattn.rtl.pipeline import Countdown
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.isa import Matmul, Memory

COMMANDS_IN_FLIGHT = 3
"""Commands whose last column may be on its way: each lasts three cycles or more, and the way is short."""


class Matrix(Component):
    """`rows` matrix rows, the stream that they share, and the ports to their accumulators.

    Parameters
    ----------
    config : AcceleratorConfig
    multiplier_style : MultiplierStyle
        How the target multiplies; neither results nor cycles depend on it.

    Members
    -------
    command : In(command_stream(Matmul))
    done, busy : Out(1)
    active : Out(1)
        The multipliers receive a word in this cycle.
    act, weight : Out(read_port(config))
        Streamed rows, from one of the two memories.
    load_write, softmax_write : In(resident_port(config))
        Words of resident rows. `softmax_write` is always ready, and goes first.
    growth : Out(growth_port(config))
    acc_post, acc_softmax, acc_route : In(accumulator_port(config))

    Latency
    -------
    From acceptance to `done`: ``words * n0 * n1 + 7 + T`` cycles and the stalls of the read port, T = ``tree_stages(lanes)``. The next
    command is accepted as soon as the last word has been asked for, ``words * n0 * n1 + 2`` cycles after this one, where neither
    accumulates; else when this one is done.

    Bit accuracy
    ------------
    ``hwattn.sim.model.matrix``.
    """

    def __init__(
        self, config: AcceleratorConfig, multiplier_style: MultiplierStyle = MultiplierStyle.SINGLE
    ) -> None:
        self.config = config
        self.multiplier_style = multiplier_style
        self.address_bits = ceil_log2(max(config.act_total_words, config.weight_words))
        super().__init__(
            {
                "command": In(command_stream(Matmul)),
                "done": Out(1),
                "busy": Out(1),
                "active": Out(1),
                "act": Out(read_port(config)),
                "weight": Out(read_port(config)),
                "load_write": In(resident_port(config)),
                "softmax_write": In(resident_port(config)),
                "growth": Out(growth_port(config)),
                "acc_post": In(accumulator_port(config)),
                "acc_softmax": In(accumulator_port(config)),
                "acc_route": In(accumulator_port(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        command = Signal(command_layout(Matmul))
        growth = Signal(data.ArrayLayout(GROWTH_BITS, config.rows))
        m.submodules.dots = dots = DotProducts(config, self.multiplier_style)
        rows = [MatrixRow(config) for _ in range(config.rows)]
        for index, row in enumerate(rows):
            m.submodules[f"row_{index}"] = row
            m.d.comb += [row.dot.eq(dots.dot[index]), row.growth.eq(growth[index])]

        setup, accumulates = Signal(), Signal()
        # which memory words are asked of; neither when all have been
        from_act, from_weight = Signal(), Signal()
        streaming = from_act | from_weight
        draining = Signal(range(COMMANDS_IN_FLIGHT + 1))
        m.d.comb += [
            self.command.ready.eq(
                ~setup
                & ~streaming
                & (draining != COMMANDS_IN_FLIGHT)
                & (~draining.any() | ~(accumulates | self.command.payload.accumulate))
            ),
            self.busy.eq(setup | streaming | draining.any()),
            self.growth.state.eq(command.state),
        ]
        with m.If(self.command.valid & self.command.ready):
            m.d.sync += [command.eq(self.command.payload), setup.eq(1)]
        with m.If(setup):
            m.d.sync += [setup.eq(0), accumulates.eq(command.accumulate)]
            m.d.sync += [
                from_act.eq(command.memory != Memory.WEIGHT),
                from_weight.eq(command.memory == Memory.WEIGHT),
            ]
            for index in range(config.rows):
                m.d.sync += growth[index].eq(Mux(command.rescale, self.growth.growth[index], 0))
        step, first, last, column, ended = self._stream(m, command, setup, from_act, from_weight)
        with m.If(ended):
            m.d.sync += [from_act.eq(0), from_weight.eq(0)]
        m.d.sync += draining.eq(draining + ended - self.done)

        self._resident(m, dots, command, step, first)
        self._accumulate(m, dots, rows, command, step, first, last, column, ended)
        return m

    def _stream(
        self, m: Module, command: Any, setup: Signal, from_act: Signal, from_weight: Signal
    ) -> tuple[Signal, ...]:
        """Ask for the streamed words, row after row.

        Returns `step` (a word is asked for and granted), whether it is the `first` and the `last` of its row, its accumulator
        column, and whether it is the very last (`ended`).
        """
        address, row_start, group_start = (Signal(self.address_bits) for _ in range(3))
        counts = [Countdown(command[name], name) for name in ("words", "n0", "n1")]
        words, inner, outer = counts
        column = Signal.like(command.acc_base)
        step, first, last, ended = Signal(), Signal(init=1), Signal(), Signal()
        next_row = (row_start + command.stride0)[: self.address_bits]
        next_group = (group_start + command.stride1)[: self.address_bits]

        with m.If(setup):
            start = command.base + command.expert * command.expert_stride[: self.address_bits]
            m.d.sync += [each.eq(start) for each in (address, row_start, group_start)]
            m.d.sync += column.eq(command.acc_base)
            for count in counts:
                count.restart(m)
            m.d.sync += Assert((command.words != 0) & (command.n0 != 0) & (command.n1 != 0), "empty Matmul")
        m.d.comb += [
            self.act.request.payload.eq(address),
            self.weight.request.payload.eq(address),
            self.act.request.valid.eq(from_act),
            self.weight.request.valid.eq(from_weight),
            step.eq((from_act & self.act.request.ready) | (from_weight & self.weight.request.ready)),
            last.eq(words.last),
            ended.eq(step & last & inner.last & outer.last),
        ]
        with m.If(step):
            m.d.sync += [address.eq(address + 1), first.eq(last)]
            words.step(m)
            with m.If(last):
                inner.step(m)
                m.d.sync += [
                    address.eq(next_row),
                    row_start.eq(next_row),
                    column.eq(column + 1),
                ]
                with m.If(inner.last):
                    outer.step(m)
                    m.d.sync += [
                        address.eq(next_group),
                        row_start.eq(next_group),
                        group_start.eq(next_group),
                    ]
        return step, first, last, column, ended

    def _resident(self, m: Module, dots: DotProducts, command: Any, step: Signal, first: Signal) -> None:
        """Write words of resident rows, and read those that meet the streamed word."""
        write = Signal(self.load_write.payload.shape())
        written = self.softmax_write.valid | self.load_write.valid
        m.d.comb += [
            self.softmax_write.ready.eq(1),
            self.load_write.ready.eq(~self.softmax_write.valid),
            write.eq(Mux(self.softmax_write.valid, self.softmax_write.payload, self.load_write.payload)),
        ]
        word_bits = ceil_log2(self.config.row_words)
        word, here = Signal(word_bits), Signal(word_bits)
        m.d.comb += [
            here.eq(Mux(first, 0, word)),
            dots.fetch.eq(step),
            dots.fetch_addr.eq(Cat(here, command.slot)),
            dots.write_enable.eq(Cat(written & (write.row == row) for row in range(self.config.rows))),
            dots.write_data.eq(write.data),
            dots.write_addr.eq(Cat(write.word[:word_bits], write.slot)),
        ]
        with m.If(step):
            m.d.sync += word.eq(here + 1)
        from_weight = command.memory == Memory.WEIGHT
        streamed = Signal(8 * self.config.lanes)
        arrived = Signal()
        m.d.sync += [arrived.eq(step), streamed.eq(Mux(from_weight, self.weight.data, self.act.data))]
        m.d.sync += Assert(
            arrived == Mux(from_weight, self.weight.valid, self.act.valid),
            "a word one cycle after its request",
        )
        m.d.comb += [self.active.eq(arrived), dots.streamed.eq(streamed)]
        with m.If(step):
            m.d.sync += Assert(
                ~(written & (dots.write_addr == dots.fetch_addr)),
                "resident word read and written at once",
            )

    def _accumulate(
        self,
        m: Module,
        dots: DotProducts,
        rows: list[MatrixRow],
        command: Any,
        step: Signal,
        first: Signal,
        last: Signal,
        column: Signal,
        ended: Signal,
    ) -> None:
        """Carry each word's part in its column along with it, and share the accumulator banks with their readers."""
        config = self.config
        banks = range(config.acc_banks)
        bank_at = ceil_log2(config.acc_columns)
        column_bits = bank_at + ceil_log2(config.acc_banks)
        settings = ("resident_unsigned", "low_pass", "accumulate")
        stages = data.StructLayout(
            {"add": 1, "first": 1, "last": 1, "ended": 1, "column": column_bits, **dict.fromkeys(settings, 1)}
        )
        add_at = 3 + tree_stages(config.lanes)
        pipeline = [Signal(stages, name=f"stage_{index}") for index in range(add_at + 4)]
        m.d.comb += [
            pipeline[0].add.eq(step),
            pipeline[0].first.eq(first),
            pipeline[0].last.eq(step & last),
            pipeline[0].ended.eq(ended),
            pipeline[0].column.eq(column),
            *(pipeline[0][name].eq(command[name]) for name in settings),
        ]
        m.d.sync += [after.eq(before) for before, after in pairwise(pipeline)]
        adding, reading, storing = pipeline[add_at], pipeline[add_at - 1], pipeline[add_at + 3]
        multiplying, finishing = pipeline[2], pipeline[add_at + 1]
        m.d.comb += [self.done.eq(storing.ended), dots.resident_unsigned.eq(multiplying.resident_unsigned)]

        clients = [(reading.last, reading.column)]
        ports = (self.acc_post, self.acc_softmax, self.acc_route)
        clients += [(port.enable, port.addr[:column_bits]) for port in ports]
        users = [[Signal(name=f"user_{index}_{bank}") for index in range(4)] for bank in banks]
        for bank in banks:
            bits = users[bank]
            m.d.comb += [
                bit.eq(enable & (address[bank_at:] == bank))
                for bit, (enable, address) in zip(bits, clients, strict=True)
            ]
            stores = storing.last & (storing.column[bank_at:] == bank)
            m.d.sync += Assert((Cat(bits) & (Cat(bits) - 1)) == 0, "accumulator bank with two readers")
            m.d.sync += Assert(~(stores & Cat(bits[1:]).any()), "accumulator bank read and written at once")
            address = Signal(bank_at, name=f"acc_addr_{bank}")
            m.d.comb += address.eq(clients[0][1])
            for bit, (_, wanted) in zip(bits[1:], clients[1:], strict=True):
                with m.If(bit):
                    m.d.comb += address.eq(wanted)
            for row in rows:
                m.d.comb += [
                    row.read_enable[bank].eq(Cat(bits).any()),
                    row.read_addr[bank].eq(address),
                    row.store[bank].eq(stores),
                ]
        for row in rows:
            m.d.comb += [
                row.add.eq(adding.add),
                row.first.eq(adding.first),
                row.old_bank.eq(adding.column[bank_at:]),
                row.low_pass.eq(finishing.low_pass),
                row.accumulate.eq(finishing.accumulate),
                row.store_addr.eq(storing.column),
            ]
        for client, port in enumerate(ports, start=1):
            bank = Signal(range(config.acc_banks), name=f"bank_{client}")
            m.d.sync += bank.eq(port.addr[bank_at:column_bits])
            for index, row in enumerate(rows):
                m.d.comb += port.data[index].eq(Array(row.data)[bank])
