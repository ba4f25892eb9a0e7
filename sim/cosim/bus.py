"""The machine's host bus under cocotb: reads, writes, scans and runs, as a driver on a board would do them."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from cocotb.clock import Clock
from cocotb.handle import HierarchyObject, LogicObject
from cocotb.triggers import FallingEdge, RisingEdge, SimTimeoutError, Timer, ValueChange, with_timeout
from numpy.typing import NDArray

from hwattn.sim.cosim.job import Fault
from hwattn.spec.encoding import disassemble
from hwattn.spec.external import ExternalMemory
from hwattn.spec.isa import Queue
from hwattn.spec.program import Program
from hwattn.spec.registers import COUNTERS, Control, Region, Register, Status, address

CLOCK_NS = 10
"""Clock period of a simulation; nothing depends on it."""

BUS_LIMIT = 10_000
"""Cycles after which the host's bus counts as hung; a scan is not waited for cycle by cycle."""

WRITE_CYCLES = 3
"""Cycles that the host's bus takes for a write."""


FAULTS = ("", "read", "write", "silence")
"""Kinds of `Fault` as ``axi_memory.v`` numbers them."""


class HungError(Exception):
    """The machine did not come to rest in time; the message names the instruction and unit that stalled."""


@dataclass(frozen=True)
class Counters:
    """Counters of one run, by register number."""

    values: dict[int, int]

    def __getitem__(self, register: int) -> int:
        return self.values[int(register)]


