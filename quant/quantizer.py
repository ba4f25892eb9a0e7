"""Post-training quantization: a float graph and calibration images to a `QuantizedModel`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from hwattn.quant.attention import KEYS_MAX, probability_bits
from hwattn.quant.calibration import (
    Statistics,
    collect,
    image_scale,
    task_nodes,
)
from hwattn.quant.calibrators import calibrated_scale
from hwattn.quant.counting import token_counts
from hwattn.quant.given import Given, GivenExpert
from hwattn.quant.kept import Kept
from hwattn.quant.migration import migrate, readings
from hwattn.quant.norm import norm_epsilon, norm_parameters
from hwattn.quant.reference import expert_hidden
from hwattn.quant.residual import expert_rows, residual_scales
from hwattn.quant.roles import Role, check_roles, tensor_roles
from hwattn.quant.saturation import saturation_warnings
from hwattn.quant.settings import DEFAULTS, Settings
from hwattn.quant.weights import quantize_matrix, round_weights
from hwattn.spec.errors import RefusedError
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
    residual_sqnr_db : float or None
        The worst that int16 rounding alone does to a tensor of a residual stream; None where a quantized file gives the scales.
    warnings : tuple of str
        Layers that leave the machine's ranges on the calibration images, a sentence each.
    kept : Kept
        What of a quantized file was taken over, and what was not.
    """

    model: QuantizedModel
    graph: Graph
    residual_sqnr_db: float | None
    warnings: tuple[str, ...]
    kept: Kept


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
    work = _Quantizer(graph, statistics, roles, residual, settings, kept)
    work.scale_tensors(missing)
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
    warnings = () if statistics is None else saturation_warnings(graph, statistics)
    return Quantization(model, graph, sqnr, warnings, kept)


@dataclass(frozen=True)
class Layer:
    """A matrix (out, in) and its bias, with the scale of what it multiplies; `name` is for messages."""

    name: str
    weight: Float
    bias: Float
    input_scale: float


