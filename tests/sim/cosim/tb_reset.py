"""The testbench on a machine that the host resets in the middle of a run, and starts again; run inside the simulator."""

import os
from pathlib import Path

import cocotb
from cocotb.handle import HierarchyObject
from cocotb.triggers import ClockCycles, FallingEdge

from hwattn.sim.cosim.job import JOB_VARIABLE, Job, Run
from hwattn.sim.cosim.testbench import Testbench, run_job
from hwattn.spec.registers import Control, Register, Status

FIRST_CYCLE, CYCLES_BETWEEN = 60, 397
"""Of the first image the run is reset after `FIRST_CYCLE`, of each further one so much later."""


class Interrupted(Testbench):
    """Before each run, starts it and resets the machine on its way."""

    async def _prepare(self, run: Run) -> None:
        await super()._prepare(run)
        await self.bus.control(Control.START)
        await ClockCycles(self.bus.clock, FIRST_CYCLE + CYCLES_BETWEEN * run.image)
        await FallingEdge(self.bus.clock)
        assert int(self.bus.status.value) & Status.RUNNING, "the run has ended before it was to be reset"
        await super()._prepare(run)
        assert await self.bus.register(Register.STATUS) == 0


@cocotb.test()
async def interrupted_program_equals_model(dut: HierarchyObject) -> None:
    """As `hwattn.sim.cosim.testbench.program_equals_model`."""
    await run_job(Interrupted(dut, Job.load_file(Path(os.environ[JOB_VARIABLE]))))
