"""``hwattn build``: a folder with everything that a board needs to run a model."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwattn.boards import ecp5
from hwattn.boards.board import Board, boards, find_board
from hwattn.boards.flow import BuildResult
from hwattn.cli.arguments import accelerator_config, add_config, add_model
from hwattn.cli.models import ResolvedModel, resolve_model
from hwattn.cli.output import Output, table
from hwattn.compiler import compile_model
from hwattn.rtl.system import SerialMachine
from hwattn.rtl.verilog import to_verilog
from hwattn.sim.cosim.runner import simulator_version
from hwattn.sim.cosim.session import simulate
from hwattn.sim.model.executor import Executor
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.errors import FailedError, RefusedError
from hwattn.spec.program import Program
from hwattn.spec.program_file import save_program

HELP = (
    "Build a board's bitstream: Verilog, netlist, placed and routed, packed; with a report, the driver's settings, the program "
    "and golden vectors. With a model its program lies in the bitstream; with --empty the memories start empty."
)

TOP = "hwattn"
VERILOG = "hwattn.v"
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
    parser.add_argument("--force", action="store_true", help="replace the folder if it exists")
    parser.add_argument("--calibration", type=Path, metavar="X.npz", help="to quantize an .onnx with")
    add_config(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Build and report."""
    board = find_board(args.board)
    target = args.output.resolve()
    _check_folder(target, args.force)
    _check_folder(_failed_folder(target), True)
    resolved = None if args.empty else resolve_model(args.model, args.calibration)
    config = accelerator_config(args, board.preset)
    if args.stage == "bitstream":
        ecp5.check_size(board, config)
    program = compile_model(resolved.model, config) if resolved else None
    with _complete_folder(target) as folder:
        machine = SerialMachine(config, board.divisor, program, board.multiplier_style)
        out.print("writing Verilog ...")
        (folder / VERILOG).write_text(to_verilog(machine, TOP))
        cycles = _write_program(folder, board, program, resolved) if program and resolved else None
        _write_settings(folder, board, config, program)
        built = BuildResult()
        if args.stage == "bitstream":
            built = ecp5.build(board, machine, folder, args.seed, lambda stage: out.print(f"{stage} ..."))
        report = _report(args, board, config, program, built, cycles)
        report["files"] = sorted({*(entry.name for entry in folder.iterdir()), "report.json"})
        (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    _print(report, args.output, out)
    out.result(report)
    return 0


def _check_folder(target: Path, force: bool) -> None:
    """Refuse a target that exists, before any work; ``--force`` replaces what an earlier build has made, and nothing else."""
    parent = next(folder for folder in target.parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise RefusedError(
            f"{parent} cannot be written to", "a folder to make another in", "name another one"
        )
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / VERILOG).is_file():
        found = "is a file" if target.is_file() else "holds other files than a build's"
        raise RefusedError(f"{target} {found}", "a new or empty folder", "name another one")
    if not force:
        raise RefusedError(
            f"{target} holds an earlier build",
            "a new or empty folder",
            "name another one, or add --force to replace it",
        )


def _failed_folder(target: Path) -> Path:
    """Return where the logs of a failed build go."""
    return target.with_name(f"{target.name}.failed")


@contextmanager
def _complete_folder(target: Path) -> Iterator[Path]:
    """Yield a folder under a temporary name beside `target`, which it becomes if nothing goes wrong.

    What a failed build has made (logs, netlist) is kept beside it under the name ``DIR.failed``.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    scratch.chmod(0o755)
    failed = _failed_folder(target)
    if failed.exists():
        shutil.rmtree(failed)
    try:
        yield scratch
        if target.exists():
            shutil.rmtree(target)
        scratch.rename(target)
    except FailedError as error:
        scratch.replace(failed)
        raise FailedError(error.found, error.expected, f"{error.remedy}; logs are in {failed}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_program(
    folder: Path, board: Board, program: Program, resolved: ResolvedModel
) -> dict[str, float] | None:
    """Write program and golden vectors; return the cycles of each task, measured on the simulated RTL."""
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
    if simulator_version("verilator") is None:
        return None
    tasks = range(len(program.entries))
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


def _write_settings(folder: Path, board: Board, config: AcceleratorConfig, program: Program | None) -> None:
    """Write what the driver needs to know."""
    settings = {
        "board": board.name,
        "baud": board.baud,
        "config": config.as_dict(),
        "config_hash": f"{config.hash:08x}",
        "program": "program.hwp" if program else None,
        "program_hash": f"{program.hash:08x}" if program else None,
        "program_with": board.program_with,
    }
    (folder / "driver.json").write_text(json.dumps(settings, indent=1) + "\n")


def _report(
    args: argparse.Namespace,
    board: Board,
    config: AcceleratorConfig,
    program: Program | None,
    built: BuildResult,
    cycles: dict[str, float] | None,
) -> dict[str, Any]:
    latency = {name: count / board.clock_mhz / 1000 for name, count in (cycles or {}).items()}
    available = dataclasses.asdict(board.resources)
    resources = {
        name: dataclasses.asdict(built.resources[name])
        if name in built.resources
        else {"used": 0, "available": count}
        for name, count in available.items()
    }
    return {
        "board": board.name,
        "stage": args.stage,
        "model": program.name if program else None,
        "config": config.as_dict(),
        "config_hash": f"{config.hash:08x}",
        "program_hash": f"{program.hash:08x}" if program else None,
        "multipliers": config.multipliers,
        "resources": resources,
        "fmax_mhz": built.fmax_mhz or None,
        "clock_mhz": board.clock_mhz,
        "critical_path": built.critical_path,
        "cycles": cycles,
        "latency_ms": max(latency.values()) if latency else None,
        "latency_ms_by_task": latency,
        "latency_source": "cycles counted in the simulated RTL, at clock_mhz" if latency else None,
        "seed": args.seed,
        "stages": [dataclasses.asdict(stage) for stage in built.stages],
    }


def _print(report: dict[str, Any], target: Path, out: Output) -> None:
    if report["fmax_mhz"]:
        rows = [
            (name.upper(), entry["used"], entry["available"], f"{entry['used'] / entry['available']:.0%}")
            for name, entry in report["resources"].items()
        ]
        out.print(
            table(["resource", "used", "available", "share"], rows, right=["used", "available", "share"])
        )
        out.print(f"Fmax {report['fmax_mhz']:.1f} MHz; it will run at {report['clock_mhz']:g} MHz.")
    for name, latency in report["latency_ms_by_task"].items():
        cycles = report["cycles"][name]
        out.print(
            f"Expected latency, task {name}: {latency:.3f} ms ({cycles:,.0f} cycles, counted in the simulated RTL)."
        )
    out.print(f"{target}: {', '.join(report['files'])}")
