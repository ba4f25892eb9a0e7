"""Bursts of the machine's AXI4 port as words of an SDRAM: the controller's read and write channels."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from amaranth.hdl import Assert, Cat, Module, Mux, Signal, Value
from amaranth.lib import data
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import exact_log2

from hwattn.rtl.axi import ADDRESS_BITS, axi_port
from hwattn.rtl.sdram_sequencer import SdramSequencer
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.dram import DramTiming

BURSTS_WAITING = 2
"""Read bursts that are taken beside the one at work."""

SLAVE_ERROR = 0b10


def _members(config: AcceleratorConfig, timing: DramTiming) -> dict[str, Any]:
    """Return what both kinds of bursts have: AXI4, the word that waits, and what becomes of it."""
    return {
        "axi": In(axi_port(config)),
        "wanted": Out(1),
        "nowhere": Out(1),
        "place": Out(timing.chip.address_bits),
        "ends": Out(1),
        "issue": In(1),
        "last": In(1),
        "index": In(range(timing.columns(config.lanes))),
        "lost": In(1),
    }


def split_channels(m: Module, axi: Any, reader: SdramReader, writer: SdramWriter) -> None:
    """Connect a master's AXI4 port to a controller's reader and writer, channel by channel."""
    for name, member in axi.signature.members.items():
        unit = reader if name.startswith("ar") or name[0] == "r" else writer
        mine, its = getattr(axi, name), getattr(unit.axi, name)
        m.d.comb += its.eq(mine) if member.flow == Out else mine.eq(its)


def take_turns(m: Module, reader: SdramReader, writer: SdramWriter, sequencer: SdramSequencer) -> Signal:
    """Let reads and writes take turns by bursts where both wait, and word by word where one of them cannot go on; return who is at work.

    Returns
    -------
    Signal
        The column of this cycle, if any, is written.
    """
    prefer_write, writing, chosen, writes = Signal(), Signal(), Signal(), Signal()
    with m.If(reader.ends):
        m.d.sync += prefer_write.eq(1)
    with m.If(writer.ends):
        m.d.sync += prefer_write.eq(0)
    m.d.sync += writing.eq(writes)
    m.d.comb += [
        chosen.eq(writer.wanted & (prefer_write | ~reader.wanted)),
        writes.eq(Mux(sequencer.index == 0, chosen, writing)),
        # data that are being read must be off the pins before others are driven
        sequencer.wanted.eq(Mux(writes, ~reader.in_flight, reader.wanted)),
        sequencer.writes.eq(writes),
        sequencer.nowhere.eq(Mux(writes, writer.nowhere, reader.nowhere)),
        sequencer.place.eq(Mux(writes, writer.place, reader.place)),
        sequencer.skip.eq(writes & writer.skip),
    ]
    for unit, mine in ((reader, ~writes), (writer, writes)):
        m.d.comb += [
            unit.issue.eq(sequencer.issue & mine),
            unit.last.eq(sequencer.last & mine),
            unit.index.eq(sequencer.index),
        ]
    return writes


class _Place:
    """Number of the first column of a word, as both kinds of bursts count it."""

    def __init__(self, m: Module, unit: SdramReader | SdramWriter) -> None:
        self._shift = exact_log2(unit.timing.chip.data_bytes)
        self._place = Signal(ADDRESS_BITS - self._shift, name="place")
        beyond = self._place[len(unit.place) :].any()
        m.d.comb += [unit.place.eq(self._place), unit.nowhere.eq(beyond | unit.lost)]
        with m.If(unit.last):
            m.d.sync += self._place.eq(self._place + unit.columns)

    def begin(self, address: Value) -> Any:
        """Return the statement that takes over a burst's byte address."""
        return self._place.eq(address >> self._shift)


