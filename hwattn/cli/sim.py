"""``hwattn sim``: a model on the simulated RTL under cocotb, compared bit for bit with the integer model."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwattn.cli.arguments import (
    accelerator_config,
    add_config,
    add_images,
    add_memory,
    add_model,
    external_memory,
    program_tasks,
)
from hwattn.cli.models import resolve_model
from hwattn.cli.output import Output, table
from hwattn.cli.run import input_images
from hwattn.cli.uart import drive_over_pins
from hwattn.compiler import compile_model
from hwattn.rtl.multipliers import MultiplierStyle
from hwattn.sim.cosim.job import Mismatch, Run
from hwattn.sim.cosim.runner import SIMULATORS
from hwattn.sim.cosim.session import CosimResult, simulate
from hwattn.sim.model.executor import Executor
from hwattn.sim.perf.routing import queue_lengths
from hwattn.spec.errors import RefusedError
from hwattn.spec.isa import Queue
from hwattn.spec.program import Program
from hwattn.spec.registers import ActReader, Register, WeightReader

HELP = (
    "Run a model on the RTL in a simulator. The activation memory is compared with the integer model after every "
    "instruction in single-step mode, and as a whole after a run in which the queues overlap; cycles and utilization come "
    "from the hardware's counters in that run."
)

DEFAULT_IMAGES = 1

STEPPED_INSTRUCTIONS = 4096
"""Instructions of a program up to which it is stepped by default: the comparisons of a longer one take many minutes."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_model(parser)
    add_images(parser)
    parser.add_argument("--task", metavar="T", help="index or output name of a task; default: all")
    parser.add_argument("--calibration", type=Path, metavar="X.npz", help="to quantize an .onnx with")
    parser.add_argument("--simulator", choices=SIMULATORS, default=SIMULATORS[0], help="default: %(default)s")
    parser.add_argument(
        "--multipliers",
        choices=[style.value for style in MultiplierStyle],
        default=MultiplierStyle.SINGLE.value,
        help="how the machine multiplies: as on a target with one product per block, or with two (DSP48E2); default: %(default)s",
    )
    parser.add_argument(
        "--stepped",
        type=int,
        metavar="N",
        help="images of each task that are also run in single steps (default: all, or none where a program has more than "
        f"{STEPPED_INSTRUCTIONS} instructions; 0: only run free)",
    )
    add_memory(parser)
    parser.add_argument(
        "--whole",
        type=int,
        default=1,
        metavar="N",
        help="for N images of each task compare the whole memory after every instruction, by its CRC-32; for the others the words that "
        "each instruction changes, and the whole memory after every 64th (default: %(default)s)",
    )
    parser.add_argument(
        "--readback",
        type=int,
        default=0,
        metavar="N",
        help="for N images of each task read the whole memory back word by word after every instruction",
    )
    parser.add_argument(
        "--waves", type=Path, metavar="DIR", help="write a waveform and a GTKWave save file there"
    )
    parser.add_argument(
        "--uart",
        action="store_true",
        help="the board's system instead: the host's driver loads images and reads results over simulated UART pins",
    )
    add_config(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Simulate and report."""
    resolved = resolve_model(args.model, args.calibration)
    config = accelerator_config(args, resolved.preset)
    program = compile_model(resolved.model, config)
    limit = args.images or (DEFAULT_IMAGES if args.input is None else None)
    images = input_images(args.input, limit, resolved)
    tasks = program_tasks(args.task, program)
    if args.waves is not None and args.waves.is_file():
        raise RefusedError(
            f"{args.waves} is a file", "a folder to write the waveform to", "name another folder"
        )
    if args.uart:
        result = _over_uart(program, images, tasks, args)
    else:
        result = simulate(
            program,
            images,
            tasks,
            args.simulator,
            multiplier_style=MultiplierStyle(args.multipliers),
            stepped=_stepped(args.stepped, program),
            whole=args.whole,
            readback=args.readback,
            waves=args.waves,
            memory=external_memory(args, resolved.preset),
        )
    _report(program, result, args.simulator, out)
    names = program.task_names
    queues = {names[task]: queue_lengths(program, task, images[0]) for task in tasks}
    if any(queues.values()):
        out.print(
            "Tokens in the experts' queues, image 0: "
            + "; ".join(f"{name} {[list(each) for each in lengths]}" for name, lengths in queues.items())
        )
    out.result(
        document(program, result, args.simulator, len(images))
        | {"multiplier_style": args.multipliers, "queue_lengths": queues}
    )
    return 0 if result.bit_exact else 1


def _stepped(wanted: int | None, program: Program) -> int | None:
    """Images to run in single steps; None for all."""
    if wanted is None and len(program.instructions) > STEPPED_INSTRUCTIONS:
        return 0
    return wanted


def _over_uart(
    program: Program, images: NDArray[np.float32], tasks: list[int], args: argparse.Namespace
) -> CosimResult:
    """Run with the driver over simulated pins, and compare the outputs with the integer model."""
    if args.waves is not None or args.readback or args.stepped is not None or args.simulator != SIMULATORS[0]:
        raise RefusedError(
            "--uart together with --waves, --readback, --stepped or another simulator",
            "--uart alone",
            "leave the others out: the driver sees outputs and counters only",
        )
    findings = drive_over_pins(program, images, tasks, multiplier_style=MultiplierStyle(args.multipliers))
    executor = Executor(program)
    expected = {task: executor.run(images, task).integers for task in tasks}
    for each in findings.runs:
        for name, integers in each.outputs.items():
            wanted = expected[each.task][name][each.image]
            if not np.array_equal(np.array(integers), wanted):
                findings.mismatches.append(
                    Mismatch(
                        each.task,
                        each.image,
                        None,
                        f"output {name}",
                        None,
                        str(wanted.tolist()),
                        str(integers),
                    )
                )
    return CosimResult(findings, None)


def utilization(program: Program, runs: list[Run]) -> float:
    """Multiply-accumulates of the graph / (cycles * multipliers), over all runs."""
    cycles = sum(each.cycles for each in runs)
    macs = sum(program.macs[each.task] for each in runs)
    return macs / (cycles * program.config.multipliers) if cycles else 0.0


def cycle_shares(runs: list[Run]) -> dict[str, float]:
    """Where the matrix unit's cycles go, as shares of all cycles; they add up to 1.

    ``streaming``: its multipliers work on a streamed word. ``memory``: it waits for a memory bank that another unit uses.
    ``fill_and_drain``: its pipeline fills or empties at the ends of an instruction. ``tokens``: it waits for another queue's result.
    ``starved``: no instruction has reached its queue.
    """

    def total(register: int) -> int:
        return sum(each.counters[int(register)] for each in runs)

    cycles = total(Register.CYCLES)
    streaming = total(Register.MATRIX_ACTIVE)
    memory = total(Register.READ_STALL + ActReader.MATRIX) + total(
        Register.WEIGHT_STALL + WeightReader.MATRIX
    )
    busy = total(Register.BUSY + Queue.MATRIX)
    tokens = total(Register.WAITING + Queue.MATRIX)
    parts = {
        "streaming": streaming,
        "memory": memory,
        "fill_and_drain": busy - streaming - memory,
        "tokens": tokens,
        "starved": cycles - busy - tokens,
    }
    return {name: count / cycles for name, count in parts.items()}


def document(program: Program, result: CosimResult, simulator: str, images: int) -> dict[str, object]:
    """Return the verb's JSON document."""
    findings = result.findings
    cycles = [each.cycles for each in findings.runs]
    by_task = {
        name: [each.cycles for each in findings.runs if each.task == task]
        for task, name in enumerate(program.task_names)
    }
    return {
        "bit_exact": result.bit_exact,
        "images": images,
        "instructions_compared": sum(each.compared for each in findings.runs),
        "mismatches": [dataclasses.asdict(mismatch) for mismatch in findings.mismatches],
        "cycles": cycles,
        "cycles_mean": float(np.mean(cycles)),
        "cycles_by_task": by_task,
        "matrix_utilization": utilization(program, findings.runs),
        "cycle_shares": cycle_shares(findings.runs),
        "multipliers": program.config.multipliers,
        "bytes_external": [
            program.config.lanes * (each.counters[Register.READ_BEATS] + each.counters[Register.WRITE_BEATS])
            for each in findings.runs
        ],
        "simulator": simulator,
        "cycles_per_second": findings.simulated_cycles / findings.seconds,
        "simulated_cycles": findings.simulated_cycles,
        "waveform": result.waveform,
    }


def _report(program: Program, result: CosimResult, simulator: str, out: Output) -> None:
    findings = result.findings
    names = program.task_names
    rows = []
    for task in sorted({each.task for each in findings.runs}):
        runs = [each for each in findings.runs if each.task == task]
        wrong = sum(mismatch.task == task for mismatch in findings.mismatches)
        rows.append(
            (
                names[task],
                len(runs),
                sum(each.compared for each in runs),
                wrong or "none",
                f"{np.mean([each.cycles for each in runs]):,.0f}",
                f"{utilization(program, runs):.1%}",
            )
        )
    columns = ["task", "images", "instructions compared", "differences", "cycles per image", "utilization"]
    out.print(table(columns, rows, right=columns[1:]))
    shares = cycle_shares(findings.runs)
    out.print(
        "Cycles of the matrix unit: " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    )
    for mismatch in findings.mismatches[:10]:
        where = "free run" if mismatch.instruction is None else f"instruction {mismatch.instruction}"
        out.print(
            f"  task {mismatch.task}, image {mismatch.image}, {where} ({mismatch.text}): word {mismatch.word} "
            f"is {mismatch.found}, the model says {mismatch.expected}"
        )
    verdict = "bit-exact" if result.bit_exact else "NOT bit-exact"
    rate = findings.simulated_cycles / findings.seconds
    out.print(
        f"{verdict} on {simulator}: {findings.simulated_cycles:,} cycles simulated in {findings.seconds:.0f} s ({rate:,.0f} per second)"
    )
    if result.waveform is not None:
        out.print(f"waveform: {result.waveform}")
