"""Post-processing of accumulator columns: requantize, activate, scale again, and write in any format."""

from __future__ import annotations

from typing import Any

import numpy as np
from amaranth.hdl import Array, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from numpy.typing import NDArray

from hwattn.rtl.activation import RESULT_BITS, Activation
from hwattn.rtl.column_writer import ColumnWriter
from hwattn.rtl.commands import command_layout, command_stream
from hwattn.rtl.interfaces import (
    ACCUMULATOR_BITS,
    PARAM_ADDRESS_BITS,
    TABLE_ADDRESS_BITS,
    accumulator_port,
    entry_port,
    entry_write,
    param_layout,
    read_port,
    sum_port,
    table_layout,
    write_port,
)
from hwattn.rtl.memory import block_ram
from hwattn.rtl.pipeline import delayed
from hwattn.rtl.requantize import Requantizer, saturated
from hwattn.rtl.row_setup import RowSetup
from hwattn.rtl.row_writer import RowWriter
from hwattn.rtl.transposer import ELEMENT_BITS, Transposer
from hwattn.spec import isa
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.isa import Format, Stage2
from hwattn.spec.tables import ACTIVATION_INPUT_BITS, ActivationTable

_GATE_SHIFT = 15
_FETCH = 3  # cycles from issue to the first requantizer
_STAGE1 = _FETCH + Requantizer.DELAY
_ACTIVATED = _STAGE1 + Activation.DELAY


