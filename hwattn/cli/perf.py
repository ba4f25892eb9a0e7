"""``hwattn perf``: cycles of a model on a machine, predicted layer by layer; against co-simulation with ``--validate``."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwattn.boards.board import find_board
from hwattn.cli.arguments import (
    accelerator_config,
    add_config,
    add_memory,
    add_model,
    external_memory,
    load_images,
    program_tasks,
)
from hwattn.cli.models import resolve_model
from hwattn.cli.output import Output, table
from hwattn.cli.run import input_images
from hwattn.compiler import compile_model
from hwattn.sim.cosim.session import simulate
from hwattn.sim.perf.layers import Layer, layers
from hwattn.sim.perf.machine import Machine
from hwattn.sim.perf.roofline import save_roofline
from hwattn.sim.perf.routing import parse_lengths, queue_lengths, routings
from hwattn.sim.perf.validation import TOLERANCE, Comparison, compare_run, compare_steps
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.errors import RefusedError
from hwattn.spec.external import ExternalMemory
from hwattn.spec.program import Program
from hwattn.spec.program_file import load_program

HELP = (
    "Predict the cycles of a model: in all, for each layer, and what bounds it. --validate measures the same in co-simulation, "
    "instruction by instruction and running free, and fails where the prediction is off by more than 1 %."
)

ASSUMED_CLOCK_MHZ = 100.0
"""Where neither a board nor a build nor ``--clock`` says more."""

PROGRAM_SUFFIX = ".hwp"


@dataclass(frozen=True)
class Subject:
    """What is predicted: a program, external memory, and an image to route and to simulate with, if any."""

    program: Program
    memory: ExternalMemory
    image: NDArray[np.float32] | None


@dataclass(frozen=True)
class Clock:
    """A clock in MHz, and where it comes from."""

    mhz: float
    source: str

    def milliseconds(self, cycles: int) -> float:
        """Time of so many cycles."""
        return cycles / self.mhz / 1000


@dataclass(frozen=True)
class Prediction:
    """A task's free run."""

    task: int
    name: str
    cycles: int
    layers: list[Layer]
    queue_lengths: list[tuple[int, ...]]
    instructions: int

    @property
    def bytes_external(self) -> int:
        """To and from external memory."""
        return sum(layer.bytes_external for layer in self.layers)

    @property
    def causes(self) -> Counter[str]:
        """Cycles of the critical path by what they wait for."""
        return sum((layer.causes for layer in self.layers), Counter())


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_model(parser)
    parser.add_argument("--task", metavar="T", help="index or output name of a task; default: all")
    parser.add_argument("--calibration", type=Path, metavar="X.npz", help="to quantize an .onnx with")
    parser.add_argument(
        "--input",
        type=Path,
        metavar="X.npy|X.npz",
        help="the first image routes the tokens, and is simulated with --validate; default: the workload's first test image",
    )
    parser.add_argument("--board", metavar="B", help="take the clock and the configuration of a board")
    parser.add_argument(
        "--build",
        type=Path,
        metavar="DIR",
        help="take the clock that hwattn build has placed and routed there",
    )
    parser.add_argument(
        "--clock",
        type=float,
        metavar="MHZ",
        help=f"assume a clock (default: {ASSUMED_CLOCK_MHZ:g}, or the board's)",
    )
    add_memory(parser)
    parser.add_argument(
        "--queue-lengths",
        metavar="LENGTHS",
        help="tokens of every expert instead of the image's: even, or N,N,...; for all mixtures, or for each, separated by semicolons",
    )
    parser.add_argument(
        "--validate", action="store_true", help="measure the same in co-simulation, and print the error"
    )
    parser.add_argument("--plot", type=Path, metavar="DIR", help="write a roofline plot there, PNG and SVG")
    add_config(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Predict and report."""
    subject = _subject(args)
    program, memory = subject.program, subject.memory
    if args.memory and not program.config.external_words:
        raise RefusedError(
            "--memory for a machine without external memory",
            "a configuration with external_words",
            "leave --memory out, or add --set external_words=N",
        )
    clock = _clock(args, program.config)
    if args.plot is not None and args.plot.is_file():
        raise RefusedError(f"{args.plot} is a file", "a folder for the plots", "name another folder")
    predictions = [
        _predict(subject, task, memory, args) for task in program_tasks(args.task, subject.program)
    ]
    comparisons = [_validate(subject, each, memory) for each in predictions] if args.validate else []
    plots = [
        path
        for each in predictions
        if args.plot is not None
        for path in save_roofline(
            args.plot, f"{program.name}-{each.name}".replace("/", "_"), each.layers, program.config, memory
        )
    ]
    _print(program, predictions, clock, memory, out)
    _print_comparisons(predictions, comparisons, out)
    for path in plots:
        out.print(f"plot: {path}")
    document = _document(program, predictions, clock, memory)
    found = [
        _comparison(each.name, one)
        for each, group in zip(predictions, comparisons, strict=False)
        for one in group
    ]
    document["validation"] = found if args.validate else None
    document["plots"] = plots
    out.result(document)
    return 0 if all(one.good for group in comparisons for one in group) else 1


def _subject(args: argparse.Namespace) -> Subject:
    """Find what to predict: a model that is compiled, or a program."""
    if Path(args.model).suffix == PROGRAM_SUFFIX:
        if args.config or args.set or args.board:
            raise RefusedError(
                f"{args.model} with another configuration",
                "the one that the program was compiled for",
                "leave out --config, --set and --board",
            )
        program, memory = load_program(Path(args.model)), ExternalMemory.parse(args.memory or "")
        if args.input is None:
            return Subject(program, memory, None)
        images = load_images(args.input, program.image.name, program.image.shape)
        return Subject(program, memory, images[0])
    resolved = resolve_model(args.model, args.calibration)
    board = find_board(args.board) if args.board else None
    preset = board.preset if board else resolved.preset
    config = accelerator_config(args, preset)
    program = compile_model(resolved.model, config)
    on_board = board.external_memory(config) if board and board.has_memory and args.memory is None else None
    image = None
    if args.input is not None or resolved.workload is not None:
        image = input_images(args.input, 1, resolved)[0]
    return Subject(program, on_board or external_memory(args, preset), image)


def _clock(args: argparse.Namespace, config: AcceleratorConfig) -> Clock:
    """The clock that latencies are given for."""
    if args.clock is not None:
        if not 0 < args.clock < 1e5:
            raise RefusedError(f"--clock {args.clock:g}", "a clock in MHz, more than 0", "correct --clock")
        return Clock(args.clock, "assumed")
    if args.build is not None:
        path = args.build / "report.json"
        try:
            report = json.loads(path.read_text())
            fmax, mhz, built_for = report["fmax_mhz"], float(report["clock_mhz"]), report["config_hash"]
        except (ValueError, KeyError, TypeError) as error:
            raise RefusedError(
                f"{path}, which is no report of a build", "the folder of a build", "run: hwattn build"
            ) from error
        if not fmax:
            raise RefusedError(
                f"{path} of a build that was not routed", "a routed build", "run: hwattn build"
            )
        if built_for != f"{config.hash:08x}":
            raise RefusedError(
                f"the build in {args.build}, of another configuration",
                "a build of this one",
                "give the same --config and --set to both",
            )
        return Clock(mhz, "placed and routed")
    if args.board:
        return Clock(find_board(args.board).clock_mhz, "board")
    return Clock(ASSUMED_CLOCK_MHZ, "assumed")


def _predict(subject: Subject, task: int, memory: ExternalMemory, args: argparse.Namespace) -> Prediction:
    """Predict a task's free run."""
    program = subject.program
    lengths = _queue_lengths(subject, task, args.queue_lengths)
    machine = Machine(program, task, memory, lengths)
    events = machine.free()
    return Prediction(
        task, program.task_names[task], machine.cycles, layers(machine, events), lengths, len(events)
    )


def _queue_lengths(subject: Subject, task: int, asked: str | None) -> list[tuple[int, ...]]:
    """Queue lengths of a task's mixtures: those that are asked for, or those of the image."""
    wanted = routings(subject.program, task)
    if asked is not None:
        return parse_lengths(asked, wanted)
    if not wanted:
        return []
    if subject.image is None:
        raise RefusedError(
            f"a mixture in {subject.program.name}, and no image that routes its tokens",
            "an image, or the tokens of every expert",
            "add --input X.npy or --queue-lengths even",
        )
    return queue_lengths(subject.program, task, subject.image)


def _validate(subject: Subject, prediction: Prediction, memory: ExternalMemory) -> list[Comparison]:
    """Measure a task in co-simulation, in single steps and running free, and compare."""
    if subject.image is None:
        raise RefusedError("--validate without an image", "an image to simulate", "add --input X.npy")
    program, task = subject.program, prediction.task
    measured_with = _queue_lengths(subject, task, None)
    found = simulate(program, subject.image[None], [task], stepped=1, whole=0, memory=memory)
    measured = found.findings.runs[0]
    steps = Machine(program, task, memory, measured_with).single_steps()
    machine = Machine(program, task, memory, measured_with)
    machine.free()
    return [
        *compare_steps(steps, measured.steps),
        compare_run(prediction.instructions, machine.cycles, measured.cycles),
    ]


def _utilization(program: Program, prediction: Prediction) -> float:
    """Multiply-accumulates of the graph / (cycles * multipliers)."""
    return program.macs[prediction.task] / (prediction.cycles * program.config.multipliers)


def _document(
    program: Program, predictions: list[Prediction], clock: Clock, memory: ExternalMemory
) -> dict[str, Any]:
    """Return the verb's JSON document; what stands outside `tasks` is that of the slowest."""
    tasks = [_task(program, each, clock) for each in predictions]
    slowest = max(tasks, key=lambda task: int(task["cycles"]))
    lanes = program.config.lanes
    return {
        "model": program.name,
        "task": slowest["name"],
        **{key: value for key, value in slowest.items() if key != "name"},
        "clock_mhz": clock.mhz,
        "clock_source": clock.source,
        "multipliers": program.config.multipliers,
        "memory": {**dataclasses.asdict(memory), "bytes_per_cycle": memory.bytes_per_cycle(lanes)}
        if program.config.external_words
        else None,
        "config": program.config.as_dict(),
        "tasks": tasks,
    }


def _task(program: Program, prediction: Prediction, clock: Clock) -> dict[str, Any]:
    streamed = sum(layer.streamed for layer in prediction.layers)
    return {
        "name": prediction.name,
        "cycles": prediction.cycles,
        "latency_ms": clock.milliseconds(prediction.cycles),
        "matrix_utilization": _utilization(program, prediction),
        "matrix_active": streamed / prediction.cycles,
        "macs": program.macs[prediction.task],
        "bytes_external": prediction.bytes_external,
        "instructions": prediction.instructions,
        "causes": dict(prediction.causes.most_common()),
        "queue_lengths": prediction.queue_lengths,
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "cycles": layer.cycles,
                "bound": layer.bound,
                "causes": dict(layer.causes.most_common()),
                "matrix_cycles": layer.streamed,
                "bytes_external": layer.bytes_external,
                "instructions": layer.instructions,
                "skipped": layer.skipped,
            }
            for layer in prediction.layers
        ],
    }


