"""Post-training quantization: a float graph and calibration images to a `QuantizedModel`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from hwattn.quant.attention import probability_bits
from hwattn.quant.calibration import (
    Statistics,
    collect,
    image_scale,
    task_nodes,
)
from hwattn.quant.calibrators import calibrated_scale
from hwattn.quant.migration import migrate, readings
from hwattn.quant.norm import norm_epsilon, norm_parameters
from hwattn.quant.reference import expert_hidden
from hwattn.quant.residual import expert_rows, residual_scales
from hwattn.quant.roles import Role, check_roles, tensor_roles
from hwattn.quant.saturation import saturation_warnings
from hwattn.quant.settings import DEFAULTS, Settings
from hwattn.quant.weights import quantize_matrix, round_weights
from hwattn.spec.graph import (
    Attention,
    Float,
    Graph,
    LayerNorm,
    Linear,
    MixtureOfExperts,
    Node,
    PatchEmbed,
    Rows,
)
from hwattn.spec.host import token_scale
from hwattn.spec.numbers import GATE_LIMIT
from hwattn.spec.quantized import (
    Float64,
    QuantizedAttention,
    QuantizedExpert,
    QuantizedLayerNorm,
    QuantizedLinear,
    QuantizedMatrix,
    QuantizedMixture,
    QuantizedModel,
    QuantizedPatchEmbed,
)

_INT16_MAX = 32767
_HEADROOM = 2.0


@dataclass(frozen=True)
class Quantization:
    """What `quantize` makes.

    Parameters
    ----------
    model : QuantizedModel
    graph : Graph
        The float graph that the model's tensors correspond to: the given one after scale migration.
    residual_sqnr_db : float
        The worst that int16 rounding alone does to a tensor of a residual stream.
    warnings : tuple of str
        Layers that leave the machine's ranges on the calibration images, a sentence each.
    """

    model: QuantizedModel
    graph: Graph
    residual_sqnr_db: float
    warnings: tuple[str, ...]


def quantize(
    graph: Graph, calibration: Float, name: str, source: str = "", settings: Settings = DEFAULTS
) -> Quantization:
    """Quantize the part of a graph that its outputs need.

    Parameters
    ----------
    graph : Graph
    calibration : ndarray of float32, shape (N, channels, height, width)
        Typical images, normalized as for the float model.
    name : str
        Name of the model.
    source : str
        SHA-256 of the float ONNX file, kept in the model.
    settings : Settings

    Raises
    ------
    RefusedError
        If the calibration images do not fit, a tensor is used in a way that integers do not allow, or the residual
        stream has outliers beyond what one int16 scale can hold.
    """
    needed = {node.name for task in range(graph.tasks) for node in task_nodes(graph, task)}
    graph = dataclasses.replace(graph, nodes=tuple(node for node in graph.nodes if node.name in needed))
    roles = tensor_roles(graph)
    check_roles(graph, roles)
    statistics = collect(graph, calibration)
    if settings.migration:
        graph, statistics = migrate(graph, statistics)
    residual, sqnr = residual_scales(graph, statistics, roles)
    work = _Quantizer(graph, statistics, roles, residual, settings)
    nodes = tuple(work.apply(node) for node in graph.nodes)
    model = QuantizedModel(
        name,
        graph.image,
        graph.image_shape,
        graph.task_input,
        graph.tasks,
        nodes,
        graph.outputs,
        work.scales,
        source,
        graph.front,
        graph.back,
        graph.fixed,
    )
    return Quantization(model, graph, sqnr, saturation_warnings(graph, statistics))


def _image_scale(graph: Graph, images: Float) -> float:
    """Scale of the input: of tokens from the host the high digits are multiples of it already."""
    return image_scale(images) if graph.front is None else token_scale(images)


class _Quantizer:
    """Quantizes node after node; `scales` grows with each."""

    def __init__(
        self,
        graph: Graph,
        statistics: Statistics,
        roles: dict[str, Role],
        residual: dict[str, float],
        settings: Settings,
    ) -> None:
        self.settings = settings
        self.graph = graph
        self.statistics = statistics
        self.roles = roles
        self.residual = residual
        self.scales: dict[str, Float64] = {graph.image: _one(_image_scale(graph, statistics.images))}
        self.heads = {
            name: node.heads for node in graph.nodes if isinstance(node, Attention) for name in node.inputs
        }
        self.gated = {node.inputs[0] for node in graph.nodes if isinstance(node, MixtureOfExperts)}

    def apply(self, node: Node) -> Node:
        """Quantize one node whose inputs are done."""
        if isinstance(node, Rows):
            self.scales[node.name] = self.scales[node.inputs[0]]
            return node
        self.scales[node.name] = self._scale(node)
        match node:
            case PatchEmbed():
                return self._patch_embed(node)
            case LayerNorm():
                return self._layer_norm(node)
            case Linear():
                inputs = self.statistics.inputs(node)
                matrix = self._matrix(node.weight, node.bias, self._input_scale(node), inputs)
                return QuantizedLinear(node.name, node.inputs, matrix, node.activation)
            case Attention():
                return self._attention(node)
            case MixtureOfExperts():
                return self._mixture(node)
        return node

    def _scale(self, node: Node) -> Float64:
        role = self.roles[node.name]
        rows = self.statistics.rows(node.name)
        if role is Role.RESIDUAL:
            return _one(self.residual[node.name])
        if role is Role.OUTPUT:
            return _one((self.statistics.peaks[node.name] or 1.0) * _HEADROOM / _INT16_MAX)
        if role is Role.HEADS:
            heads = self.heads[node.name]
            parts = np.split(rows, heads if self.settings.per_head else 1, axis=1)
            scales = [calibrated_scale([(part, None)], self.settings) for part in parts]
            return np.resize(np.array(scales), heads)
        # the gate reads the same range at 16 bits, where clipping costs more than rounding
        smallest = 0.9 if node.name in self.gated else 0.3
        seen = readings(self.graph, self.graph.by_name, self.statistics, node.name)
        groups = [
            (part, np.sum([np.square(weight).sum(axis=0) for weight in weights], axis=0))
            for part, weights in seen
        ]
        return _one(calibrated_scale(groups or [(rows, None)], self.settings, smallest))

    def _matrix(self, weight: Float, bias: Float, input_scale: float, inputs: Float) -> QuantizedMatrix:
        correct, spread = self.settings.bias_correction, self.settings.spread_rounding
        return quantize_matrix(weight, bias, input_scale, inputs, correct=correct, spread=spread)

    def _input_scale(self, node: Node) -> float:
        return float(self.scales[node.inputs[0]][0])

    def _patch_embed(self, node: PatchEmbed) -> QuantizedPatchEmbed:
        flat = node.weight.reshape(len(node.weight), -1)
        integers, scale = round_weights(
            flat, self.statistics.inputs(node), np.zeros(len(flat)), spread=self.settings.spread_rounding
        )
        init = np.rint(node.init.astype(np.float64) / float(self.scales[node.name][0]))
        init = np.clip(init, -_INT16_MAX, _INT16_MAX)
        weight = integers.reshape(node.weight.shape)
        return QuantizedPatchEmbed(node.name, node.inputs, weight, scale, init.astype(np.int16), node.first)

    def _layer_norm(self, node: LayerNorm) -> QuantizedLayerNorm:
        gamma, beta, shift = norm_parameters(node.gamma, node.beta, float(self.scales[node.name][0]))
        epsilon = norm_epsilon(node.epsilon, len(gamma), self._input_scale(node))
        return QuantizedLayerNorm(
            node.name, node.inputs, gamma, beta, shift, epsilon, node.name in self.gated, node.zero_mean
        )

    def _attention(self, node: Attention) -> QuantizedAttention:
        operands = (self.statistics.whole[name] for name in node.inputs)
        bits = probability_bits(node, *operands)
        return QuantizedAttention(node.name, node.inputs, node.heads, node.scale, bits, 0)

    def _mixture(self, node: MixtureOfExperts) -> QuantizedMixture:
        input_scale = self._input_scale(node)
        rows = expert_rows(node, self.statistics)
        hidden = [
            expert_hidden(expert, node.activation, seen)
            for expert, seen in zip(node.experts, rows, strict=True)
        ]
        hidden_scale = calibrated_scale([(np.concatenate(hidden), None)], self.settings)
        experts = tuple(
            QuantizedExpert(
                self._matrix(expert.fc1_weight, expert.fc1_bias, input_scale, seen),
                self._matrix(expert.fc2_weight, expert.fc2_bias, hidden_scale, made),
            )
            for expert, seen, made in zip(node.experts, rows, hidden, strict=True)
        )
        gate_scale = float(np.abs(node.gate_weight).max() or 1.0) / GATE_LIMIT
        gate_weight = np.rint(node.gate_weight.astype(np.float64) / gate_scale)
        gate_bias = np.rint(node.gate_bias.astype(np.float64) / (input_scale / 256 * gate_scale))
        return QuantizedMixture(
            node.name,
            node.inputs,
            experts,
            node.activation,
            hidden_scale,
            np.clip(gate_weight, -GATE_LIMIT, GATE_LIMIT).astype(np.int16),
            gate_scale,
            np.clip(gate_bias, -(2**47) + 1, 2**47 - 1).astype(np.int64),
            node.k,
            node.renormalize,
        )


def _one(scale: float) -> Float64:
    return np.array([scale], np.float64)
