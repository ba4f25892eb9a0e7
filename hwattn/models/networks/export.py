"""Export of the torch model to ONNX, by either of torch's exporters, with everything private stripped."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import onnx
import torch
from google.protobuf.message import Message  # type: ignore[import-untyped]

from hwattn.models.networks.vit import Encoder

Exporter = Literal["dynamo", "torchscript"]
DEFAULT_OPSET = {"dynamo": 20, "torchscript": 14}


def export_onnx(
    model: Encoder,
    path: Path,
    exporter: Exporter = "dynamo",
    opset: int | None = None,
) -> onnx.ModelProto:
    """Write `model` as ONNX: inputs ``image`` (N, channels, height, width) and, with several tasks, ``task``.

    Parameters
    ----------
    model : Encoder
        The model; it is left in evaluation mode. Its `input_names` and `output_names` become the ONNX ones.
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
    inputs, outputs = model.input_names, model.output_names
    arguments = (torch.zeros(2, *model.config.image_shape), torch.tensor(0, dtype=torch.int64))[: len(inputs)]
    options: dict[str, Any] = {
        "dynamo": exporter == "dynamo",
        "opset_version": opset or DEFAULT_OPSET[exporter],
    }
    if exporter == "dynamo":
        options |= {
            "dynamic_shapes": {
                name: {0: torch.export.Dim("N")} if name == "image" else {} for name in inputs
            },
            "external_data": False,
        }
    else:
        options |= {"dynamic_axes": {name: {0: "N"} for name in ("image", *outputs)}}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = Path(folder) / "model.onnx"
        with contextlib.redirect_stdout(io.StringIO()), _quiet_logging():
            torch.onnx.export(
                model,
                arguments,
                str(written),
                input_names=list(inputs),
                output_names=list(outputs),
                **options,
            )
        proto = onnx.load(written)
    strip_private(proto)
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return proto


@contextlib.contextmanager
def _quiet_logging() -> Iterator[None]:
    """Keep the exporter from listing the optional packages that are not there."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


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
