"""A UART: eight data bits, no parity, one stop bit."""

from __future__ import annotations

from amaranth.hdl import C, Cat, Module, Signal
from amaranth.lib import cdc, stream, wiring
from amaranth.lib.wiring import In, Out

BYTE_BITS = 8
FRAME_BITS = BYTE_BITS + 2


class UartReceiver(wiring.Component):
    """Bytes from a serial line.

    Parameters
    ----------
    divisor : int
        Clock cycles per bit, at least 4.

    Members
    -------
    rx : In(1)
        The line, idle high, asynchronous.
    bytes : Out(stream of 8 bits)
        A byte that is not taken before the next one ends is lost.

    Latency
    -------
    A byte comes out in the middle of its stop bit; a byte without a stop bit is dropped.
    """

    def __init__(self, divisor: int) -> None:
        if divisor < 4:
            raise ValueError(f"a divisor of {divisor}; 4 or more is needed to find the middle of a bit")
        self.divisor = divisor
        super().__init__({"rx": In(1), "bytes": Out(stream.Signature(BYTE_BITS))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        line = Signal(init=1)
        m.submodules += cdc.FFSynchronizer(self.rx, line, init=1)
        timer = Signal(range(self.divisor))
        bits = Signal(range(FRAME_BITS + 1))
        shift = Signal(BYTE_BITS)
        with m.If(self.bytes.valid & self.bytes.ready):
            m.d.sync += self.bytes.valid.eq(0)
        with m.If(bits == 0):
            with m.If(~line):
                m.d.sync += [bits.eq(FRAME_BITS), timer.eq(self.divisor // 2)]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [timer.eq(self.divisor - 1), bits.eq(bits - 1), shift.eq(Cat(shift[1:], line))]
            with m.If((bits == FRAME_BITS) & line):
                m.d.sync += bits.eq(0)  # a glitch, no start bit
            with m.If((bits == 1) & line):
                m.d.sync += [self.bytes.payload.eq(shift), self.bytes.valid.eq(1)]
        return m


class UartTransmitter(wiring.Component):
    """Bytes to a serial line.

    Parameters
    ----------
    divisor : int
        Clock cycles per bit.

    Members
    -------
    bytes : In(stream of 8 bits)
    tx : Out(1)
        The line, idle high.

    Latency
    -------
    A byte takes ten bit times.
    """

    def __init__(self, divisor: int) -> None:
        self.divisor = divisor
        super().__init__({"bytes": In(stream.Signature(BYTE_BITS)), "tx": Out(1, init=1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        timer = Signal(range(self.divisor))
        bits = Signal(range(FRAME_BITS + 1))
        shift = Signal(FRAME_BITS, init=-1)
        m.d.comb += [self.tx.eq(shift[0]), self.bytes.ready.eq(bits == 0)]
        with m.If(bits == 0):
            with m.If(self.bytes.valid):
                m.d.sync += [
                    shift.eq(Cat(C(0, 1), self.bytes.payload, C(1, 1))),
                    bits.eq(FRAME_BITS),
                    timer.eq(self.divisor - 1),
                ]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [shift.eq(Cat(shift[1:], C(1, 1))), bits.eq(bits - 1), timer.eq(self.divisor - 1)]
        return m
