"""Reading an ONNX file that may come from anywhere: what is no usable ONNX model is refused in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray

from hwattn.quant.onnx_fused import take_apart
from hwattn.quant.patterns.sizes import MAX_ELEMENTS
from hwattn.spec.errors import RefusedError

MAX_IMAGE = MAX_ELEMENTS // 4
"""Largest number of channels * height * width, and of a fixed batch of them."""

MICROSOFT = "com.microsoft"
ONNXRUNTIME_UNTIL = {"LayerNormalization": 17, "SimplifiedLayerNormalization": 1000}
"""Operators that onnxruntime writes in the standard domain though ONNX has them there only from this opset on, or never."""

_EXPECTED = "an ONNX model of a Vision Transformer"
_REMEDY = "export it again with torch.onnx.export"


@dataclass(frozen=True)
class Changes:
    """What the user fixes: lengths of named axes, and constant values of inputs."""

    axes: Mapping[str, int] = field(default_factory=dict)
    fixed: Mapping[str, float] = field(default_factory=dict)


NO_CHANGES = Changes()


@dataclass(frozen=True)
class ModelInput:
    """An input of the model: its name, NumPy type, and shape with None for the batch axis."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class OnnxModel:
    """A checked ONNX model.

    Parameters
    ----------
    proto : ModelProto
        The whole model, local functions inlined.
    graph : GraphProto
        Nodes in topological order.
    opset : int
        Version of the standard operator set.
    initializers : dict of str to ndarray
        The constants.
    inputs : tuple of ModelInput
        All of them.
    problem : RefusedError or None
        Why the inputs are not an image and a task; then only a part of the model can be mapped.
    image : str
        Name of the image input; empty where there is none.
    image_shape : tuple of int
        (channels, height, width).
    batch : int or None
        Length of the batch axis, None where it is dynamic.
    task : str or None
        Name of the task input.
    task_shape : tuple of int
        () or (1,).
    fixed : mapping of str to float
        Inputs that the user made constant.
    """

    proto: onnx.ModelProto
    graph: onnx.GraphProto
    opset: int
    initializers: dict[str, NDArray[Any]]
    inputs: tuple[ModelInput, ...]
    problem: RefusedError | None
    image: str
    image_shape: tuple[int, int, int]
    batch: int | None
    task: str | None
    task_shape: tuple[int, ...]
    fixed: Mapping[str, float]


def read_onnx(path: Path, changes: Changes = NO_CHANGES) -> OnnxModel:
    """Read and check an ONNX file and the external data it names.

    Raises
    ------
    RefusedError
        No file, no ONNX, cut short, invalid, or external data missing.
    """
    model = _load(path)
    if model.functions:
        try:
            model = onnx.inliner.inline_local_functions(model)
        except RuntimeError as error:
            raise RefusedError(
                f"the functions of {path} cannot be inlined ({_first_line(error)})", _EXPECTED, _REMEDY
            ) from error
    specialize(path, model, changes)
    graph = model.graph
    take_apart(graph)
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    initializers = _initializers(path, graph)
    inputs = [value for value in graph.input if value.name not in initializers]
    described = tuple(_describe(value) for value in inputs)
    batches = {entry.shape[0] for entry in described if entry.shape}
    found: tuple[str, tuple[int, int, int], int | None, str | None, tuple[int, ...]]
    found = "", (0, 0, 0), next(iter(batches)) if len(batches) == 1 else None, None, ()
    problem = None
    try:
        image, image_shape, batch = _image_input(path, inputs)
        task, task_shape = _task_input(path, [value for value in inputs if value.name != image])
        if len(graph.output) < (1 if task is None else 2):
            raise RefusedError(
                f"{path} has {len(graph.output)} outputs{'' if task is None else f' and a task input {task!r}'}",
                "logits as outputs; with a task input, one output for each of several tasks",
                "return the logits of every task, in the order of the tasks",
            )
        found = image, image_shape, batch, task, task_shape
    except RefusedError as error:
        problem = error
    return OnnxModel(model, graph, opset, initializers, described, problem, *found, fixed=changes.fixed)


