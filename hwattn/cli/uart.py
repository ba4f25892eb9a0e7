"""The host's driver against a simulated board: the same bytes over simulated UART pins."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwattn.rtl.multipliers import MultiplierStyle
from hwattn.sim.cosim import runner
from hwattn.sim.cosim.contents import write_sdram
from hwattn.sim.cosim.job import JOB_VARIABLE, Findings, Job
from hwattn.sim.cosim.sdram import ULX3S_AT_25_MHZ
from hwattn.sim.cosim.session import TOP, machine_verilog
from hwattn.spec.dram import DramTiming
from hwattn.spec.external import ExternalMemory
from hwattn.spec.program import Program
from hwattn.spec.program_file import save_program
from hwattn.spec.registers import Region

NOISE_VARIABLE = "HWATTN_LINE_NOISE"
"""Environment variable that tells the testbench how noisy the line is."""


def drive_over_pins(
    program: Program,
    images: NDArray[np.float32],
    tasks: Sequence[int],
    *,
    preloaded: bool = True,
    multiplier_style: MultiplierStyle = MultiplierStyle.SINGLE,
    noise: float = 0.0,
    sdram: DramTiming = ULX3S_AT_25_MHZ,
) -> Findings:
    """Run images on a simulated board through its UART, with the host's driver; its external memory, if any, is an SDRAM chip.

    Parameters
    ----------
    program : Program
    images : ndarray of float32, shape (images, channels, height, width)
    tasks : sequence of int
    preloaded : bool
        The memories hold the program before the driver comes, as after the bitstream has been loaded (the testbench writes it over
        the machine's bus, and the chip reads its file); else the driver loads it over the line.
    multiplier_style : MultiplierStyle
        How the machine multiplies.
    noise : float
        Share of frames, in each direction, of which a byte is dropped, doubled or changed.
    sdram : DramTiming
        The chip.

    Returns
    -------
    Findings
        Runs with counters and output integers; nothing has been compared.

    Raises
    ------
    FailedError
        The driver gave up, or the simulation failed.
    """
    external = bool(program.config.external_words)
    chip = sdram if external else None
    built = runner.build(machine_verilog(program.config, None, multiplier_style, chip), TOP)
    with tempfile.TemporaryDirectory(prefix="hwattn-") as scratch:
        folder = Path(scratch)
        result = folder / "findings.json"
        job = Job(
            program=str(folder / "program.hwp"),
            images=str(folder / "images.npy"),
            tasks=list(tasks),
            load=[region for region in Region if region != Region.EXTERNAL] if preloaded else [],
            stepped=0,
            whole=0,
            readback=0,
            memory=ExternalMemory(),
            fault=None,
            result=str(result),
        )
        save_program(program, Path(job.program))
        in_chip = write_sdram(program, folder, sdram.chip.data_bytes) if external and preloaded else []
        np.save(job.images, np.asarray(images, np.float32), allow_pickle=False)
        job.save(folder / "job.json")
        runner.run(
            built,
            "hwattn.cli.uart_testbench",
            folder / "run",
            environment={JOB_VARIABLE: str(folder / "job.json"), NOISE_VARIABLE: str(noise)},
            plusargs=in_chip,
        )
        return Findings.load_file(result)
