"""``hwattn quantize``: post-training quantization, with evidence from images that it did not see."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwattn.cli.arguments import TEST_PREFIX, add_model, load_arrays
from hwattn.cli.changes import add_changes, changes_of
from hwattn.cli.models import (
    FloatModel,
    calibration_arrays,
    calibration_images,
    file_digest,
    float_model,
    named_arrays,
)
from hwattn.cli.output import Output, table
from hwattn.cli.quantize_html import write_html
from hwattn.quant.counting import count_macs
from hwattn.quant.importer import graph_and_scales
from hwattn.quant.kept import Kept
from hwattn.quant.precision import in_sixteen, pass_macs, read_precision
from hwattn.quant.quantizer import Quantization, quantize
from hwattn.quant.readers import folder_images
from hwattn.quant.report import Evidence, LayerReport, advice, gather, unmeasured
from hwattn.quant.residual import RESIDUAL_SQNR_MIN
from hwattn.quant.settings import CALIBRATORS, Settings
from hwattn.spec.errors import RefusedError
from hwattn.spec.graph import Graph
from hwattn.spec.hwq import save_model

HELP = (
    "Quantize an ONNX model to int8 with images to calibrate with, and write it as .hwq; a quantized (QDQ) model keeps its own "
    "scales and needs no images. Reports how close each layer's integers come to its real numbers, over images that were not "
    "used to calibrate."
)

WEAK_SQNR = 20.0
"""dB under which a layer is named in a warning."""

_MEASURED_IMAGES = 128
_HELD_OUT_SHARE = 5
"""One image of so many is kept from calibration where there are no others to measure with."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_model(parser)
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="X.npz|DIR",
        help="arrays, or a folder of images, to calibrate with; default: the workload's own calibration set, or the scales "
        "of a quantized (QDQ) file",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="X.npz",
        help="arrays to measure with; default: the workload's test set, else every fifth of --calibration, kept aside",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="M.hwq", help="the file to write")
    parser.add_argument("--html", type=Path, metavar="R.html", help="write the evidence with plots as well")
    for name, what in (("mean", "subtracted from"), ("std", "dividing")):
        parser.add_argument(
            f"--{name}",
            type=_numbers,
            default=(0.5,),
            metavar="A,B,C",
            help=f"{what} the pixels (0 to 1) of a folder's images, one number or one per channel; default: 0.5",
        )
    parser.add_argument(
        "--calibrator",
        default=CALIBRATORS[0],
        metavar="NAME",
        help=f"how ranges are chosen: {', '.join(CALIBRATORS)} (default: %(default)s)",
    )
    parser.add_argument(
        "--percentile", type=float, default=99.99, help="of the percentile calibrator (default: %(default)s)"
    )
    for name, what in (
        ("migration", "move scales between layers"),
        ("bias-correction", "move mean errors into biases"),
        ("spread-rounding", "round weights against their inputs' covariance"),
        ("per-head", "one scale for each head of queries, keys and values"),
    ):
        parser.add_argument(
            f"--{name}", action=argparse.BooleanOptionalAction, default=True, help=f"{what} (default: yes)"
        )
    parser.add_argument(
        "--precision",
        type=Path,
        metavar="P.yaml",
        help="layers that read 16 bits, in two passes: names or patterns, each with 8 or 16 (docs/numbers.md)",
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=0.0,
        metavar="PERCENT",
        help="spend so many more multiply-accumulates at most on 16 bits where they remove most noise (default: none)",
    )
    add_changes(parser)


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
    images_in_folder = args.calibration is not None and args.calibration.is_dir()
    arrays = {} if images_in_folder else calibration_arrays(source, args.calibration)
    graph, given = graph_and_scales(source.onnx, changes_of(args))
    if images_in_folder:
        arrays = {graph.image: folder_images(args.calibration, graph.image_shape, args.mean, args.std)}
    arrays, held_out, apart = _held_out(args.data, source, graph, arrays)
    images = calibration_images(graph, arrays) if arrays else None
    if args.html and not held_out:
        raise RefusedError("--html without images", "images to measure with", "add --data X.npz")
    made = quantize(graph, images, source.name, file_digest(source.onnx), _settings(args), given)
    seen = calibration_images(made.model, held_out)[:_MEASURED_IMAGES] if held_out else None
    evidence = unmeasured(made.graph) if seen is None else gather(made.graph, made.model, seen)
    save_model(made.model, args.output)
    _print_precision(out, made, args.budget)
    _print(out, made, evidence, apart)
    size = args.output.stat().st_size
    how = "with the scales of the file" if images is None else f"calibrated with {len(images)} images"
    out.print(f"Wrote {args.output} ({size / 1024:.0f} KiB), {how}.")
    warnings = [*made.warnings, *_weak(evidence.layers), *advice(evidence.layers, WEAK_SQNR)]
    if seen is None:
        warnings.append("nothing is measured without images: add --data X.npz")
    elif not apart:
        warnings.append("too few images to keep any from calibration: measured on the same; add --data X.npz")
    for warning in warnings:
        out.warn(warning)
    if args.html and seen is not None:
        write_html(args.html, made, evidence, seen[:16], warnings)
    out.result(
        {
            "model": source.name,
            "file": args.output,
            "bytes": size,
            "calibration_images": 0 if images is None else len(images),
            "measured_images": evidence.images,
            "held_out": apart,
            "calibrator": args.calibrator,
            "warnings": warnings,
            "residual_sqnr_db": made.residual_sqnr_db,
            "precision": _precision(made),
            "given": None if given is None else _given(made.kept),
            "agreement": evidence.agreement,
            "routing_flips": evidence.flips / max(evidence.decisions, 1),
            "routing_decisions": evidence.decisions,
            "host": [name for name in ("front", "back") if getattr(graph, name) is not None],
            "layers": [_row(layer) for layer in evidence.layers],
        }
    )
    return 0


