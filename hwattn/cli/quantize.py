"""``hwattn quantize``: post-training quantization, with the SQNR of each layer."""

from __future__ import annotations

import argparse
from pathlib import Path

from hwattn.cli.arguments import add_model
from hwattn.cli.models import calibration_arrays, calibration_images, file_digest, float_model
from hwattn.cli.output import Output, table
from hwattn.quant.importer import graph_of
from hwattn.quant.quantizer import quantize
from hwattn.quant.report import LayerReport, measure
from hwattn.quant.residual import RESIDUAL_SQNR_MIN
from hwattn.spec.errors import RefusedError
from hwattn.spec.hwq import save_model

HELP = (
    "Quantize an ONNX model to int8 with images to calibrate with, and write it as .hwq. Reports how close "
    "each layer's integers come to its real numbers, over the calibration images."
)

WEAK_SQNR = 20.0
"""dB under which a layer is named in a warning."""

_MEASURED_IMAGES = 128


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_model(parser)
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="X.npz",
        help="images to calibrate with; default: the workload's own calibration set",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="M.hwq", help="the file to write")


def run(args: argparse.Namespace, out: Output) -> int:
    """Quantize, write and report."""
    if args.output.suffix != ".hwq":
        raise RefusedError(
            f"the output {args.output}", "a file name that ends in .hwq", f"write -o {args.output}.hwq"
        )
    if not args.output.parent.is_dir():
        raise RefusedError(
            f"{args.output} cannot be written: there is no folder {args.output.parent}",
            "a file name in a folder that exists",
            "make the folder, or name another file",
        )
    source = float_model(args.model)
    arrays = calibration_arrays(source, args.calibration)
    graph = graph_of(source.onnx)
    images = calibration_images(graph, arrays)
    made = quantize(graph, images, source.name, file_digest(source.onnx))
    layers = measure(made.graph, made.model, images[:_MEASURED_IMAGES])
    save_model(made.model, args.output)
    size = args.output.stat().st_size
    out.print(
        table(
            ["layer", "kind", "SQNR dB"],
            [(layer.name, layer.kind, f"{layer.sqnr_db:.1f}") for layer in layers],
            right=["SQNR dB"],
        )
    )
    out.print(
        f"Residual stream: rounding to int16 leaves {made.residual_sqnr_db:.1f} dB at worst "
        f"({RESIDUAL_SQNR_MIN:.0f} needed)."
    )
    out.print(f"Wrote {args.output} ({size / 1024:.0f} KiB), calibrated with {len(images)} images.")
    warnings = [*made.warnings, *_weak(layers)]
    for warning in warnings:
        out.warn(warning)
    out.result(
        {
            "model": source.name,
            "file": args.output,
            "bytes": size,
            "calibration_images": len(images),
            "warnings": warnings,
            "residual_sqnr_db": made.residual_sqnr_db,
            "layers": [
                {"name": layer.name, "kind": layer.kind, "sqnr_db": layer.sqnr_db} for layer in layers
            ],
        }
    )
    return 0


def _weak(layers: tuple[LayerReport, ...]) -> list[str]:
    names = [layer.name for layer in layers if layer.sqnr_db < WEAK_SQNR]
    if not names:
        return []
    return [f"under {WEAK_SQNR:.0f} dB: {', '.join(names)}; more or more typical calibration images may help"]
