"""Export of the torch model to ONNX, by either of torch's exporters, with everything private stripped."""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from pathlib import Path
from typing import Any, Literal

import onnx
import torch
from google.protobuf.message import Message  # type: ignore[import-untyped]

from hwattn.models.digits.vit import MultiTaskViT

Exporter = Literal["dynamo", "torchscript"]
DEFAULT_OPSET = {"dynamo": 20, "torchscript": 14}
INPUT_NAMES = ["image", "task"]
OUTPUT_NAMES = ["digit", "stroke"]


def export_onnx(
    model: MultiTaskViT,
    path: Path,
    exporter: Exporter = "dynamo",
    opset: int | None = None,
) -> onnx.ModelProto:
    """Write `model` as ONNX: inputs ``image`` (N, 1, 8, 8) and ``task``, outputs ``digit`` and ``stroke``.

    Parameters
    ----------
    model : MultiTaskViT
        The trained model; it is left in evaluation mode.
    path : Path
        The file to write.
    exporter : {"dynamo", "torchscript"}
        The exporter built on ``torch.export``, or the older one that traces.
    opset : int, optional
        ONNX operator set; 20 for dynamo (LayerNormalization and Gelu are operators there) and 14 for torchscript
        (both are decomposed).

    Returns
    -------
    onnx.ModelProto
        What was written; it passed the ONNX checker with shape inference.
    """
    model.eval()
    size = model.config.image_size
    arguments = (torch.zeros(2, 1, size, size), torch.tensor(0, dtype=torch.int64))
    options: dict[str, Any] = {
        "dynamo": exporter == "dynamo",
        "opset_version": opset or DEFAULT_OPSET[exporter],
    }
    if exporter == "dynamo":
        options |= {
            "dynamic_shapes": {"image": {0: torch.export.Dim("N")}, "task": {}},
            "external_data": False,
        }
    else:
        options |= {"dynamic_axes": {"image": {0: "N"}, "digit": {0: "N"}, "stroke": {0: "N"}}}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = Path(folder) / "model.onnx"
        with contextlib.redirect_stdout(io.StringIO()):
            torch.onnx.export(
                model,
                arguments,
                str(written),
                input_names=INPUT_NAMES,
                output_names=OUTPUT_NAMES,
                **options,
            )
        proto = onnx.load(written)
    strip_private(proto)
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return proto


def strip_private(message: Message) -> None:
    """Clear ``doc_string`` and ``metadata_props`` of an ONNX message and of all that it holds.

    The exporters write the source file and stack of every node there, absolute paths included.
    """
    for field, value in message.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in value if field.is_repeated else (value,):
                strip_private(part)
