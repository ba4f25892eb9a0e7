"""The testbench with cocotbext-axi's memory model behind the machine's AXI4 port, instead of this project's own."""

import itertools
import os
import random
from pathlib import Path

import cocotb
from cocotbext.axi import AxiBus, AxiRam

from hwattn.sim.cosim.job import JOB_VARIABLE, Job
from hwattn.sim.cosim.testbench import Testbench, run_job


class RamBench(Testbench):
    """Weights in an `AxiRam` whose channels pause at random."""

    def start_memory(self) -> None:
        dut, config = self.bus.dut, self.program.config
        self.ram = AxiRam(
            AxiBus.from_prefix(dut, "axi_"), dut.clk, dut.rst, size=config.external_words * config.lanes
        )
        self.ram.write(0, self.program.weights.tobytes())
        generator = random.Random(3)
        read, write = self.ram.read_if, self.ram.write_if
        for channel in (read.ar_channel, read.r_channel, write.aw_channel, write.w_channel, write.b_channel):
            channel.set_pause_generator(generator.random() < 0.3 for _ in itertools.count())

    async def peek(self, word: int) -> bytes:
        return bytes(self.ram.read(word * self.lanes, self.lanes))


@cocotb.test()
async def program_equals_model(dut) -> None:
    await run_job(RamBench(dut, Job.load_file(Path(os.environ[JOB_VARIABLE]))))
