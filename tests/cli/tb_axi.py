"""The host's driver on the whole machine behind AXI4-Lite, whose bus cocotbext-axi drives with stalls; run inside the simulator.

A processor's memory lies behind its AXI4 masters, if it has any: there the driver loads twice, through the machine and into a buffer that
it sees itself.
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
from hwattn.spec.program_file import load_program
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


def buffers(dut: HierarchyObject, stripes: Stripes) -> list[ExternalBuffer]:
    """Put one memory behind all masters; return two buffers in it, only the second of which the host sees."""
    places = [PAGE_BYTES, 2 * PAGE_BYTES + stripes.bytes]
    memory = bytearray(places[1] + stripes.bytes)
    for number in range(stripes.ports):
        ram = AxiRam(AxiBus.from_prefix(dut, f"m_axi_{number}"), dut.clk, dut.rst, mem=memory)
        ram.write_if.log.setLevel(logging.WARNING)
        ram.read_if.log.setLevel(logging.WARNING)
        channels = [ram.read_if.ar_channel, ram.read_if.r_channel, ram.write_if.aw_channel]
        channels += [ram.write_if.w_channel, ram.write_if.b_channel]
        for seed, channel in enumerate(channels):
            channel.set_pause_generator(stalls(10 * number + seed, 0.3))
    seen = np.frombuffer(memory, np.uint8)[places[1] :]
    return [ExternalBuffer(stripes, places[0]), ExternalBuffer(stripes, places[1], seen)]


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
    placed = buffers(dut, stripes) if stripes.words else [None]
    dut.rst.value = 1
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
    await ClockCycles(dut.clk, 2)
    found: dict[str, list[np.ndarray]] = {}

    def drive() -> None:
        for buffer in placed:
            driver = Driver(MappedBus(SimulatedWindow(master)), program.config, buffer)
            assert driver.identity.program_hash == 0
            driver.load(program)
            for task in range(len(program.entries)):
                for image in images:
                    for name, integers in driver.run(program, image, task, seconds=3600).integers.items():
                        found.setdefault(name, []).append(integers)

    await bridge(drive)()
    assert int(dut.interrupt.value) == 1
    np.savez(
        folder / "found.npz", allow_pickle=False, **{name: np.stack(each) for name, each in found.items()}
    )
