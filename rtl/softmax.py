"""Softmax of a block of keys: integer running maximum, one exponential per score, running sum."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Assert, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, flipped

from hwattn.rtl.commands import command_layout, command_stream
from hwattn.rtl.exponential import DISTANCE_BITS, Exponential
from hwattn.rtl.interfaces import (
    ACCUMULATOR_BITS,
    accumulator_port,
    growth_port,
    resident_port,
    sum_port,
)
from hwattn.rtl.memory import block_ram
from hwattn.rtl.pipeline import delayed
from hwattn.rtl.probability_writer import ProbabilityWriter
from hwattn.rtl.requantize import Requantizer
from hwattn.rtl.softmax_state import SENTINEL, SoftmaxState
from hwattn.rtl.transposer import Transposer
from hwattn.spec import isa
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.tables import SCORE_FRACTION_BITS

_SCORE_BITS = 16


class Softmax(wiring.Component):
    """Turn a block of score columns into probabilities in the resident rows.

    Pass 1 requantizes the scores, keeps them, and raises the maxima; pass 2 converts them. Both take `softmax_lanes` scores per cycle: a
    column in chunks of that many rows, column after column.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    command : In, stream of `Softmax`
    done, busy : Out
    acc : Out, accumulator port
    resident : Out, stream of resident words
        Must always be ready.
    growth : In, growth of the maximum of every row of a state
    sums : In, sum of one row of a state

    Latency
    -------
    ``2 * keys * ceil(rows / softmax_lanes) + 12`` cycles from acceptance, and one for each row (two with `p16`) to write the last group of
    keys; it waits for the group before. Pass 2 stalls where the words of a group take longer to write than its keys to convert.

    Bit accuracy
    ------------
    `hwattn.sim.model.softmax.softmax_block`, `bytes8` and `high_low`.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "command": In(command_stream(isa.Softmax)),
                "done": Out(1),
                "busy": Out(1),
                "acc": Out(accumulator_port(config)),
                "resident": Out(resident_port(config)),
                "growth": In(growth_port(config)),
                "sums": In(sum_port(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        width = config.softmax_lanes
        m.submodules.transposer = transposer = Transposer(config.rows, config.lanes, width)
        m.submodules.state = state = SoftmaxState(config)
        m.submodules.writer = writer = ProbabilityWriter(config)
        command = Signal(command_layout(isa.Softmax))
        m.d.comb += [
            state.state.eq(command.state),
            state.first.eq(command.first),
            writer.slot.eq(command.slot),
            writer.p16.eq(command.p16),
            writer.rows.eq(command.rows),
            writer.keys.eq(command.keys),
            writer.full.eq(transposer.full),
            writer.row.as_value().eq(transposer.row.as_value()),
            transposer.read_chunk.eq(writer.read_chunk),
            transposer.read_lane.eq(writer.read_lane),
            transposer.release.eq(writer.release),
        ]
        wiring.connect(m, flipped(self.resident), writer.resident)
        wiring.connect(m, flipped(self.growth), state.growth)
        wiring.connect(m, flipped(self.sums), state.sums)

        # Issue: the chunks of a column, column after column
        tag_layout = data.StructLayout(
            {
                "valid": 1,
                "chunk": range(transposer.chunks),
                "group_column": range(config.lanes),
                "group_end": 1,
                "first_key": 1,
                "last": 1,
                "rows": width,
                "visible": width,
            }
        )
        issue = Signal(tag_layout)
        key = Signal(len(command.keys))
        row = Signal(len(command.rows) + 1)
        chunk = Signal(range(transposer.chunks))
        last_chunk, last_key = row + width >= command.rows, key == command.keys - 1
        score_address = Signal(range(config.acc_columns * transposer.chunks))
        passing = Signal(2)  # bit n: pass n + 1 issues
        group_column = key[: len(issue.group_column)]
        group_start = ~group_column.any() & ~chunk.any()
        m.d.comb += [
            issue.valid.eq(passing[0] | (passing[1] & (~group_start | transposer.available))),
            issue.chunk.eq(chunk),
            issue.group_column.eq(group_column),
            issue.group_end.eq(last_chunk & (group_column.all() | last_key)),
            issue.first_key.eq(~key.any()),
            issue.last.eq(last_chunk & last_key),
            transposer.reserve.eq(passing[1] & group_start & transposer.available),
            self.acc.enable.eq(passing[0]),
            self.acc.addr.eq(command.acc_base + key),
        ]
        for i in range(width):
            slope = Mux(command.slope_low, row + i, 0), Mux(command.slope_high, row + i, 0)
            m.d.comb += [
                issue.rows[i].eq(row + i < command.rows),
                issue.visible[i].eq(
                    (command.mask_low + slope[0] <= key) & (key < command.mask_high + slope[1])
                ),
            ]
        with m.If(issue.valid):
            m.d.sync += [row.eq(row + width), chunk.eq(chunk + 1), score_address.eq(score_address + 1)]
            with m.If(last_chunk):
                m.d.sync += [row.eq(0), chunk.eq(0), key.eq(key + 1)]
            with m.If(issue.last):
                m.d.sync += [key.eq(0), score_address.eq(0)]

        # Pass 1: select, requantize, keep
        tag, scores = self._scores(m, issue, command, transposer.chunks)
        read = self._keep(m, tag, scores, score_address, transposer.chunks)
        # Pass 2: distance, exponential, sum, transpose
        summed = self._convert(m, issue, command, passing[1], read, state, transposer)

        with m.FSM() as fsm:
            m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
            with m.State("IDLE"):
                m.d.comb += self.command.ready.eq(1)
                with m.If(self.command.valid):
                    m.d.sync += command.eq(self.command.payload)
                    m.next = "SCORES"
            with m.State("SCORES"):
                m.d.comb += passing[0].eq(1)
                with m.If(issue.last):
                    m.next = "MAXIMA"
            with m.State("MAXIMA"):
                # in the cycle after, the last chunk raises its maxima, and pass 2 needs them one later
                with m.If(tag.valid & tag.last):
                    m.next = "PROBABILITIES"
            with m.State("PROBABILITIES"):
                m.d.comb += passing[1].eq(1)
                with m.If(issue.valid & issue.last):
                    m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += self.done.eq(writer.done)
                with m.If(writer.done):
                    m.next = "IDLE"
        m.d.comb += writer.start.eq(passing[0])
        m.d.sync += Assert(~summed | self.busy, "a probability came after the end of its command")
        self._raise_maxima(m, tag, scores, state)
        return m

    def _scores(self, m: Module, issue: Any, command: Any, chunks: int) -> tuple[Any, Any]:
        """Requantize the accumulators of the chunk that is issued; they come one cycle later."""
        width = self._config.softmax_lanes
        m.submodules.requantizer = requantizer = Requantizer(width, ACCUMULATOR_BITS, _SCORE_BITS)
        tags = delayed(m, issue, 2 + Requantizer.DELAY, "score_tag")
        with m.If(~self.acc.enable):
            m.d.sync += tags[0].valid.eq(0)
        for i in range(width):
            rows = [self.acc.data[row] for row in range(i, self._config.rows, width)]
            rows += [rows[-1]] * (chunks - len(rows))
            m.d.sync += requantizer.value[i].eq(Array(rows)[tags[0].chunk])
            m.d.comb += [
                requantizer.multiplier[i].eq(command.multiplier),
                requantizer.shift[i].eq(command.shift),
            ]
        return tags[-1], requantizer.result

    def _keep(self, m: Module, tag: Any, scores: Any, read_address: Value, chunks: int) -> Any:
        """Keep scores with their visibility, in order; return what is read at `read_address`, one cycle later."""
        kept = data.StructLayout({"score": signed(_SCORE_BITS), "visible": 1})
        shape = data.ArrayLayout(kept, self._config.softmax_lanes)
        depth = self._config.acc_columns * chunks
        m.submodules.scores = memory = block_ram(shape, depth)
        write, read = memory.write_port(), memory.read_port()
        m.d.comb += [write.en.eq(tag.valid), read.addr.eq(read_address)]
        with m.If(tag.valid):
            m.d.sync += write.addr.eq(Mux(tag.last, 0, write.addr + 1))
        for i in range(self._config.softmax_lanes):
            m.d.comb += [
                write.data[i].score.eq(scores[i]),
                write.data[i].visible.eq(tag.visible[i]),
            ]
        return read.data

    def _raise_maxima(self, m: Module, tag: Any, scores: Any, state: SoftmaxState) -> None:
        """Raise the maxima of a chunk to the ceilings of its visible scores."""
        m.d.sync += [
            state.raise_valid.eq(tag.valid),
            state.raise_chunk.eq(tag.chunk),
            state.raise_first.eq(tag.first_key),
            state.raise_rows.eq(tag.rows),
        ]
        for i in range(self._config.softmax_lanes):
            ceiling = (scores[i] + ((1 << SCORE_FRACTION_BITS) - 1)) >> SCORE_FRACTION_BITS
            m.d.sync += state.ceilings[i].eq(Mux(tag.visible[i], ceiling, SENTINEL))

    def _convert(
        self,
        m: Module,
        issue: Any,
        command: Any,
        enable: Value,
        kept: Any,
        state: SoftmaxState,
        transposer: Transposer,
    ) -> Value:
        """Convert kept scores to probabilities, add them up and hand them to the transposer."""
        width = self._config.softmax_lanes
        m.submodules.exponential = exponential = Exponential(width)
        tags = delayed(m, issue, 2 + Exponential.DELAY, "probability_tag")
        with m.If(~enable):
            m.d.sync += tags[0].valid.eq(0)
        m.d.comb += [
            state.grow_valid.eq(tags[0].valid & tags[0].first_key),
            state.grow_chunk.eq(tags[0].chunk),
            state.grow_rows.eq(tags[0].rows),
            state.add_valid.eq(tags[-1].valid),
            state.add_chunk.eq(tags[-1].chunk),
            state.add_first.eq(tags[-1].first_key),
            state.add_rows.eq(tags[-1].rows),
            state.addends.eq(exponential.result),
            transposer.write.eq(tags[-1].valid),
            transposer.write_chunk.eq(tags[-1].chunk),
            transposer.write_column.eq(tags[-1].group_column),
            transposer.write_last.eq(tags[-1].group_end),
        ]
        for i in range(width):
            distance = (state.maxima[i] << SCORE_FRACTION_BITS) - kept[i].score
            m.d.sync += [
                exponential.distance[i].eq(distance[:DISTANCE_BITS]),
                exponential.enable[i].eq(kept[i].visible),
            ]
            p16 = exponential.result[i]
            rounded = (p16 + 128) >> 8
            p8 = Mux(rounded[8], 255, rounded)
            m.d.comb += transposer.values[i].eq(Mux(command.p16, p16, p8))
        return tags[-1].valid
