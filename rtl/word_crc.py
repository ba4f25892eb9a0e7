"""CRC-32 of a stream of wide words, with few wires."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib.crc import Algorithm
from amaranth.lib.wiring import Component, In, Out

CRC_BITS = 32
BYTE_BITS = 8

POLYNOMIAL = 0x104C11DB7
"""Of CRC-32: bit i is the coefficient of x**i."""

_TAIL = Algorithm(
    crc_width=CRC_BITS,
    polynomial=POLYNOMIAL & 0xFFFF_FFFF,
    initial_crc=0,
    reflect_input=False,
    reflect_output=True,
    xor_output=0xFFFF_FFFF,
)
"""Over a remainder, its highest power first, what CRC-32 is over the words."""

SPARSE = {
    32: (109, 29, 34, 47, 49, 60, 72),
    64: (135, 12, 14, 16, 32, 55, 64),
    128: (200, 15, 30, 42, 49, 57, 64),
    256: (344, 8, 22, 30, 45, 46, 51),
    512: (603, 20, 25, 26, 43, 59, 70),
}
"""By bits of a word, a multiple of `POLYNOMIAL`: its exponents but for 0, the degree first.

Found by search: eight terms, the others so far below the degree, a word or more, that a word is folded in one step."""


class WordCrc(Component):
    """The CRC-32 of zlib over words, one in each cycle.

    A register of 32 bits would take half of a word's bits into each of its own: thousands of wires in one place. Here the remainder is
    kept modulo a sparse multiple of the polynomial, longer than 32 bits, into which each bit of a word goes once and each bit that leaves
    at the top seven times. At the end an 8-bit CRC goes over that remainder.

    Parameters
    ----------
    bits : int
        Of a word; a key of `SPARSE`.

    Members
    -------
    start : In(1)
        Begin anew.
    word : In(bits), valid : In(1)
        Its lowest byte comes first.
    finish : In(1)
        For one cycle, after the last word: reduce to 32 bits.
    busy : Out(1)
        From the cycle after `finish` until `crc` is there.
    crc : Out(32)
        Of the words from `start` to `finish`, until the next `start`.

    Latency
    -------
    One cycle for a word; `finish` takes ``self.cycles``.

    Bit accuracy
    ------------
    ``zlib.crc32`` of the words' bytes.
    """

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._degree, *self._exponents = SPARSE[bits]
        self.cycles = -(-self._degree // BYTE_BITS)
        super().__init__(
            {
                "start": In(1),
                "word": In(bits),
                "valid": In(1),
                "finish": In(1),
                "busy": Out(1),
                "crc": Out(CRC_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # bit i is the coefficient of x**i; those from the degree on are 0 until the remainder is shifted out
        remainder = Signal(BYTE_BITS * self.cycles)
        left = Signal(range(self.cycles + 1))
        m.submodules.tail = tail = _TAIL(data_width=BYTE_BITS).create()
        m.d.comb += [
            self.busy.eq(left != 0),
            tail.start.eq(self.start),
            tail.valid.eq(self.busy),
            tail.data.eq(remainder[-BYTE_BITS:]),
            self.crc.eq(tail.crc),
        ]
        with m.If(self.busy):
            m.d.sync += [left.eq(left - 1), remainder.eq(remainder << BYTE_BITS)]
        with m.Elif(self.valid):
            m.d.sync += remainder.eq(self._folded(remainder))
        with m.If(self.finish):
            m.d.sync += left.eq(self.cycles)
        with m.If(self.start):
            m.d.sync += [left.eq(0), remainder.eq(_ones_before())]
        return m

    def _folded(self, remainder: Signal) -> Value:
        """Return the remainder of ``remainder * x**bits + word`` modulo the sparse multiple."""
        kept = self._degree - self._bits
        # the word's first bit is that of the highest power
        moved = [*reversed(list(self.word)), *remainder[:kept]]
        leaving = remainder[kept : self._degree]
        for exponent in (0, *self._exponents):
            for place, bit in enumerate(leaving):
                moved[place + exponent] = moved[place + exponent] ^ bit
        return Cat(moved)


def _ones_before() -> int:
    """Return the remainder that turns over the first 32 bits of the words, as CRC-32 begins: ones, 32 places before them."""
    value = (1 << CRC_BITS) - 1
    for _ in range(CRC_BITS):
        value = (value ^ POLYNOMIAL if value & 1 else value) >> 1
    return value
