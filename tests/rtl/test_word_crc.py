"""The CRC-32 of wide words is that of zlib."""

import random
import zlib

import pytest
from bench import Bench

from hwattn.rtl.word_crc import CRC_BITS, POLYNOMIAL, SPARSE, WordCrc


def power(exponent: int) -> int:
    """Remainder of ``x**exponent`` modulo the polynomial."""
    value = 1
    for _ in range(exponent):
        value <<= 1
        if value >> CRC_BITS:
            value ^= POLYNOMIAL
    return value


@pytest.mark.parametrize("bits", SPARSE)
def test_multiples_of_the_polynomial(bits: int) -> None:
    degree, *others = SPARSE[bits]
    assert degree - max(others) >= bits
    total = 1
    for exponent in SPARSE[bits]:
        total ^= power(exponent)
    assert total == 0


@pytest.mark.parametrize("bits", SPARSE)
def test_equals_zlib(bits: int) -> None:
    dut = WordCrc(bits)
    chance = random.Random(bits)

    async def checked(ctx, words: list[int], gaps: float) -> None:
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        for word in words:
            while chance.random() < gaps:
                ctx.set(dut.valid, 0)
                ctx.set(dut.word, chance.getrandbits(bits))
                await ctx.tick()
            ctx.set(dut.word, word)
            ctx.set(dut.valid, 1)
            await ctx.tick()
        ctx.set(dut.valid, 0)
        ctx.set(dut.finish, 1)
        await ctx.tick()
        ctx.set(dut.finish, 0)
        for _ in range(dut.cycles):
            assert ctx.get(dut.busy)
            await ctx.tick()
        assert not ctx.get(dut.busy)
        message = b"".join(word.to_bytes(bits // 8, "little") for word in words)
        assert ctx.get(dut.crc) == zlib.crc32(message)

    async def test(ctx):
        await checked(ctx, [0], 0)
        await checked(ctx, [(1 << bits) - 1] * 2, 0)
        for count in (1, 2, 3, 7, 40):
            await checked(ctx, [chance.getrandbits(bits) for _ in range(count)], 0)
            await checked(ctx, [chance.getrandbits(bits) for _ in range(count)], 0.4)

    Bench(dut).run(test)
