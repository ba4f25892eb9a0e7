"""Deferred division of the softmax: one reciprocal for each row."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwattn.rtl.commands import command_layout
from hwattn.rtl.interfaces import MULTIPLIER_BITS, SHIFT_BITS, STATE_BITS, SUM_BITS, sum_port
from hwattn.spec import isa
from hwattn.spec.config import AcceleratorConfig

_QUOTIENT_BITS = 16  # below the leading one, which is always set
_BITS_PER_CYCLE = 2
_STEPS = _QUOTIENT_BITS // _BITS_PER_CYCLE
_WIDTH_BITS = 6


class Reciprocal(wiring.Component):
    """Turn the sums of the rows of a softmax state into multipliers and shifts that divide by them.

    A sum is normalized to n = 2**31 to 2**32, and ``2**48 // n`` divided out by restoring dividers, two bits per cycle. There are as many
    dividers as rows that one chunk of the post-processing needs, at most one for each cycle of a division.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    start : In
        Begin with row 0.
    rows, state, m2, s2 : In
        Fields of the command; hold from `start` on.
    sums : Out, look-up of the sum of one row
    valid : Out
        `multiplier` and `shift` belong to the next row.
    multiplier, shift : Out

    Latency
    -------
    The first row after 15 cycles; from then on ``min(post_lanes, 8, rows)`` rows in 9 cycles.

    Bit accuracy
    ------------
    `hwattn.sim.model.post.reciprocal`, where the shift fits 6 bits.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._dividers = min(config.post_lanes, _STEPS)
        fields = command_layout(isa.Post).members
        super().__init__(
            {
                "start": In(1),
                "rows": In(fields["rows"]),
                "state": In(STATE_BITS),
                "m2": In(MULTIPLIER_BITS),
                "s2": In(SHIFT_BITS),
                "sums": Out(sum_port(config)),
                "valid": Out(1),
                "multiplier": Out(MULTIPLIER_BITS),
                "shift": Out(SHIFT_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        row, active = Signal(len(self.rows)), Signal()
        total, total_valid = Signal(SUM_BITS), Signal()
        normal = Signal(data.StructLayout({"divisor": SUM_BITS, "width": _WIDTH_BITS, "zero": 1}))
        normal_valid, take_total, take_normal = Signal(), Signal(), Signal()
        last = row == self.rows - 1
        m.d.comb += [self.sums.state.eq(self.state), self.sums.row.eq(row)]
        m.d.comb += take_total.eq(total_valid & (~normal_valid | take_normal))
        with m.If(~total_valid | take_total):
            m.d.sync += [total.eq(self.sums.total), total_valid.eq(active)]
            with m.If(active):
                m.d.sync += [row.eq(row + 1), active.eq(~last)]
        with m.If(~normal_valid | take_normal):
            m.d.sync += normal_valid.eq(total_valid)
            self._normalize(m, total, normal)
        with m.If(self.start):
            m.d.sync += [row.eq(0), active.eq(1)]

        free, finished, quotients, tags = self._divide(m, take_normal, normal)
        m.d.comb += take_normal.eq(normal_valid & free)
        self._scale(m, finished, quotients, tags)
        return m

    def _normalize(self, m: Module, total: Value, normal: Any) -> None:
        """Shift left until the highest bit is set, by halving steps; `width` is the number of bits of the sum."""
        value, zeros = total, []
        for step in (16, 8, 4, 2, 1):
            empty = ~value[SUM_BITS - step :].any()
            value = Mux(empty, value << step, value)[:SUM_BITS]
            zeros.append(empty)
        m.d.sync += [
            normal.divisor.eq(value),
            normal.width.eq(SUM_BITS - Cat(reversed(zeros))),
            normal.zero.eq(~total.any()),
        ]

    def _divide(self, m: Module, load: Value, normal: Any) -> tuple[Value, Value, Value, Any]:
        """Divide in turn; return whether the next divider is free, whether one has finished, its quotient and what it divided by."""
        turn = Signal(range(self._dividers))
        oldest = Signal(range(self._dividers))
        free, finished, quotients, tags = [], [], [], []
        for i in range(self._dividers):
            busy = Signal(name=f"busy_{i}")
            steps = Signal(range(_STEPS + 1), name=f"steps_{i}")
            remainder = Signal(SUM_BITS, name=f"remainder_{i}")
            quotient = Signal(_QUOTIENT_BITS, name=f"quotient_{i}")
            tag = Signal(normal.shape(), name=f"tag_{i}")
            end = busy & ~steps.any()
            value, bits = remainder, []
            for _ in range(_BITS_PER_CYCLE):
                doubled = value << 1
                fits = doubled >= tag.divisor
                value = Mux(fits, doubled - tag.divisor, doubled)[:SUM_BITS]
                bits.append(fits)
            m.d.sync += [
                remainder.eq(value),
                quotient.eq(Cat(reversed(bits), quotient)),
                steps.eq(steps - 1),
            ]
            with m.If(end):
                m.d.sync += busy.eq(0)
            with m.If(load & (turn == i)):
                m.d.sync += [busy.eq(1), steps.eq(_STEPS), tag.eq(normal), remainder.eq(-normal.divisor)]
            free.append(~busy | end)
            finished.append(end)
            quotients.append(quotient)
            tags.append(tag.as_value())
        with m.If(load):
            m.d.sync += turn.eq(Mux(turn == self._dividers - 1, 0, turn + 1))
        any_finished = Cat(finished).any()
        with m.If(any_finished):
            m.d.sync += oldest.eq(Mux(oldest == self._dividers - 1, 0, oldest + 1))
        tag = Signal(normal.shape())
        m.d.comb += tag.eq(Array(tags)[oldest])
        return Array(free)[turn], any_finished, Array(quotients)[oldest], tag

    def _scale(self, m: Module, finished: Value, quotient: Value, tag: Any) -> None:
        """Round the quotient and multiply it by m2, in three cycles."""
        late = data.StructLayout({"valid": 1, "width": _WIDTH_BITS, "zero": 1})
        tags = [Signal(late, name=f"scale_tag_{i}") for i in range(2)]
        inverse = Signal(MULTIPLIER_BITS)
        product = Signal(2 * MULTIPLIER_BITS)
        # the leading one, and the rest rounded
        rounded = (1 << (_QUOTIENT_BITS - 1)) + ((quotient + 1) >> 1)
        large = product[-1]
        multiplier = Mux(large, (product + (1 << 15)) >> 16, (product + (1 << 14)) >> 15)
        m.d.sync += [
            tags[0].valid.eq(finished),
            tags[0].width.eq(tag.width),
            tags[0].zero.eq(tag.zero),
            inverse.eq(_limited(rounded)),
            tags[1].eq(tags[0]),
            product.eq(inverse * self.m2),
            self.valid.eq(tags[1].valid),
            self.multiplier.eq(Mux(tags[1].zero, 0, _limited(multiplier))),
            self.shift.eq(Mux(tags[1].zero, 1, self.s2 + tags[1].width - large)),
        ]


def _limited(value: Value) -> Value:
    """Return a value of which only one more than 16 bits is possible, at most 65535."""
    return Mux(value[MULTIPLIER_BITS], (1 << MULTIPLIER_BITS) - 1, value)
