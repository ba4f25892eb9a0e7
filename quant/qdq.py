"""A quantized model as a standard ONNX file of QuantizeLinear and DequantizeLinear (opset 21), for other tools.

Every tensor is rounded where the machine rounds it, to the same scale: int8, int16 for the residual stream and outputs.
Between the roundings an ONNX runtime computes in floating point, so results agree with the integers up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hwattn.quant.simulate import wide_tensors
from hwattn.spec.errors import RefusedError
from hwattn.spec.graph import Add, Node, Rows
from hwattn.spec.quantized import (
    NORMAL_FRACTION,
    QuantizedAttention,
    QuantizedLayerNorm,
    QuantizedLinear,
    QuantizedMatrix,
    QuantizedMixture,
    QuantizedModel,
    QuantizedPatchEmbed,
)

OPSET = 21
"""The first with 16-bit QuantizeLinear."""


def to_qdq(model: QuantizedModel) -> onnx.ModelProto:
    """Return the accelerator's part of a model as QDQ ONNX.

    Inputs and outputs are those of the model; with host parts, the tensors that pass between the host and the accelerator.
    """
    return _Writer(model).write()


class _Writer:
    """Collects nodes and constants; `values` names the dequantized tensor of each node of the model."""

    def __init__(self, model: QuantizedModel) -> None:
        self.model = model
        self.int16 = wide_tensors(model)
        self.sixteen = model.sixteen_bits()
        self.read_wide = {
            model.root(node.inputs[0])
            for node in model.nodes
            if isinstance(node, QuantizedLinear | QuantizedMixture) and node.input_bits == 16
        }
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.values: dict[str, str] = {}
        self.exact: dict[str, str] = {}
        self.stored: dict[str, tuple[str, str, str, dict[str, int]]] = {}
        self.count = 0

    def write(self) -> onnx.ModelProto:
        """The whole file."""
        model = self.model
        self.values[model.image] = self.rounded(model.image, model.scales[model.image], 8)
        for node in model.nodes:
            self.values[node.name] = self.apply(node, [self.values[name] for name in node.inputs])
        inputs = [helper.make_tensor_value_info(model.image, TensorProto.FLOAT, ["N", *model.image_shape])]
        if model.task_input is not None:
            inputs.append(helper.make_tensor_value_info(model.task_input, TensorProto.INT64, []))
        outputs = []
        for output in model.outputs:
            shape = self.integers([-1, *output.shape])
            self.nodes.append(helper.make_node("Reshape", [self.values[output.tensor], shape], [output.name]))
            outputs.append(
                helper.make_tensor_value_info(output.name, TensorProto.FLOAT, ["N", *output.shape])
            )
        graph = helper.make_graph(self.nodes, model.name, inputs, outputs, self.constants)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
        onnx.checker.check_model(proto)
        return proto

    def op(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node and return the name of its result."""
        self.count += 1
        name = f"{kind}_{self.count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, array: NDArray[Any]) -> str:
        """Add a constant and return its name."""
        self.count += 1
        name = f"constant_{self.count}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def number(self, value: float) -> str:
        """A float32 constant."""
        return self.constant(np.array(value, np.float32))

    def integers(self, values: Sequence[int]) -> str:
        """An int64 vector."""
        return self.constant(np.array(values, np.int64))

    def dequantized(self, array: NDArray[Any], scale: NDArray[np.float64], axis: int = 0) -> str:
        """Constant integers in real numbers, at one scale or one for each place of `axis`."""
        single = scale.size == 1
        real = self.constant(np.asarray(scale.reshape(()) if single else scale, np.float32))
        inputs = [self.constant(array), real]
        if array.dtype != np.int32:
            # optional, but onnxruntime's own rewriting for precision asks for it
            inputs.append(self.constant(np.zeros(() if single else scale.shape, array.dtype)))
        return self.op("DequantizeLinear", inputs, **({} if single else {"axis": axis}))

    def rounded(
        self, value: str, scale: NDArray[np.float64], bits: int, features: int = 0, axis: int = 2
    ) -> str:
        """A tensor rounded to integers and back; with several scales, each belongs to a run of features."""
        single = scale.size == 1
        wide = np.float32(scale[0]) if single else np.repeat(scale, features // scale.size).astype(np.float32)
        real, zero = (
            self.constant(np.asarray(wide, np.float32)),
            np.zeros(np.shape(wide), np.int8 if bits == 8 else np.int16),
        )
        attributes = {} if single else {"axis": axis}
        point = self.constant(zero)
        q = self.op("QuantizeLinear", [value, real, point], **attributes)
        made = self.op("DequantizeLinear", [q, real, point], **attributes)
        self.stored[made] = (q, real, point, attributes)
        return made

    def result(self, node: Node, value: str, features: int) -> str:
        """The result of a node, rounded as the model stores it."""
        scale = self.model.scales[node.name]
        if node.name in self.sixteen:
            return self.rounded(value, scale / 256, 16, features)
        return self.rounded(value, scale, 16 if node.name in self.int16 else 8, features)

    def scale(self, name: str) -> float:
        """The one scale of a tensor."""
        return float(self.model.scales[name][0])

    def apply(self, node: Node, inputs: list[str]) -> str:
        """Write one node; return the name of its dequantized result."""
        match node:
            case QuantizedPatchEmbed():
                return self.patch_embed(node, inputs[0])
            case QuantizedLayerNorm():
                return self.layer_norm(node, inputs[0])
            case QuantizedLinear():
                made = self.linear(node.matrix, inputs[0], self.scale(node.inputs[0]), node.activation)
                return self.result(node, made, len(node.matrix.bias))
            case QuantizedAttention():
                return self.attention(node, inputs)
            case QuantizedMixture():
                return self.mixture(node, inputs[0])
            case Add():
                return self.result(node, self.op("Add", inputs), 0)
            case Rows():
                return self.rows(node, inputs[0])
        raise RefusedError(
            f"{node.name}: a node of kind {type(node).__name__}",
            "a node of a quantized transformer encoder",
            "quantize the model again with this version of hwattn",
        )

    def rows(self, node: Rows, x: str) -> str:
        """Some tokens, taken of the integers: onnxruntime 1.32 loses their type where it moves a Slice past them."""
        q, real, point, attributes = self.stored[x]
        ends = (self.integers([one]) for one in (node.start, node.stop, 1))
        part = self.op("Slice", [q, *ends])
        made = self.op("DequantizeLinear", [part, real, point], **attributes)
        self.stored[made] = (part, real, point, attributes)
        return made

    def patch_embed(self, node: QuantizedPatchEmbed, image: str) -> str:
        """Convolution, patches in their place, constant tokens."""
        kernel = list(node.weight.shape[2:])
        weight = self.dequantized(node.weight, node.scale)
        patches = self.op("Conv", [image, weight], strides=kernel, kernel_shape=kernel)
        dim = len(node.weight)
        flat = self.op("Reshape", [patches, self.integers([0, dim, -1])])
        bits = 16 if node.name in self.int16 else 8
        tokens = self.rounded(
            self.op("Transpose", [flat], perm=[0, 2, 1]), self.model.scales[node.name], bits
        )
        _, height, width = self.model.image_shape
        behind = len(node.init) - node.first - (height // kernel[0]) * (width // kernel[1])
        padded = self.op("Pad", [tokens, self.integers([0, node.first, 0, 0, behind, 0])])
        init = self.dequantized(node.init[None], self.model.scales[node.name])
        return self.result(node, self.op("Add", [padded, init]), dim)

    def layer_norm(self, node: QuantizedLayerNorm, x: str) -> str:
        """LayerNormalization with the parameters that the integers stand for."""
        unit, dim = self.scale(node.name) / 2.0**node.shift, len(node.gamma)
        gamma = self.constant((node.gamma * (unit * 2**NORMAL_FRACTION)).astype(np.float32))
        beta = self.dequantized(node.beta, np.array([unit]))
        epsilon = node.epsilon * self.scale(node.inputs[0]) ** 2 / dim**2
        if node.zero_mean:
            made = self.op("Add", [self.op("Mul", [self.over_root_mean_square(x, epsilon), gamma]), beta])
        else:
            made = self.op("LayerNormalization", [x, gamma, beta], axis=-1, epsilon=epsilon)
        if node.wide:
            self.exact[node.name] = self.rounded(made, self.model.scales[node.name] / 256, 16)
            if node.name in self.read_wide:
                return self.exact[node.name]
        return self.result(node, made, dim)

    def over_root_mean_square(self, x: str, epsilon: float) -> str:
        """RMSNorm without its scale, which is no operator before opset 23."""
        square = self.op("ReduceMean", [self.op("Mul", [x, x]), self.integers([-1])], keepdims=1)
        root = self.op("Sqrt", [self.op("Add", [square, self.constant(np.asarray(epsilon, np.float32))])])
        return self.op("Div", [x, root])

    def linear(self, matrix: QuantizedMatrix, x: str, scale: float, activation: str | None) -> str:
        """MatMul, Add and activation, not yet rounded."""
        weight = self.dequantized(matrix.weight.T, matrix.scale, 1)
        bias = self.dequantized(matrix.bias, matrix.scale * scale)
        made = self.op("Add", [self.op("MatMul", [x, weight]), bias])
        return made if activation is None else self.activation(activation, made)

    def activation(self, name: str, x: str) -> str:
        """An activation of ``spec.tables.ACTIVATIONS``."""
        match name:
            case "gelu" | "gelu_tanh":
                return self.op("Gelu", [x], approximate="tanh" if name == "gelu_tanh" else "none")
            case "silu":
                return self.op("Mul", [x, self.op("Sigmoid", [x])])
            case "quick_gelu":
                return self.op("Mul", [x, self.op("Sigmoid", [self.op("Mul", [x, self.number(1.702)])])])
            case "softplus":
                return self.op("Softplus", [x])
            case "hard_swish":
                return self.op("HardSwish", [x])
        return self.op("Relu", [x])

    def attention(self, node: QuantizedAttention, inputs: list[str]) -> str:
        """Softmax(q k^T * scale) v of every head; probabilities are not rounded to eight bits."""
        split = self.integers([0, 0, node.heads, -1])
        q, k, v = (self.op("Reshape", [x, split]) for x in inputs)
        q, v = (self.op("Transpose", [x], perm=[0, 2, 1, 3]) for x in (q, v))
        k = self.op("Transpose", [k], perm=[0, 2, 3, 1])
        scores = self.op("Mul", [self.op("MatMul", [q, k]), self.number(node.scale)])
        p = self.op("Softmax", [scores], axis=-1)
        if node.p_bits == 16:
            p = self.probabilities(p)
        mixed = self.op("MatMul", [p, v])
        joined = self.op("Transpose", [mixed], perm=[0, 2, 1, 3])
        return self.result(node, self.op("Reshape", [joined, self.integers([0, 0, -1])]), 0)

    def probabilities(self, p: str) -> str:
        """Probabilities rounded to 16 bits, as the machine's have in two passes."""
        real, point = self.number(2.0**-16), self.constant(np.zeros((), np.uint16))
        q = self.op("QuantizeLinear", [p, real, point])
        return self.op("DequantizeLinear", [q, real, point])

    def mixture(self, node: QuantizedMixture, x: str) -> str:
        """The dense form: every expert on all tokens, weighted by gates of which all but k are zero."""
        gates = self.op("Split", [self.gates(node)], axis=-1, num_outputs=len(node.experts))
        columns = [gates] + [f"{gates}_{index}" for index in range(1, len(node.experts))]
        self.nodes[-1].output.extend(columns[1:])
        scale, total = self.scale(node.inputs[0]), ""
        for column, expert in zip(columns, node.experts, strict=True):
            hidden = self.linear(expert.fc1, x, scale, node.activation)
            step = node.hidden_scale / (256 if node.hidden_bits == 16 else 1)
            hidden = self.rounded(hidden, np.array([step]), node.hidden_bits)
            made = self.linear(expert.fc2, hidden, node.hidden_scale, None)
            part = self.op("Mul", [self.rounded(made, self.model.scales[node.name], 16), column])
            total = self.op("Add", [total, part]) if total else part
        return self.result(node, total, 0)

    def gates(self, node: QuantizedMixture) -> str:
        """Gate weights (N, tokens, experts), zero but for the k chosen ones."""
        unit = self.scale(node.inputs[0]) / 256 * node.gate_scale
        weight = self.dequantized(node.gate_weight.transpose(0, 2, 1), np.array([node.gate_scale]))
        bias = self.constant((node.gate_bias * unit).astype(np.float32))
        task = self.integers([0]) if self.model.task_input is None else self.model.task_input
        index = self.op("Reshape", [task, self.integers([])])
        weight, bias = (self.op("Gather", [array, index], axis=0) for array in (weight, bias))
        scores = self.op("Add", [self.op("MatMul", [self.exact[node.inputs[0]], weight]), bias])
        if not node.renormalize:
            scores = self.op("Softmax", [scores], axis=-1)
        self.count += 1
        best, chosen = f"best_{self.count}", f"chosen_{self.count}"
        self.nodes.append(
            helper.make_node("TopK", [scores, self.integers([node.k])], [best, chosen], axis=-1)
        )
        if node.renormalize:
            best = self.op("Softmax", [best], axis=-1)
        zeros = self.op("Expand", [self.number(0.0), self.op("Shape", [scores])])
        return self.op("ScatterElements", [zeros, chosen, best], axis=-1)
