"""The router: top-k experts and gate weights of each token, the experts' queues, and the metaqueue."""

from __future__ import annotations

from amaranth.hdl import Assert, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hwattn.rtl.commands import EXPERT_BITS, command_layout, command_stream
from hwattn.rtl.exponential import DISTANCE_BITS, PROBABILITY_BITS, Exponential
from hwattn.rtl.interfaces import (
    ACCUMULATOR_BITS,
    GATE_BITS,
    TOKEN_BITS,
    accumulator_port,
    entry_port,
    lookup_port,
    norm_param_port,
)
from hwattn.rtl.pipeline import delayed
from hwattn.rtl.requantize import Requantizer, saturated
from hwattn.spec import isa
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.tables import SCORE_FRACTION_BITS

LOOKUPS = 3
ENTRIES = 2
_SCORE_BITS = 48
_Y_BITS = 16
_Y_INPUT_BITS = 32
_RANK_BITS = 4
_DIGITS = 3  # accumulator columns of one expert
_TOTAL_BITS = PROBABILITY_BITS + EXPERT_BITS
_QUOTIENT_BITS = GATE_BITS + 1


class Router(wiring.Component):
    """Route a tile of tokens: row after row, score after score.

    For each row: its scores are added up from the accumulator columns and kept; their powers of two are taken while the scores
    are searched for the k best, one search per rank; each gate weight is a division, one bit per cycle.

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
    lookups : In, array of 3 metaqueue look-ups
        Nothing is present after reset, until a command with `last`.
    entries : In, array of 2 queue entry ports

    Latency
    -------
    For each row ``3 * experts + 8`` cycles of scores, then the longer of ``experts + 7`` (powers) and ``k * (experts + 3) + 3`` (search),
    ``k + 1`` with `renormalize`, and ``20 * k`` of division. `config.experts` cycles each for `clear` and `last`, and 1 at the end.

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
                "lookups": In(lookup_port()).array(LOOKUPS),
                "entries": In(entry_port()).array(ENTRIES),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        command = Signal(command_layout(isa.Route))
        row = Signal(range(config.rows))
        rank = Signal(_RANK_BITS)
        expert = Signal(EXPERT_BITS)
        total = Signal(_TOTAL_BITS)
        top = Signal(signed(_Y_BITS))
        last_expert = expert == command.experts - 1
        last_slot = expert == config.experts - 1
        tag_layout = data.StructLayout({"valid": 1, "expert": EXPERT_BITS, "last": 1})

        m.submodules.scores = scores = Memory(shape=signed(_SCORE_BITS), depth=config.experts, init=[])
        # requantized scores, which their powers replace
        m.submodules.values = values = Memory(shape=_Y_BITS, depth=config.experts, init=[])
        m.submodules.chosen = chosen = Memory(shape=EXPERT_BITS, depth=1 << _RANK_BITS, init=[])
        score_write, value_write, chosen_write = scores.write_port(), values.write_port(), chosen.write_port()
        score_read, value_read = scores.read_port(), values.read_port()
        chosen_read = chosen.read_port(domain="comb")
        m.d.comb += chosen_read.addr.eq(rank)

        # Scores: three columns and a bias each
        digit_tag_layout = data.StructLayout({"tag": tag_layout, "digit": range(_DIGITS)})
        issue = Signal(digit_tag_layout)
        column = Signal.like(self.acc.addr)
        digit_tags = delayed(m, issue, 2, "digit_tag")
        picked = Signal(signed(ACCUMULATOR_BITS))
        bias = Signal(signed(_SCORE_BITS))
        score = Signal(signed(_SCORE_BITS))
        scored = Signal(tag_layout)
        m.d.comb += [
            self.acc.enable.eq(issue.tag.valid),
            self.acc.addr.eq(column),
            self.param.addr.eq(command.param_base + expert),
            issue.tag.expert.eq(expert),
        ]
        m.d.sync += [picked.eq(self.acc.data[row]), bias.eq(self.param.data)]
        with m.If(digit_tags[1].tag.valid):
            with m.Switch(digit_tags[1].digit):
                with m.Case(0):
                    m.d.sync += score.eq(bias + picked)
                with m.Case(1):
                    m.d.sync += score.eq(score + (picked << 8))
                with m.Default():
                    m.d.sync += score.eq(score + (picked << 16))
        m.d.sync += [
            scored.valid.eq(digit_tags[1].tag.valid & (digit_tags[1].digit == _DIGITS - 1)),
            scored.expert.eq(digit_tags[1].tag.expert),
            scored.last.eq(digit_tags[1].tag.last),
        ]
        m.d.comb += [
            score_write.addr.eq(scored.expert),
            score_write.data.eq(score),
            score_write.en.eq(scored.valid),
        ]

        # Base-2 logarithms of the gate weights, and the largest
        m.submodules.requantizer = requantizer = Requantizer(1, _Y_INPUT_BITS, _Y_BITS)
        doubled = Signal(signed(_SCORE_BITS + 1))
        narrowed = Signal(signed(_Y_INPUT_BITS))
        y_tag = delayed(m, scored, 2 + Requantizer.DELAY, "y_tag")[-1]
        m.d.sync += [
            doubled.eq((score << 1) >> command.score_shift),
            narrowed.eq(saturated((doubled + 1) >> 1, _Y_INPUT_BITS)),
        ]
        m.d.comb += [
            requantizer.value[0].eq(narrowed),
            requantizer.multiplier[0].eq(command.multiplier),
            requantizer.shift[0].eq(command.shift),
        ]
        with m.If(y_tag.valid & (requantizer.result[0] > top)):
            m.d.sync += top.eq(requantizer.result[0])

        # Powers of two, and their sum
        m.submodules.exponential = exponential = Exponential(1)
        convert = Signal(tag_layout)
        p_tags = delayed(m, convert, 2 + Exponential.DELAY, "p_tag")
        p_tag, power = p_tags[-1], exponential.result[0]
        ceiling = Signal(signed(_Y_BITS + 1))
        distance = Signal(DISTANCE_BITS)
        y = value_read.data.as_signed()
        m.d.comb += [
            ceiling.eq((top + ((1 << SCORE_FRACTION_BITS) - 1)) >> SCORE_FRACTION_BITS),
            exponential.distance[0].eq(distance),
            exponential.enable.eq(p_tags[1].valid),
            convert.expert.eq(expert),
            convert.last.eq(last_expert),
            value_write.en.eq(y_tag.valid | p_tag.valid),
            value_write.addr.eq(Mux(p_tag.valid, p_tag.expert, y_tag.expert)),
            value_write.data.eq(Mux(p_tag.valid, power, requantizer.result[0])),
        ]
        m.d.sync += distance.eq((ceiling << SCORE_FRACTION_BITS) - y)
        with m.If(p_tag.valid & ~command.renormalize):
            m.d.sync += total.eq(total + power)

        search = Signal()
        searched = self._search(m, command, search, score_read, chosen_write, tag_layout)

        # Queues, counts and metaqueue
        m.submodules.counts = counts = Memory(shape=TOKEN_BITS, depth=config.experts, init=[])
        count_read, count_write = counts.read_port(domain="comb"), counts.write_port()
        entry_layout = data.StructLayout({"token": TOKEN_BITS, "gate": GATE_BITS})
        m.submodules.queues = queues = Memory(
            shape=entry_layout, depth=config.experts * config.tokens, init=[]
        )
        queue_write = queues.write_port()
        meta_layout = data.StructLayout({"expert": EXPERT_BITS, "count": TOKEN_BITS})
        m.submodules.metaqueue = metaqueue = Memory(shape=meta_layout, depth=config.experts, init=[])
        meta_write = metaqueue.write_port()
        length = Signal(range(config.experts + 1))
        for lookup in self.lookups:
            read = metaqueue.read_port(domain="comb")
            m.d.comb += [
                read.addr.eq(lookup.meta),
                lookup.present.eq(lookup.meta < length),
                lookup.expert.eq(read.data.expert),
                lookup.count.eq(read.data.count),
            ]
        for entry in self.entries:
            read = queues.read_port()
            m.d.comb += [
                read.addr.eq(entry.expert * config.tokens + entry.index),
                entry.token.eq(read.data.token),
                entry.gate.eq(read.data.gate),
            ]

        # Gate weights: (2**16 * p) // total, one bit per cycle
        remainder = Signal(_TOTAL_BITS + 1)
        quotient = Signal(_QUOTIENT_BITS)
        step = Signal(range(_QUOTIENT_BITS))
        fits = remainder >= total
        m.d.comb += [
            count_read.addr.eq(expert),
            count_write.addr.eq(expert),
            queue_write.addr.eq(expert * config.tokens + count_read.data),
            queue_write.data.token.eq(command.token + row),
            queue_write.data.gate.eq((quotient + 1) >> 1),
            meta_write.addr.eq(length),
            meta_write.data.expert.eq(expert),
            meta_write.data.count.eq(count_read.data),
        ]

        last_rank = rank == command.k - 1
        next_row = [row.eq(row + 1), column.eq(command.acc_base), total.eq(0), top.eq(-(1 << (_Y_BITS - 1)))]
        m.d.comb += self.busy.eq(1)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.busy.eq(0), self.command.ready.eq(1)]
                with m.If(self.command.valid):
                    arriving = self.command.payload
                    m.d.sync += [command.eq(arriving), expert.eq(0), *next_row]
                    m.d.sync += [row.eq(0), column.eq(arriving.acc_base)]
                    with m.If(arriving.clear):
                        m.next = "CLEAR"
                    with m.Else():
                        m.next = "SCORE"
            with m.State("CLEAR"):
                m.d.comb += count_write.en.eq(1)
                m.d.sync += expert.eq(expert + 1)
                with m.If(last_slot):
                    m.d.sync += expert.eq(0)
                    m.next = "SCORE"
            with m.State("SCORE"):
                digit = Signal(range(_DIGITS))
                m.d.comb += [issue.tag.valid.eq(1), issue.tag.last.eq(last_expert), issue.digit.eq(digit)]
                m.d.sync += [digit.eq(digit + 1), column.eq(column + 1)]
                with m.If(digit == _DIGITS - 1):
                    m.d.sync += [digit.eq(0), expert.eq(expert + 1)]
                    with m.If(last_expert):
                        m.d.sync += expert.eq(0)
                        m.next = "SCORED"
            with m.State("SCORED"):
                with m.If(y_tag.valid & y_tag.last):
                    m.next = "CONVERT"
            with m.State("CONVERT"):
                m.d.comb += [convert.valid.eq(1), value_read.addr.eq(expert), search.eq(expert == 0)]
                m.d.sync += expert.eq(expert + 1)
                with m.If(last_expert):
                    m.next = "CONVERTED"
            with m.State("CONVERTED"):
                converted = Signal()
                m.d.sync += converted.eq(converted | (p_tag.valid & p_tag.last))
                with m.If(converted & searched):
                    m.d.sync += [converted.eq(0), rank.eq(0)]
                    with m.If(command.renormalize):
                        m.next = "SUM"
                    with m.Else():
                        m.next = "FETCH"
            with m.State("SUM"):
                m.d.comb += value_read.addr.eq(chosen_read.data)
                m.d.sync += rank.eq(rank + 1)
                with m.If(rank != 0):
                    m.d.sync += total.eq(total + value_read.data)
                with m.If(rank == command.k):
                    m.d.sync += rank.eq(0)
                    m.next = "FETCH"
            with m.State("FETCH"):
                m.d.comb += value_read.addr.eq(chosen_read.data)
                m.d.sync += expert.eq(chosen_read.data)
                m.next = "DIVISOR"
            with m.State("DIVISOR"):
                m.d.sync += [remainder.eq(value_read.data), step.eq(0)]
                m.next = "DIVIDE"
            with m.State("DIVIDE"):
                m.d.sync += [
                    remainder.eq((remainder - Mux(fits, total, 0)) << 1),
                    quotient.eq((quotient << 1) | fits),
                    step.eq(step + 1),
                ]
                with m.If(step == _QUOTIENT_BITS - 1):
                    m.next = "APPEND"
            with m.State("APPEND"):
                m.d.comb += [
                    queue_write.en.eq(1),
                    count_write.en.eq(1),
                    count_write.data.eq(count_read.data + 1),
                ]
                m.d.sync += [Assert(count_read.data < config.tokens), rank.eq(rank + 1)]
                m.next = "FETCH"
                with m.If(last_rank):
                    m.d.sync += [expert.eq(0), *next_row]
                    m.next = "SCORE"
                    with m.If(row == command.rows - 1):
                        with m.If(command.last):
                            m.d.sync += length.eq(0)
                            m.next = "LAST"
                        with m.Else():
                            m.next = "DONE"
            with m.State("LAST"):
                m.d.comb += meta_write.en.eq(count_read.data != 0)
                m.d.sync += [expert.eq(expert + 1), length.eq(length + meta_write.en)]
                with m.If(last_slot):
                    m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"
        return m

    def _search(
        self,
        m: Module,
        command: data.View[data.StructLayout],
        start: Signal,
        score_read: wiring.PureInterface,
        chosen_write: wiring.PureInterface,
        tag_layout: data.StructLayout,
    ) -> Signal:
        """Search the scores for the k best, each time for the best of those below the one found before.

        Returns
        -------
        Signal
            High from when the last one is written until `start`.
        """
        rank = Signal(_RANK_BITS)
        expert = Signal(EXPERT_BITS)
        finished = Signal()
        issue = Signal(tag_layout)
        tags = delayed(m, issue, 2, "search_tag")
        previous, best, candidate = (
            Signal(signed(_SCORE_BITS), name=name) for name in ("previous", "best", "candidate")
        )
        previous_expert, best_expert = Signal(EXPERT_BITS), Signal(EXPERT_BITS)
        found = Signal()
        eligible = Signal()
        read = score_read.data
        below = (read < previous) | ((read == previous) & (tags[0].expert > previous_expert))
        m.d.comb += [
            score_read.addr.eq(expert),
            issue.expert.eq(expert),
            issue.last.eq(expert == command.experts - 1),
            chosen_write.addr.eq(rank),
            chosen_write.data.eq(best_expert),
        ]
        m.d.sync += [candidate.eq(read), eligible.eq(tags[0].valid & ((rank == 0) | below))]
        with m.If(eligible & (~found | (candidate > best))):
            m.d.sync += [best.eq(candidate), best_expert.eq(tags[1].expert), found.eq(1)]
        with m.FSM(name="search"):
            with m.State("IDLE"):
                with m.If(start):
                    m.d.sync += [rank.eq(0), finished.eq(0)]
                    m.next = "ISSUE"
            with m.State("ISSUE"):
                m.d.comb += issue.valid.eq(1)
                m.d.sync += expert.eq(expert + 1)
                with m.If(issue.last):
                    m.d.sync += expert.eq(0)
                    m.next = "WAIT"
            with m.State("WAIT"):
                with m.If(tags[1].valid & tags[1].last):
                    m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += chosen_write.en.eq(1)
                m.d.sync += [
                    previous.eq(best),
                    previous_expert.eq(best_expert),
                    found.eq(0),
                    rank.eq(rank + 1),
                ]
                m.next = "ISSUE"
                with m.If(rank == command.k - 1):
                    m.d.sync += finished.eq(1)
                    m.next = "IDLE"
        return finished
