"""``hwattn export``: a quantized model as standard QDQ ONNX."""

from __future__ import annotations

import argparse
from pathlib import Path

from hwattn.cli.arguments import add_model
from hwattn.cli.models import resolve_model
from hwattn.cli.output import Output
from hwattn.quant.qdq import OPSET, to_qdq
from hwattn.spec.errors import RefusedError
from hwattn.spec.files import write_complete

HELP = (
    "Write a quantized model as standard ONNX with QuantizeLinear and DequantizeLinear, to run or look at elsewhere. Its "
    "results agree with the integer model up to rounding."
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_model(parser)
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="M.qdq.onnx", help="the file to write"
    )
    parser.add_argument("--calibration", type=Path, metavar="X.npz", help="to quantize an .onnx with")


def run(args: argparse.Namespace, out: Output) -> int:
    """Write the file."""
    if args.output.suffix != ".onnx":
        raise RefusedError(
            f"the output {args.output}", "a file name that ends in .onnx", f"write -o {args.output}.onnx"
        )
    model = resolve_model(args.model, args.calibration).model
    proto = to_qdq(model)
    contents = proto.SerializeToString()
    write_complete(args.output, contents)
    kinds = [node.op_type for node in proto.graph.node]
    pairs = kinds.count("QuantizeLinear")
    out.print(
        f"Wrote {args.output} ({len(contents) / 1024:.0f} KiB): {len(kinds)} nodes, opset {OPSET}, {pairs} QDQ pairs."
    )
    if model.front is not None or model.back is not None:
        out.warn("the file holds the accelerator's part; the parts on the host stay in the .hwq")
    out.result(
        {
            "model": model.name,
            "file": args.output,
            "bytes": len(contents),
            "nodes": len(kinds),
            "pairs": pairs,
            "opset": OPSET,
            "inputs": [value.name for value in proto.graph.input],
            "outputs": [value.name for value in proto.graph.output],
        }
    )
    return 0
