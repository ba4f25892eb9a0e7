"""``hwattn run``: integer inference with the bit-accurate NumPy model, or on a machine."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwattn.boards.board import find_board
from hwattn.cli.arguments import (
    accelerator_config,
    add_config,
    add_images,
    add_model,
    check_images,
    load_arrays,
    load_images,
    program_tasks,
)
from hwattn.cli.device import external_buffer, run_on_device
from hwattn.cli.models import ResolvedModel, resolve_model
from hwattn.cli.output import Output, table
from hwattn.compiler import compile_model
from hwattn.quant.host import HostRunner
from hwattn.sim.model.executor import Executor
from hwattn.spec.errors import RefusedError

HELP = (
    "Run a model on images with the bit-accurate integer model of the accelerator, and write one array per model "
    "output. The machine computes the same, bit for bit; --device runs it there."
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_model(parser)
    add_images(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="Y.npz",
        help="where to write the outputs, under their ONNX names",
    )
    parser.add_argument("--task", metavar="T", help="an index or the name of an output; default: all tasks")
    parser.add_argument("--calibration", type=Path, metavar="X.npz", help="to quantize an .onnx with")
    parser.add_argument(
        "--device",
        metavar="D",
        help="run on a machine: a serial port (/dev/ttyUSB0), a UIO device (/dev/uio0), or sim, the RTL in a simulator",
    )
    parser.add_argument(
        "--board",
        metavar="B",
        default="ulx3s-85f",
        help="with --device: the board, for its preset and the speed of its serial port (default: %(default)s)",
    )
    parser.add_argument(
        "--buffer",
        type=partial(int, base=0),
        metavar="ADDRESS",
        help="with --device and a board whose processor's memory is external memory: where the machine's buffer lies (default: as the build's "
        "device tree reserves it)",
    )
    add_config(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Run the images and write the outputs."""
    check_target(args.output)
    resolved = resolve_model(args.model, args.calibration)
    model = resolved.model
    arrays = input_arrays(args.input, args.images, resolved)
    runner = HostRunner(model)
    images = runner.images(arrays)
    board = find_board(args.board) if args.device else None
    program = compile_model(model, accelerator_config(args, board.preset if board else resolved.preset))
    tasks = program_tasks(args.task, program)
    cycles: dict[int, list[int]] = {}
    if board is None:
        made, seconds = _execute(Executor(program), images, tasks, out)
    else:
        began = time.perf_counter()
        buffer = external_buffer(board, program.config, args.buffer)
        answered = run_on_device(args.device, board, program, images, tasks, out, buffer)
        made, cycles, seconds = answered.outputs, answered.cycles, time.perf_counter() - began
    outputs = runner.outputs(made, arrays)
    write_arrays(args.output, outputs)
    rows = [(name, "x".join(map(str, value.shape)), str(value.dtype)) for name, value in outputs.items()]
    out.print(table(["output", "shape", "type"], rows))
    rate = len(images) * len(tasks) / seconds
    out.print(
        f"{len(images)} images in {seconds:.2f} s ({rate:.0f} images and tasks per second): {args.output}"
    )
    for task, counts in cycles.items():
        out.print(f"task {program.task_names[task]}: {np.mean(counts):,.0f} cycles per image")
    out.result(
        {
            "model": model.name,
            "device": args.device,
            "cycles": {program.task_names[task]: counts for task, counts in cycles.items()},
            "images": len(images),
            "tasks": [program.task_names[task] for task in tasks],
            "host": [name for name in ("front", "back") if getattr(model, name) is not None],
            "output": args.output,
            "outputs": {name: list(value.shape) for name, value in outputs.items()},
            "seconds": seconds,
        }
    )
    return 0


def input_arrays(path: Path | None, limit: int | None, resolved: ResolvedModel) -> dict[str, NDArray[Any]]:
    """Return what the model reads, by name of its inputs: of a file, else the workload's test set; at most `limit` each.

    Raises
    ------
    RefusedError
        There is no file and no workload, or the arrays do not fit the model.
    """
    model = resolved.model
    names = HostRunner(model).inputs
    if path is not None and names != (model.image,):
        loaded = load_arrays(path)
        arrays = loaded if isinstance(loaded, dict) else {names[0]: loaded}
        return {name: array[:limit] for name, array in arrays.items() if name in names and array.ndim}
    if path is not None:
        return {model.image: load_images(path, model.image, model.image_shape)[:limit]}
    if resolved.workload is None:
        raise RefusedError(f"{model.name} without images", "images to run it on", "add --input X.npy")
    arrays = resolved.workload.test_set()
    return {
        model.image: check_images(arrays[model.image], "the workload's test set", model.image_shape)[:limit]
    }


def input_images(path: Path | None, limit: int | None, resolved: ResolvedModel) -> NDArray[np.float32]:
    """Return what the accelerator reads, (N, channels, height, width), from a file or the workload's test set."""
    return HostRunner(resolved.model).images(input_arrays(path, limit, resolved))


def check_target(path: Path) -> None:
    """Refuse a path that cannot be written, before any work.

    Raises
    ------
    RefusedError
        It is a folder, or lies in one that does not exist.
    """
    if path.is_dir():
        raise RefusedError(f"{path} is a folder", "the name of a file to write", "add a file name")
    if not path.parent.is_dir():
        raise RefusedError(f"no folder {path.parent}", "a folder that exists", "make it, or correct the path")


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an ``.npz`` that appears only when it is complete."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        scratch = Path(file.name)
        try:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            file.close()
            scratch.chmod(0o644)
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)


def _execute(
    executor: Executor, images: NDArray[np.float32], tasks: list[int], out: Output
) -> tuple[dict[str, NDArray[np.float32]], float]:
    """Outputs of all tasks by name, and the seconds they took."""
    limit = executor.batch_limit
    starts = range(0, len(images), limit)
    found: dict[str, list[NDArray[np.float32]]] = {}
    began = time.perf_counter()
    with out.progress(len(tasks) * len(starts), "images") as advance:
        for task in tasks:
            for start in starts:
                for name, value in executor.run(images[start : start + limit], task).outputs.items():
                    found.setdefault(name, []).append(value)
                advance()
    outputs = {name: np.concatenate(values) for name, values in found.items()}
    return outputs, time.perf_counter() - began
