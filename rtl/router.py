"""The router: top-k experts and gate weights of each token, the experts' queues, and the metaqueue."""

from __future__ import annotations

from amaranth.hdl import Assert, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hwattn.rtl.commands import EXPERT_BITS, command_layout, command_stream
from hwattn.rtl.exponential import PROBABILITY_BITS, Exponential
from hwattn.rtl.interfaces import (
    ACCUMULATOR_BITS,
    GATE_BITS,
    TOKEN_BITS,
    accumulator_port,
    entry_port,
    lookup_port,
    norm_param_port,
)
from hwattn.rtl.memory import block_ram
from hwattn.rtl.pipeline import delayed
from hwattn.rtl.queue import lookup_queues
from hwattn.rtl.requantize import Requantizer, halved
from hwattn.rtl.search import RANK_BITS, SCORE_BITS, Search
from hwattn.spec import isa
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.tables import SCORE_FRACTION_BITS

ENTRIES = 2
_DIGITS = 3  # accumulator columns of one expert
_Y_BITS = 16
_Y_INPUT_BITS = 32
_TOTAL_BITS = PROBABILITY_BITS + EXPERT_BITS
_QUOTIENT_BITS = GATE_BITS + 1

_TAG = data.StructLayout({"valid": 1, "expert": EXPERT_BITS, "last": 1})
"""What accompanies a score: it is there, whose it is, and that it is the row's last."""


