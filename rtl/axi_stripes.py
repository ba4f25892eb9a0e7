"""One AXI4 port over several: each word in parts, each part through a port and in a stripe of memory of its own."""

from __future__ import annotations

from amaranth.hdl import Assert, Cat, Module, Signal
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import exact_log2

from hwattn.rtl.axi import BURST_WORDS_MAX, PAGE_BYTES, axi_port
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.stripes import Stripes

READ_WORDS = 512
"""Words that are asked for and not yet taken: two bursts of the longest kind."""

WRITES_OWED = 8
"""Write bursts that some port has not acknowledged."""

_RESPONSE_BITS = 2
_ERROR = 0b10


def part_config(config: AcceleratorConfig, ports: int) -> AcceleratorConfig:
    """Return a configuration whose words are the parts of `config`'s: for `axi_port`."""
    return config.replace(lanes=config.lanes // ports, norm_lanes=1)


class AxiStripes(Component):
    """Cuts bursts of words into as many bursts of parts, and puts together what comes back.

    No port ever waits for another: a burst is asked for only when there is room for every part of it, and a part of a write whose burst
    has begun is taken whatever the other ports do. So ports may share what lies behind them, in any order of service.

    Parameters
    ----------
    config : AcceleratorConfig
    stripes : Stripes
        Of 2 or 4 ports.

    Members
    -------
    axi : In(axi_port(config))
        Incrementing bursts of whole words that cross no page. The data of a write are taken once its address has been.
    ports : Out(axi_port(part_config(config, stripes.ports))), an array
        Byte address A becomes ``A / ports`` in the first stripe.

    Latency
    -------
    One cycle for an address, at most one in two cycles; two cycles for a word that is read, one that is written; one word per cycle in
    each direction. One write burst is taken at a time, its data then at once.

    Bit accuracy
    ------------
    ``hwattn.spec.stripes.Stripes.write`` is the layout. A part's error is the word's.
    """

    def __init__(self, config: AcceleratorConfig, stripes: Stripes) -> None:
        self.stripes = stripes
        self.burst_words = min(BURST_WORDS_MAX, PAGE_BYTES // config.lanes)
        part = axi_port(part_config(config, stripes.ports))
        super().__init__({"axi": In(axi_port(config)), "ports": Out(part).array(stripes.ports)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._read(m)
        self._write(m)
        return m

    def _address(self, m: Module, channel: str, allowed: Signal) -> Signal:
        """Take an address where it is allowed, and offer it to every port until each has it; return the handshake."""
        axi = self.axi
        valid, ready = (getattr(axi, f"{channel}{name}") for name in ("valid", "ready"))
        base, length = Signal.like(axi.araddr, name=f"{channel}_base"), Signal(8, name=f"{channel}_length")
        waiting = Signal(self.stripes.ports, name=f"{channel}_waiting")
        taken = Signal(name=f"{channel}_taken")
        m.d.comb += [ready.eq(allowed & ~waiting.any()), taken.eq(valid & ready)]
        for number, port in enumerate(self.ports):
            m.d.comb += [
                getattr(port, f"{channel}valid").eq(waiting[number]),
                getattr(port, f"{channel}addr").eq(base + number * self.stripes.stripe_bytes),
                getattr(port, f"{channel}len").eq(length),
            ]
            with m.If(getattr(port, f"{channel}ready")):
                m.d.sync += waiting[number].eq(0)
        with m.If(taken):
            m.d.sync += [
                base.eq(getattr(axi, f"{channel}addr") >> exact_log2(self.stripes.ports)),
                length.eq(getattr(axi, f"{channel}len")),
                waiting.eq(~0),
            ]
        return taken

    def _read(self, m: Module) -> None:
        """Keep what each port brings until all parts of a word are there."""
        axi = self.axi
        room, allowed, there = Signal(range(READ_WORDS + 1), init=READ_WORDS), Signal(), Signal()
        taken = self._address(m, "ar", allowed)
        whole = Signal()
        m.d.comb += [
            allowed.eq(room >= self.burst_words),
            axi.rvalid.eq(there),
            whole.eq(axi.rvalid & axi.rready),
        ]
        asked = Signal(range(BURST_WORDS_MAX + 1))
        with m.If(taken):
            m.d.comb += asked.eq(axi.arlen + 1)
        m.d.sync += room.eq(room - asked + whole)
        parts, responses, lasts, ready = [], [], [], []
        for number, port in enumerate(self.ports):
            coming = Cat(port.rdata, port.rresp, port.rlast)
            m.submodules[f"read_{number}"] = queue = SyncFIFOBuffered(width=len(coming), depth=READ_WORDS)
            m.d.comb += [
                port.rready.eq(1),
                queue.w_data.eq(coming),
                queue.w_en.eq(port.rvalid),
                queue.r_en.eq(whole),
            ]
            m.d.sync += Assert(~port.rvalid | queue.w_rdy, "more words than were asked for")
            bits = len(port.rdata)
            parts.append(queue.r_data[:bits])
            responses.append(queue.r_data[bits : bits + _RESPONSE_BITS])
            lasts.append(queue.r_data[-1])
            ready.append(queue.r_rdy)
        error = Cat(response[1] for response in responses).any()
        m.d.comb += [
            there.eq(Cat(ready).all()),
            axi.rdata.eq(Cat(parts)),
            axi.rresp.eq(error * _ERROR),
            axi.rlast.eq(lasts[0]),
        ]
        m.d.sync += Assert(~there | (Cat(lasts).all() == Cat(lasts).any()), "bursts of different lengths")

    def _write(self, m: Module) -> None:
        """Keep each part until its port takes it, and each answer until all ports have given theirs."""
        axi = self.axi
        allowed, pushed, answered = Signal(), Signal(), Signal()
        taken = self._address(m, "aw", allowed)
        to_come, owed = Signal(range(BURST_WORDS_MAX + 1)), Signal(range(WRITES_OWED + 1))
        m.d.comb += [axi.wready.eq(to_come.any()), pushed.eq(axi.wvalid & axi.wready)]
        with m.If(taken):
            m.d.sync += to_come.eq(axi.awlen + 1)
        with m.Elif(pushed):
            m.d.sync += to_come.eq(to_come - 1)
        m.d.sync += owed.eq(owed + taken - answered)
        rooms, answers, errors = [], [], []
        size = self.stripes.part_bytes
        for number, port in enumerate(self.ports):
            here = slice(number * size, (number + 1) * size)
            going = Cat(axi.wdata.word_select(number, 8 * size), axi.wstrb[here], axi.wlast)
            m.submodules[f"write_{number}"] = queue = SyncFIFOBuffered(
                width=len(going), depth=2 * self.burst_words
            )
            m.submodules[f"answers_{number}"] = answer = SyncFIFO(width=1, depth=WRITES_OWED)
            m.d.comb += [
                queue.w_data.eq(going),
                queue.w_en.eq(pushed),
                Cat(port.wdata, port.wstrb, port.wlast).eq(queue.r_data),
                port.wvalid.eq(queue.r_rdy),
                queue.r_en.eq(port.wready),
                port.bready.eq(1),
                answer.w_data.eq(port.bresp[1]),
                answer.w_en.eq(port.bvalid),
                answer.r_en.eq(answered),
            ]
            m.d.sync += Assert(~pushed | queue.w_rdy, "no room for a part of a burst that has begun")
            m.d.sync += Assert(~port.bvalid | answer.w_rdy, "more answers than bursts")
            rooms.append(queue.w_level <= self.burst_words)
            answers.append(answer.r_rdy)
            errors.append(answer.r_data)
        m.d.comb += [
            allowed.eq(~to_come.any() & (owed != WRITES_OWED) & Cat(rooms).all()),
            axi.bvalid.eq(Cat(answers).all()),
            axi.bresp.eq(Cat(errors).any() * _ERROR),
            answered.eq(axi.bvalid & axi.bready),
        ]
