"""Post-training quantization: a float graph and calibration images to a `QuantizedModel`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from hwattn.quant.attention import KEYS_MAX, probability_bits
from hwattn.quant.calibration import (
    Statistics,
    collect,
    task_nodes,
)
from hwattn.quant.calibrators import calibrated_scale
from hwattn.quant.counting import token_counts
from hwattn.quant.given import Given, GivenExpert
from hwattn.quant.kept import Kept
from hwattn.quant.migration import migrate
from hwattn.quant.norm import norm_epsilon, norm_parameters
from hwattn.quant.precision import Choice, layers
from hwattn.quant.reference import expert_hidden
from hwattn.quant.residual import expert_rows, residual_scales
from hwattn.quant.roles import check_roles, tensor_roles
from hwattn.quant.saturation import saturation_warnings
from hwattn.quant.settings import DEFAULTS, Settings
from hwattn.quant.tensor_scales import INT16_MAX, TensorScales
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
)
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


@dataclass(frozen=True)
class Quantization:
    """What `quantize` makes.

    Parameters
    ----------
    model : QuantizedModel
    graph : Graph
        The float graph that the model's tensors correspond to: the given one after scale migration.
    residual_sqnr_db : float or None
        The worst that int16 rounding alone does to a tensor of a residual stream; None where a quantized file gives the scales.
    warnings : tuple of str
        Layers that leave the machine's ranges on the calibration images, a sentence each.
    kept : Kept
        What of a quantized file was taken over, and what was not.
    choices : tuple of Choice
        What the budget for 16 bits was spent on.
    """

    model: QuantizedModel
    graph: Graph
    residual_sqnr_db: float | None
    warnings: tuple[str, ...]
    kept: Kept
    choices: tuple[Choice, ...] = ()


def quantize(
    graph: Graph,
    calibration: Float | None,
    name: str,
    source: str = "",
    settings: Settings = DEFAULTS,
    given: Given | None = None,
) -> Quantization:
    """Quantize the part of a graph that its outputs need.

    Parameters
    ----------
    graph : Graph
    calibration : ndarray of float32, shape (N, channels, height, width), or None
        Typical images, normalized as for the float model. None only where `given` holds all scales.
    name : str
        Name of the model.
    source : str
        SHA-256 of the float ONNX file, kept in the model.
    settings : Settings
        Of what `given` does not fix.
    given : Given, optional
        The scales of a quantized file, which are kept; scale migration, which would change them, is left out.

    Raises
    ------
    RefusedError
        If the calibration images do not fit or are missing, a tensor is used in a way that integers do not allow, or the residual
        stream has outliers beyond what one int16 scale can hold.
    """
    needed = {node.name for task in range(graph.tasks) for node in task_nodes(graph, task)}
    graph = dataclasses.replace(graph, nodes=tuple(node for node in graph.nodes if node.name in needed))
    roles = tensor_roles(graph)
    check_roles(graph, roles)
    statistics = None if calibration is None else collect(graph, calibration)
    if settings.migration and given is None and statistics is not None:
        graph, statistics = migrate(graph, statistics)
    kept = Kept(graph, given)
    residual, sqnr, missing = residual_scales(graph, statistics, roles, kept)
    scales = TensorScales(graph, statistics, roles, residual, settings, kept)
    scales.choose(missing)
    work = _Quantizer(graph, statistics, settings, kept, scales)
    nodes = tuple(work.apply(node) for node in graph.nodes)
    model = QuantizedModel(
        name,
        graph.image,
        graph.image_shape,
        graph.task_input,
        graph.tasks,
        nodes,
        graph.outputs,
        scales.scales,
        source,
        graph.front,
        graph.back,
        graph.fixed,
    )
    warnings = () if statistics is None else saturation_warnings(graph, statistics)
    return Quantization(model, graph, sqnr, warnings, kept, scales.choices)


@dataclass(frozen=True)
class Layer:
    """A matrix (out, in) and its bias, and what it reads: `bits` bits at `input_scale`; `name` is for messages."""

    name: str
    weight: Float
    bias: Float
    input_scale: float
    bits: int


class _Quantizer:
    """Quantizes node after node, with the scales of all tensors chosen."""

    def __init__(
        self,
        graph: Graph,
        statistics: Statistics | None,
        settings: Settings,
        kept: Kept,
        chosen: TensorScales,
    ) -> None:
        self.settings, self.graph, self.statistics = settings, graph, statistics
        self.kept, self.chosen = kept, chosen
        self.scales = chosen.scales
        readers = layers(graph)
        self.wide = chosen.gated | {readers[name] for name in chosen.sixteen}

    def _rows(self, node: Node) -> Float | None:
        """Samples of what a node multiplies by its weights."""
        return None if self.statistics is None else self.statistics.inputs(node)

    def apply(self, node: Node) -> Node:
        """Quantize one node."""
        match node:
            case PatchEmbed():
                return self._patch_embed(node)
            case LayerNorm():
                return self._layer_norm(node)
            case Linear():
                step = self.kept.given.weights.get(node.name)
                bits = self._bits(node.name)
                layer = Layer(node.name, node.weight, node.bias, self._input_scale(node), bits)
                matrix = self._matrix(layer, self._rows(node), step)
                return QuantizedLinear(node.name, node.inputs, matrix, node.activation, bits)
            case Attention():
                return self._attention(node)
            case MixtureOfExperts():
                return self._mixture(node)
        return node

    def _matrix(self, layer: Layer, inputs: Float | None, step: Float64 | None) -> QuantizedMatrix:
        """The file's integers, else rounded for samples of the input, or to the nearest where there are none."""
        kept = self.kept.matrix(layer.name, layer.weight, layer.bias, layer.input_scale, step)
        if kept is not None:
            return kept
        correct, spread = self.settings.bias_correction, self.settings.spread_rounding
        if inputs is None:
            inputs, correct, spread = np.zeros((1, layer.weight.shape[1]), np.float32), False, False
        return quantize_matrix(
            layer.weight,
            layer.bias,
            layer.input_scale,
            inputs,
            bits=layer.bits,
            correct=correct,
            spread=spread,
        )

    def _bits(self, layer: str) -> int:
        return 16 if layer in self.chosen.sixteen else 8

    def _input_scale(self, node: Node) -> float:
        return float(self.scales[node.inputs[0]][0])

    def _patch_embed(self, node: PatchEmbed) -> QuantizedPatchEmbed:
        flat = node.weight.reshape(len(node.weight), -1)
        found = self.kept.integers(node.name, flat, self.kept.given.weights.get(node.name))
        if found is None:
            inputs = self._rows(node)
            spread = self.settings.spread_rounding and inputs is not None
            inputs = np.zeros((1, flat.shape[1]), np.float32) if inputs is None else inputs
            found = round_weights(flat, inputs, np.zeros(len(flat)), spread=spread)
        integers, scale = found
        init = np.rint(node.init.astype(np.float64) / float(self.scales[node.name][0]))
        init = np.clip(init, -INT16_MAX, INT16_MAX)
        weight = integers.reshape(node.weight.shape)
        return QuantizedPatchEmbed(node.name, node.inputs, weight, scale, init.astype(np.int16), node.first)

    def _layer_norm(self, node: LayerNorm) -> QuantizedLayerNorm:
        gamma, beta, shift = norm_parameters(node.gamma, node.beta, float(self.scales[node.name][0]))
        epsilon = norm_epsilon(node.epsilon, len(gamma), self._input_scale(node))
        return QuantizedLayerNorm(
            node.name, node.inputs, gamma, beta, shift, epsilon, node.name in self.wide, node.zero_mean
        )

    def _attention(self, node: Attention) -> QuantizedAttention:
        if node.name in self.chosen.probabilities:
            bits = self.chosen.probabilities[node.name]
        elif self.statistics is None:
            bits = 16 if token_counts(self.graph)[node.inputs[1]] > KEYS_MAX else 8
        else:
            bits = probability_bits(node, *(self.statistics.whole[name] for name in node.inputs))
        return QuantizedAttention(node.name, node.inputs, node.heads, node.scale, bits, 0)

    def _mixture(self, node: MixtureOfExperts) -> QuantizedMixture:
        input_scale = self._input_scale(node)
        experts, hidden_scale = self._experts(node, input_scale)
        gate_scale = self.kept.given.gates.get(node.name, 0.0)
        peak = float(np.abs(node.gate_weight).max() or 1.0)
        if not peak / GATE_LIMIT <= gate_scale:
            gate_scale = peak / GATE_LIMIT
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
            self._bits(f"{node.name}.fc1"),
            self._bits(f"{node.name}.fc2"),
        )

    def _experts(
        self, node: MixtureOfExperts, input_scale: float
    ) -> tuple[tuple[QuantizedExpert, ...], float]:
        """The experts, and the one scale of their hidden activations."""
        count = len(node.experts)
        rows: list[Float | None] = [None] * count
        hidden: list[Float | None] = [None] * count
        if self.statistics is not None:
            rows = list(expert_rows(node, self.statistics))
            hidden = [
                expert_hidden(expert, node.activation, seen)
                for expert, seen in zip(node.experts, rows, strict=True)
                if seen is not None
            ]
        scale = self.chosen.hidden.get(node.name)
        if scale is None:
            made = np.concatenate([one for one in hidden if one is not None])
            scale = calibrated_scale([(made, None)], self.settings)
        given = self.kept.given.experts.get(node.name, (GivenExpert(),) * count)
        bits = self._bits(f"{node.name}.fc1"), self._bits(f"{node.name}.fc2")
        experts = []
        for index, expert in enumerate(node.experts):
            name = f"{node.name}.{index}"
            fc1 = Layer(f"{name}.fc1", expert.fc1_weight, expert.fc1_bias, input_scale, bits[0])
            fc2 = Layer(f"{name}.fc2", expert.fc2_weight, expert.fc2_bias, scale, bits[1])
            experts.append(
                QuantizedExpert(
                    self._matrix(fc1, rows[index], given[index].fc1),
                    self._matrix(fc2, hidden[index], given[index].fc2),
                )
            )
        return tuple(experts), scale
