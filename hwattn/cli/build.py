"""``hwattn build``: a folder with everything that a board needs to run a model."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwattn.boards import vivado
from hwattn.boards.board import Board, boards, find_board
from hwattn.boards.flow import BuildResult
from hwattn.boards.flows import VIVADO, open_flow
from hwattn.boards.fusesoc import CORE_FILE, core_file
from hwattn.boards.xilinx_estimate import estimate
from hwattn.cli.arguments import accelerator_config, add_config, add_model, positive
from hwattn.cli.auto import Trial, search
from hwattn.cli.build_folder import VERILOG, check_folder, complete_folder, failed_folder
from hwattn.cli.build_report import make_report, print_report, write_report
from hwattn.cli.models import ResolvedModel, resolve_model
from hwattn.cli.output import Output
from hwattn.compiler import compile_model
from hwattn.rtl.axi_system import AxiMachine
from hwattn.rtl.system import SerialMachine
from hwattn.rtl.verilog import LINT_HEADER, to_verilog
from hwattn.sim.cosim.runner import simulator_version
from hwattn.sim.cosim.session import simulate
from hwattn.sim.model.executor import Executor
from hwattn.sim.perf.machine import Machine
from hwattn.sim.perf.routing import queue_lengths
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.errors import FailedError, RefusedError
from hwattn.spec.external import ExternalMemory
from hwattn.spec.program import Program
from hwattn.spec.program_file import save_program

HELP = (
    "Build a board's bitstream (or a project for Vivado): Verilog, netlist, placed and routed, packed; with a report, the driver's settings, the program "
    "and golden vectors. With a model its program lies in the bitstream; with --empty the memories start empty."
)

TOP = "hwattn"
GOLDEN_IMAGES = 8


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_model(parser)
    parser.add_argument("--board", required=True, metavar="B", help=f"one of {', '.join(boards())}")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument(
        "--empty", action="store_true", help="no model: a machine that is loaded over its link"
    )
    parser.add_argument(
        "--stage",
        choices=["verilog", "bitstream"],
        default="bitstream",
        help="how far to go (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of place and route (default: %(default)s)")
    parser.add_argument(
        "--tries",
        type=positive,
        default=3,
        metavar="N",
        help="runs of place and route, each with more effort or the next seed, before a missed clock is an error "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--clock",
        type=float,
        metavar="MHZ",
        help="clock of the machine, where a PLL can make it; default: the board's",
    )
    parser.add_argument(
        "--auto",
        action="store_true",
        help="search for the machine with the most multipliers that fits the board, meets its clock and holds the model",
    )
    parser.add_argument("--force", action="store_true", help="replace the folder if it exists")
    parser.add_argument("--calibration", type=Path, metavar="X.npz", help="to quantize an .onnx with")
    add_config(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Build and report."""
    board = find_board(args.board)
    if args.clock is not None:
        board = board.at_clock(args.clock)
    target = args.output.resolve()
    check_folder(target, args.force)
    check_folder(failed_folder(target), True)
    resolved = None if args.empty else resolve_model(args.model, args.calibration)
    config = accelerator_config(args, board.preset)
    memory = board.external_memory(config)
    if memory and args.auto:
        raise RefusedError(
            f"--auto with external_words={config.external_words}",
            "a machine whose weights lie on chip: the search makes its memories as large as the model needs",
            "choose rows and lanes with --set",
        )
    if board.flow == VIVADO and args.auto:
        raise RefusedError(
            f"--auto for {board.name}",
            "a board of an open flow",
            "choose rows and lanes with --set, from the estimate in the report",
        )
    if args.stage == "bitstream" and not args.auto and board.flow != VIVADO:
        open_flow(board).check_size(board, config)
    program = _compile(resolved, config, board) if resolved and not args.auto else None
    with complete_folder(target) as folder:
        made = _make(args, board, config, program, resolved, folder, out)
        cycles = (
            _write_program(folder, board, made.program, resolved, memory)
            if made.program and resolved
            else None
        )
        _write_settings(folder, board, made.config, made.program)
        report = make_report(args, board, made.config, made.program, made.result, cycles)
        report["stage"] = made.stage
        if made.trials:
            report["searched"] = [dataclasses.asdict(trial) for trial in made.trials]
        write_report(folder, report)
    print_report(report, args.output, out)
    out.result(report)
    return 0


@dataclass(frozen=True)
class _Made:
    """What has been built, and how far."""

    config: AcceleratorConfig
    program: Program | None
    result: BuildResult
    stage: str
    trials: Sequence[Trial] = ()


