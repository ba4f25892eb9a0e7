"""cocotbext-axi's master in front of the stripes, and a memory of its own pace behind each port, all in one buffer; run inside the simulator."""

from __future__ import annotations

import itertools
import logging
import os
import random

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.handle import HierarchyObject
from cocotb.triggers import ClockCycles, RisingEdge, gather, with_timeout
from cocotbext.axi import AxiBus, AxiMaster, AxiRam, AxiResp

from hwattn.spec.stripes import PAGE_BYTES, Stripes

SETTINGS = "HWATTN_STRIPES"
"""Lanes, ports and words, separated by blanks."""

LIMIT_NS = 1_000_000
ADDRESS = 3 * PAGE_BYTES


class Buffer(bytearray):
    """Bytes, some of which cannot be reached."""

    broken = range(0)

    def _check(self, where: slice) -> None:
        if set(range(*where.indices(len(self)))) & set(self.broken):
            raise ValueError("broken")

    def __getitem__(self, where):
        self._check(where)
        return super().__getitem__(where)

    def __setitem__(self, where, data) -> None:
        self._check(where)
        super().__setitem__(where, data)


class Bench:
    """The master, and a memory behind each port."""

    def __init__(self, dut: HierarchyObject) -> None:
        lanes, ports, words = map(int, os.environ[SETTINGS].split())
        self.stripes = Stripes(lanes, ports, words)
        self.base = self.stripes.page(ADDRESS) * PAGE_BYTES
        self.memory = Buffer(ADDRESS + self.stripes.bytes)
        self.clk = dut.clk
        self.master = AxiMaster(AxiBus.from_prefix(dut, "axi_"), dut.clk, dut.rst)
        self.rams = [
            AxiRam(AxiBus.from_prefix(dut, f"ports__{number}_"), dut.clk, dut.rst, mem=self.memory)
            for number in range(ports)
        ]
        for side in (self.master, *self.rams):
            for half in (side.write_if, side.read_if):
                half.log.setLevel(logging.CRITICAL)

    async def begin(self, dut: HierarchyObject, pause: float) -> None:
        Clock(dut.clk, 10, unit="ns").start()
        sides = [self.master, *self.rams] if pause else []
        channels = [
            channel
            for side in sides
            for channel in (
                side.write_if.aw_channel,
                side.write_if.w_channel,
                side.write_if.b_channel,
                side.read_if.ar_channel,
                side.read_if.r_channel,
            )
        ]
        for seed, channel in enumerate(channels):
            draw = random.Random(seed)
            # long pauses as well as short ones
            channel.set_pause_generator(
                paused
                for _ in itertools.count()
                for paused in [draw.random() < pause] * draw.choice((1, 1, 20))
            )
        dut.rst.value = 1
        await ClockCycles(dut.clk, 4)
        dut.rst.value = 0

    def pause_reads(self, number: int, paused: bool) -> None:
        self.rams[number].read_if.r_channel.pause = paused

    def pause_writes(self, number: int, paused: bool) -> None:
        self.rams[number].write_if.w_channel.pause = paused


async def use_every_page(dut: HierarchyObject, pause: float) -> None:
    """Read and write at the same time, all lengths and with strobes; in the end all lies where a host would put it."""
    bench = Bench(dut)
    await bench.begin(dut, pause)
    size = bench.stripes.words * bench.stripes.lanes
    kept = bytearray(size)

    async def use(page: int, draw: random.Random) -> None:
        for _ in range(6):
            first = page * PAGE_BYTES + draw.randrange(PAGE_BYTES)
            length = draw.randint(1, min(draw.choice((3, 64, 4096)), (page + 1) * PAGE_BYTES - first))
            if draw.random() < 0.6:
                given = draw.randbytes(length)
                kept[first : first + length] = given
                assert (await bench.master.write(bench.base + first, given, awid=0)).resp == AxiResp.OKAY
            else:
                found = await bench.master.read(bench.base + first, length, arid=0)
                assert found.resp == AxiResp.OKAY
                assert found.data == bytes(kept[first : first + length])

    users = (use(page, random.Random(page)) for page in range(size // PAGE_BYTES))
    await with_timeout(gather(*users), LIMIT_NS, "ns")
    assert (await bench.master.read(bench.base, size, arid=0)).data == bytes(kept)
    expected = np.zeros(bench.stripes.bytes, np.uint8)
    bench.stripes.write(expected, 0, np.frombuffer(kept, "<u4"))
    assert bytes(bench.memory[ADDRESS:]) == expected.tobytes()
    assert not any(bench.memory[:ADDRESS])


@cocotb.test()
async def what_is_written_is_read(dut: HierarchyObject) -> None:
    await use_every_page(dut, 0.0)


@cocotb.test()
async def at_a_pace_of_their_own(dut: HierarchyObject) -> None:
    await use_every_page(dut, 0.4)


@cocotb.test()
async def no_port_waits_for_another(dut: HierarchyObject) -> None:
    """One that brings nothing leaves the data of all others flowing to their end, and one that takes nothing too."""
    bench = Bench(dut)
    await bench.begin(dut, 0)
    data = random.Random(1).randbytes(PAGE_BYTES)
    part, last = PAGE_BYTES // bench.stripes.ports, bench.stripes.ports - 1
    bench.pause_writes(last, True)
    writing = cocotb.start_soon(bench.master.write(bench.base, data, awid=0))
    await ClockCycles(dut.clk, 3 * part)
    expected = np.zeros(bench.stripes.bytes, np.uint8)
    bench.stripes.write(expected, 0, np.frombuffer(data, "<u4"))
    for port in range(bench.stripes.ports):
        start = port * bench.stripes.stripe_bytes
        found = bytes(bench.memory[ADDRESS + start : ADDRESS + start + part])
        assert (found == expected[start : start + part].tobytes()) == (port != last)
    bench.pause_writes(last, False)
    await with_timeout(writing, LIMIT_NS, "ns")
    bench.pause_reads(last, True)
    reading = cocotb.start_soon(bench.master.read(bench.base, PAGE_BYTES, arid=0))
    beats = 0
    for _ in range(3 * part):
        await RisingEdge(dut.clk)
        assert int(dut.ports__0__rready.value) == 1
        beats += int(dut.ports__0__rvalid.value)
    assert beats == PAGE_BYTES // bench.stripes.lanes
    bench.pause_reads(last, False)
    assert (await with_timeout(reading, LIMIT_NS, "ns")).data == data


@cocotb.test()
async def an_error_of_one_part_is_the_words(dut: HierarchyObject) -> None:
    bench = Bench(dut)
    await bench.begin(dut, 0.3)
    word = 5
    stripes = bench.stripes
    start = ADDRESS + (stripes.ports - 1) * stripes.stripe_bytes + word * stripes.part_bytes
    for number in range(8):
        address = bench.base + number * stripes.lanes
        # burst by burst, because a memory refuses a burst as a whole
        bench.memory.broken = range(start, start + stripes.part_bytes)
        expected = AxiResp.SLVERR if number == word else AxiResp.OKAY
        assert (await bench.master.write(address, bytes(stripes.lanes), awid=0)).resp == expected
        assert (await bench.master.read(address, stripes.lanes, arid=0)).resp == expected
