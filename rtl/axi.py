"""The AXI4 port to external memory, from the point of view of the machine."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, Signature
from amaranth.utils import exact_log2

from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.isa import EXTERNAL_ADDRESS_BITS

ADDRESS_BITS = 40
LENGTH_BITS = 9
"""Of a number of words in a burst: 1 to 256."""

PAGE_BYTES = 4096
"""A burst must not cross such a boundary (AMBA AXI4, A3.4.1)."""

PAGE_BITS = exact_log2(PAGE_BYTES)
BURST_WORDS_MAX = 256
_INCREMENTING = 1
_CACHEABLE = 0b0011


def axi_port(config: AcceleratorConfig) -> Signature:
    """Return the members of the master's five channels, with data as wide as a word of `lanes` bytes.

    Bursts are incrementing and of whole words; every transaction has identification 0, so that answers come in order.
    """
    lanes = config.lanes
    members: dict[str, Any] = {}
    for channel in ("aw", "ar"):
        members |= {
            f"{channel}id": Out(1),
            f"{channel}addr": Out(ADDRESS_BITS),
            f"{channel}len": Out(8),
            f"{channel}size": Out(3, init=exact_log2(lanes)),
            f"{channel}burst": Out(2, init=_INCREMENTING),
            f"{channel}lock": Out(1),
            f"{channel}cache": Out(4, init=_CACHEABLE),
            f"{channel}prot": Out(3),
            f"{channel}valid": Out(1),
            f"{channel}ready": In(1),
        }
    members |= {
        "wdata": Out(8 * lanes),
        "wstrb": Out(lanes, init=(1 << lanes) - 1),
        "wlast": Out(1),
        "wvalid": Out(1),
        "wready": In(1),
        "bid": In(1),
        "bresp": In(2),
        "bvalid": In(1),
        "bready": Out(1, init=1),
        "rid": In(1),
        "rdata": In(8 * lanes),
        "rresp": In(2),
        "rlast": In(1),
        "rvalid": In(1),
        "rready": Out(1),
    }
    return Signature(members)


class BurstCutter(wiring.Component):
    """Cut `runs` runs of `words` words into bursts that cross no page.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    start : In(1)
        Take over `address`, `stride`, `words` and `runs`; only while `busy` is low.
    address, stride, words, runs : In
        First external word of a run, distance to that of the next, counts.
    take : In(1)
        The burst has been used; only while `valid`.
    busy, valid : Out(1)
        Some bursts are left; `burst_address` (external word), `burst_words` and the flags belong to the next one.
    first_of_run, last : Out(1)
        The burst begins a run; it is the very last.
    stop : In(1)
        Drop what is left.

    Latency
    -------
    Two cycles from `start` to the first burst, and from one `take` to the next burst.

    Bit accuracy
    ------------
    Moves no data.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._page_words = PAGE_BYTES // config.lanes
        super().__init__(
            {
                "start": In(1),
                "address": In(EXTERNAL_ADDRESS_BITS),
                "stride": In(EXTERNAL_ADDRESS_BITS),
                "words": In(16),
                "runs": In(14),
                "take": In(1),
                "stop": In(1),
                "busy": Out(1),
                "valid": Out(1),
                "burst_address": Out(EXTERNAL_ADDRESS_BITS),
                "burst_words": Out(LENGTH_BITS),
                "first_of_run": Out(1),
                "last": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        run_start = Signal(EXTERNAL_ADDRESS_BITS)
        stride, words = Signal.like(self.stride), Signal.like(self.words)
        left, runs = Signal.like(self.words), Signal.like(self.runs)
        page_bits = exact_log2(self._page_words)
        to_page = Signal(range(self._page_words + 1))
        m.d.comb += to_page.eq(self._page_words - self.burst_address[:page_bits])
        with m.If(self.busy & ~self.valid):
            room = _least(to_page, BURST_WORDS_MAX)
            m.d.sync += [
                self.burst_words.eq(_least(left, room)),
                self.last.eq((left <= room) & (runs == 1)),
                self.valid.eq(1),
            ]
        with m.If(self.take):
            m.d.sync += [self.valid.eq(0), self.first_of_run.eq(0)]
            m.d.sync += [
                left.eq(left - self.burst_words),
                self.burst_address.eq(self.burst_address + self.burst_words),
            ]
            with m.If(left == self.burst_words):
                m.d.sync += [
                    left.eq(words),
                    runs.eq(runs - 1),
                    run_start.eq(run_start + stride),
                    self.burst_address.eq(run_start + stride),
                    self.first_of_run.eq(1),
                ]
            with m.If(self.last):
                m.d.sync += self.busy.eq(0)
        with m.If(self.start):
            m.d.sync += [
                run_start.eq(self.address),
                self.burst_address.eq(self.address),
                stride.eq(self.stride),
                words.eq(self.words),
                left.eq(self.words),
                runs.eq(self.runs),
                self.busy.eq(1),
                self.first_of_run.eq(1),
            ]
        with m.If(self.stop):
            m.d.sync += [self.busy.eq(0), self.valid.eq(0)]
        return m


class Watch(wiring.Component):
    """Time how long a transfer has made no progress.

    Parameters
    ----------
    none

    Members
    -------
    pending, progress : In(1)
        Something is owed by the memory; it went on in this cycle.
    limit : In(32)
    expired : Out(1)
        `limit` cycles passed without progress; stays until there is some.
    """

    def __init__(self) -> None:
        super().__init__({"pending": In(1), "progress": In(1), "limit": In(32), "expired": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        count = Signal(32)
        m.d.comb += self.expired.eq(self.pending & (count >= self.limit))
        with m.If(~self.pending | self.progress):
            m.d.sync += count.eq(0)
        with m.Elif(~self.expired):
            m.d.sync += count.eq(count + 1)
        return m


def byte_address(config: AcceleratorConfig, page: Value, word: Value) -> Value:
    """Return the byte address of an external word; external memory starts at `page` pages of 4 KiB."""
    return (page << PAGE_BITS) + (word << exact_log2(config.lanes))


def _least(one: Value, other: Value | int) -> Value:
    return Mux(one < other, one, other)
