"""First half of LayerNorm: reads rows, takes their sums, and passes the elements on."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import exact_log2

from hwattn.rtl.commands import command_layout
from hwattn.rtl.interfaces import WORD_ADDRESS_BITS, read_port
from hwattn.rtl.pipeline import Countdown, delayed, room_register
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.isa import Norm

ELEMENT_BITS = 16
SUM_BITS = 28
SQUARE_SUM_BITS = 42
QUEUE_WORDS = 4


def sums_layout() -> data.StructLayout:
    """Return the exact sums of a row's elements and of their squares."""
    return data.StructLayout({"total": signed(SUM_BITS), "squares": SQUARE_SUM_BITS})


def elements_layout(config: AcceleratorConfig) -> data.ArrayLayout:
    """Return `norm_lanes` elements, which are one beat of a row."""
    return data.ArrayLayout(signed(ELEMENT_BITS), config.norm_lanes)


class LayerNormSums(Component):
    """Reads the rows of a Norm command, and adds them up exactly.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    command : In(command_layout(Norm))
        Holds from `begin` on.
    begin : In(1)
        Pulse: start with row 0.
    groups : In
        Groups of `lanes` elements in a row.
    act : Out(read_port(config))
    elements : Out(stream of elements_layout(config))
        All rows, beat by beat in whole groups; 0 beyond `dim`.
    sums : Out(stream of sums_layout())
        One for each row; the sum of the elements is 0 with `zero_mean`.

    Latency
    -------
    One beat per cycle, and at most one group of elements in two cycles. 8 cycles from `begin` to the first beat; sums 4 cycles
    after a row's last beat. A row's last beat waits until the sums of the row before it are taken.

    Bit accuracy
    ------------
    The sums in ``hwattn.sim.model.layernorm.normalize``.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "command": In(command_layout(Norm)),
                "begin": In(1),
                "groups": In(command_layout(Norm).members["dim"].width),
                "act": Out(read_port(config)),
                "elements": Out(stream.Signature(elements_layout(config))),
                "sums": Out(stream.Signature(sums_layout())),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.words = words = SyncFIFO(width=8 * self.config.lanes, depth=QUEUE_WORDS)
        self._read(m, words)
        self._unpack(m, words)
        self._add(m)
        return m

    def _read(self, m: Module, words: SyncFIFO) -> None:
        """Ask for the words of all rows as long as the queue has room for them."""
        command = self.command
        address, row_start = Signal(WORD_ADDRESS_BITS), Signal(WORD_ADDRESS_BITS)
        groups, half, rows = Countdown(self.groups, "groups"), Signal(), Countdown(command.rows, "rows")
        reading, arrived = Signal(), Signal()
        word = Signal(8 * self.config.lanes)
        next_row = (row_start + command.source_stride)[:WORD_ADDRESS_BITS]
        asked = self.act.request.valid & self.act.request.ready
        room = room_register(m, QUEUE_WORDS, entered=asked, left=words.r_en)
        m.d.sync += [arrived.eq(self.act.valid), word.eq(self.act.data)]
        m.d.comb += [
            words.w_en.eq(arrived),
            words.w_data.eq(word),
            self.act.request.valid.eq(reading & room),
            self.act.request.payload.eq(address),
        ]
        with m.If(self.begin):
            m.d.sync += [each.eq(command.source) for each in (address, row_start)]
            m.d.sync += [half.eq(0), reading.eq(1)]
            groups.restart(m)
            rows.restart(m)
        with m.If(asked):
            m.d.sync += [address.eq(address + 1), half.eq(~half)]
            with m.If(half):
                groups.step(m)
                with m.If(groups.last):
                    m.d.sync += [address.eq(next_row), row_start.eq(next_row)]
                    rows.step(m)
                    with m.If(rows.last):
                        m.d.sync += reading.eq(0)

    def _unpack(self, m: Module, words: SyncFIFO) -> None:
        """Join low and high bytes of a group, and hand them out beat by beat, zero beyond `dim`."""
        lanes, width = self.config.lanes, self.config.norm_lanes
        beats = lanes // width
        low, group = Signal(8 * lanes), Signal(2 * 8 * lanes)
        low_held, left = Signal(), Signal(range(beats + 1))
        feature, unpacked = Signal.like(self.command.dim), Countdown(self.groups, "unpacked")
        step = self.elements.valid & self.elements.ready
        free = (left == 0) | ((left == 1) & step)
        joined = Cat(
            half
            for lane in range(lanes)
            for half in (low.word_select(lane, 8), words.r_data.word_select(lane, 8))
        )
        m.d.comb += words.r_en.eq(words.r_rdy & (~low_held | free))
        with m.If(step):
            m.d.sync += [left.eq(left - 1), feature.eq(feature + width)]
            with m.If(left == 1):
                unpacked.step(m)
                with m.If(unpacked.last):
                    m.d.sync += feature.eq(0)
        with m.If(self.begin):
            unpacked.restart(m)
        with m.If(words.r_en):
            m.d.sync += low_held.eq(~low_held)
            with m.If(low_held):
                m.d.sync += [group.eq(joined), left.eq(beats)]
            with m.Else():
                m.d.sync += low.eq(words.r_data)

        # `owed` from a row's last beat until its sums are taken, because there is one place for them
        owed = Signal()
        self._row_end = (left == 1) & unpacked.last
        self._row_start = feature == 0
        with m.If(self.sums.valid & self.sums.ready):
            m.d.sync += owed.eq(0)
        with m.If(step & self._row_end):
            m.d.sync += owed.eq(1)
        m.d.comb += self.elements.valid.eq((left != 0) & ~(self._row_end & owed))
        # chosen by a register, not shifted: whether a beat goes on is known late
        number = (-left)[: exact_log2(beats)]  # beats - left
        beat = group.word_select(number, ELEMENT_BITS * width) if beats > 1 else group
        for lane in range(width):
            element = beat.word_select(lane, ELEMENT_BITS).as_signed()
            m.d.comb += self.elements.payload[lane].eq(Mux(feature + lane < self.command.dim, element, 0))

    def _add(self, m: Module) -> None:
        """Square, add up the lanes, add up the beats: a register after each."""
        tag = Signal(data.StructLayout({"valid": 1, "first": 1, "last": 1}))
        m.d.comb += [
            tag.valid.eq(self.elements.valid & self.elements.ready),
            tag.first.eq(self._row_start),
            tag.last.eq(self._row_end),
        ]
        *_, arrived = delayed(m, tag, 3, "tag")
        elements, plain = Signal(self.elements.payload.shape()), Signal(self.elements.payload.shape())
        squares = Signal(data.ArrayLayout(2 * ELEMENT_BITS, self.config.norm_lanes))
        m.d.sync += [elements.eq(self.elements.payload), plain.eq(elements)]
        m.d.sync += [square.eq(element * element) for square, element in zip(squares, elements, strict=True)]
        beat = Signal(sums_layout())
        m.d.sync += beat.squares.eq(_sum(list(squares)))
        m.d.sync += beat.total.eq(Mux(self.command.zero_mean, 0, _sum(list(plain))))
        so_far, following = Signal(sums_layout()), Signal(sums_layout())
        m.d.comb += [
            following.total.eq(Mux(arrived.first, 0, so_far.total) + beat.total),
            following.squares.eq(Mux(arrived.first, 0, so_far.squares) + beat.squares),
        ]
        with m.If(self.sums.ready):
            m.d.sync += self.sums.valid.eq(0)
        with m.If(arrived.valid):
            m.d.sync += so_far.eq(following)
            with m.If(arrived.last):
                m.d.sync += [self.sums.payload.eq(following), self.sums.valid.eq(1)]


def _sum(terms: list[Any]) -> Any:
    """Add up a power of two of terms as a balanced tree."""
    while len(terms) > 1:
        terms = [low + high for low, high in zip(terms[::2], terms[1::2], strict=True)]
    return terms[0]
