"""``hwattn hls``: a project for Vitis HLS of one model and configuration, which a C++ compiler alone can simulate."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwattn.cli.arguments import accelerator_config, add_config, add_images, add_model, load_images
from hwattn.cli.build_folder import check_folder, complete_folder, failed_folder
from hwattn.cli.hls_vectors import attention_cases, output_vectors
from hwattn.cli.models import ResolvedModel, resolve_model
from hwattn.cli.output import Output
from hwattn.compiler import compile_model
from hwattn.hls.compilation import ap_types_folder, find_compiler, simulate_project
from hwattn.hls.project import attention_kernel, write_project

HELP = (
    "Write a C++ project for Vitis HLS: the machine that runs the compiled program, and an attention kernel; with golden vectors "
    "of the NumPy model, a Makefile for C simulation without any vendor tool, and a script for Vitis."
)

MARKER = "run_hls.tcl"
"""File by which an earlier project is known."""

GOLDEN_IMAGES = 64


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_model(parser)
    add_images(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--csim", action="store_true", help="compile and run the C simulation too")
    parser.add_argument(
        "--compiler", default="g++", metavar="CXX", help="for --csim: g++ or clang++ (default: %(default)s)"
    )
    parser.add_argument("--force", action="store_true", help="replace the folder if it exists")
    parser.add_argument("--calibration", type=Path, metavar="X.npz", help="to quantize an .onnx with")
    add_config(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Write the project, and simulate it if asked."""
    target = args.output.resolve()
    check_folder(target, args.force, MARKER)
    check_folder(failed_folder(target), True, MARKER)
    if args.csim:
        find_compiler(args.compiler)
        ap_types_folder()
    resolved = resolve_model(args.model, args.calibration)
    program = compile_model(resolved.model, accelerator_config(args, resolved.preset))
    images = _images(args, resolved)
    kernel = attention_kernel(program)
    cases = attention_cases(kernel, program.config.rows) if kernel else []
    simulation: dict[str, Any] | None = None
    with complete_folder(target) as folder:
        tops = write_project(folder, program, images, output_vectors(program, images), cases)
        if args.csim:
            out.print("compiling and simulating ...")
            began = time.perf_counter()
            said = simulate_project(folder, args.compiler)
            simulation = {
                "compiler": args.compiler,
                "bit_exact": True,
                "seconds": time.perf_counter() - began,
                "text": said.splitlines(),
            }
        report = {
            "model": program.name,
            "config": program.config.as_dict(),
            "config_hash": f"{program.config.hash:08x}",
            "program_hash": f"{program.hash:08x}",
            "tops": tops,
            "images": len(images),
            "attention_cases": len(cases),
        }
        (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
        files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    for line in simulation["text"] if simulation else []:
        out.print(line)
    out.print(f"{args.output}: tops {', '.join(tops)}; golden vectors of {len(images)} images for every task")
    if not simulation:
        out.print(f"C simulation: make -C {args.output} csim")
    out.result({**report, "files": files, "csim": simulation})
    return 0


def _images(args: argparse.Namespace, resolved: ResolvedModel) -> NDArray[np.float32]:
    """Images of the golden vectors: a file's, the workload's test images, or noise where there are neither."""
    model = resolved.model
    count = args.images or GOLDEN_IMAGES
    if args.input is not None:
        return load_images(args.input, model.image, model.image_shape)[:count]
    if resolved.workload is not None:
        test: NDArray[np.float32] = resolved.workload.test_set()[model.image]
        return test[:count]
    return np.random.default_rng(0).normal(size=(count, *model.image_shape)).astype(np.float32)