def is_quantized(path: Path) -> bool:
    """The file is ONNX and holds scales of its own (QuantizeLinear or DequantizeLinear)."""
    try:
        nodes = onnx.load(path, load_external_data=False).graph.node
    except (OSError, DecodeError, UnicodeDecodeError, ValueError):
        return False
    return any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in nodes)


def specialize(path: Path, model: onnx.ModelProto, changes: Changes) -> None:
    """Give axes their lengths and inputs their constant values.

    Raises
    ------
    RefusedError
        There is no such axis or input.
    """
    axes = {size.dim_param for value in model.graph.input for size in value.type.tensor_type.shape.dim} - {""}
    missing = sorted(set(changes.axes) - axes)
    if missing:
        raise RefusedError(
            f"no axis {', '.join(missing)} in the inputs of {path}",
            f"one of {', '.join(sorted(axes)) or 'none: all axes are fixed'}",
            "correct --axis",
        )
    for value in [*model.graph.input, *model.graph.output]:
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param in changes.axes:
                size.dim_value = changes.axes[size.dim_param]
    for name, constant in changes.fixed.items():
        value = next((one for one in model.graph.input if one.name == name), None)
        if value is None:
            raise RefusedError(
                f"no input {name} in {path}",
                f"one of {', '.join(one.name for one in model.graph.input)}",
                "correct --fix",
            )
        described = _describe(value)
        if None in described.shape[1:]:
            raise RefusedError(
                f"the input {name} of {path} has an axis of no fixed length",
                "a length for every axis but the first",
                "add --axis NAME=LENGTH",
            )
        array = np.full([size or 1 for size in described.shape], constant, described.dtype)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        model.graph.input.remove(value)


def _describe(value: onnx.ValueInfoProto) -> ModelInput:
    tensor = value.type.tensor_type
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except (KeyError, TypeError):
        dtype = np.dtype(np.float32)
    return ModelInput(value.name, dtype, tuple(int(size.dim_value) or None for size in tensor.shape.dim))


def _load(path: Path) -> onnx.ModelProto:
    try:
        if path.is_dir():
            raise RefusedError(f"{path} is a folder", _EXPECTED, "name the .onnx file in it")
        if path.stat().st_size == 0:
            raise RefusedError(f"{path} is empty", _EXPECTED, _REMEDY)
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise RefusedError(
            f"{path} cannot be read ({error.strerror or error})", _EXPECTED, "correct the path"
        ) from error
    except (DecodeError, UnicodeDecodeError, ValueError) as error:
        raise RefusedError(f"{path} is not an ONNX file, or is cut short", _EXPECTED, _REMEDY) from error
    if not model.ir_version or not model.graph.node:
        raise RefusedError(f"{path} is not an ONNX file, or holds no nodes", _EXPECTED, _REMEDY)
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise RefusedError(
            f"{path} names external data that cannot be read ({_first_line(error)})",
            "the external data beside the .onnx file",
            "copy all files of the export together, or export with external_data=False",
        ) from error
    try:
        _check(path, model)
    except (onnx.checker.ValidationError, RuntimeError, ValueError, UnicodeDecodeError) as error:
        raise RefusedError(f"{path} is not valid ONNX: {_first_line(error)}", _EXPECTED, _REMEDY) from error
    return model


def _check(path: Path, model: onnx.ModelProto) -> None:
    """Run onnx's checker; operators that onnxruntime alone has in the standard domain are taken as its own."""
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    foreign = [
        node
        for node in model.graph.node
        if node.domain in ("", "ai.onnx") and opset < ONNXRUNTIME_UNTIL.get(node.op_type, 0)
    ]
    if not foreign:
        # by path, because only that works beyond 2 GB
        onnx.checker.check_model(str(path))
        return
    domains = [node.domain for node in foreign]
    missing = all(entry.domain != MICROSOFT for entry in model.opset_import)
    if missing:
        model.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))
    for node in foreign:
        node.domain = MICROSOFT
    try:
        onnx.checker.check_model(model)
    finally:
        for node, domain in zip(foreign, domains, strict=True):
            node.domain = domain
        if missing:
            model.opset_import.pop()


