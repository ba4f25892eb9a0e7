"""cocotb tests of the pipeline in test_runner.py; run inside the simulator."""

import os
import random

import cocotb
from cocotb.clock import Clock
from cocotb.handle import HierarchyObject
from cocotb.triggers import ClockCycles, RisingEdge

DEPTH = 2


@cocotb.test()
async def adds_its_depth(dut: HierarchyObject) -> None:
    """Each stage adds one modulo 256, a cycle later."""
    offset = int(os.environ["OFFSET"])
    dut.a.value, dut.rst.value = 0, 1
    Clock(dut.clk, 10, unit="ns").start()
    await ClockCycles(dut.clk, 3)
    dut.rst.value = 0
    sent = [0] * (DEPTH + 1)
    for value in random.sample(range(256), 256):
        sent.append(value)
        dut.a.value = sent[-1]
        await RisingEdge(dut.clk)
        if len(sent) > 2 * DEPTH + 3:
            assert int(dut.b.value) == (sent[-2 - DEPTH + 1] + offset) % 256