def _make(
    args: argparse.Namespace,
    board: Board,
    config: AcceleratorConfig,
    program: Program | None,
    resolved: ResolvedModel | None,
    folder: Path,
    out: Output,
) -> _Made:
    """Write Verilog, and as much of what the tools make of it as was asked for."""
    found = None
    if args.auto:
        model = resolved.model if resolved else None
        found = search(board, model, config, folder, args.seed, args.tries, out.print)
        config, program = found.config, found.program
    result = BuildResult()
    if board.flow == VIVADO:
        _write_verilog(vivado.top(board, config, program), config, folder, out)
        return _Made(config, program, result, _vendor(board, config, folder, args.stage, result, out))
    machine = SerialMachine(config, board.divisor, program, board.multiplier_style, board.external(config))
    write = partial(_write_verilog, machine, config, folder, out)
    if found:
        write()
        return _Made(config, program, found.result, "bitstream", found.trials)
    if args.stage == "bitstream":
        result = open_flow(board).build(
            board, machine, folder, args.seed, out.print, args.tries, meanwhile=write
        )
    else:
        write()
    return _Made(config, program, result, args.stage)


def _write_verilog(
    machine: SerialMachine | AxiMachine, config: AcceleratorConfig, folder: Path, out: Output
) -> None:
    """Write the machine's Verilog, and the core file that names it."""
    out.print("writing Verilog ...")
    (folder / VERILOG).write_text(LINT_HEADER + to_verilog(machine, TOP))
    (folder / CORE_FILE).write_text(core_file(VERILOG, TOP, config.hash))


def _vendor(
    board: Board, config: AcceleratorConfig, folder: Path, stage: str, result: BuildResult, out: Output
) -> str:
    """Write the project; estimate it and, where Vivado is on the PATH, run it. Return how far it came."""
    vivado.write_project(board, config, folder)
    if stage == "verilog":
        return "project"
    result.timing_note = vivado.UNPROVEN
    estimate(board, folder, VERILOG, result, out.print)
    if shutil.which("vivado") is None:
        out.print(f"Vivado is not on the PATH: {vivado.PROJECT} is ready to run where it is.")
        return "project"
    vivado.run_vivado(folder, result, out.print)
    result.timing_note = (
        "resources are an estimate of Yosys; the vendor's are in utilization.rpt and timing.rpt"
    )
    return "bitstream"


def _compile(resolved: ResolvedModel, config: AcceleratorConfig, board: Board) -> Program:
    """Compile the model; a refusal says what else the board can do."""
    try:
        return compile_model(resolved.model, config)
    except RefusedError as error:
        raise RefusedError(
            f"{resolved.model.name} does not fit the machine of {board.name}: {error.found}",
            error.expected,
            f"{error.remedy}; or take a board with more memory (hwattn boards), a smaller model, or --empty for a machine without one",
        ) from error


def _write_program(
    folder: Path, board: Board, program: Program, resolved: ResolvedModel, memory: ExternalMemory | None
) -> dict[str, float] | None:
    """Write program and golden vectors; return the cycles of each task.

    They are counted in the simulated RTL or, of networks so large that they need external memory, predicted by the cycle model.
    """
    save_program(program, folder / "program.hwp")
    if resolved.workload is None:
        images = (
            np.random.default_rng(0).normal(size=(GOLDEN_IMAGES, *program.image.shape)).astype(np.float32)
        )
    else:
        images = resolved.workload.test_set()[resolved.model.image][:GOLDEN_IMAGES]
    executor = Executor(program)
    arrays: dict[str, NDArray[Any]] = {program.image.name: images}
    for task in range(len(program.entries)):
        arrays |= executor.run(images, task).integers
    np.savez_compressed(folder / "golden.npz", allow_pickle=False, **arrays)
    tasks = range(len(program.entries))
    if memory:
        return {
            port.name: float(_predicted(program, port.task, memory, images[0])) for port in program.outputs
        }
    if simulator_version("verilator") is None:
        return None
    found = simulate(
        program, images[:1], tasks, "verilator", multiplier_style=board.multiplier_style, stepped=0
    )
    if not found.bit_exact:
        raise FailedError(
            "the simulated RTL differs from the integer model",
            "no difference",
            "run hwattn sim with this configuration, and report what it shows",
        )
    return {
        port.name: float(each.cycles)
        for each in found.findings.runs
        for port in program.outputs
        if port.task == each.task
    }


def _predicted(program: Program, task: int, memory: ExternalMemory, image: NDArray[np.float32]) -> int:
    """Cycles of a task's free run, by the cycle model."""
    machine = Machine(program, task, memory, queue_lengths(program, task, image))
    machine.free()
    return machine.cycles


def _write_settings(folder: Path, board: Board, config: AcceleratorConfig, program: Program | None) -> None:
    """Write what the driver needs to know."""
    settings = {
        "board": board.name,
        "baud": board.baud,
        "config": config.as_dict(),
        "config_hash": f"{config.hash:08x}",
        "program": "program.hwp" if program else None,
        "program_hash": f"{program.hash:08x}" if program else None,
        "external": _external_settings(board, config),
        "program_with": board.program_with,
    }
    (folder / "driver.json").write_text(json.dumps(settings, indent=1) + "\n")


def _external_settings(board: Board, config: AcceleratorConfig) -> dict[str, Any] | None:
    """Where external memory lies that is the processor's; None where it is not."""
    if not config.external_words or board.processor_memory is None:
        return None
    stripes = board.processor_memory.stripes(config)
    return {"address": board.processor_memory.address, "stripes": dataclasses.asdict(stripes)}
