"""The cocotb test that lets the host's driver talk to a machine over simulated UART pins."""

from __future__ import annotations

import os
import time
from pathlib import Path

import cocotb
import numpy as np
from cocotb.handle import HierarchyObject
from cocotb.task import bridge, resume
from cocotb.triggers import FallingEdge, Timer
from cocotb.utils import get_sim_time

from hwattn.boards.driver import Driver
from hwattn.boards.link_bus import LinkBus
from hwattn.sim.cosim.bus import CLOCK_NS, HostBus
from hwattn.sim.cosim.job import JOB_VARIABLE, Findings, Job, Run
from hwattn.sim.cosim.session import DIVISOR
from hwattn.spec.link import SILENCE_BYTES
from hwattn.spec.program_file import load_program
from hwattn.spec.registers import Register
from hwattn.spec.transfer import program_blocks

ANSWER_BYTES = 2000
"""Byte times that an answer may take to begin or go on."""


class SimulatedPins:
    """A transport whose bytes go over the pins `rx` and `tx` of a simulated machine.

    Parameters
    ----------
    dut : HierarchyObject
    divisor : int
        Clock cycles per bit.
    """

    def __init__(self, dut: HierarchyObject, divisor: int) -> None:
        self._rx, self._tx = dut.rx, dut.tx
        self._bit_ns = divisor * CLOCK_NS
        self._received = bytearray()
        self._resumed_send = resume(self._send)
        self._resumed_receive = resume(self._receive)
        self._resumed_settle = resume(self._settle)

    def send(self, frame: bytes) -> None:
        """Send bytes, after throwing away what was received before."""
        self._resumed_send(frame)

    def receive(self, count: int) -> bytes:
        """Return `count` bytes, or fewer when no more have come in time."""
        received: bytes = self._resumed_receive(count)
        return received

    def settle(self) -> None:
        """Wait until the machine has forgotten a frame that it may be in the middle of."""
        self._resumed_settle()

    async def listen(self) -> None:
        """Gather what the machine sends; runs as long as the simulation."""
        while True:
            await FallingEdge(self._tx)
            await Timer(self._bit_ns * 3 // 2, unit="ns")
            byte = 0
            for bit in range(8):
                byte |= int(self._tx.value) << bit
                await Timer(self._bit_ns, unit="ns")
            assert int(self._tx.value) == 1, "a byte without a stop bit"
            self._received.append(byte)

    async def _send(self, frame: bytes) -> None:
        self._received.clear()
        for byte in frame:
            for bit in (0, *(byte >> number & 1 for number in range(8)), 1):
                self._rx.value = bit
                await Timer(self._bit_ns, unit="ns")

    async def _settle(self) -> None:
        await Timer((SILENCE_BYTES + 2) * 10 * self._bit_ns, unit="ns")

    async def _receive(self, count: int) -> bytes:
        quiet, known = 0, 0
        while len(self._received) < count and quiet < ANSWER_BYTES:
            await Timer(10 * self._bit_ns, unit="ns")
            quiet = quiet + 1 if len(self._received) == known else 0
            known = len(self._received)
        return bytes(self._received[:count])


@cocotb.test()
async def driver_over_pins(dut: HierarchyObject) -> None:
    """Run the job's images with the host's driver."""
    job = Job.load_file(Path(os.environ[JOB_VARIABLE]))
    program, images = load_program(Path(job.program)), np.load(job.images)
    findings = Findings()
    pins = SimulatedPins(dut, DIVISOR)
    bus = HostBus(dut)
    await bus.begin()
    if job.load:
        for block in program_blocks(program):
            await bus.write_units(block.region, block.first, (int(unit) for unit in block.units))
    cocotb.start_soon(pins.listen())

    def drive() -> None:
        driver = Driver(LinkBus(pins), program.config)
        driver.load(program)
        for task in job.tasks:
            for number, image in enumerate(images):
                # the machine's time is simulated: this process may take longer than a board
                result = driver.run(program, image, task, seconds=3600)
                integers = {name: array.tolist() for name, array in result.integers.items()}
                run = Run(task, number, result.counters[Register.CYCLES], result.counters, 0, integers)
                findings.runs.append(run)

    started = time.monotonic()
    try:
        await bridge(drive)()
    finally:
        findings.seconds = time.monotonic() - started
        findings.simulated_cycles = int(get_sim_time("ns") / CLOCK_NS)
        findings.save(Path(job.result))
