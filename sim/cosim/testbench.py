"""The cocotb test that runs a whole program on a machine, and compares it with the integer model."""

from __future__ import annotations

import os
import time
from pathlib import Path

import cocotb
import numpy as np
from cocotb.handle import HierarchyObject
from cocotb.triggers import ValueChange
from cocotb.utils import get_sim_time
from numpy.typing import NDArray

from hwattn.sim.cosim.bus import CLOCK_NS, HostBus, HungError, crc
from hwattn.sim.cosim.job import JOB_VARIABLE, Findings, Job, Mismatch, Run
from hwattn.sim.model.executor import Executor
from hwattn.spec.encoding import disassemble
from hwattn.spec.isa import Store
from hwattn.spec.program import Program
from hwattn.spec.program_file import load_program
from hwattn.spec.registers import (
    IDENTIFICATION,
    VERSION,
    Control,
    ErrorCause,
    Region,
    Register,
    Status,
    address,
)
from hwattn.spec.transfer import (
    Block,
    image_block,
    output_integers,
    output_words,
    program_blocks,
    window_blocks,
)

STEP_LIMIT = 200_000
"""Cycles after which one instruction counts as hung."""

WHOLE_EVERY = 64
"""Instructions after which the whole memory is compared where otherwise only the words that an instruction changes are."""

RUN_SLACK = 50
"""A free run counts as hung after so many times the cycles that its multiply-accumulates need, INSTRUCTION_LIMIT cycles for each instruction, and
STEP_LIMIT more."""

INSTRUCTION_LIMIT = 1000


@cocotb.test()
async def program_equals_model(dut: HierarchyObject) -> None:
    """Run the job; what differs goes into the result file, not into this test's outcome."""
    await run_job(Testbench(dut, Job.load_file(Path(os.environ[JOB_VARIABLE]))))


async def run_job(bench: Testbench) -> None:
    """Run a testbench's job, and write what was found."""
    started = time.monotonic()
    try:
        await bench.run()
    except HungError as error:
        bench.findings.hung = str(error)
    bench.findings.seconds = time.monotonic() - started
    bench.findings.simulated_cycles = int(get_sim_time("ns") / CLOCK_NS)
    bench.findings.save(Path(bench.job.result))


