"""Which layers read 16 bits: named in a file, or picked where that removes most noise for its multiply-accumulates.

A layer that reads 16 bits takes two passes of the matrix unit over its input: the high digits, then the low ones. So do 16-bit
probabilities. Operands of attention (queries, keys, values), weights and the image stay at 8 bits.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from hwattn.quant.attention import mixed_values
from hwattn.quant.calibration import fake
from hwattn.quant.counting import count_macs, token_counts
from hwattn.quant.reference import apply, evaluate, mixture
from hwattn.quant.reference import outputs as outputs_of
from hwattn.spec.errors import RefusedError
from hwattn.spec.graph import Attention, Float, Graph, LayerNorm, Linear, MixtureOfExperts, Node, Rows
from hwattn.spec.quantized import (
    Float64,
    QuantizedAttention,
    QuantizedLinear,
    QuantizedMixture,
    QuantizedModel,
)

BITS = (8, 16)
IMAGES = 8
"""Calibration images that the noise of single tensors is measured on."""

NEGLIGIBLE = 0.01
"""Share of all noise below which 16 bits are not spent on a tensor."""


@dataclass(frozen=True)
class Choice:
    """Layers that the budget gave 16 bits.

    Parameters
    ----------
    layers : tuple of str
    noise_db : float
        Noise over signal of the outputs where nothing but what they read (or their probabilities) is rounded to 8 bits.
    share : float
        Of the noise that all such roundings make.
    macs : float
        Second passes, over the multiply-accumulates of the model.
    """

    layers: tuple[str, ...]
    noise_db: float
    share: float
    macs: float


def read_precision(path: Path) -> dict[str, int]:
    """Read a YAML file: a mapping from names or patterns of layers to 8 or 16.

    Raises
    ------
    RefusedError
        The file cannot be read, or holds something else.
    """
    expected = "a mapping from layers to 8 or 16, such as `blocks.*.mlp.fc2: 16`"
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise RefusedError(f"{path} cannot be read ({error})", expected, "correct --precision") from error
    except yaml.YAMLError as error:
        raise RefusedError(
            f"{path} is not YAML ({' '.join(str(error).split())})", expected, "correct it"
        ) from error
    good = isinstance(found, dict) and all(
        isinstance(name, str) and bits in BITS and not isinstance(bits, bool) for name, bits in found.items()
    )
    if not good:
        raise RefusedError(f"{path} holds {str(found)[:200]!r}", expected, "correct it")
    return dict(found)


def layers(graph: Graph) -> dict[str, str]:
    """What may read 16 bits: linear layers, and fc1 and fc2 of mixtures, with the tensor that each reads."""
    found: dict[str, str] = {}
    for node in graph.nodes:
        if isinstance(node, Linear):
            found[node.name] = _root(graph, node.inputs[0])
        elif isinstance(node, MixtureOfExperts):
            found[f"{node.name}.fc1"] = _root(graph, node.inputs[0])
            found[f"{node.name}.fc2"] = f"{node.name}.hidden"
    return found


def named_bits(graph: Graph, patterns: Mapping[str, int]) -> dict[str, int]:
    """Bits of the layers and attentions that patterns name; a later pattern overrides an earlier one.

    Raises
    ------
    RefusedError
        A pattern names nothing, a layer cannot read 16 bits, or layers that read one tensor differ.
    """
    readers = layers(graph)
    names = [*readers, *(node.name for node in graph.nodes if isinstance(node, Attention))]
    bits: dict[str, int] = {}
    for pattern, wanted in patterns.items():
        matches = fnmatch.filter(names, pattern)
        if not matches:
            raise RefusedError(
                f"no layer {pattern}",
                f"a linear layer (its input) or an attention (its probabilities): {', '.join(names)}",
                "correct --precision",
            )
        able = [name for name in matches if name not in readers or holds_sixteen(graph, readers[name])]
        if wanted == 16 and pattern in readers and not able:
            raise RefusedError(
                f"{pattern} with 16 bits: it reads {readers[pattern]}, which the machine has in 8 bits only",
                "a layer that reads a LayerNorm, an attention or a linear layer",
                "let it read 8 bits",
            )
        bits.update(dict.fromkeys(able if wanted == 16 else matches, wanted))
    for _name, tensor in readers.items():
        others = [one for one, read in readers.items() if read == tensor and one in bits]
        if len({bits[one] for one in others}) > 1:
            raise RefusedError(
                f"{' and '.join(f'{one}: {bits[one]}' for one in others)}, which read the same tensor {tensor}",
                "the same bits for all layers that read it",
                "correct --precision",
            )
    return bits


def _root(graph: Graph, name: str) -> str:
    node = graph.by_name.get(name)
    while isinstance(node, Rows):
        name = node.inputs[0]
        node = graph.by_name.get(name)
    return name


def holds_sixteen(graph: Graph, tensor: str) -> bool:
    """Whether the machine can hold a tensor in 16 bits for the layers that read it."""
    return tensor.endswith(".hidden") or isinstance(graph.by_name.get(tensor), LayerNorm | Attention | Linear)


def pass_macs(graph: Graph) -> dict[str, int]:
    """Multiply-accumulates of a second pass of every layer that may read 16 bits, and over the values of every attention."""
    tokens = token_counts(graph)
    found: dict[str, int] = {}
    for node in graph.nodes:
        match node:
            case Linear():
                found[node.name] = tokens[node.name] * node.weight.size
            case MixtureOfExperts():
                count = tokens[node.name] * node.k
                found[f"{node.name}.fc1"] = count * max(expert.fc1_weight.size for expert in node.experts)
                found[f"{node.name}.fc2"] = count * max(expert.fc2_weight.size for expert in node.experts)
            case Attention():
                values = graph.by_name[_root(graph, node.inputs[2])]
                assert isinstance(values, Linear)
                found[node.name] = tokens[node.name] * tokens[node.inputs[1]] * len(values.weight)
    return found


def in_sixteen(model: QuantizedModel) -> tuple[str, ...]:
    """Layers of a model that read 16 bits, and attentions with 16-bit probabilities."""
    found = []
    for node in model.nodes:
        match node:
            case QuantizedLinear(input_bits=16) | QuantizedAttention(p_bits=16):
                found.append(node.name)
            case QuantizedMixture():
                parts = ("fc1", node.input_bits), ("fc2", node.hidden_bits)
                found += [f"{node.name}.{part}" for part, bits in parts if bits == 16]
    return tuple(found)


@dataclass(frozen=True)
class _Candidate:
    """Layers that would read 16 bits of one tensor, or an attention; `rounded` is what 8 bits make of a tensor."""

    layers: tuple[str, ...]
    node: Node
    macs: int
    rounded: Callable[[dict[str, Float], int], Float]


class Picker:
    """Spends a budget of multiply-accumulates.

    Parameters
    ----------
    graph : Graph
        After scale migration.
    scales : mapping of str to ndarray
        Of every tensor in 8 bits.
    hidden : callable
        Scale of the hidden activations of a mixture, in 8 bits.
    images : ndarray of float32, shape (N, channels, height, width)
    """

    def __init__(
        self,
        graph: Graph,
        scales: Mapping[str, Float64],
        hidden: Callable[[MixtureOfExperts], float],
        images: Float,
    ) -> None:
        self.graph, self.scales, self.hidden = graph, scales, hidden
        self.images = images[:IMAGES]
        self.passes = pass_macs(graph)
        self.macs = count_macs(graph)
        self.exact = [evaluate(graph, self.images, task) for task in range(graph.tasks)]

    def pick(self, budget: float, fixed: Mapping[str, int]) -> list[Choice]:
        """Choose layers until `budget`, in percent, is spent; layers in `fixed` are decided already.

        The order is that of noise removed for each multiply-accumulate.
        """
        candidates = [one for one in self._candidates() if not any(name in fixed for name in one.layers)]
        noises = [self._noise(one) for one in candidates]
        total = sum(noises) or 1.0
        room = budget / 100 * self.macs
        chosen = []
        for one, noise in sorted(
            zip(candidates, noises, strict=True), key=lambda entry: -entry[1] / entry[0].macs
        ):
            if one.macs <= room and noise >= NEGLIGIBLE * total:
                room -= one.macs
                decibel = float(10 * np.log10(noise))
                chosen.append(Choice(one.layers, decibel, noise / total, one.macs / self.macs))
        return chosen

    def _candidates(self) -> list[_Candidate]:
        found = []
        readers: dict[str, list[str]] = {}
        for name, tensor in layers(self.graph).items():
            readers.setdefault(tensor, []).append(name)
        for node in self.graph.nodes:
            if node.name in readers and holds_sixteen(self.graph, node.name):
                found.append(self._candidate(readers[node.name], node, self._tensor(node)))
            if isinstance(node, MixtureOfExperts):
                found.append(self._candidate(readers[f"{node.name}.hidden"], node, self._mixture(node)))
            if isinstance(node, Attention):
                found.append(self._candidate([node.name], node, self._probabilities(node)))
        return found

    def _candidate(
        self, names: list[str], node: Node, rounded: Callable[[dict[str, Float], int], Float]
    ) -> _Candidate:
        return _Candidate(tuple(names), node, sum(self.passes[name] for name in names), rounded)

    def _tensor(self, node: Node) -> Callable[[dict[str, Float], int], Float]:
        scale = float(self.scales[node.name].max())
        return lambda values, task: fake(values[node.name], scale)

    def _mixture(self, node: MixtureOfExperts) -> Callable[[dict[str, Float], int], Float]:
        scale = self.hidden(node)
        return lambda values, task: mixture(
            node, values[node.inputs[0]], task, rounded=lambda made: fake(made, scale)
        )

    def _probabilities(self, node: Attention) -> Callable[[dict[str, Float], int], Float]:
        def rounded(values: dict[str, Float], task: int) -> Float:
            _, made = mixed_values(node, *(values[name] for name in node.inputs))
            return made.transpose(0, 2, 1, 3).reshape(values[node.name].shape)

        return rounded

    def _noise(self, candidate: _Candidate) -> float:
        """Noise over signal of the outputs with one rounding, over all tasks."""
        noise = signal = 0.0
        for task in range(self.graph.tasks):
            exact = self.exact[task]
            changed = {candidate.node.name: candidate.rounded(exact, task)}
            for node in self.graph.nodes:
                if node.name not in changed and any(name in changed for name in node.inputs):
                    inputs = [changed.get(name, exact.get(name, self.images)) for name in node.inputs]
                    if isinstance(node, MixtureOfExperts) and node.inputs[0] == candidate.node.name:
                        # its gate has 16 bits anyway
                        changed[node.name] = mixture(node, exact[node.inputs[0]], task, seen=inputs[0])
                    else:
                        changed[node.name] = apply(node, inputs, task)
            wanted = outputs_of(self.graph, exact, task)
            for name, made in outputs_of(self.graph, {**exact, **changed}, task).items():
                noise += float(np.square(made - wanted[name], dtype=np.float64).sum())
                signal += float(np.square(wanted[name], dtype=np.float64).sum())
        return max(noise / max(signal, 1e-30), 1e-30)
