"""Runs programs on the simulated machine and gathers what was found."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwattn.rtl.multipliers import MultiplierStyle
from hwattn.sim.cosim import runner
from hwattn.sim.cosim.contents import LOADED, loadable, write_contents
from hwattn.sim.cosim.job import JOB_VARIABLE, Fault, Findings, Job
from hwattn.sim.cosim.runner import Simulator
from hwattn.sim.cosim.system import system_verilog
from hwattn.sim.cosim.waves import save_gtkwave
from hwattn.spec.cache import cache_folder, digest, made_once
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.dram import DramTiming
from hwattn.spec.errors import FailedError
from hwattn.spec.external import ExternalMemory
from hwattn.spec.program import Program
from hwattn.spec.program_file import save_program
from hwattn.spec.registers import Region

TOP = "hwattn"
"""Name of the top module in Verilog: the system of a board without a processor, whose bus the testbench uses."""

DIVISOR = 4
"""Clock cycles per bit of the serial line in simulation: the fastest that the receiver can read."""

TESTBENCH = "hwattn.sim.cosim.testbench"


@dataclass(frozen=True)
class CosimResult:
    """A co-simulation that came to its end.

    Parameters
    ----------
    findings : Findings
    waveform : Path or None
    """

    findings: Findings
    waveform: Path | None

    @property
    def bit_exact(self) -> bool:
        """Whether every run came to its end and no comparison found a difference."""
        return not self.findings.mismatches and not any(run.error for run in self.findings.runs)


def machine_verilog(
    config: AcceleratorConfig,
    program: Program | None = None,
    multiplier_style: MultiplierStyle = MultiplierStyle.SINGLE,
    sdram: DramTiming | None = None,
) -> str:
    """Return the Verilog of a system with a machine, generated once for each configuration (and program) and version of the generator.

    Parameters
    ----------
    config : AcceleratorConfig
    program : Program, optional
        Initial contents of the memories.
    multiplier_style : MultiplierStyle
    sdram : DramTiming, optional
        The chip that is external memory; without one a model of settable speed is.
    """
    contents = "" if program is None else f"{program.hash:08x}"
    key = digest(f"{config.hash:08x}", contents, multiplier_style, repr(sdram), _generator_digest())

    def fill(folder: Path) -> None:
        text = system_verilog(config, TOP, DIVISOR, program, multiplier_style, sdram)
        (folder / "machine.v").write_text(text)

    return (made_once(cache_folder() / "verilog" / key, fill) / "machine.v").read_text()


def _generator_digest() -> str:
    """Digest of the sources that the Verilog is made by."""
    room = Path(__file__).parents[2] / "rtl"
    spec = Path(__file__).parents[2] / "spec"
    sources = sorted([*room.glob("*.py"), *spec.glob("*.py"), *Path(__file__).parent.glob("*.v")])
    return digest(*(source.read_text() for source in sources))


def _over_bus(program: Program, simulator: Simulator, from_files: bool) -> list[int]:
    """Regions that the testbench writes; external memory reads its file."""
    if simulator == "icarus":
        # a machine with external memory is built without its program's hash
        return [Region.CSR] if program.config.external_words else []
    return [
        region for region in Region if region != Region.EXTERNAL and not (from_files and region in LOADED)
    ]


def simulate(
    program: Program,
    images: NDArray[np.float32],
    tasks: Sequence[int],
    simulator: Simulator = "verilator",
    *,
    multiplier_style: MultiplierStyle = MultiplierStyle.SINGLE,
    stepped: int | None = None,
    whole: int = 1,
    readback: int = 0,
    waves: Path | None = None,
    memory: ExternalMemory | None = None,
    fault: Fault | None = None,
    over_bus: bool = False,
) -> CosimResult:
    """Run a program on images in RTL under cocotb, comparing with the integer model.

    Parameters
    ----------
    program : Program
    images : ndarray of float32, shape (images, channels, height, width)
    tasks : sequence of int
        Every task runs on every image.
    simulator : {"verilator", "icarus"}
        On Verilator the machine is built once per configuration, and its memories read the program from files; on Icarus, which is slow
        to run and quick to build, it is part of the build.
    multiplier_style : MultiplierStyle
        How the machine multiplies.
    stepped : int, optional
        For so many images of each task (by default for all) also compare after every instruction, in single-step mode.
    whole, readback : int
        For so many images of each task compare the whole memory after every instruction, by its CRC-32 or read back word by word; for
        the other images what each instruction changes. See `Job`.
    waves : Path, optional
        Folder for a waveform of the whole simulation and a GTKWave save file.
    memory : ExternalMemory, optional
        How fast external memory is, of machines that have such a port.
    fault : Fault, optional
        What goes wrong there.
    over_bus : bool
        Load the program over the host's bus, as a host would (on Verilator).

    Returns
    -------
    CosimResult
        Mismatches are in it, and no error.

    Raises
    ------
    FailedError
        The machine hung; the message names the instruction and unit that stalled. Or it stopped with an error, though no fault was asked for.
    """
    verilog = machine_verilog(program.config, program if simulator == "icarus" else None, multiplier_style)
    if simulator == "verilator":
        verilog = loadable(verilog)
    from_files = simulator == "verilator" and not over_bus
    built = runner.build(verilog, TOP, simulator, waves=waves is not None)
    if waves is not None:
        waves.mkdir(parents=True, exist_ok=True)
        save_gtkwave(verilog, TOP, waves / f"{TOP}.gtkw")
    with tempfile.TemporaryDirectory(prefix="hwattn-") as scratch:
        folder = Path(scratch)
        job = Job(
            program=str(folder / "program.hwp"),
            images=str(folder / "images.npy"),
            tasks=list(tasks),
            load=_over_bus(program, simulator, from_files),
            stepped=len(images) if stepped is None else stepped,
            whole=whole,
            readback=readback,
            memory=memory or ExternalMemory(),
            fault=fault,
            result=str(folder / "findings.json"),
        )
        save_program(program, Path(job.program))
        plusargs = write_contents(program, folder) if from_files or program.config.external_words else []
        np.save(job.images, np.asarray(images, np.float32), allow_pickle=False)
        job.save(folder / "job.json")
        outcome = runner.run(
            built,
            TESTBENCH,
            waves if waves is not None else folder / "run",
            environment={JOB_VARIABLE: str(folder / "job.json")},
            waves=waves is not None,
            plusargs=plusargs,
        )
        findings = Findings.load_file(Path(job.result))
    if findings.hung:
        raise FailedError(
            f"the simulated machine hung: {findings.hung}",
            "every instruction to end",
            "report it with the model and configuration; --waves DIR shows the signals",
        )
    stopped = next((run for run in findings.runs if run.error), None)
    if stopped is not None and fault is None:
        raise FailedError(
            f"the simulated machine stopped with {stopped.error} in task {stopped.task}, image {stopped.image}",
            "a run to its end",
            "name a faster memory (--memory) or report it with the model and configuration",
        )
    return CosimResult(findings, outcome.waveform)