class Post(wiring.Component):
    """Requantize accumulator columns and write them, `post_lanes` elements per cycle: a column in chunks of that many rows.

    Parameters
    ----------
    config : AcceleratorConfig
    params : ndarray of int64, shape (n, 3), optional
        Initial bias, multiplier and shift of the parameter memory.
    activation : ActivationTable, optional
        Initial table.

    Members
    -------
    command : In, stream of `Post`
    done, busy : Out
    acc : Out, accumulator port
    act_read, act_write : Out
        Ports of the activation memory.
    entry : Out, token and gate weight of a row of an expert
    sums : Out, look-up of the sum of one row of a softmax state
    param_write, table_write : In, streams of entries
        Always ready.
    interval_shift : In
        The table's intervals are 2**6 (0) or 2**7 (1) input units wide.

    Latency
    -------
    ``columns * ceil(rows / post_lanes)`` cycles to issue, 10 until the last chunk is in the transposer (4 more with a second stage; 9 more
    with an activation, whether or not a second stage follows), then what `RowWriter` takes for the last group, or `ColumnWriter` for the
    last column: earlier ones are written while later ones are filled. Before the first chunk, ``min(rows, post_lanes) + 1`` cycles for gate
    weights; with `row_scale`, what `Reciprocal` takes.

    Bit accuracy
    ------------
    `hwattn.sim.model.post`: `stage1`, `stage2_constant`, `stage2_gate`, `reciprocal`.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        params: NDArray[np.int64] | None = None,
        activation: ActivationTable | None = None,
    ) -> None:
        self._config = config
        self._table = activation
        self._params = [] if params is None else [
            dict(zip(("bias", "multiplier", "shift"), map(int, entry), strict=True)) for entry in params
        ]  # fmt: skip
        super().__init__(
            {
                "command": In(command_stream(isa.Post)),
                "done": Out(1),
                "busy": Out(1),
                "acc": Out(accumulator_port(config)),
                "act_read": Out(read_port(config)),
                "act_write": Out(write_port(config)),
                "entry": Out(entry_port()),
                "sums": Out(sum_port(config)),
                "param_write": In(entry_write(PARAM_ADDRESS_BITS, param_layout())),
                "table_write": In(entry_write(TABLE_ADDRESS_BITS, table_layout())),
                "interval_shift": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        width = config.post_lanes
        m.submodules.transposer = transposer = Transposer(config.rows, config.lanes, width)
        m.submodules.setup = setup = RowSetup(config)
        command = Signal(command_layout(isa.Post))
        start = Signal()
        m.d.comb += [setup.command.eq(command), setup.start.eq(start)]
        connect(m, flipped(self.entry), setup.entry)
        connect(m, flipped(self.sums), setup.sums)
        column_end = Signal()
        written = self._write(m, command, start, column_end, setup, transposer)

        # Issue: the chunks of a column, column after column
        issue = Signal(
            data.StructLayout(
                {
                    "valid": 1,
                    "chunk": range(transposer.chunks),
                    "group_column": range(config.lanes),
                    "column_end": 1,
                    "group_end": 1,
                    "last": 1,
                }
            )
        )
        running = Signal()
        column, chunk = Signal(len(command.columns)), Signal(range(transposer.chunks))
        row = Signal(len(command.rows) + 1)
        last_chunk, last_column = row + width >= command.rows, column == command.columns - 1
        group_column = column[: len(issue.group_column)]
        group_start = ~group_column.any() & ~chunk.any()
        scaled = ~setup.scaling | (setup.scaled >= command.rows) | (setup.scaled >= row + width)
        m.d.comb += [
            issue.valid.eq(running & scaled & (~group_start | transposer.available)),
            issue.chunk.eq(chunk),
            issue.group_column.eq(group_column),
            issue.column_end.eq(last_chunk),
            issue.group_end.eq(last_chunk & (last_column | group_column.all())),
            issue.last.eq(last_chunk & last_column),
            transposer.reserve.eq(issue.valid & group_start),
            self.acc.enable.eq(issue.valid),
            self.acc.addr.eq(command.acc_base + column),
        ]
        with m.If(issue.valid):
            m.d.sync += [row.eq(row + width), chunk.eq(chunk + 1)]
            with m.If(last_chunk):
                m.d.sync += [row.eq(0), chunk.eq(0), column.eq(column + 1)]
            with m.If(issue.last):
                m.d.sync += column.eq(0)

        tags = delayed(m, issue, _ACTIVATED + Requantizer.DELAY, "tag")
        last_tag = self._process(m, command, issue, column, tags, setup, transposer)
        m.d.comb += column_end.eq(last_tag.column_end)

        with m.FSM() as fsm:
            m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
            with m.State("IDLE"):
                m.d.comb += self.command.ready.eq(1)
                with m.If(self.command.valid):
                    m.d.sync += command.eq(self.command.payload)
                    m.next = "START"
            with m.State("START"):
                m.d.comb += start.eq(1)
                m.next = "COLUMNS"
            with m.State("COLUMNS"):
                m.d.comb += running.eq(1)
                with m.If(issue.valid & issue.last):
                    m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += self.done.eq(written)
                with m.If(written):
                    m.next = "IDLE"
        return m

    def _process(
        self,
        m: Module,
        command: Any,
        issue: Any,
        column: Signal,
        tags: list[Any],
        setup: RowSetup,
        transposer: Transposer,
    ) -> Any:
        """From the accumulators to the transposer; ``tags[n]`` says what has been issued n + 1 cycles ago.

        Returns what enters the transposer.
        """
        width = self._config.post_lanes
        m.submodules.stage1 = stage1 = Requantizer(width, ACCUMULATOR_BITS + 1, ACTIVATION_INPUT_BITS)
        m.submodules.activation = activation = Activation(width, self._table)
        m.submodules.stage2 = stage2 = Requantizer(width, RESULT_BITS, ELEMENT_BITS)
        connect(m, flipped(self.table_write), activation.table_write)
        m.d.comb += activation.interval_shift.eq(self.interval_shift)

        param = self._parameters(m, command, column)
        values = Signal(data.ArrayLayout(signed(ACCUMULATOR_BITS), width))
        m.d.comb += setup.scale_chunk.eq(tags[1].chunk)
        m.d.comb += setup.gate_chunk.eq(tags[_STAGE1 - 1].chunk)
        for i in range(width):
            rows = [self.acc.data[row] for row in range(i, self._config.rows, width)]
            rows += [rows[-1]] * (transposer.chunks - len(rows))
            scale, gate = setup.scales[i], setup.gates[i]
            m.d.sync += [
                values[i].eq(Array(rows)[tags[0].chunk]),
                stage1.value[i].eq(values[i] + Mux(command.row_scale, 0, param.bias)),
                stage1.multiplier[i].eq(Mux(command.row_scale, scale.multiplier, param.multiplier)),
                stage1.shift[i].eq(Mux(command.row_scale, scale.shift, param.shift)),
            ]
            by_gate = command.stage2 == Stage2.GATE
            narrow = saturated(stage1.result[i], ELEMENT_BITS)
            m.d.comb += [
                activation.value[i].eq(stage1.result[i]),
                stage2.value[i].eq(Mux(command.activation, activation.result[i], narrow)),
                stage2.multiplier[i].eq(Mux(by_gate, gate, command.m2)),
                stage2.shift[i].eq(Mux(by_gate, _GATE_SHIFT, command.s2)),
            ]

        # What is not needed is bypassed, also in time
        last = Signal(issue.shape())
        two_stages = command.stage2 != Stage2.NONE
        bytewise = (command.format == Format.INT8) | (command.format == Format.COLUMNS)
        early = Mux(two_stages, tags[_STAGE1 + Requantizer.DELAY - 1], tags[_STAGE1 - 1])
        m.d.sync += last.eq(Mux(command.activation, tags[-1], early))
        m.d.comb += [
            transposer.write.eq(last.valid),
            transposer.write_last.eq(last.group_end),
            transposer.write_chunk.eq(last.chunk),
            transposer.write_column.eq(last.group_column),
        ]
        for i in range(width):
            result = Mux(two_stages, stage2.result[i], saturated(stage1.result[i], ELEMENT_BITS))
            m.d.sync += transposer.values[i].eq(Mux(bytewise, saturated(result, 8), result))
        return last

    def _parameters(self, m: Module, command: Any, column: Signal) -> Any:
        """Read the parameters of the column that is issued; return them two cycles later."""
        m.submodules.params = memory = block_ram(param_layout(), self._config.param_words, self._params)
        write, read = memory.write_port(), memory.read_port()
        base = Signal(PARAM_ADDRESS_BITS)
        param = Signal(param_layout())
        m.d.comb += [
            self.param_write.ready.eq(1),
            write.addr.eq(self.param_write.payload.addr),
            write.data.eq(self.param_write.payload.data),
            write.en.eq(self.param_write.valid),
            read.addr.eq(base + column),
        ]
        m.d.sync += [
            base.eq(command.param_base + command.expert * command.expert_stride),
            param.eq(read.data),
        ]
        return param

    def _write(
        self,
        m: Module,
        command: Any,
        start: Signal,
        column_end: Signal,
        setup: RowSetup,
        transposer: Transposer,
    ) -> Signal:
        """Let the writer of the command's format empty the transposer; return that it is done."""
        m.submodules.row_writer = row_writer = RowWriter(self._config)
        m.submodules.column_writer = column_writer = ColumnWriter(self._config, transposer.groups)
        connect(m, flipped(self.act_read), row_writer.act_read)
        by_columns, done = Signal(), Signal()
        m.d.sync += by_columns.eq(command.format == Format.COLUMNS)
        write, rows, columns = self.act_write, row_writer.act_write, column_writer.act_write
        m.d.comb += [
            done.eq(row_writer.done | column_writer.done),
            row_writer.full.eq(transposer.full & ~by_columns),
            column_writer.written.eq(transposer.write & column_end & by_columns),
            row_writer.row.eq(transposer.row),
            column_writer.column.eq(transposer.column.as_value()),
            transposer.read_chunk.eq(Mux(by_columns, column_writer.read_chunk, row_writer.read_chunk)),
            transposer.read_lane.eq(row_writer.read_lane),
            transposer.read_column.eq(column_writer.read_column),
            transposer.release.eq(row_writer.release | column_writer.release),
            setup.address_row.eq(row_writer.address_row),
            row_writer.address.eq(setup.address),
            row_writer.addresses.eq(setup.addresses),
            write.valid.eq(rows.valid | columns.valid),
            write.payload.eq(Mux(by_columns, columns.payload, rows.payload)),
            rows.ready.eq(write.ready),
            columns.ready.eq(write.ready),
        ]
        for writer in (row_writer, column_writer):
            m.d.comb += [writer.command.eq(command), writer.start.eq(start)]
        return done
