"""The host's driver on the whole machine behind AXI4-Lite, whose bus cocotbext-axi drives with stalls; run inside the simulator.

A processor's memory lies behind its AXI4 masters, if it has any: the driver loads weights straight into a buffer there, which it also reads
and writes through the machine.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
from pathlib import Path

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.handle import HierarchyObject
from cocotb.task import bridge, resume
from cocotb.triggers import ClockCycles
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam

from hwattn.boards.driver import Driver
from hwattn.boards.external_buffer import ExternalBuffer
from hwattn.boards.mapped_bus import MappedBus
from hwattn.spec.program import Program
from hwattn.spec.program_file import load_program
from hwattn.spec.registers import Region, address
from hwattn.spec.stripes import PAGE_BYTES, Stripes

FOLDER = "HWATTN_AXI_FOLDER"
PORTS = "HWATTN_AXI_PORTS"


class SimulatedWindow:
    """The machine's window in memory: each access is one on the simulated bus."""

    def __init__(self, master: AxiLiteMaster) -> None:
        self._read = resume(master.read_dword)
        self._write = resume(master.write_dword)

    def __getitem__(self, index: int) -> int:
        return int(self._read(4 * index))

    def __setitem__(self, index: int, value: int) -> None:
        self._write(4 * index, value)


def stalls(seed: int, share: float):
    """Draw for each cycle whether a channel pauses."""
    draw = random.Random(seed)
    return (draw.random() < share for _ in itertools.count())


def buffer(dut: HierarchyObject, stripes: Stripes) -> ExternalBuffer:
    """Put one memory behind all masters; return a buffer in it."""
    memory = bytearray(3 * PAGE_BYTES + stripes.bytes)
    for number in range(stripes.ports):
        ram = AxiRam(AxiBus.from_prefix(dut, f"m_axi_{number}"), dut.clk, dut.rst, mem=memory)
        ram.write_if.log.setLevel(logging.WARNING)
        ram.read_if.log.setLevel(logging.WARNING)
        channels = [ram.read_if.ar_channel, ram.read_if.r_channel, ram.write_if.aw_channel]
        channels += [ram.write_if.w_channel, ram.write_if.b_channel]
        for seed, channel in enumerate(channels):
            channel.set_pause_generator(stalls(10 * number + seed, 0.3))
    return ExternalBuffer(stripes, 3 * PAGE_BYTES, np.frombuffer(memory, np.uint8)[3 * PAGE_BYTES :])


def through_the_window(driver: Driver, program: Program) -> None:
    """What the host reads through the machine is what it wrote into the buffer, and the other way round."""
    weights = program.weights.reshape(-1).view("<u4")
    assert driver.read(address(Region.EXTERNAL, 5), 6) == weights[5:11].tolist()
    assert driver.buffer is not None
    assert driver.buffer.memory is not None
    expected = driver.buffer.memory.copy()
    given = np.arange(1, 8, dtype=np.uint32)
    driver.buffer.stripes.write(expected, len(weights) + 3, given)
    driver.write(address(Region.EXTERNAL, len(weights) + 3), given.tolist())
    # a read ends after the writes before it
    driver.read(address(Region.EXTERNAL, 0), 1)
    assert np.array_equal(driver.buffer.memory, expected)


@cocotb.test()
async def driver_over_axi(dut: HierarchyObject) -> None:
    folder = Path(os.environ[FOLDER])
    program, images = load_program(folder / "program.hwp"), np.load(folder / "images.npy")
    Clock(dut.clk, 10, unit="ns").start()
    master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi"), dut.clk, dut.rst)
    master.write_if.log.setLevel(logging.WARNING)  # a line for each access takes longer than the access
    master.read_if.log.setLevel(logging.WARNING)
    channels = [
        master.write_if.aw_channel,
        master.write_if.w_channel,
        master.write_if.b_channel,
        master.read_if.ar_channel,
        master.read_if.r_channel,
    ]
    for seed, channel in enumerate(channels):
        channel.set_pause_generator(stalls(seed, 0.2))
    stripes = Stripes(program.config.lanes, int(os.environ[PORTS]), program.config.external_words)
    placed = buffer(dut, stripes) if stripes.words else None
    dut.rst.value = 1
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
    await ClockCycles(dut.clk, 2)
    found: dict[str, list[np.ndarray]] = {}

    def drive() -> None:
        driver = Driver(MappedBus(SimulatedWindow(master)), program.config, placed)
        driver.load(program)
        if placed:
            through_the_window(driver, program)
        for task in range(len(program.entries)):
            for image in images:
                for name, integers in driver.run(program, image, task, seconds=3600).integers.items():
                    found.setdefault(name, []).append(integers)

    await bridge(drive)()
    assert int(dut.interrupt.value) == 1
    np.savez(
        folder / "found.npz", allow_pickle=False, **{name: np.stack(each) for name, each in found.items()}
    )
