"""The scale of every tensor, and which layers read 16 bits: from a quantized file, from calibration, or as the user says."""

from __future__ import annotations

import numpy as np

from hwattn.quant.calibration import Statistics, image_scale
from hwattn.quant.calibrators import calibrated_scale
from hwattn.quant.kept import Kept
from hwattn.quant.migration import readings
from hwattn.quant.precision import Choice, Picker, layers, named_bits
from hwattn.quant.reference import expert_hidden
from hwattn.quant.residual import expert_rows
from hwattn.quant.roles import Role
from hwattn.quant.settings import Settings
from hwattn.spec.errors import RefusedError
from hwattn.spec.graph import Attention, Float, Graph, MixtureOfExperts, Node, Rows
from hwattn.spec.host import token_scale
from hwattn.spec.quantized import Float64

INT16_MAX = 32767
_HEADROOM = 2.0
_RATIO, _CHOSEN_RATIO = 2.00005, 2.0001
"""Least ratio of the scale of an attention's 16-bit result to that of its values, because the division by the sum ends at 2^15; and the ratio
that a smaller one becomes, which is larger by more than the rounding of scales to float32 in a file.
"""


class TensorScales:
    """Chooses the scales of all tensors.

    Parameters
    ----------
    graph : Graph
    statistics : Statistics or None
        None where the file gives all scales.
    roles : dict of str to Role
    residual : dict of str to float
        Scales of the residual streams.
    settings : Settings
    kept : Kept

    Attributes
    ----------
    scales : dict of str to ndarray
        By tensor.
    hidden : dict of str to float
        By mixture, of the hidden activations.
    sixteen : set of str
        Layers (``precision.layers``) that read 16 bits.
    probabilities : dict of str to int
        Bits of the probabilities of attentions, where they are decided.
    choices : tuple of Choice
        What the budget was spent on.
    """

    def __init__(
        self,
        graph: Graph,
        statistics: Statistics | None,
        roles: dict[str, Role],
        residual: dict[str, float],
        settings: Settings,
        kept: Kept,
    ) -> None:
        self.graph, self.statistics, self.roles = graph, statistics, roles
        self.residual, self.settings, self.kept = residual, settings, kept
        self.scales: dict[str, Float64] = {}
        self.hidden: dict[str, float] = {}
        self.sixteen: set[str] = set()
        self.probabilities: dict[str, int] = {}
        self.choices: tuple[Choice, ...] = ()
        self.heads = {
            name: node.heads for node in graph.nodes if isinstance(node, Attention) for name in node.inputs
        }
        self.gated = {node.inputs[0] for node in graph.nodes if isinstance(node, MixtureOfExperts)}

    def choose(self, missing: list[str]) -> None:
        """Choose the scale of every tensor, then the layers of 16 bits; `missing` are tensors that lack a scale already.

        Raises
        ------
        RefusedError
            A tensor has no scale in the file, and there is nothing to calibrate with; or the precision asked for cannot be had.
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
        self._choose_bits()

    def _choose_bits(self) -> None:
        named = named_bits(self.graph, dict(self.settings.precision))
        bits = {**dict.fromkeys(self.kept.sixteen, 16), **named}
        bits |= {name: 16 for name in self.kept.given.p16 if name not in named}
        if self.settings.budget:
            if self.statistics is None:
                raise RefusedError(
                    "a budget for 16 bits without images", "images to measure with", "add --calibration X.npz"
                )
            picker = Picker(self.graph, self.scales, self.hidden_scale, self.statistics.images)
            self.choices = tuple(picker.pick(self.settings.budget, bits))
            bits |= {name: 16 for choice in self.choices for name in choice.layers}
        readers = layers(self.graph)
        self.probabilities = {name: wanted for name, wanted in bits.items() if name not in readers}
        self.sixteen = {name for name, wanted in bits.items() if name in readers and wanted == 16}
        for name in sorted(self.sixteen):
            self._widen(readers[name])

    def _widen(self, tensor: str) -> None:
        """Give a tensor of 16 bits a scale without clipping, which costs more there than rounding."""
        mixture, _, hidden = tensor.rpartition(".")
        if hidden == "hidden":
            node = self.graph.by_name[mixture]
            if self.statistics is not None and mixture not in self.kept.given.experts:
                assert isinstance(node, MixtureOfExperts)
                made = _hidden_rows(node, self.statistics)
                self.hidden[mixture] = max(float(np.abs(rows).max()) for rows in made) / 127 or 1.0
            return
        scale = float(self.scales[tensor][0])
        if self.statistics is not None and tensor not in {**self.kept.given.narrow, **self.kept.given.wide}:
            scale = self.statistics.peaks[tensor] / 127 or scale
        node = self.graph.by_name[tensor]
        if isinstance(node, Attention):
            values = float(self.scales[node.inputs[2]].max())
            scale = scale if scale >= _RATIO * values else _CHOSEN_RATIO * values
        for name in self.graph.by_name:
            if _root(self.graph, name) == tensor:
                self.scales[name] = _one(scale)

    def hidden_scale(self, node: MixtureOfExperts) -> float:
        """The one scale of the hidden activations of a mixture's experts."""
        if node.name not in self.hidden:
            assert self.statistics is not None
            made = np.concatenate(_hidden_rows(node, self.statistics))
            self.hidden[node.name] = calibrated_scale([(made, None)], self.settings)
        return self.hidden[node.name]

    def _image_scale(self, images: Float) -> float:
        """Scale of the input: of tokens from the host the high digits are multiples of it already."""
        return image_scale(images) if self.graph.front is None else token_scale(images)

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
            return _one((statistics.peaks[node.name] or 1.0) * _HEADROOM / INT16_MAX)
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


def _hidden_rows(node: MixtureOfExperts, statistics: Statistics) -> list[Float]:
    """Hidden activations of each expert for the sampled tokens that it sees."""
    rows = expert_rows(node, statistics)
    return [
        expert_hidden(expert, node.activation, seen) for expert, seen in zip(node.experts, rows, strict=True)
    ]


def _root(graph: Graph, name: str) -> str:
    node = graph.by_name[name]
    while isinstance(node, Rows):
        node = graph.by_name[node.inputs[0]]
    return node.name


def _one(scale: float) -> Float64:
    return np.array([scale], np.float64)