class HostBus:
    """Drives `request` and `response` of a machine.

    Parameters
    ----------
    dut : HierarchyObject
        A machine.
    """

    def __init__(self, dut: HierarchyObject) -> None:
        self.dut = dut
        self.clock = dut.clk
        self.reset = dut.rst
        self.line = dut.rx
        self.status = dut.status
        self.valid, self.ready, self.payload = dut.request__valid, dut.request__ready, dut.request__payload
        self.answered, self.taken, self.answer = (
            dut.response__valid,
            dut.response__ready,
            dut.response__payload,
        )

    async def begin(self) -> None:
        """Start the clock and reset the machine."""
        self.line.value = 1
        self.valid.value = 0
        self.payload.value = 0
        self.taken.value = 1
        self.reset.value = 1
        Clock(self.clock, CLOCK_NS, unit="ns").start()
        for _ in range(4):
            await RisingEdge(self.clock)
        self.reset.value = 0
        await FallingEdge(self.clock)

    def set_memory(self, memory: ExternalMemory, fault: Fault | None) -> None:
        """Set how fast external memory is, and what goes wrong there."""
        settings = {
            **dataclasses.asdict(memory),
            "fault": FAULTS.index(fault.kind) if fault else 0,
            "fault_at": fault.after if fault else 0,
            "peek": 0,
        }
        for name, value in settings.items():
            getattr(self.dut, f"memory_{name}").value = value

    async def peek(self, word: int, lanes: int) -> bytes:
        """Read a word of external memory, beside the machine, in one cycle."""
        self.dut.memory_peek.value = word
        await FallingEdge(self.clock)
        return int(self.dut.memory_peeked.value).to_bytes(lanes, "little")

    async def _cycles(self, count: int) -> None:
        """Let cycles pass from one falling edge to another, without a wake-up in each."""
        # a timer that ended at the edge itself might fire before or after it
        await Timer(count * CLOCK_NS - CLOCK_NS // 2, unit="ns")
        await FallingEdge(self.clock)

    async def _until(self, signal: LogicObject) -> None:
        """Wait for a signal of the host's bus.

        Raises
        ------
        HungError
            After `BUS_LIMIT` cycles.
        """
        for _ in range(BUS_LIMIT):
            if int(signal.value):
                return
            await FallingEdge(self.clock)
        raise HungError(f"the host's bus gave no answer in {BUS_LIMIT} cycles")

    async def _request(self, word: int) -> None:
        # between falling edges: outputs have settled, and inputs are stable at the rising edge
        self.payload.value = word
        self.valid.value = 1
        await self._until(self.ready)
        await FallingEdge(self.clock)
        self.valid.value = 0

    async def write(self, target: int, value: int) -> None:
        """Write one 32-bit unit."""
        await self._request(1 | target << 1 | (value & 0xFFFFFFFF) << 33)

    async def read(self, source: int) -> int:
        """Read one 32-bit unit."""
        await self._request(source << 1)
        await self._until(self.answered)
        value = int(self.answer.value)
        await FallingEdge(self.clock)
        return value

    async def write_units(self, region: Region, first: int, units: Iterable[int]) -> None:
        """Write consecutive units of a region, of a machine at rest: then a write takes `WRITE_CYCLES`, and need not be waited for."""
        await self._until(self.ready)
        self.valid.value = 1
        for number, value in enumerate(units):
            self.payload.value = 1 | address(region, first + number) << 1 | (value & 0xFFFFFFFF) << 33
            await self._cycles(WRITE_CYCLES)
            assert int(self.ready.value), "the host is not ready for the next write"
        self.valid.value = 0

    async def register(self, register: int) -> int:
        """Read a register."""
        return await self.read(address(Region.CSR, int(register)))

    async def control(self, bits: Control) -> None:
        """Write to CONTROL, and return when it has taken effect."""
        await self.write(address(Region.CSR, Register.CONTROL), int(bits))
        # answered after the write has been carried out: `status` is then no longer that of before
        await self.register(Register.STATUS)

    async def set_register(self, register: Register, value: int) -> None:
        """Write a register."""
        await self.write(address(Region.CSR, register), value)

    async def act_words(self, first: int, words: int, lanes: int) -> NDArray[np.uint8]:
        """Read words `first` to ``first + words - 1`` of the activation memory: uint8 (words, lanes)."""
        start = address(Region.ACT, first * lanes // 4)
        units = [await self.read(start + unit) for unit in range(words * lanes // 4)]
        return np.array(units, "<u4").view(np.uint8).reshape(words, lanes)

    async def scan(self, bits: Control, first: int, words: int) -> None:
        """Compute the CRC-32 of words of the activation memory (SCAN), or write zeros to them (CLEAR)."""
        await self.set_register(Register.SCAN_BASE, first)
        await self.set_register(Register.SCAN_WORDS, words)
        await self.write(address(Region.CSR, Register.CONTROL), int(bits))
        # the host's bus is busy for so long: no use in asking every cycle
        await self._cycles(words)

    async def act_crc(self, first: int, words: int) -> int:
        """CRC-32 of words of the activation memory."""
        await self.scan(Control.SCAN, first, words)
        return await self.register(Register.SCAN_CRC)

    async def counters(self) -> Counters:
        """Read every counter."""
        return Counters({register: await self.register(register) for register in COUNTERS})

    async def rest(self, cycles: int, program: Program) -> Status:
        """Wait until the machine is paused or has stopped.

        Raises
        ------
        HungError
            After `cycles` cycles.
        """
        resting = Status.PAUSED | Status.DONE | Status.ERROR

        async def settled() -> None:
            while not int(self.status.value) & resting or _working(int(self.status.value)):
                await ValueChange(self.status)

        try:
            await with_timeout(settled(), cycles * CLOCK_NS, "ns")
        except SimTimeoutError:
            await self._cycles(1)
            raise HungError(await self._stalled(cycles, program)) from None
        await FallingEdge(self.clock)
        return Status(int(self.status.value))

    async def _stalled(self, cycles: int, program: Program) -> str:
        """Say which instructions are stuck in which queues."""
        stuck = []
        for queue in Queue:
            head = await self.register(Register.HEAD + queue)
            if head >> 16 & 1:
                number = head & 0xFFFF
                doing = "is running in its unit" if head >> 17 & 1 else "waits for a token"
                line = (
                    disassemble(program.instructions[number]) if number < len(program.instructions) else "?"
                )
                stuck.append(f"queue {queue.name}: instruction {number} ({line}) {doing}")
        position = await self.register(Register.PC)
        return f"no rest after {cycles} cycles; next to fetch is instruction {position}; " + "; ".join(stuck)


def _working(status: int) -> bool:
    """Running, and not held before an instruction."""
    return bool(status & Status.RUNNING) and not status & Status.PAUSED


def crc(memory: NDArray[np.uint8]) -> int:
    """CRC-32 as the machine's scan computes it."""
    return zlib.crc32(np.ascontiguousarray(memory).tobytes())
