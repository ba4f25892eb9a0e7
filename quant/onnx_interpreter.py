"""Runs an ONNX graph on what is known of its tensors, node by node, and collects what cannot be mapped."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hwattn.quant.onnx_bases import Base, ConvBase, ImageBase, PatchBase
from hwattn.quant.onnx_file import MAX_IMAGE, OnnxModel
from hwattn.quant.onnx_handlers import DEFAULT_REMEDY, HANDLERS, Handler
from hwattn.quant.onnx_selections import Places, Selected
from hwattn.quant.onnx_values import Activation, Foreign, Known, Quantized, Refusal, Routed, Unknown, Value
from hwattn.quant.patterns import (
    linear,
    microsoft,
    rounding,
    selection,
    views,
)
from hwattn.quant.patterns.context import Context, attribute, shape_of
from hwattn.quant.patterns.routing import routed
from hwattn.quant.patterns.tokens import Tokens
from hwattn.spec.host import FEATURES_MAX, token_weight

REMEDIES = {
    "BatchNormalization": "fold it into the layer before it, or use LayerNorm",
    "GlobalAveragePool": "classify from a class token instead of pooled patches",
    **dict.fromkeys(
        ["QLinearMatMul", "QLinearConv", "MatMulInteger", "ConvInteger", "DynamicQuantizeLinear"],
        "quantize with QuantizeLinear and DequantizeLinear pairs (onnxruntime: QuantFormat.QDQ)",
    ),
    "If": "export with torch.export (dynamo=True), which leaves no control flow",
    "Loop": "write the mixture in its dense form, without loops",
    "Scan": "write the mixture in its dense form, without loops",
    "MaxPool": "use a plain ViT, without pooling",
    "AveragePool": "use a plain ViT, without pooling",
}
"""What to do about operators that people meet often."""

FOREIGN_REMEDY = "export with operators of the domains ai.onnx and com.microsoft only"
RANDOM = frozenset(["RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial"])
CONTROL = frozenset(["If", "Loop", "Scan"])
ATTENTION = frozenset(["Attention", "MultiHeadAttention"])
PRODUCTS = frozenset(["MatMul", "Einsum", "FusedMatMul"])


@dataclass
class Walk:
    """The result of running the graph.

    Parameters
    ----------
    context : Context
        Holds every base.
    made : list of lists
        For each node the bases of its results that are activations, with what they were settled to; not the
        results themselves, whose indices are large.
    constant : list of bool
        The node depends on no image.
    refused : dict of int to Refusal
        By node.
    unreached : set of int
        Nodes behind refused ones.
    frontier : list of Base
        What refused nodes read, as far as it was mapped.
    outputs : list of Value
        In the order of the model's outputs.
    values : dict of str to Value
        By tensor; without ``keep`` only those that are still needed.
    """

    context: Context
    made: list[list[tuple[Base, list[object]]]] = field(default_factory=list)
    constant: list[bool] = field(default_factory=list)
    refused: dict[int, Refusal] = field(default_factory=dict)
    unreached: set[int] = field(default_factory=set)
    frontier: list[Base] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)


def walk(model: OnnxModel, batch: int, start: str | None = None, *, keep: bool = False) -> Walk:
    """Run the graph of `model` with a batch of `batch` images.

    Parameters
    ----------
    start : str, optional
        The tensor (batch, tokens, features) that the host hands to the accelerator, empty for none yet. Without it the
        accelerator begins with the image.
    keep : bool
        Keep the values of all tensors.
    """
    tasks = len(model.graph.output) if model.task is not None else 1
    context = Context(batch, tasks, model.opset)
    result = Walk(context)
    values = result.values
    values.update(_inputs(model, context) if start is None else _foreign_inputs(model, batch))
    if start in values:
        values[start] = _tokens(context, start, values[start])
    uses = Counter(name for node in model.graph.node for name in node.input)
    uses.update(value.name for value in model.graph.output)
    for number, node in enumerate(model.graph.node):
        context.node = number
        inputs = [values[name] if name else None for name in node.input]
        made = _node(context, node, inputs, result)
        for name, value in zip(node.output, made, strict=False):
            if name:
                values[name] = _tokens(context, name, value) if name == start else value
        result.made.append([(value.base, value.settled) for value in made if isinstance(value, Activation)])
        result.constant.append(all(isinstance(value, Known) for value in made))
        uses.subtract(node.input)
        for name in set(node.input):
            if not uses[name] and not keep:
                values.pop(name, None)
    result.outputs = [values.get(value.name, Unknown()) for value in model.graph.output]
    return result


def _inputs(model: OnnxModel, context: Context) -> dict[str, Value]:
    values: dict[str, Value] = {name: Known((array,)) for name, array in model.initializers.items()}
    channels, height, width = model.image_shape
    image = context.new(
        ImageBase,
        tokens=height * width,
        features=channels,
        height=height,
        width=width,
        gain=np.ones(channels, np.float32),
        offset=np.zeros(channels, np.float32),
    )
    index = linear.image_index(context.batch, image)
    values[model.image] = Activation(image, index.shape, index)
    if model.task is not None:
        indices = [np.full(model.task_shape, task, np.int64) for task in range(context.tasks)]
        values[model.task] = Known(tuple(indices))
    return values


def _foreign_inputs(model: OnnxModel, batch: int) -> dict[str, Value]:
    values: dict[str, Value] = {name: Known((array,)) for name, array in model.initializers.items()}
    for entry in model.inputs:
        if None in entry.shape[1:]:
            raise Refusal(f"the input {entry.name!r} has an axis of no fixed length", DEFAULT_REMEDY)
        lengths = [size or batch for size in entry.shape]
        if np.prod(lengths, dtype=np.float64) > MAX_IMAGE:
            raise Refusal(f"the input {entry.name!r} is larger than {MAX_IMAGE} numbers", DEFAULT_REMEDY)
        values[entry.name] = Foreign(np.zeros(lengths, entry.dtype))
    return values


def _tokens(context: Context, name: str, value: Value) -> Activation:
    """The tensor that the host hands over, as patches of an image of two digits; see ``spec.host``."""
    example = value.example if isinstance(value, Foreign) else np.empty(0)
    if example.ndim != 3 or len(example) != context.batch or not example.size:
        raise Refusal(f"{name} is no tensor (batch, tokens, features) that the host computes", DEFAULT_REMEDY)
    _, tokens, features = example.shape
    if features > FEATURES_MAX:
        raise Refusal(f"{name} has {features:,} features, more than {FEATURES_MAX:,}", DEFAULT_REMEDY)
    shape = {"tokens": tokens, "features": features}
    zeros = np.zeros((tokens, features), np.float32)
    conv = context.new(ConvBase, **shape, weight=token_weight(features), bias=zeros[0])
    base = context.new(PatchBase, **shape, parent=conv, conv=conv, init=zeros, first=0)
    return context.whole(base)


def _node(context: Context, node: onnx.NodeProto, inputs: list[Value | None], result: Walk) -> list[Value]:
    count = len(node.output)
    if any(isinstance(value, Unknown) for value in inputs):
        result.unreached.add(context.node)
        return [Unknown()] * count
    try:
        made = _dispatch(context, node, inputs)
        if len(made) < sum(1 for name in node.output if name):
            raise Refusal(f"{node.op_type} with {count} results", DEFAULT_REMEDY)
        return made
    except Refusal as refusal:
        result.frontier += [_mapped(value) for value in inputs if isinstance(value, Activation)]
        blamed = context.node if refusal.node is None or refusal.node < 0 else refusal.node
        result.refused.setdefault(blamed, refusal)
        if blamed != context.node:
            result.unreached.add(context.node)
        return [Unknown()] * count


def _foreign(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """A node that the host runs before the accelerator."""
    known = [value for value in inputs if value is not None]
    if not all(isinstance(value, Known | Foreign) for value in known):
        raise Refusal(
            "it joins what the accelerator computes with what the host computes before",
            "fix inputs such as attention masks with --fix, or export the model without them",
        )
    foreign = sum(isinstance(value, Foreign) for value in known)
    if node.op_type in ("Softmax", *ATTENTION) or (node.op_type in PRODUCTS and foreign > 1):
        raise Refusal("an attention before the accelerator's part", DEFAULT_REMEDY)
    arrays = [
        None
        if value is None
        else value.example
        if isinstance(value, Foreign)
        else context.constant(value, "")
        for value in inputs
    ]
    return [Foreign(array) for array in context.run(node, arrays)]


def _mapped(value: Activation) -> Base:
    """The base that a tensor was settled to, else its own."""
    for tokens in value.settled:
        if isinstance(tokens, Tokens):
            return tokens.base
    return value.base


def _dispatch(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    op = node.op_type
    handlers = HANDLERS if node.domain in ("", "ai.onnx") or op in rounding.OPERATORS else microsoft.HANDLERS
    if op not in rounding.OPERATORS and node.domain not in ("", "ai.onnx", "com.microsoft"):
        raise Refusal(f"an operator of the domain {node.domain!r}", FOREIGN_REMEDY)
    if op in CONTROL or op in RANDOM:
        raise Refusal(f"{op} has no place in an accelerator program", REMEDIES.get(op, DEFAULT_REMEDY))
    if op in ("Shape", "Size"):
        return _shape(context, node, inputs[0])
    handler: Handler | None = handlers.get(op)
    if any(isinstance(value, Foreign) for value in inputs):
        return _foreign(context, node, inputs)
    if op in rounding.OPERATORS:
        handler = handler if node.domain in rounding.DOMAINS else None
    elif any(isinstance(value, Quantized) for value in inputs):
        handler = rounding.clipped if op == "Clip" else _moved
    elif all(value is None or isinstance(value, Known) for value in inputs):
        handler = _constant
    if handler is None and not any(isinstance(value, Routed) for value in inputs):
        raise Refusal(f"{op} is not mapped", REMEDIES.get(op, DEFAULT_REMEDY))
    try:
        selection.check_counts(inputs)
        if handler is None or any(isinstance(value, Routed) for value in inputs):
            return routed(context, node, inputs, handler)
        return handler(context, node, inputs)
    except (ValueError, IndexError, TypeError, OverflowError) as error:
        raise Refusal(
            f"its inputs or attributes do not fit each other ({error})",
            "check the model with onnx.checker and onnxruntime",
        ) from error


def _constant(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """Evaluate a node that depends on constants and the task only."""
    known = [value for value in inputs if isinstance(value, Known)]
    types = {value.arrays[0].dtype for value in known}
    if node.op_type in ("Add", "Sub", "Mul", "Div") and len(types) > 1:
        raise Refusal(
            f"{node.op_type} of {' and '.join(sorted(map(str, types)))}", "check the model with onnx.checker"
        )
    if node.op_type == "Gather" and len(known) == 2 and len(known[0].arrays) == 1 < len(known[1].arrays):
        size = known[0].array.shape[attribute(node, "axis", 0)]
        if size != context.tasks:
            raise Refusal(
                f"a table for {size} tasks is indexed by the task, but the model has {context.tasks} outputs",
                "give the model one output for each task, in the order of the tasks",
            )
    count = max((len(value.arrays) for value in known), default=1)
    results: list[list[NDArray[Any]]] = []
    for task in range(count):
        arrays = [
            None if not isinstance(value, Known) else value.arrays[task if len(value.arrays) > 1 else 0]
            for value in inputs
        ]
        results.append(context.run(node, arrays))
    steps = _moved_steps(context, node, known, count)
    counted = any(value.counted for value in known)
    made = [
        Known(tuple(arrays), steps[i] if steps else (), counted)
        for i, arrays in enumerate(zip(*results, strict=True))
    ]
    return [selection.uncounted(value) if counted else value for value in made]


def _moved_steps(
    context: Context, node: onnx.NodeProto, known: list[Known], count: int
) -> list[tuple[NDArray[Any], ...]]:
    """What the results of a view of dequantized constants are multiples of; empty for other operators."""
    if node.op_type not in views.VIEWS or not known[0].steps or len(known) != len(node.input):
        return []
    sources = [known[0].steps, *(value.arrays for value in known[1:])]
    made = [
        context.run(node, [source[task if len(source) > 1 else 0] for source in sources])
        for task in range(count)
    ]
    return list(zip(*made, strict=True))


def _moved(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """A view of integers that are dequantized behind it."""
    rounding.check_movable(node, inputs)
    x = inputs[0]
    assert isinstance(x, Quantized)
    return [Quantized(made, x.grid) for made in HANDLERS[node.op_type](context, node, [x.of, *inputs[1:]])]


def _shape(context: Context, node: onnx.NodeProto, x: Value | None) -> list[Value]:
    shape = shape_of(x)
    if shape is None:
        raise Refusal(
            f"{node.op_type} of an intermediate step of LayerNorm or routing", "take the shape of the tokens"
        )
    counted = isinstance(x, Places | Selected)
    if node.op_type == "Size":
        return [Known((np.array(int(np.prod(shape)), np.int64),), counted=counted)]
    axes = np.array(shape, np.int64)[attribute(node, "start", 0) : attribute(node, "end")]
    return [Known((axes,), counted=counted)]