class SdramReader(Component):
    """Cuts read bursts into words, and gathers their columns as they come.

    Parameters
    ----------
    config : AcceleratorConfig
    timing : DramTiming

    Members
    -------
    axi : In(axi_port(config))
        Only the read channels are used here.
    wanted, nowhere : Out(1), place : Out
        A word waits, and there is room for it; it lies beyond the chip; number of its first column.
    lost : In(1)
        The chip does not answer: nothing lies in it.
    issue, last : In(1), index : In
        A column of that word, the last one of it, is read in this cycle; its number in the word.
    ends : Out(1)
        It is the last one of a burst.
    column : In
        A column that has been read, `timing.read_latency` cycles after its `issue`.
    in_flight : Out(1)
        Columns are on their way.

    Latency
    -------
    A word is offered one cycle after its last column has come. The FIFO of words is as deep as those that can be on their way while words
    are taken as they come; none is asked for that has no place there.
    """

    def __init__(self, config: AcceleratorConfig, timing: DramTiming) -> None:
        self.config = config
        self.timing = timing
        self.columns = timing.columns(config.lanes)
        self.latency = timing.read_latency
        # a place is taken with a word's first column; it is free again latency + 1 cycles after the last one
        self.depth = 1 + -(-(self.latency + 1) // (self.columns * timing.ccd))
        super().__init__(
            {**_members(config, timing), "column": In(8 * timing.chip.data_bytes), "in_flight": Out(1)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        active = self._bursts(m)
        tag = data.StructLayout({"valid": 1, "complete": 1, "burst": 1, "nowhere": 1})
        tags = [Signal(tag, name=f"tag_{age}") for age in range(self.latency + 1)]
        m.d.comb += [
            tags[0].valid.eq(self.issue),
            tags[0].complete.eq(self.last),
            tags[0].burst.eq(self.ends),
            tags[0].nowhere.eq(self.nowhere),
            self.in_flight.eq(Cat(each.valid for each in tags[1:]).any()),
        ]
        for younger, older in pairwise(tags):
            m.d.sync += older.eq(younger)

        word = data.StructLayout({"data": 8 * self.config.lanes, "last": 1, "nowhere": 1})
        m.submodules.words = words = SyncFIFO(width=word.size, depth=self.depth)
        arrived, entry, offered = tags[-1], Signal(word), data.View(word, words.r_data)
        held = Signal(8 * self.config.lanes - len(self.column))
        axi = self.axi
        m.d.comb += [
            entry.data.eq(Mux(arrived.nowhere, 0, Cat(held, self.column))),
            entry.last.eq(arrived.burst),
            entry.nowhere.eq(arrived.nowhere),
            words.w_data.eq(entry),
            words.w_en.eq(arrived.valid & arrived.complete),
            axi.rvalid.eq(words.r_rdy),
            axi.rdata.eq(offered.data),
            axi.rlast.eq(offered.last),
            axi.rresp.eq(Mux(offered.nowhere, SLAVE_ERROR, 0)),
            words.r_en.eq(axi.rvalid & axi.rready),
        ]
        m.d.sync += Assert(~words.w_en | words.w_rdy, "a word without a place")
        with m.If(arrived.valid):
            m.d.sync += held.eq(Cat(held, self.column)[len(self.column) :])

        places = Signal(range(self.depth + 1), init=self.depth)
        m.d.sync += places.eq(places - (self.issue & (self.index == 0)) + words.r_en)
        m.d.comb += self.wanted.eq(active & places.any())
        return m

    def _bursts(self, m: Module) -> Signal:
        """Take addresses, and count a burst's words; return whether there is a burst."""
        axi = self.axi
        burst = data.StructLayout({"address": ADDRESS_BITS, "length": 8})
        m.submodules.bursts = bursts = SyncFIFO(width=burst.size, depth=BURSTS_WAITING)
        asked, following = Signal(burst), data.View(burst, bursts.r_data)
        place, active, left = _Place(m, self), Signal(), Signal(8)
        m.d.comb += [
            asked.address.eq(axi.araddr),
            asked.length.eq(axi.arlen),
            bursts.w_data.eq(asked),
            bursts.w_en.eq(axi.arvalid),
            axi.arready.eq(bursts.w_rdy),
            self.ends.eq(self.last & (left == 0)),
            bursts.r_en.eq(~active | self.ends),
        ]
        with m.If(self.last):
            m.d.sync += left.eq(left - 1)
        with m.If(bursts.r_en):
            m.d.sync += [
                active.eq(bursts.r_rdy),
                left.eq(following.length),
                place.begin(following.address),
            ]
        return active


class SdramWriter(Component):
    """Takes one write burst after the other, and holds the word whose columns are being written.

    Parameters
    ----------
    config : AcceleratorConfig
    timing : DramTiming

    Members
    -------
    axi : In(axi_port(config))
        Only the write channels are used here.
    wanted, nowhere, place, lost, issue, last, index, ends
        As of `SdramReader`.
    data, mask : Out
        The column `index` of the word, and a bit for each byte that is not to be written.
    skip : Out(1)
        That column is not written: no byte of it is to be, or a part of it where the chip's masks are not connected.

    Latency
    -------
    A word is taken in the cycle of the last column of the one before; a burst is answered one cycle after its last column.
    """

    def __init__(self, config: AcceleratorConfig, timing: DramTiming) -> None:
        self.config = config
        self.timing = timing
        self.columns = timing.columns(config.lanes)
        chip = timing.chip
        super().__init__(
            {
                **_members(config, timing),
                "data": Out(8 * chip.data_bytes),
                "mask": Out(chip.data_bytes),
                "skip": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        axi, data_bytes = self.axi, self.timing.chip.data_bytes
        active, held, whole, final = Signal(), Signal(), Signal(), Signal()
        refused, refuses = Signal(), Signal()
        word, strobe = Signal.like(axi.wdata), Signal.like(axi.wstrb)
        place = _Place(m, self)
        m.d.comb += [
            axi.awready.eq(~active & ~axi.bvalid),
            axi.wready.eq(active & ~whole & (~held | self.last)),
            self.wanted.eq(held),
            self.ends.eq(self.last & final),
            self.data.eq(word.word_select(self.index, 8 * data_bytes)),
            self.mask.eq(~strobe.word_select(self.index, data_bytes)),
            self.skip.eq(self.mask.all() if self.timing.chip.masked else self.mask.any()),
            refuses.eq(self.issue & (self.nowhere | (self.skip & ~self.mask.all()))),
        ]
        with m.If(refuses):
            m.d.sync += refused.eq(1)
        with m.If(axi.awvalid & axi.awready):
            m.d.sync += [
                active.eq(1),
                whole.eq(0),
                refused.eq(0),
                place.begin(axi.awaddr),
            ]
        with m.If(self.last):
            m.d.sync += held.eq(0)
        with m.If(axi.wvalid & axi.wready):
            m.d.sync += [
                held.eq(1),
                word.eq(axi.wdata),
                strobe.eq(axi.wstrb),
                final.eq(axi.wlast),
                whole.eq(axi.wlast),
            ]
        with m.If(axi.bready):
            m.d.sync += axi.bvalid.eq(0)
        with m.If(self.ends):
            m.d.sync += [
                active.eq(0),
                axi.bvalid.eq(1),
                axi.bresp.eq(Mux(refused | refuses, SLAVE_ERROR, 0)),
            ]
        return m