def _settings(args: argparse.Namespace) -> Settings:
    named = read_precision(args.precision) if args.precision else {}
    return Settings(
        args.calibrator,
        args.percentile,
        args.migration,
        args.bias_correction,
        args.spread_rounding,
        args.per_head,
        tuple(named.items()),
        args.budget,
    )


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers") from None


def _held_out(
    path: Path | None, source: FloatModel, graph: Graph, arrays: dict[str, NDArray[Any]]
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]], bool]:
    """Arrays to calibrate with, arrays to measure with, and whether they differ."""
    if path is not None:
        loaded = load_arrays(path)
        return arrays, loaded if isinstance(loaded, dict) else {graph.image: loaded}, True
    if not arrays:
        return {}, {}, False
    if source.workload is not None:
        return (
            arrays,
            {name.removeprefix(TEST_PREFIX): a for name, a in source.workload.test_set().items()},
            True,
        )
    named = named_arrays(graph, arrays)
    count = min((len(array) for array in named.values() if array.ndim), default=0)
    if count < _HELD_OUT_SHARE:
        return arrays, arrays, False
    kept = np.arange(count) % _HELD_OUT_SHARE == _HELD_OUT_SHARE - 1
    parts = [{name: array[:count][mask] for name, array in named.items()} for mask in (~kept, kept)]
    return parts[0], parts[1], True


def _row(layer: LayerReport) -> dict[str, object]:
    return {
        "name": layer.name,
        "kind": layer.kind,
        "sqnr_db": layer.sqnr_db,
        "cosine": layer.cosine,
        "saturated": layer.saturated,
        "drop_db": layer.drop_db,
    }


def _precision(made: Quantization) -> dict[str, object]:
    names, passes = in_sixteen(made.model), pass_macs(made.graph)
    return {
        "sixteen": names,
        "second_passes": sum(passes[name] for name in names) / count_macs(made.graph),
        "choices": [dataclasses.asdict(choice) for choice in made.choices],
    }


def _print_precision(out: Output, made: Quantization, budget: float) -> None:
    if budget:
        rows = (
            (", ".join(choice.layers), f"{choice.noise_db:.1f}", f"{choice.share:.1%}", f"{choice.macs:.2%}")
            for choice in made.choices
        )
        heads = ["16 bits", "noise in dB at 8 bits", "share", "multiply-accumulates"]
        out.print(table(heads, rows, right=heads[1:]))
        spent = sum(choice.macs for choice in made.choices)
        out.print(f"{spent:.2%} more multiply-accumulates of {budget:g}% allowed.")


def _given(kept: Kept) -> dict[str, object]:
    return {
        "tensors": kept.tensors,
        "weights": kept.weights,
        "changed": [dataclasses.asdict(note) for note in kept.notes],
    }


def _print_given(out: Output, kept: Kept) -> None:
    if not kept.given.narrow and not kept.given.weights:
        return
    out.print(
        f"Kept from the file: {kept.tensors} scales of tensors, {kept.weights} matrices of integer weights."
    )
    if kept.notes:
        rows = ((note.tensor, note.found, note.made, note.reason) for note in kept.notes)
        out.print(table(["kept in another way", "in the file", "in the machine", "why"], rows))


def _print(out: Output, made: Quantization, evidence: Evidence, apart: bool) -> None:
    _print_given(out, made.kept)
    if not evidence.images:
        return
    out.print(
        table(
            ["layer", "kind", "SQNR dB", "cosine", "saturated"],
            [
                (e.name, e.kind, f"{e.sqnr_db:.1f}", f"{e.cosine:.5f}", f"{e.saturated:.2%}")
                for e in evidence.layers
            ],
            right=["SQNR dB", "cosine", "saturated"],
        )
    )
    where = "images that were not used to calibrate" if apart else "the calibration images"
    out.print(f"Measured on {evidence.images} of {where}.")
    for name, share in evidence.agreement.items():
        out.print(f"{name}: the largest element is the float model's in {share:.2%}.")
    if evidence.decisions:
        share = evidence.flips / evidence.decisions
        out.print(f"Routing flips: {evidence.flips} of {evidence.decisions} decisions ({share:.2%}).")
    if made.residual_sqnr_db is not None:
        out.print(
            f"Residual stream: rounding to int16 leaves {made.residual_sqnr_db:.1f} dB at worst "
            f"({RESIDUAL_SQNR_MIN:.0f} needed)."
        )


def _weak(layers: tuple[LayerReport, ...]) -> list[str]:
    names = [layer.name for layer in layers if layer.sqnr_db < WEAK_SQNR]
    if not names:
        return []
    return [f"under {WEAK_SQNR:.0f} dB: {', '.join(names)}; more or more typical calibration images may help"]
