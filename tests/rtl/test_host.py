"""The host's bus: units of every region, whole entries, scans."""

import zlib

import numpy as np
import pytest
from bench import Bench, Context

from hwattn.rtl.host import Host
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.registers import Control, Region, Register, address


def config_with(lanes: int) -> AcceleratorConfig:
    return AcceleratorConfig(lanes=lanes, act_banks=2, act_words=16)


class Driver:
    """Sends requests to a Host and keeps its answers."""

    def __init__(self, lanes: int, seed: int) -> None:
        self.dut = Host(config_with(lanes))
        self.bench = Bench(self.dut, seed=seed)
        self.rng = np.random.default_rng(seed)
        self.act = self.rng.integers(0, 256, (32, lanes), np.uint8)
        self.weight = np.zeros((32, lanes), np.uint8)
        self.bench.memory(self.dut.act_read, self.act, self.dut.act_write)
        self.bench.memory(None, self.weight, self.dut.weight_write)
        self.answers = self.bench.collect(self.dut.response)
        self.bench.registered([self.dut.register], [self.dut.register_data], lambda number: [7 * number])

    async def write(self, ctx: Context, region: Region, unit: int, value: int) -> None:
        request = {"write": 1, "addr": address(region, unit), "data": value}
        await self.bench.send(ctx, self.dut.request, request)

    async def read(self, ctx: Context, region: Region, unit: int) -> int:
        known = len(self.answers)
        await self.bench.send(ctx, self.dut.request, {"write": 0, "addr": address(region, unit), "data": 0})
        while len(self.answers) == known:
            await ctx.tick()
        return int(self.answers[-1])


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_memory_units(lanes: int) -> None:
    driver = Driver(lanes, seed=lanes)
    expected = driver.act.copy()

    async def test(ctx: Context) -> None:
        units = expected.reshape(-1).view("<u4")
        for unit in driver.rng.permutation(len(units))[:20]:
            value = int(driver.rng.integers(2**32))
            await driver.write(ctx, Region.ACT, int(unit), value)
            units[unit] = value
            other = int(driver.rng.integers(len(units)))
            assert await driver.read(ctx, Region.ACT, other) == units[other]
            await driver.write(ctx, Region.WEIGHT, int(unit), value)
        assert await driver.read(ctx, Region.WEIGHT, 0) == 0, "only the activation memory can be read"

    driver.bench.run(test)
    assert (driver.act == expected).all()
    changed = driver.weight.reshape(-1).view("<u4") != 0
    assert (driver.weight.reshape(-1).view("<u4")[changed] == expected.reshape(-1).view("<u4")[changed]).all()
    assert changed.sum() == 20


def test_registers_and_entries() -> None:
    driver = Driver(8, seed=3)
    dut = driver.dut
    ports = {
        Region.CSR: driver.bench.collect(dut.register_write),
        Region.PARAM: driver.bench.collect(dut.param_write),
        Region.NORM: driver.bench.collect(dut.norm_write),
        Region.TABLE: driver.bench.collect(dut.table_write),
        Region.PROGRAM: driver.bench.collect(dut.program_write),
    }

    async def test(ctx: Context) -> None:
        assert await driver.read(ctx, Region.CSR, 9) == 63
        await driver.write(ctx, Region.CSR, 5, 0xFFFF1234)
        await driver.write(ctx, Region.PARAM, 2 * 5, -3 & 0xFFFFFFFF)
        await driver.write(ctx, Region.PARAM, 2 * 5 + 1, 0x8001 | 47 << 16)
        await driver.write(ctx, Region.NORM, 2 * 9, 0x89ABCDEF)
        await driver.write(ctx, Region.NORM, 2 * 9 + 1, 0x4567)
        await driver.write(ctx, Region.TABLE, 2 * 511, -1 & 0xFFFFFFFF)
        await driver.write(ctx, Region.TABLE, 2 * 511 + 1, -2 & 0xFFFFFFFF)
        for unit in range(8):
            await driver.write(ctx, Region.PROGRAM, 8 * 77 + unit, unit + 1)
        assert await driver.read(ctx, Region.CSR, 1) == 7

    driver.bench.run(test)
    assert ports[Region.CSR] == [{"addr": 5, "data": 0xFFFF1234}]
    assert ports[Region.PARAM] == [{"addr": 5, "data": {"bias": -3, "multiplier": 0x8001, "shift": 47}}]
    assert ports[Region.NORM] == [{"addr": 9, "data": 0x456789ABCDEF}]
    assert ports[Region.TABLE] == [{"addr": 511, "data": {"value": -1, "difference": -2}}]
    assert ports[Region.PROGRAM] == [{"addr": 77, "data": sum((unit + 1) << 32 * unit for unit in range(8))}]


@pytest.mark.parametrize(("lanes", "base", "words"), [(4, 0, 1), (8, 5, 20), (16, 31, 1), (8, 0, 32)])
def test_scan(lanes: int, base: int, words: int) -> None:
    driver = Driver(lanes, seed=words)
    dut = driver.dut
    crcs: list[int] = []

    async def test(ctx: Context) -> None:
        ctx.set(dut.register_write.ready, 1)
        ctx.set(dut.scan_base, base)
        ctx.set(dut.scan_words, words)
        for _ in range(2):
            await driver.write(ctx, Region.CSR, Register.CONTROL, Control.SCAN)
            await driver.read(ctx, Region.CSR, Register.SCAN_CRC)
            crcs.append(ctx.get(dut.scan_crc))
        before = driver.act.copy()
        assert crcs == [zlib.crc32(before[base : base + words].tobytes())] * 2
        await driver.write(ctx, Region.CSR, Register.CONTROL, Control.CLEAR)
        await driver.read(ctx, Region.CSR, Register.STATUS)
        before[base : base + words] = 0
        assert (driver.act == before).all()

    driver.bench.run(test)


def test_entries_are_whole_whatever_lies_on_the_bus_between_requests() -> None:
    driver = Driver(4, seed=9)
    written = driver.bench.collect(driver.dut.program_write)
    units = [int(unit) for unit in driver.rng.integers(2**32, size=16)]

    async def test(ctx: Context) -> None:
        for number, unit in enumerate(units):
            await driver.write(ctx, Region.PROGRAM, number, unit)
            for _ in range(4):
                ctx.set(driver.dut.request.payload.data, int(driver.rng.integers(2**32)))
                await ctx.tick()

    driver.bench.run(test)
    entries = [
        int.from_bytes(np.array(units[start : start + 8], "<u4").tobytes(), "little") for start in (0, 8)
    ]
    assert [(write["addr"], write["data"]) for write in written] == list(enumerate(entries))
