"""Scales of a quantized file (QDQ) as the machine takes them over, and what it cannot take as it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwattn.quant.given import NARROW, SAME, WIDE, Given
from hwattn.quant.precision import holds_sixteen, layers
from hwattn.quant.roles import Role
from hwattn.quant.weights import BIAS_LIMIT
from hwattn.spec.errors import RefusedError
from hwattn.spec.graph import Add, Float, Graph, Linear, MixtureOfExperts, Node, PatchEmbed, Rows
from hwattn.spec.quantized import Float64, Int8, QuantizedMatrix

HEADROOM = 2.0
"""Range of an int16 tensor over the range that the file gives it."""

_INTEGRAL = 1e-3
"""Largest distance of a weight from a multiple of its step: float32 and folded scales leave less."""


@dataclass(frozen=True)
class Note:
    """A tensor of a quantized file that the machine keeps in another way."""

    tensor: str
    found: str
    made: str
    reason: str


class Kept:
    """Takes over a file's scales; without a quantized file it has none.

    Parameters
    ----------
    graph : Graph
    given : Given or None

    Attributes
    ----------
    tensors, weights : int
        How many scales of tensors, and matrices of integers, are the file's own.
    notes : list of Note
        What is not.
    sixteen : set of str
        Layers that read 16 bits in the file.
    """

    def __init__(self, graph: Graph, given: Given | None) -> None:
        self.graph = graph
        self.given = given or Given()
        self.tensors = 0
        self.weights = 0
        self.notes: list[Note] = []
        self.sixteen: set[str] = set()

    def tensor(self, name: str, role: Role, heads: int) -> Float64 | None:
        """The scale of a tensor, (1,) or (heads,), where the file gives one; not for the residual stream."""
        narrow, wide = self.given.narrow.get(name), self.given.wide.get(name)
        if role is Role.OUTPUT:
            return self._output(name, narrow, wide)
        found, reason = self.given.reasons.get(name, ("", ""))
        if narrow is None:
            if wide is None:
                return None
            readers = [layer for layer, tensor in layers(self.graph).items() if tensor == name]
            # the machine's scale of 16 bits is that of the high byte
            narrow = wide * 256
            if role is Role.INT8 and readers and holds_sixteen(self.graph, name):
                self.sixteen.update(readers)
            else:
                found, reason = f"{_text(wide)} at 16 bits", "8 bits in the machine"
        parts = narrow.reshape(heads if narrow.size > 1 else 1, -1)
        scale = np.resize(parts.max(axis=1), heads)
        if (parts.min(axis=1) < parts.max(axis=1) * (1 - SAME)).any():
            reason = (
                f"one scale for {'the features of a head' if heads > 1 else 'all features'} in the machine"
            )
        self._count(name, found or _text(narrow), scale, reason)
        return scale

    def _output(self, name: str, narrow: Float64 | None, wide: Float64 | None) -> Float64 | None:
        if wide is not None:
            scale: Float64 = np.array([wide.max()])
            self._count(
                name, _text(wide), scale, "" if (wide == scale).all() else "one scale for all features"
            )
            return scale
        if narrow is not None:
            scale = np.array([narrow.max() / (NARROW + 1)])
            self._note(name, _text(narrow), scale, "8 bits in the file, 16 in the machine")
            return scale
        if name in self.given.before:
            return np.array([self.given.before[name] * HEADROOM / WIDE])
        return None

    def _count(self, name: str, found: str, made: Float64, reason: str) -> None:
        if reason:
            self._note(name, found, made, reason)
        else:
            self.tensors += 1

    def _note(self, name: str, found: str, made: Float64, reason: str) -> None:
        self.notes.append(Note(name, found, _text(made), reason))

    def hidden(self, node: MixtureOfExperts) -> float | None:
        """The one scale of the hidden activations of all experts."""
        given = self.given.experts.get(node.name, ())
        scales = [expert.hidden for expert in given]
        known = np.array([scale for scale in scales if scale is not None])
        if not len(known) or len(known) < len(node.experts):
            return None
        same = known.min() >= known.max() * (1 - SAME)
        reason = "" if same else "one scale for all experts in the machine"
        if any(expert.hidden_bits == 16 for expert in given):
            self.sixteen.add(f"{node.name}.fc2")
        self._count(f"{node.name}.hidden", _text(known), known.max(keepdims=True), reason)
        return float(known.max())

    def matrix(
        self, name: str, weight: Float, bias: Float, input_scale: float, step: Float64 | None
    ) -> QuantizedMatrix | None:
        """A layer with the file's integers, its bias to the nearest; None where the file has none that fit.

        Raises
        ------
        RefusedError
            A bias is too large for the file's scales.
        """
        found = self.integers(name, weight, step)
        if found is None:
            return None
        integers, scale = found
        # a row of zeros has no scale of its own, but its bias needs one
        floor = np.abs(bias.astype(np.float64)) / (BIAS_LIMIT * input_scale)
        scale = np.where(integers.any(axis=1), scale, np.maximum(scale, floor))
        rounded = np.rint(bias.astype(np.float64) / (input_scale * scale))
        worst = int(np.argmax(np.abs(rounded)))
        if abs(rounded[worst]) > BIAS_LIMIT:
            raise RefusedError(
                f"{name}: the bias of channel {worst} is {rounded[worst]:.4g} times the product of its scales",
                f"at most 2^30 = {BIAS_LIMIT}",
                "give the channel's weights a larger scale, or quantize the float model with hwattn",
            )
        return QuantizedMatrix(integers, scale, rounded.astype(np.int32))

    def integers(self, name: str, weight: Float, step: Float64 | None) -> tuple[Int8, Float64] | None:
        """The file's integers (out, ...) and the scale of each row, where they fit int8."""
        if step is None:
            made = name.endswith(".stream") or (
                self.graph.front is not None and name.startswith("patch_embed")
            )
            if (self.given.weights or self.given.experts) and not made:
                # not of the layers that the import adds: identities, and the two digits of tokens from the host
                self.notes.append(
                    Note(name, "float weights", "int8", "no one scale for each row in the file")
                )
            return None
        flat = weight.reshape(len(weight), -1).astype(np.float64)
        usual = float(np.median(step[step > 0])) if (step > 0).any() else 1.0
        scale = np.where(flat.any(axis=1) & (step > 0), step, np.where(step > 0, step, usual))
        wanted = flat / scale[:, None]
        integers = np.rint(wanted)
        fits = integers.min(initial=0) >= -NARROW - 1 and integers.max(initial=0) <= NARROW
        if not fits or np.abs(integers - wanted).max(initial=0) > _INTEGRAL:
            self.notes.append(
                Note(name, f"weights to {np.abs(wanted).max():.4g}", "int8", "more than int8 holds")
            )
            return None
        self.weights += 1
        return integers.astype(np.int8).reshape(weight.shape), scale

    def reach(self) -> dict[str, float]:
        """Largest magnitude of every tensor that the file bounds: by its own range, or by those of what is added."""
        found: dict[str, float] = {}
        for node in self.graph.nodes:
            reach = self._reach(node, found)
            if reach is not None:
                found[node.name] = reach
        return found

    def _reach(self, node: Node, found: dict[str, float]) -> float | None:
        name, given = node.name, self.given
        if name in given.wide:
            return float(given.wide[name].max()) * (WIDE + 1)
        if name in given.narrow:
            return float(given.narrow[name].max()) * (NARROW + 1)
        if name in given.before:
            return given.before[name]
        before = [found.get(one) for one in node.inputs]
        match node:
            case Add() | Rows():
                known = [one for one in before if one is not None]
                return sum(known) if len(known) == len(before) else None
            case MixtureOfExperts():
                # the gate weights of a token add up to at most one
                peaks = [expert.peak for expert in given.experts.get(name, ())]
                known = [peak for peak in peaks if peak is not None]
                return max(known) if known and len(known) == len(peaks) else None
            case Linear() if (np.count_nonzero(node.weight, axis=1) <= 1).all() and before[0] is not None:
                rows = np.abs(node.weight).sum(axis=1) * before[0] + np.abs(node.bias)
                return float(rows.max())
        return None

    def stream(self, names: list[str], reach: dict[str, float]) -> float | None:
        """The one int16 scale of the tensors of a residual stream, where the file bounds them all."""
        wide = [self.given.wide[name] for name in names if name in self.given.wide]
        if wide and np.ptp(np.concatenate(wide)) == 0:
            self.tensors += 1
            return float(wide[0][0])
        members = [self.graph.by_name[name] for name in names]
        needed = [
            node.name for node in members if isinstance(node, Add | PatchEmbed | MixtureOfExperts)
        ] or names
        if any(name not in reach for name in needed):
            return None
        peak = max(reach[name] for name in names if name in reach)
        scale = peak * HEADROOM / WIDE
        narrow = [self.given.narrow[name] for name in names if name in self.given.narrow]
        if narrow or wide:
            self._note(
                f"residual stream from {names[0]}",
                _text(np.concatenate(narrow or wide)),
                np.array([scale]),
                "rounded to 8 bits in the file, 16 in the machine" if narrow else "one scale for all",
            )
        return scale


def _text(scale: Float64) -> str:
    low, high = float(scale.min()), float(scale.max())
    return f"{high:.4g}" if low >= high * (1 - SAME) else f"{low:.4g} to {high:.4g}"
