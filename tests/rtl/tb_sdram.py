"""cocotbext-axi's master in front of an SDRAM controller and a chip that checks every command; run inside the simulator."""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.handle import HierarchyObject
from cocotb.triggers import ClockCycles, FallingEdge, gather, with_timeout
from cocotbext.axi import AxiBus, AxiMaster, AxiResp

SETTINGS = "HWATTN_SDRAM_TEST"
CLOCK_NS = 10
PAGE_BYTES = 4096
LIMIT_NS = 1_000_000


def settings() -> dict[str, int]:
    return dict(json.loads(os.environ[SETTINGS]))


async def begin(dut: HierarchyObject, pause: float) -> AxiMaster:
    Clock(dut.clk, CLOCK_NS, unit="ns").start()
    master = AxiMaster(AxiBus.from_prefix(dut, "axi_"), dut.clk, dut.rst)
    channels = [
        master.write_if.aw_channel,
        master.write_if.w_channel,
        master.write_if.b_channel,
        master.read_if.ar_channel,
        master.read_if.r_channel,
    ]
    master.write_if.log.setLevel(logging.WARNING)
    master.read_if.log.setLevel(logging.WARNING)
    for seed, channel in enumerate(channels):
        draw = random.Random(seed)
        channel.log.setLevel(logging.WARNING)
        if pause:
            # long pauses as well as short ones
            channel.set_pause_generator(
                paused
                for _ in itertools.count()
                for paused in [draw.random() < pause] * draw.choice((1, 1, 40))
            )
    dut.rst.value = 1
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
    return master


