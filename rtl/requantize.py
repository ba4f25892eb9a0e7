"""Requantization of a vector of accumulators, pipelined."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwattn.rtl.interfaces import MULTIPLIER_BITS, SHIFT_BITS

_LOW_BITS = 17  # unsigned operand that a signed 18 x 18 multiplier takes


def saturated(value: Value, bits: int) -> Value:
    """Return a signed value clipped to a signed value of `bits` bits."""
    if len(value) <= bits:
        return value
    sign, rest = value[-1], value[bits - 1 :]
    limit = Cat((~sign).replicate(bits - 1), sign)
    return Mux(rest.all() | ~rest.any(), value[:bits], limit).as_signed()


def halved(value: Value, bits: int) -> Value:
    """Return half of a signed value, rounded half up and clipped to a signed value of `bits` bits."""
    if len(value) <= bits:
        return (value + 1) >> 1
    sign, rest = value[-1], value[bits:]
    # the sum is not waited for: only the largest value of all that fit would leave the range by rounding
    outside = ~(rest.all() | ~rest.any()) | (value[:bits].all() & ~sign)
    limit = Cat((~sign).replicate(bits - 1), sign)
    return Mux(outside, limit, (value[: bits + 1] + 1)[1 : bits + 1]).as_signed()


class Requantizer(wiring.Component):
    """Scale values by ``multiplier / 2**shift``, round half up, saturate.

    The product is taken in two halves, each within an 18 x 18 multiplier.

    Parameters
    ----------
    lanes : int
        Values per cycle.
    value_bits : int
        Width of a signed value, 18 to 35.
    bits : int
        Width of a signed result.

    Members
    -------
    value : In, array of `lanes` signed values
    multiplier : In, array of `lanes` x 16 bits
    shift : In, array of `lanes` x 6 bits, each 1 to 47
    result : Out, array of `lanes` signed results

    Latency
    -------
    `DELAY` cycles, one vector per cycle, never stalled.

    Bit accuracy
    ------------
    `hwattn.spec.numbers.requantize`.
    """

    DELAY = 4

    def __init__(self, lanes: int, value_bits: int, bits: int) -> None:
        self._lanes = lanes
        self._value_bits = value_bits
        self._bits = bits
        super().__init__(
            {
                "value": In(data.ArrayLayout(signed(value_bits), lanes)),
                "multiplier": In(data.ArrayLayout(MULTIPLIER_BITS, lanes)),
                "shift": In(data.ArrayLayout(SHIFT_BITS, lanes)),
                "result": Out(data.ArrayLayout(signed(bits), lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        product_bits = self._value_bits + MULTIPLIER_BITS
        lanes = range(self._lanes)
        low = Signal(data.ArrayLayout(_LOW_BITS + MULTIPLIER_BITS, self._lanes))
        high = Signal(data.ArrayLayout(signed(product_bits - _LOW_BITS), self._lanes))
        product = Signal(data.ArrayLayout(signed(product_bits), self._lanes))
        scaled = Signal(data.ArrayLayout(signed(product_bits), self._lanes))
        # one bit less, so that the bit that decides the rounding is kept
        shifts = [Signal(data.ArrayLayout(SHIFT_BITS, self._lanes), name=f"shift_{i}") for i in range(2)]
        for i in lanes:
            value = self.value[i]
            m.d.sync += [
                low[i].eq(value[:_LOW_BITS] * self.multiplier[i]),
                high[i].eq(value[_LOW_BITS:].as_signed() * self.multiplier[i]),
                shifts[0][i].eq(self.shift[i] - 1),
                product[i].eq((high[i] << _LOW_BITS) + low[i]),
                shifts[1][i].eq(shifts[0][i]),
                scaled[i].eq(product[i] >> shifts[1][i]),
                self.result[i].eq(halved(scaled[i], self._bits)),
            ]
        return m
