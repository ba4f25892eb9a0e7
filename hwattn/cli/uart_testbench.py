"""The cocotb test that lets the host's driver talk to a machine over simulated UART pins."""

from __future__ import annotations

import os
import random
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
from hwattn.cli.uart import NOISE_VARIABLE
from hwattn.sim.cosim.bus import CLOCK_NS, HostBus
from hwattn.sim.cosim.job import JOB_VARIABLE, Findings, Job, Run
from hwattn.sim.cosim.session import DIVISOR
from hwattn.spec.link import SILENCE_BYTES
from hwattn.spec.program_file import load_program
from hwattn.spec.registers import Register
from hwattn.spec.transfer import program_blocks

ANSWER_BYTES = 500
"""Byte times that an answer may take to begin or go on."""


class Noise:
    """Damages some frames: a byte of each is dropped, doubled or changed in one bit.

    Parameters
    ----------
    share : float
        Of frames that are damaged.
    seed : int
    """

    def __init__(self, share: float, seed: int) -> None:
        self._share = share
        self._random = random.Random(seed)
        self.damaged = 0

    def __call__(self, frame: bytes) -> bytes:
        """Return what arrives of a frame."""
        if not frame or self._random.random() >= self._share:
            return frame
        self.damaged += 1
        at, kind = self._random.randrange(len(frame)), self._random.randrange(3)
        changed = bytes([frame[at] ^ 1 << self._random.randrange(8)])
        return frame[:at] + (b"", frame[at : at + 1] * 2, changed)[kind] + frame[at + 1 :]


class SimulatedPins:
    """A transport whose bytes go over the pins `rx` and `tx` of a simulated machine.

    Parameters
    ----------
    dut : HierarchyObject
    divisor : int
        Clock cycles per bit.
    noise : Noise
        What the line does to the frames in both directions.
    """

    def __init__(self, dut: HierarchyObject, divisor: int, noise: Noise) -> None:
        self._noise = noise
        self._rx, self._tx = dut.rx, dut.tx
        self._bit_ns = divisor * CLOCK_NS
        self._received = bytearray()
        self._resumed_send = resume(self._send)
        self._resumed_receive = resume(self._receive)
        self._resumed_settle = resume(self._settle)

    def send(self, frame: bytes) -> None:
        """Send bytes, after throwing away what was received before."""
        self._resumed_send(self._noise(frame))

    def receive(self, count: int) -> bytes:
        """Return `count` bytes, or fewer when no more have come in time."""
        received: bytes = self._resumed_receive(count)
        return self._noise(received)[:count]

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
    noise = Noise(float(os.environ.get(NOISE_VARIABLE, "0")), seed=1)
    pins = SimulatedPins(dut, DIVISOR, noise)
    bus = HostBus(dut)
    await bus.begin()
    for block in program_blocks(program):
        if block.region in job.load:
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
    assert not float(os.environ.get(NOISE_VARIABLE, "0")) or noise.damaged, "the line was to be noisy"
