"""Reciprocal standard deviation of a row: normalization, a table and one Newton step, with one multiplier."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from hwattn.rtl.commands import command_layout
from hwattn.rtl.layernorm_sums import SUM_BITS, sums_layout
from hwattn.rtl.memory import select
from hwattn.spec.isa import Norm
from hwattn.spec.tables import RSQRT_FIRST, reciprocal_square_root_table

VARIANCE_BITS = 54
SIGNIFICAND_BITS = 16
SHIFT_BITS = 5
CHUNK = 14
"""Bits in which long factors are taken."""

TURNS = 8
"""Products for a row."""


def scale_layout() -> data.StructLayout:
    """Return what normalizes a row: z = (D * x - total) * significand / 2**shift."""
    return data.StructLayout(
        {"total": signed(SUM_BITS), "significand": SIGNIFICAND_BITS, "shift": SHIFT_BITS}
    )


class LayerNormScale(Component):
    """From the sums of a row to the factor that normalizes it.

    Members
    -------
    dim, epsilon : In
        Hold during a command.
    sums : In(stream of sums_layout())
    scale : Out(stream of scale_layout())

    Latency
    -------
    15 cycles from `sums` valid to `scale` valid, if the scale before has been taken by then; one row in 15 cycles.

    Bit accuracy
    ------------
    ``hwattn.sim.model.layernorm.reciprocal_square_root`` of ``dim * squares - total**2 + epsilon``.
    """

    def __init__(self) -> None:
        members = command_layout(Norm).members
        super().__init__(
            {
                "dim": In(members["dim"]),
                "epsilon": In(members["epsilon"]),
                "sums": In(stream.Signature(sums_layout())),
                "scale": Out(stream.Signature(scale_layout())),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        table = reciprocal_square_root_table()
        m.submodules.table = memory = Memory(
            shape=SIGNIFICAND_BITS, depth=256, init=[0] * RSQRT_FIRST + [int(value) for value in table]
        )
        read = memory.read_port()
        guess = Signal(SIGNIFICAND_BITS)

        left, right = Signal(signed(2 * CHUNK)), Signal(signed(20))
        product = Signal(signed(2 * CHUNK + 20))
        hold = Signal()
        with m.If(~hold):
            m.d.sync += product.eq(left * right)

        total, squares = self.sums.payload.total, self.sums.payload.squares
        row_total, factor = Signal.like(total), Signal(signed(20))
        # Intermediate sums may pass 54 bits; they are right modulo 2**56, and the last one fits
        variance, half_left = Signal(VARIANCE_BITS + 2), Signal(SHIFT_BITS)
        top = variance[36:VARIANCE_BITS]
        m.d.comb += read.en.eq(1)

        # what the multiplier takes in each turn, chosen a cycle ahead: a bit for each value
        turn, next_turn = Signal(TURNS, init=1), Signal()
        following = Mux(next_turn, turn.rotate_left(1), turn)
        m.d.sync += turn.eq(following)
        parts = [squares[:CHUNK], squares[CHUNK : 2 * CHUNK], squares[2 * CHUNK :]]
        lefts = [*zip(parts, [(0,), (1,), (2,)], strict=True), (total, (3, 4)), (guess, (5, 7)), (top, (6,))]
        rights = [(self.dim, (0, 1, 2)), (total[:CHUNK], (3,)), (total[CHUNK:].as_signed(), (4,))]
        rights += [(guess, (5,)), (factor, (6, 7))]
        for operand, values in ((left, lefts), (right, rights)):
            _take_turns(m, operand, values, following)

        with m.If(self.scale.ready):
            m.d.sync += self.scale.valid.eq(0)
        with m.FSM() as fsm:
            with m.State("squares_low"):
                with m.If(self.sums.valid):
                    m.d.comb += next_turn.eq(1)
                    m.next = "squares_middle"
            with m.State("squares_middle"):
                m.d.comb += next_turn.eq(1)
                m.d.sync += variance.eq(self.epsilon + product)
                m.next = "squares_high"
            with m.State("squares_high"):
                m.d.comb += next_turn.eq(1)
                m.d.sync += variance.eq(variance + (product << CHUNK))
                m.next = "total_low"
            with m.State("total_low"):
                m.d.comb += next_turn.eq(1)
                m.d.sync += variance.eq(variance + (product << 2 * CHUNK))
                m.next = "total_high"
            with m.State("total_high"):
                m.d.comb += [self.sums.ready.eq(1), next_turn.eq(1)]
                m.d.sync += [variance.eq(variance - product), row_total.eq(total)]
                m.next = "variance"
            with m.State("variance"):
                m.d.sync += variance.eq(variance - (product << CHUNK))
                m.next = "coarse"
            with m.State("coarse"):
                # both tests at once: the second for either outcome of the first
                high, upper, lower = variance[22:VARIANCE_BITS], variance[38:VARIANCE_BITS], variance[6:22]
                by_32, by_16 = ~high.any(), Mux(high.any(), ~upper.any(), ~lower.any())
                moved = Mux(by_32, variance << 32, variance)
                m.d.sync += [
                    variance.eq(Mux(by_16, moved << 16, moved)[:VARIANCE_BITS]),
                    half_left.eq(Cat(Const(0, 3), by_16, by_32)),
                ]
                m.next = "fine"
            with m.State("fine"):
                m.next = "look_up"
            with m.State("look_up"):
                m.d.sync += guess.eq(read.data)
                m.next = "square"
            with m.State("square"):
                m.d.comb += next_turn.eq(1)
                m.next = "limit"
            with m.State("limit"):
                square = product >> 14
                m.d.sync += factor.eq(Mux(square >= 1 << 18, (1 << 18) - 1, square))
                m.next = "error"
            with m.State("error"):
                m.d.comb += next_turn.eq(1)
                m.next = "correction"
            with m.State("correction"):
                m.d.sync += factor.eq((Const(3 * (1 << 34) + (1 << 17)) - product) >> 18)
                m.next = "newton"
            with m.State("newton"):
                m.d.comb += next_turn.eq(1)
                m.next = "deliver"
            with m.State("deliver"):
                rounded = (product + (1 << 16)) >> 17
                m.d.comb += hold.eq(1)
                with m.If(~self.scale.valid | self.scale.ready):
                    m.d.sync += [
                        self.scale.valid.eq(1),
                        self.scale.payload.total.eq(row_total),
                        self.scale.payload.significand.eq(Mux(rounded > 65535, 65535, rounded)),
                        self.scale.payload.shift.eq(31 - half_left),
                    ]
                    m.next = "squares_low"
        # outside of the states, so that what comes last is chosen last
        with m.If(fsm.ongoing("fine")):
            # all tests at once, of pairs of bits from the top: each for either outcome of the ones before
            pairs = [variance[end - 2 : end].any() for end in range(VARIANCE_BITS, VARIANCE_BITS - 14, -2)]
            by_8 = ~Cat(pairs[:4]).any()
            by_4 = Mux(by_8, ~Cat(pairs[4:6]).any(), ~Cat(pairs[:2]).any())
            by_2 = ~Mux(by_8, Mux(by_4, pairs[6], pairs[4]), Mux(by_4, pairs[2], pairs[0]))
            value = variance[:VARIANCE_BITS]
            for by, shift in ((by_8, 8), (by_4, 4), (by_2, 2)):
                shifted = Signal(VARIANCE_BITS, name=f"shifted_{shift}")
                m.d.comb += shifted.eq(Mux(by, value << shift, value))
                value = shifted
            m.d.sync += [variance.eq(value), half_left.eq(Cat(by_2, by_4, by_8, half_left[3:]))]
            m.d.comb += read.addr.eq(value[VARIANCE_BITS - 8 :])
        return m


def _take_turns(
    m: Module, operand: Signal, values: Sequence[tuple[Value, tuple[int, ...]]], following: Value
) -> None:
    """Give an operand each of some values in its turns; `following` has the bit of the next cycle's turn set, that of turn 0 at first."""
    chosen = Signal(len(values), init=1)
    m.d.sync += chosen.eq(Cat(Cat(following[number] for number in turns).any() for _, turns in values))
    extended = [Signal.like(operand) for _ in values]
    m.d.comb += [wide.eq(value) for wide, (value, _) in zip(extended, values, strict=True)]
    m.d.comb += operand.eq(select(list(chosen), [wide.as_unsigned() for wide in extended]))