class _Quantizer:
    """Chooses the scales of all tensors, then quantizes node after node."""

    def __init__(
        self,
        graph: Graph,
        statistics: Statistics | None,
        roles: dict[str, Role],
        residual: dict[str, float],
        settings: Settings,
        kept: Kept,
    ) -> None:
        self.settings = settings
        self.graph = graph
        self.statistics = statistics
        self.roles = roles
        self.residual = residual
        self.kept = kept
        self.scales: dict[str, Float64] = {}
        self.hidden: dict[str, float] = {}
        self.heads = {
            name: node.heads for node in graph.nodes if isinstance(node, Attention) for name in node.inputs
        }
        self.gated = {node.inputs[0] for node in graph.nodes if isinstance(node, MixtureOfExperts)}

    def scale_tensors(self, missing: list[str]) -> None:
        """Choose the scale of every tensor; `missing` are those that lack one already.

        Raises
        ------
        RefusedError
            A tensor has no scale in the file, and there is nothing to calibrate with.
        """
        graph = self.graph
        scale = self.kept.tensor(graph.image, Role.INT8, 1)
        if scale is None and self.statistics is not None:
            scale = _one(self._image_scale(self.statistics.images))
        chosen = {graph.image: scale}
        for node in graph.nodes:
            chosen[node.name] = chosen[node.inputs[0]] if isinstance(node, Rows) else self._scale(node)
            if isinstance(node, MixtureOfExperts) and (hidden := self.kept.hidden(node)) is not None:
                self.hidden[node.name] = hidden
            elif isinstance(node, MixtureOfExperts) and self.statistics is None:
                missing.append(f"{node.name}.hidden")
        missing += [name for name, found in chosen.items() if found is None]
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise RefusedError(
                f"no scale for {', '.join(missing[:5])}{more}, and no images to calibrate with",
                "a scale for every tensor in the file, or images",
                "add --calibration X.npz",
            )
        self.scales = {name: found for name, found in chosen.items() if found is not None}

    def _image_scale(self, images: Float) -> float:
        """Scale of the input: of tokens from the host the high digits are multiples of it already."""
        return image_scale(images) if self.graph.front is None else token_scale(images)

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
                layer = Layer(node.name, node.weight, node.bias, self._input_scale(node))
                matrix = self._matrix(layer, self._rows(node), step)
                return QuantizedLinear(node.name, node.inputs, matrix, node.activation)
            case Attention():
                return self._attention(node)
            case MixtureOfExperts():
                return self._mixture(node)
        return node

    def _scale(self, node: Node) -> Float64 | None:
        """The file's scale of a tensor, else one from calibration, else None."""
        role = self.roles[node.name]
        if role is Role.RESIDUAL:
            return _one(self.residual[node.name])
        heads = self.heads[node.name] if role is Role.HEADS else 1
        kept = self.kept.tensor(node.name, role, heads)
        if kept is not None or self.statistics is None:
            return kept
        return self._calibrated(node, role, self.statistics)

    def _calibrated(self, node: Node, role: Role, statistics: Statistics) -> Float64:
        rows = statistics.rows(node.name)
        if role is Role.OUTPUT:
            return _one((statistics.peaks[node.name] or 1.0) * _HEADROOM / _INT16_MAX)
        if role is Role.HEADS:
            heads = self.heads[node.name]
            parts = np.split(rows, heads if self.settings.per_head else 1, axis=1)
            scales = [calibrated_scale([(part, None)], self.settings) for part in parts]
            return np.resize(np.array(scales), heads)
        # the gate reads the same range at 16 bits, where clipping costs more than rounding
        smallest = 0.9 if node.name in self.gated else 0.3
        seen = readings(self.graph, self.graph.by_name, statistics, node.name)
        groups = [
            (part, np.sum([np.square(weight).sum(axis=0) for weight in weights], axis=0))
            for part, weights in seen
        ]
        return _one(calibrated_scale(groups or [(rows, None)], self.settings, smallest))

    def _matrix(self, layer: Layer, inputs: Float | None, step: Float64 | None) -> QuantizedMatrix:
        """The file's integers, else rounded for samples of the input, or to the nearest where there are none."""
        kept = self.kept.matrix(layer.name, layer.weight, layer.bias, layer.input_scale, step)
        if kept is not None:
            return kept
        correct, spread = self.settings.bias_correction, self.settings.spread_rounding
        if inputs is None:
            inputs, correct, spread = np.zeros((1, layer.weight.shape[1]), np.float32), False, False
        return quantize_matrix(
            layer.weight, layer.bias, layer.input_scale, inputs, correct=correct, spread=spread
        )

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
        init = np.clip(init, -_INT16_MAX, _INT16_MAX)
        weight = integers.reshape(node.weight.shape)
        return QuantizedPatchEmbed(node.name, node.inputs, weight, scale, init.astype(np.int16), node.first)

    def _layer_norm(self, node: LayerNorm) -> QuantizedLayerNorm:
        gamma, beta, shift = norm_parameters(node.gamma, node.beta, float(self.scales[node.name][0]))
        epsilon = norm_epsilon(node.epsilon, len(gamma), self._input_scale(node))
        return QuantizedLayerNorm(
            node.name, node.inputs, gamma, beta, shift, epsilon, node.name in self.gated
        )

    def _attention(self, node: Attention) -> QuantizedAttention:
        if node.name in self.kept.given.p16:
            bits = 16
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
        scale = self.hidden.get(node.name)
        if scale is None:
            made = np.concatenate([one for one in hidden if one is not None])
            scale = calibrated_scale([(made, None)], self.settings)
        given = self.kept.given.experts.get(node.name, (GivenExpert(None, None, None, None),) * count)
        experts = []
        for index, expert in enumerate(node.experts):
            name = f"{node.name}.{index}"
            fc1 = Layer(f"{name}.fc1", expert.fc1_weight, expert.fc1_bias, input_scale)
            fc2 = Layer(f"{name}.fc2", expert.fc2_weight, expert.fc2_bias, scale)
            experts.append(
                QuantizedExpert(
                    self._matrix(fc1, rows[index], given[index].fc1),
                    self._matrix(fc2, hidden[index], given[index].fc2),
                )
            )
        return tuple(experts), scale


def _one(scale: float) -> Float64:
    return np.array([scale], np.float64)
