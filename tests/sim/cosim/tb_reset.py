"""The testbench on a machine that the host resets in the middle of a run, and starts again; run inside the simulator."""

from cocotb.triggers import ClockCycles, FallingEdge

from hwattn.sim.cosim import testbench
from hwattn.sim.cosim.job import Run
from hwattn.sim.cosim.testbench import Testbench, program_equals_model  # noqa: F401  cocotb finds the latter here
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


testbench.Testbench = Interrupted  # type: ignore[misc]