class Testbench:
    """A machine, the model of its program, and what has been found so far."""

    __test__ = False

    def __init__(self, dut: HierarchyObject, job: Job) -> None:
        self.job = job
        self.bus = HostBus(dut)
        self.program: Program = load_program(Path(job.program))
        self.images: NDArray[np.float32] = np.load(job.images)
        self.executor = Executor(self.program)
        self.lanes = self.program.config.lanes
        self.words = self.program.config.act_total_words
        self.findings = Findings()

    async def run(self) -> None:
        """Load the program if needed, then run every image of every task stepping and free."""
        bus = self.bus
        await bus.begin()
        if self.program.config.external_words:
            self.start_memory()
            if self.job.fault is not None:
                # well before the testbench's own patience ends
                await bus.set_register(Register.BUS_TIMEOUT, STEP_LIMIT // 20)
        await self._expect(Register.IDENTIFICATION, IDENTIFICATION)
        await self._expect(Register.VERSION, VERSION)
        await self._expect(Register.CONFIG_HASH, self.program.config.hash)
        for block in program_blocks(self.program):
            if block.region in self.job.load:
                await self._write(block)
        await self._expect(Register.PROGRAM_HASH, self.program.hash)
        for task in self.job.tasks:
            for image in range(len(self.images)):
                run = Run(task, image)
                self.findings.runs.append(run)
                if image < self.job.stepped:
                    await self._step(run)
                await self._free(run)

    def start_memory(self) -> None:
        """Set up external memory, which holds the weights."""
        self.bus.set_memory(self.job.memory, self.job.fault)

    async def peek(self, word: int) -> bytes:
        """Read a word of external memory, beside the machine."""
        return await self.bus.peek(word, self.lanes)

    async def _expect(self, register: Register, value: int) -> None:
        found = await self.bus.register(register)
        assert found == value, f"register {register.name} is {found:#x}, not {value:#x}"

    async def _write(self, block: Block) -> None:
        if block.region == Region.EXTERNAL:
            # takes as long as the memory does
            for window, part in window_blocks(block):
                await self.bus.set_register(Register.EXTERNAL_WINDOW, window)
                for number, unit in enumerate(part.units):
                    await self.bus.write(address(Region.EXTERNAL, part.first + number), int(unit))
            return
        await self.bus.write_units(block.region, block.first, (int(unit) for unit in block.units))

    async def _prepare(self, run: Run) -> None:
        """Bring the machine to rest with zeros in the activation memory, and the image in its place."""
        await self.bus.control(Control.RESET)
        await self.bus.scan(Control.CLEAR, 0, self.words)
        await self._write(image_block(self.program.image, self.images[run.image]))
        await self.bus.set_register(Register.ENTRY, self.program.entries[run.task])

    async def _step(self, run: Run) -> None:
        """Run in single-step mode and compare the activation memory after every instruction."""
        await self._prepare(run)
        await self.bus.control(Control.START | Control.SINGLE_STEP)
        await self.bus.rest(STEP_LIMIT, self.program)
        watch = cocotb.start_soon(self._time_steps(run))
        try:
            await self._compare_steps(run)
        finally:
            watch.cancel()

    async def _time_steps(self, run: Run) -> None:
        """Note how long the machine takes for each step: the cycles in which it is not paused."""
        started = None
        while True:
            await ValueChange(self.bus.status)
            now = int(get_sim_time("ns"))
            if not int(self.bus.status.value) & Status.PAUSED:
                started = now
            elif started is not None and now != started:
                run.steps.append(round((now - started) / CLOCK_NS))
                started = None

    async def _compare_steps(self, run: Run) -> None:
        """Step through the program beside the model."""
        before = np.zeros((self.words, self.lanes), np.uint8)
        for number, state in self.executor.step_through(self.images[run.image], run.task):
            await self.bus.control(Control.STEP)
            status = await self.bus.rest(STEP_LIMIT, self.program)
            text = disassemble(self.program.instructions[number])
            whole = run.image < max(self.job.whole, self.job.readback) or number % WHOLE_EVERY == 0
            changed = np.flatnonzero((state.words[0] != before).any(axis=1))
            first, words = (0, self.words) if whole or not len(changed) else (changed[0], np.ptp(changed) + 1)
            if (whole or len(changed)) and not await self._equal(
                run, state.words[0], number, text, int(first), int(words)
            ):
                return
            before = state.words[0].copy()
            if isinstance(self.program.instructions[number], Store) and run.image < self.job.whole:
                await self._scratch_equal(run, state.scratch[0], number, text)
            run.compared += 1
            assert status & Status.PAUSED, f"status {int(status)} after instruction {number}"
        await self.bus.control(Control.STEP)
        status = await self.bus.rest(STEP_LIMIT, self.program)
        assert status & Status.DONE, f"status {int(status)} after the last instruction"

    async def _free(self, run: Run) -> None:
        """Run without stepping; compare the whole activation memory at the end, and read counters and outputs."""
        await self._prepare(run)
        await self.bus.control(Control.START)
        ideal = self.program.macs[run.task] // self.program.config.multipliers
        limit = STEP_LIMIT + RUN_SLACK * ideal + INSTRUCTION_LIMIT * len(self.program.instructions)
        status = await self.bus.rest(limit, self.program)
        if status & Status.ERROR:
            run.error = ErrorCause(await self.bus.register(Register.ERROR)).name
            return
        assert status & Status.DONE, f"status {int(status)} at the end of the free run"
        model = self.executor.start(self.images[run.image][None])
        self.executor.execute(model, run.task)
        await self._equal(run, model.words[0], None, "the end of the free run", 0, self.words)
        await self._scratch_equal(run, model.scratch[0], None, "the end of the free run")
        run.counters = (await self.bus.counters()).values
        run.cycles = run.counters[Register.CYCLES]
        for port in self.program.outputs:
            if port.task == run.task:
                first, words = output_words(port, self.lanes)
                found = await self.bus.act_words(first, words, self.lanes)
                run.outputs[port.name] = output_integers(port, found).tolist()

    async def _scratch_equal(
        self, run: Run, expected: NDArray[np.uint8], number: int | None, text: str
    ) -> None:
        """Compare the external words that the program writes; note the first one that differs."""
        base, _ = self.program.scratch
        for word, bytes_of in enumerate(expected):
            found = await self.peek(base + word)
            if found != bytes_of.tobytes():
                self.findings.mismatches.append(
                    Mismatch(
                        run.task, run.image, number, text, base + word, bytes_of.tobytes().hex(), found.hex()
                    )
                )
                return

    async def _equal(
        self, run: Run, expected: NDArray[np.uint8], number: int | None, text: str, first: int, words: int
    ) -> bool:
        """Compare words of the activation memory; note the first one that differs."""
        by_crc = run.image >= self.job.readback
        if by_crc and await self.bus.act_crc(first, words) == crc(expected[first : first + words]):
            return True
        found = await self.bus.act_words(0, self.words, self.lanes)
        if np.array_equal(found, expected):
            assert not by_crc, f"the scan's CRC is wrong after {text}"
            return True
        word = int(np.flatnonzero((found != expected).any(axis=1))[0])
        self.findings.mismatches.append(
            Mismatch(
                run.task,
                run.image,
                number,
                text,
                word,
                expected[word].tobytes().hex(),
                found[word].tobytes().hex(),
            )
        )
        return False