class Router(wiring.Component):
    """Route a tile of tokens, `softmax_lanes` rows side by side.

    For each such group of rows the scores are added up from the accumulator columns and kept; their powers of two are taken while
    they are searched for the k best, one search per rank; then come the gate weights, by long division, and the queues.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    command : In, stream of `Route`
    done, busy : Out
    acc : Out, accumulator port
    param : Out, norm parameter port
        Biases of the experts.
    lookups : In, array of metaqueue look-ups, one for each of `lookup_queues`
        Nothing is present after reset, until a command with `last`.
    entries : In, array of 2 queue entry ports

    Latency
    -------
    For each group of `softmax_lanes` rows ``3 * experts + 8`` cycles of scores, then the longer of ``experts + 7`` (powers) and
    ``k * (experts + 3) + 2`` (search), ``k + 1`` with `renormalize`, ``19 * k`` of division, and ``k`` for each row. `config.experts`
    cycles each for `clear` and `last`, and 3 in all.

    Bit accuracy
    ------------
    `hwattn.sim.model.router.route` of `hwattn.sim.model.router.combine`.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "command": In(command_stream(isa.Route)),
                "done": Out(1),
                "busy": Out(1),
                "acc": Out(accumulator_port(config)),
                "param": Out(norm_param_port()),
                "lookups": In(lookup_port()).array(len(lookup_queues(config))),
                "entries": In(entry_port()).array(ENTRIES),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        width = config.softmax_lanes
        lanes = range(width)
        groups = -(-config.rows // width)
        command = Signal(command_layout(isa.Route))
        row = Signal(range(config.rows))
        group = Signal(range(groups))
        lane = Signal(range(width))
        rank = Signal(RANK_BITS)
        expert = Signal(EXPERT_BITS)
        # numbers of the last ones, there in the state after START
        final_expert, final_rank = Signal(EXPERT_BITS), Signal(RANK_BITS)
        m.d.sync += [final_expert.eq(command.experts - 1), final_rank.eq(command.k - 1)]
        last_expert, last_rank = expert == final_expert, rank == final_rank
        last_slot = expert == config.experts - 1
        totals = Signal(data.ArrayLayout(_TOTAL_BITS, width))
        tops = Signal(data.ArrayLayout(signed(_Y_BITS), width))

        # Scores: three columns and a bias for each expert
        issue = Signal(data.StructLayout({"tag": _TAG, "digit": range(_DIGITS)}))
        digit = Signal(range(_DIGITS))
        column = Signal.like(self.acc.addr)
        digit_tag = delayed(m, issue, 2, "digit_tag")[-1]
        picked = Signal(data.ArrayLayout(signed(ACCUMULATOR_BITS), width))
        bias = Signal(signed(SCORE_BITS))
        score = Signal(data.ArrayLayout(signed(SCORE_BITS), width))
        scored = Signal(_TAG)
        m.d.comb += [
            self.acc.enable.eq(issue.tag.valid),
            self.acc.addr.eq(column),
            self.param.addr.eq(command.param_base + expert),
            issue.tag.expert.eq(expert),
            issue.tag.last.eq(last_expert),
            issue.digit.eq(digit),
        ]
        m.d.sync += [
            bias.eq(self.param.data),
            scored.eq(digit_tag.tag),
            scored.valid.eq(digit_tag.tag.valid & (digit_tag.digit == _DIGITS - 1)),
        ]
        with m.Switch(group):
            for number in range(groups):
                with m.Case(number):
                    rows = range(number * width, min((number + 1) * width, config.rows))
                    m.d.sync += [picked[i].eq(self.acc.data[r]) for i, r in enumerate(rows)]
        with m.If(digit_tag.tag.valid):
            for place in range(_DIGITS):
                with m.If(digit_tag.digit == place):
                    m.d.sync += [
                        score[i].eq((score[i] if place else bias) + (picked[i] << (8 * place))) for i in lanes
                    ]

        # Base-2 logarithms of the gate weights, and the largest of each row
        m.submodules.requantizer = requantizer = Requantizer(width, _Y_INPUT_BITS, _Y_BITS)
        y_tag = delayed(m, scored, 2 + Requantizer.DELAY, "y_tag")[-1]
        doubled = Signal(data.ArrayLayout(signed(SCORE_BITS + 1), width))
        for i in lanes:
            m.d.sync += [
                doubled[i].eq((score[i] << 1) >> command.score_shift),
                requantizer.value[i].eq(halved(doubled[i], _Y_INPUT_BITS)),
            ]
            m.d.comb += [
                requantizer.multiplier[i].eq(command.multiplier),
                requantizer.shift[i].eq(command.shift),
            ]
            with m.If(y_tag.valid & (requantizer.result[i] > tops[i])):
                m.d.sync += tops[i].eq(requantizer.result[i])

        # Powers of two, which replace their logarithms, and their sums
        m.submodules.exponential = exponential = Exponential(width)
        convert = Signal(_TAG)
        p_tags = delayed(m, convert, 2 + Exponential.DELAY, "p_tag")
        p_tag = p_tags[-1]
        values = []
        for i in lanes:
            m.submodules[f"values_{i}"] = memory = Memory(shape=_Y_BITS, depth=config.experts, init=[])
            read, write, power = memory.read_port(), memory.write_port(), exponential.result[i]
            ceiling = (tops[i] + ((1 << SCORE_FRACTION_BITS) - 1)) >> SCORE_FRACTION_BITS
            values.append(read)
            m.d.comb += [
                read.addr.eq(expert),
                write.en.eq(y_tag.valid | p_tag.valid),
                write.addr.eq(Mux(p_tag.valid, p_tag.expert, y_tag.expert)),
                write.data.eq(Mux(p_tag.valid, power, requantizer.result[i])),
            ]
            m.d.sync += exponential.distance[i].eq((ceiling << SCORE_FRACTION_BITS) - read.data.as_signed())
            with m.If(p_tag.valid & ~command.renormalize):
                m.d.sync += totals[i].eq(totals[i] + power)
        m.d.comb += [
            exponential.enable.eq(p_tags[1].valid.replicate(width)),
            convert.expert.eq(expert),
            convert.last.eq(last_expert),
        ]

        # The chosen experts and their gate weights, by rank
        m.submodules.search = search = Search(width, config.experts)
        m.submodules.gates = gates = Memory(
            shape=data.ArrayLayout(GATE_BITS, width), depth=1 << RANK_BITS, init=[]
        )
        gate_read, gate_write = gates.read_port(domain="comb"), gates.write_port()
        chosen = search.chosen
        remainder = Signal(data.ArrayLayout(_TOTAL_BITS + 1, width))
        quotient = Signal(data.ArrayLayout(_QUOTIENT_BITS, width))
        step = Signal(range(_QUOTIENT_BITS))
        m.d.comb += [
            search.write.eq(scored.valid),
            search.write_expert.eq(scored.expert),
            search.scores.eq(score),
            search.experts.eq(command.experts),
            search.k.eq(command.k),
            search.rank.eq(rank),
            gate_read.addr.eq(rank),
            gate_write.addr.eq(rank),
        ]
        m.d.comb += [gate_write.data[i].eq((quotient[i] + 1) >> 1) for i in lanes]

        # Queues, counts and metaqueue
        entry_layout = data.StructLayout({"token": TOKEN_BITS, "gate": GATE_BITS})
        meta_layout = data.StructLayout({"expert": EXPERT_BITS, "count": TOKEN_BITS})
        m.submodules.counts = counts = Memory(shape=TOKEN_BITS, depth=config.experts, init=[])
        m.submodules.metaqueue = metaqueue = Memory(shape=meta_layout, depth=config.experts, init=[])
        count_read, count_write = counts.read_port(domain="comb"), counts.write_port()
        meta_write = metaqueue.write_port()
        length = Signal(range(config.experts + 1))
        queues = [block_ram(entry_layout, config.experts * config.tokens) for _ in self.entries]
        self._serve(m, queues, metaqueue, length)
        # over all experts, in states CLEAR and LAST
        walking = Signal()
        append = Signal(data.StructLayout({"valid": 1, "expert": EXPERT_BITS, "entry": entry_layout}))
        m.d.sync += [
            append.valid.eq(0),
            append.expert.eq(chosen[lane]),
            append.entry.token.eq(command.token + row),
            append.entry.gate.eq(gate_read.data[lane]),
            Assert(~append.valid | (count_read.data < config.tokens)),
        ]
        m.d.comb += [
            count_read.addr.eq(Mux(walking, expert, append.expert)),
            count_write.addr.eq(count_read.addr),
            count_write.en.eq(append.valid),
            count_write.data.eq(count_read.data + 1),
            meta_write.addr.eq(length),
            meta_write.data.expert.eq(expert),
            meta_write.data.count.eq(count_read.data),
        ]

        for queue in queues:
            queue_write = queue.write_port()
            m.d.comb += [
                queue_write.en.eq(append.valid),
                queue_write.addr.eq(append.expert * config.tokens + count_read.data),
                queue_write.data.eq(append.entry),
            ]

        new_group = [column.eq(command.acc_base), totals.eq(0), expert.eq(0), rank.eq(0), lane.eq(0)]
        new_group += [tops[i].eq(-(1 << (_Y_BITS - 1))) for i in lanes]
        m.d.comb += self.busy.eq(1)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.busy.eq(0), self.command.ready.eq(1)]
                m.d.sync += [command.eq(self.command.payload), row.eq(0), group.eq(0), expert.eq(0)]
                with m.If(self.command.valid):
                    m.next = "START"
                    with m.If(self.command.payload.clear):
                        m.d.sync += walking.eq(1)
                        m.next = "CLEAR"
            with m.State("CLEAR"):
                m.d.comb += [count_write.en.eq(1), count_write.data.eq(0)]
                m.d.sync += expert.eq(expert + 1)
                with m.If(last_slot):
                    m.d.sync += walking.eq(0)
                    m.next = "START"
            with m.State("START"):
                m.d.sync += new_group
                m.next = "SCORE"
            with m.State("SCORE"):
                m.d.comb += issue.tag.valid.eq(1)
                m.d.sync += [digit.eq(digit + 1), column.eq(column + 1)]
                with m.If(digit == _DIGITS - 1):
                    m.d.sync += [digit.eq(0), expert.eq(expert + 1)]
                    with m.If(last_expert):
                        m.d.sync += expert.eq(0)
                        m.next = "SCORED"
            with m.State("SCORED"):
                with m.If(y_tag.valid & y_tag.last):
                    m.d.comb += search.start.eq(1)
                    m.next = "CONVERT"
            with m.State("CONVERT"):
                m.d.comb += convert.valid.eq(1)
                m.d.sync += expert.eq(expert + 1)
                with m.If(last_expert):
                    m.next = "CONVERTED"
            with m.State("CONVERTED"):
                converted = Signal()
                m.d.sync += converted.eq(converted | (p_tag.valid & p_tag.last))
                with m.If(converted & search.finished):
                    m.d.sync += converted.eq(0)
                    m.next = "FETCH"
                    with m.If(command.renormalize):
                        m.next = "SUM"
            with m.State("SUM"):
                m.d.comb += [values[i].addr.eq(chosen[i]) for i in lanes]
                m.d.sync += rank.eq(rank + 1)
                with m.If(rank != 0):
                    m.d.sync += [totals[i].eq(totals[i] + values[i].data) for i in lanes]
                with m.If(rank == command.k):
                    m.d.sync += rank.eq(0)
                    m.next = "FETCH"
            with m.State("FETCH"):
                m.d.comb += [values[i].addr.eq(chosen[i]) for i in lanes]
                m.d.sync += step.eq(0)
                m.next = "DIVIDE"
            with m.State("DIVIDE"):
                for i in lanes:
                    left = Mux(step == 0, values[i].data, remainder[i])
                    fits = left >= totals[i]
                    m.d.sync += [
                        remainder[i].eq((left - Mux(fits, totals[i], 0)) << 1),
                        quotient[i].eq(Cat(fits, quotient[i])),
                    ]
                m.d.sync += step.eq(step + 1)
                with m.If(step == _QUOTIENT_BITS - 1):
                    m.next = "DIVIDED"
            with m.State("DIVIDED"):
                m.d.comb += gate_write.en.eq(1)
                m.d.sync += rank.eq(rank + 1)
                m.next = "FETCH"
                with m.If(last_rank):
                    m.d.sync += rank.eq(0)
                    m.next = "APPEND"
            with m.State("APPEND"):
                m.d.sync += [append.valid.eq(1), rank.eq(rank + 1)]
                with m.If(last_rank):
                    m.d.sync += [rank.eq(0), row.eq(row + 1), lane.eq(lane + 1)]
                    with m.If(row == command.rows - 1):
                        m.next = "APPENDED"
                    with m.Elif(lane == width - 1):
                        m.d.sync += [group.eq(group + 1), *new_group]
                        m.next = "SCORE"
            with m.State("APPENDED"):
                m.d.sync += expert.eq(0)
                m.next = "DONE"
                with m.If(command.last):
                    m.d.sync += [length.eq(0), walking.eq(1)]
                    m.next = "LAST"
            with m.State("LAST"):
                m.d.comb += meta_write.en.eq(count_read.data != 0)
                m.d.sync += [expert.eq(expert + 1), length.eq(length + meta_write.en)]
                with m.If(last_slot):
                    m.d.sync += walking.eq(0)
                    m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"
        return m

    def _serve(self, m: Module, queues: list[Memory], metaqueue: Memory, length: Signal) -> None:
        """Answer the readers of the metaqueue and of the queues, of which each has its own."""
        for lookup in self.lookups:
            read = metaqueue.read_port(domain="comb")
            m.d.comb += [
                read.addr.eq(lookup.meta),
                lookup.present.eq(lookup.meta < length),
                lookup.expert.eq(read.data.expert),
                lookup.count.eq(read.data.count),
            ]
        for number, (queue, entry) in enumerate(zip(queues, self.entries, strict=True)):
            m.submodules[f"queue_{number}"] = queue
            read = queue.read_port()
            m.d.comb += [
                read.addr.eq(entry.expert * self._config.tokens + entry.index),
                entry.token.eq(read.data.token),
                entry.gate.eq(read.data.gate),
            ]