@cocotb.test()
async def what_is_written_is_read(dut: HierarchyObject) -> None:
    """Reads and writes at the same time, of all lengths and with strobes, in regions of their own, some of them in the same rows."""
    asked = settings()
    master, draw = await begin(dut, asked["pause"]), random.Random(7)
    size, unit = asked["bytes"], asked["unit"]
    pages = [0, 1, 4 % (size // PAGE_BYTES), size // PAGE_BYTES - 1]

    async def use(page: int, draw: random.Random) -> None:
        base, kept = page * PAGE_BYTES, bytearray(PAGE_BYTES)
        await master.write(base, bytes(kept), awid=0)
        for _ in range(asked["rounds"]):
            units = PAGE_BYTES // unit
            first = draw.randrange(units)
            length = unit * draw.randint(1, min(draw.choice((3, 64, 700)), units - first))
            first *= unit
            if draw.random() < 0.5:
                given = draw.randbytes(length)
                kept[first : first + length] = given
                assert (await master.write(base + first, given, awid=0)).resp == AxiResp.OKAY
            else:
                found = await master.read(base + first, length, arid=0)
                assert found.resp == AxiResp.OKAY
                assert found.data == bytes(kept[first : first + length]), (page, first, length)
        assert (await master.read(base, PAGE_BYTES, arid=0)).data == bytes(kept)

    users = (use(page, random.Random(draw.random())) for page in pages)
    await with_timeout(gather(*users), LIMIT_NS, "ns")


@cocotb.test()
async def a_page(dut: HierarchyObject) -> None:
    """Written and read once."""
    master, kept = await begin(dut, 0), random.Random(3).randbytes(PAGE_BYTES)
    await with_timeout(master.write(0, kept, awid=0), LIMIT_NS, "ns")
    assert (await with_timeout(master.read(0, PAGE_BYTES, arid=0), LIMIT_NS, "ns")).data == kept


@cocotb.test()
async def nothing_is_there(dut: HierarchyObject) -> None:
    """Everything is answered with an error."""
    master = await begin(dut, 0)
    assert (await with_timeout(master.write(0, bytes(256), awid=0), LIMIT_NS, "ns")).resp == AxiResp.SLVERR
    assert (await with_timeout(master.read(0, 256, arid=0), LIMIT_NS, "ns")).resp == AxiResp.SLVERR


@cocotb.test()
async def beyond_the_chip(dut: HierarchyObject) -> None:
    """Answered with an error, at the same length, and what lies in the chip is as before."""
    asked = settings()
    master = await begin(dut, asked["pause"])
    kept = bytes(range(256))
    await master.write(0, kept, awid=0)
    for place in (asked["bytes"], asked["bytes"] * 8, 1 << 39):
        answer = await with_timeout(master.write(place, bytes(256), awid=0), LIMIT_NS, "ns")
        assert answer.resp == AxiResp.SLVERR
        found = await with_timeout(master.read(place, 256, arid=0), LIMIT_NS, "ns")
        assert found.resp == AxiResp.SLVERR
        assert len(found.data) == 256
    found = await master.read(0, 256, arid=0)
    assert (found.resp, found.data) == (AxiResp.OKAY, kept)


@cocotb.test()
async def a_part_of_a_column(dut: HierarchyObject) -> None:
    """Answered with an error and not written, but the whole columns beside it are; what comes after it is as always."""
    asked = settings()
    master, unit = await begin(dut, asked["pause"]), asked["unit"]
    kept = bytearray(bytes(range(256)))
    await master.write(0, bytes(kept), awid=0)
    for first, end in ((0, 1), (3 * unit - 1, 5 * unit), (40, 250)):
        given = bytes(255 - byte for byte in range(end - first))
        answer = await with_timeout(master.write(first, given, awid=0), LIMIT_NS, "ns")
        assert answer.resp == AxiResp.SLVERR
        inner = -(-first // unit) * unit, end // unit * unit
        kept[slice(*inner)] = given[inner[0] - first : inner[1] - first] if inner[0] < inner[1] else b""
        assert (await master.read(0, 256, arid=0)).data == bytes(kept)
        assert (await master.write(256, bytes(unit), awid=0)).resp == AxiResp.OKAY


@cocotb.test()
async def a_read_that_is_not_taken_holds_up_no_write(dut: HierarchyObject) -> None:
    """Nor does a write whose words do not come hold up a read."""
    master = await begin(dut, 0)
    await master.write(0, bytes(PAGE_BYTES), awid=0)
    master.read_if.r_channel.pause = True
    reading = cocotb.start_soon(master.read(0, PAGE_BYTES, arid=0))
    await ClockCycles(dut.clk, 200)
    await with_timeout(master.write(PAGE_BYTES, bytes(1024), awid=0), LIMIT_NS, "ns")
    master.read_if.r_channel.pause = False
    await with_timeout(reading, LIMIT_NS, "ns")
    master.write_if.w_channel.pause = True
    writing = cocotb.start_soon(master.write(0, bytes(1024), awid=0))
    await ClockCycles(dut.clk, 200)
    await with_timeout(master.read(0, 1024, arid=0), LIMIT_NS, "ns")
    master.write_if.w_channel.pause = False
    await with_timeout(writing, LIMIT_NS, "ns")


async def burst(dut: HierarchyObject, addresses: list[int], words: int) -> tuple[int, int]:
    """Ask for bursts as the machine's fetcher does; return cycles from the first address to its first word, and to the last word of all."""
    start = first = None
    cycle, left = 0, len(addresses) * words
    waiting = list(addresses)
    dut.axi__rready.value = 1
    dut.axi__arlen.value = words - 1
    while left:
        if waiting:
            dut.axi__araddr.value = waiting[0]
        dut.axi__arvalid.value = bool(waiting)
        # between falling edges: no output depends on these inputs before the rising edge
        if waiting and int(dut.axi__arready.value):
            waiting.pop(0)
            start = cycle if start is None else start
        if int(dut.axi__rvalid.value):
            left -= 1
            first = cycle if first is None else first
        await FallingEdge(dut.clk)
        cycle += 1
    dut.axi__arvalid.value = 0
    return first - start, cycle - 1 - start


@cocotb.test()
async def speed(dut: HierarchyObject) -> None:
    """Measure the latency of a burst whose bank has another row open, and the words of a long stream."""
    asked = settings()
    Clock(dut.clk, CLOCK_NS, unit="ns").start()
    dut.rst.value = 1
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
    dut.axi__awvalid.value = dut.axi__wvalid.value = 0
    words = min(256, PAGE_BYTES // asked["lanes"])
    far = asked["bytes"] // 2
    latencies = []
    await FallingEdge(dut.clk)
    await with_timeout(burst(dut, [0], 1), LIMIT_NS, "ns")
    for place in itertools.islice(itertools.cycle((far, 0)), 40):
        await ClockCycles(dut.clk, 17)
        await FallingEdge(dut.clk)
        latencies.append((await burst(dut, [place], 1))[0])
    count = asked["stream"] // words
    _, cycles = await burst(dut, [words * asked["lanes"] * number for number in range(count)], words)
    found = {"latency": sorted(latencies)[len(latencies) // 2], "words": count * words, "cycles": cycles}
    Path("speed.json").write_text(json.dumps(found))