def _initializers(path: Path, graph: onnx.GraphProto) -> dict[str, NDArray[Any]]:
    if graph.sparse_initializer:
        raise RefusedError(
            f"{path} holds sparse weights", "dense weights", "export the model with dense weights"
        )
    arrays = {}
    for tensor in graph.initializer:
        try:
            arrays[tensor.name] = onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError) as error:
            raise RefusedError(
                f"the constant {tensor.name!r} of {path} is damaged ({_first_line(error)})",
                _EXPECTED,
                _REMEDY,
            ) from error
        if arrays[tensor.name].dtype.kind == "f" and np.isnan(arrays[tensor.name]).any():
            raise RefusedError(
                f"the constant {tensor.name!r} of {path} holds NaN", "finite weights", "train again"
            )
    return arrays


def _image_input(
    path: Path, inputs: list[onnx.ValueInfoProto]
) -> tuple[str, tuple[int, int, int], int | None]:
    images = [value for value in inputs if len(value.type.tensor_type.shape.dim) == 4]
    axes = sorted(
        {size.dim_param for value in inputs for size in value.type.tensor_type.shape.dim[1:]} - {""}
    )
    if not images and axes:
        raise RefusedError(
            f"the inputs {_names(inputs)} of {path} have axes of no fixed length: {', '.join(axes)}",
            "a length for every axis but the first",
            f"add --axis {axes[0]}=LENGTH, and --fix NAME=1 for an attention mask without padding",
        )
    if len(images) != 1:
        raise RefusedError(
            f"{path} has {len(images)} inputs with four axes among {_names(inputs)}",
            "one image input (N, channels, height, width)",
            "export the model with the image as its input, and the index of the task for a multi-task model",
        )
    tensor = images[0].type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        raise RefusedError(
            f"the input {images[0].name!r} of {path} is of type {onnx.TensorProto.DataType.Name(tensor.elem_type)}",
            "a float32 image",
            "export the model in float32, without quantization",
        )
    batch, *sizes = tensor.shape.dim
    if not all(size.dim_value > 0 for size in sizes):
        shape = [size.dim_param or size.dim_value or "?" for size in tensor.shape.dim]
        raise RefusedError(
            f"the input {images[0].name!r} of {path} has the shape {shape}",
            "fixed channels, height and width",
            "let only the batch axis be dynamic when exporting",
        )
    channels, height, width = (int(size.dim_value) for size in sizes)
    numbers = channels * height * width * max(1, int(batch.dim_value))
    if numbers > MAX_IMAGE:
        raise RefusedError(
            f"the input {images[0].name!r} of {path} has {numbers:,} numbers",
            f"at most {MAX_IMAGE:,}",
            "export the model for smaller images, with a dynamic batch axis",
        )
    return images[0].name, (channels, height, width), int(batch.dim_value) or None


def _task_input(path: Path, inputs: list[onnx.ValueInfoProto]) -> tuple[str | None, tuple[int, ...]]:
    if not inputs:
        return None, ()
    tensor = inputs[0].type.tensor_type
    shape = tuple(int(size.dim_value) for size in tensor.shape.dim)
    if len(inputs) > 1 or tensor.elem_type != onnx.TensorProto.INT64 or shape not in ((), (1,)):
        raise RefusedError(
            f"{path} has the inputs {_names(inputs)} beside the image",
            "at most one: the index of the task, an int64 scalar",
            "export the model with the inputs image and task",
        )
    return inputs[0].name, shape


def _names(inputs: list[onnx.ValueInfoProto]) -> str:
    return ", ".join(repr(value.name) for value in inputs) or "none"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