def _comparison(task: str, one: Comparison) -> dict[str, Any]:
    return {"task": task, **dataclasses.asdict(one), "error": one.error, "good": one.good}


def _print(
    program: Program, predictions: list[Prediction], clock: Clock, memory: ExternalMemory, out: Output
) -> None:
    for each in predictions:
        rows = [
            (
                layer.name,
                layer.kind,
                f"{layer.cycles:,}",
                f"{layer.cycles / each.cycles:.1%}",
                layer.bound,
                f"{layer.streamed:,}",
                f"{layer.bytes_external:,}",
            )
            for layer in each.layers
        ]
        columns = ["layer", "kind", "cycles", "share", "bound by", "matrix cycles", "external bytes"]
        right = ["cycles", "share", "matrix cycles", "external bytes"]
        out.print(table(columns, rows, title=f"{program.name}, task {each.name}", right=right))
        waits = ", ".join(f"{cause} {count / each.cycles:.1%}" for cause, count in each.causes.most_common())
        out.print(f"The critical path waits for: {waits}")
        for lengths in each.queue_lengths:
            out.print(f"queue lengths: {', '.join(map(str, lengths))}")
    config = program.config
    for each in predictions:
        out.print(
            f"{each.name}: {each.cycles:,} cycles predicted, {clock.milliseconds(each.cycles):.3f} ms at {clock.mhz:g} MHz ({clock.source}); "
            f"{program.macs[each.task]:,} multiply-accumulates on {config.multipliers} multipliers, utilization {_utilization(program, each):.1%}"
        )
    if config.external_words:
        out.print(
            f"external memory: {memory.bytes_per_cycle(config.lanes):.3g} bytes per cycle, latency {memory.latency} cycles"
        )


def _print_comparisons(
    predictions: list[Prediction], comparisons: list[list[Comparison]], out: Output
) -> None:
    columns = ["task", "instruction", "count", "predicted", "measured", "error", "worst"]
    rows = [
        (
            each.name,
            one.name,
            f"{one.instructions:,}",
            f"{one.predicted:,}",
            f"{one.measured:,}",
            f"{one.error:+.3%}",
            f"{one.worst:.3%}",
        )
        for each, group in zip(predictions, comparisons, strict=False)
        for one in group
    ]
    if rows:
        out.print(table(columns, rows, title="Against co-simulation, cycles", right=columns[2:]))
        good = all(one.good for group in comparisons for one in group)
        verdict = "every error is" if good else "NOT every error is"
        out.print(f"{verdict} within {TOLERANCE:.0%}")
