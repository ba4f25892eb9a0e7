"""What a quantized ONNX file (QDQ) says of its own scales, by the tensors of the graph that the importer makes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from hwattn.quant.onnx_bases import Base, ImageBase, LinearBase, MixtureBase, PatchBase, RowsBase, Steps
from hwattn.quant.onnx_values import Activation, Grid, Scores
from hwattn.quant.patterns.context import Context
from hwattn.quant.patterns.pointwise import affine, recognize
from hwattn.quant.patterns.rounding import along
from hwattn.quant.patterns.tokens import Tokens
from hwattn.spec.graph import Graph
from hwattn.spec.quantized import Float64

T = TypeVar("T")
Reason = tuple[str, str]

NARROW, WIDE = 127, 32767
"""Largest integers of the machine's tensors."""

SAME = 1e-3
"""Relative difference up to which two scales of one tensor pass for one."""


@dataclass(frozen=True)
class GivenExpert:
    """One expert: the steps of its weights' rows, the scale of its hidden activations (of 16 bits: of their high byte), the largest
    magnitude of its result.
    """

    fc1: Float64 | None = None
    fc2: Float64 | None = None
    hidden: float | None = None
    peak: float | None = None
    hidden_bits: int = 8


@dataclass(frozen=True)
class Given:
    """Scales that a file brings along, by graph node.

    Parameters
    ----------
    narrow, wide : dict of str to ndarray of float64, shape (features,)
        Scales at which tensors are rounded to 8 bits or fewer, and to 16; symmetric. The image has one number.
    before : dict of str to float
        Largest magnitude of a linear layer's result before its bias, or of projected patches, where only that is rounded.
    weights : dict of str to ndarray of float64, shape (out,)
        What the rows of a layer's weights are integer multiples of.
    experts : dict of str to tuple of GivenExpert
    gates : dict of str to float
        What the weights of a mixture's gate are integer multiples of, where that is one number.
    p16 : frozenset of str
        Attentions whose probabilities have 16 bits.
    reasons : dict of str to (str, str)
        Why a scale is not the file's own number: what the file says, where that cannot be seen from the scale, and the reason.
    """

    narrow: dict[str, Float64] = field(default_factory=dict)
    wide: dict[str, Float64] = field(default_factory=dict)
    before: dict[str, float] = field(default_factory=dict)
    weights: dict[str, Float64] = field(default_factory=dict)
    experts: dict[str, tuple[GivenExpert, ...]] = field(default_factory=dict)
    gates: dict[str, float] = field(default_factory=dict)
    p16: frozenset[str] = frozenset()
    reasons: dict[str, Reason] = field(default_factory=dict)

    def for_graph(self, graph: Graph) -> Given:
        """The same, with what the graph made a second time (an embedding in eight bits) too."""
        copies = {node.name: node.name.removesuffix(".int8") for node in graph.nodes}

        def both(table: dict[str, T]) -> dict[str, T]:
            return {**table, **{copy: table[of] for copy, of in copies.items() if of in table}}

        return dataclasses.replace(
            self,
            narrow=both(self.narrow),
            wide=both(self.wide),
            before=both(self.before),
            weights=both(self.weights),
        )


def given_of(
    context: Context, bases: Sequence[Base], names: Mapping[int, str], image: str, *, front: bool
) -> Given | None:
    """Collect the scales of a file; None where it is a float model.

    Parameters
    ----------
    bases : sequence of Base
        Those that became nodes.
    names : mapping of int to str
        Names of the nodes, by the order of their base.
    front : bool
        The host makes the tokens: the scale of the image is that of the tokens.
    """
    steps = [base.step is not None for base in context.bases if hasattr(base, "step")]
    if not context.roundings and not any(steps):
        return None
    levels = _Levels(context)
    given = Given(p16=frozenset(names[base.order] for base in bases if levels.wide_probabilities(base)))
    for base in bases:
        name = names.get(base.order, "")
        levels.describe(base, name, given)
        if isinstance(base, PatchBase) and front and name in given.narrow:
            given.narrow[image] = given.narrow[name].max(keepdims=True)
    for base in reversed(bases):
        if isinstance(base, RowsBase):
            _widen(given, names[base.source.order], names[base.order])
    if not front:
        levels.image(given, image)
    return given


def _widen(given: Given, whole: str, part: str) -> None:
    """Some tokens have the scale of all: where only they are rounded, theirs is the scale of all."""
    for table in (given.narrow, given.wide):
        if part in table:
            old = table.get(whole, table[part])
            if (np.abs(old / table[part] - 1) > SAME).any():
                given.reasons[whole] = "", "some tokens have a scale of their own in the file"
            table[whole] = np.maximum(old, table[part])


def symmetric(grid: Grid) -> tuple[Steps, bool, Reason | None]:
    """The scale of a symmetric tensor that holds a grid's range, whether it has 16 bits, and why it is not the grid's own."""
    low, high = (limit - grid.zero for limit in (grid.low, grid.high))
    wide = grid.high - grid.low > 2 * NARROW + 1
    limit = WIDE if wide else NARROW
    if (low >= -limit - 1).all() and (high <= limit).all():
        if wide or grid.high - grid.low >= 2 * NARROW:
            return grid.step, wide, None
        found = f"{float(grid.step.max()):.4g} from {int(low.min())} to {int(high.max())}"
        return grid.step, wide, (found, "the scale is kept, and the machine clips at 127")
    reach = np.maximum(-low, high) * grid.step
    found = f"{float(grid.step.max()):.4g} with zero point {int(grid.zero.flat[0])}"
    return reach / limit, wide, (found, "the machine's zero points are 0: the range is kept")


class _Levels:
    """Scales of every feature of a base, NaN where the file has none."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.parts = context.parts()
        self.found: dict[bool, dict[int, Steps]] = {False: {}, True: {}}
        self.reasons: dict[int, Reason] = {}
        self.seen: set[tuple[int, bool]] = set()
        self.images: list[tuple[float, Reason | None]] = []
        self.probabilities: set[tuple[int, int]] = set()
        for value, grid in context.roundings:
            self.add(value, grid)

    def add(self, value: object, grid: Grid) -> None:
        """Write down one rounding; one within a layer has no counterpart in the machine, which is finer there."""
        step, wide, reason = symmetric(grid)
        if isinstance(value, Scores) and value.normalized and wide:
            self.probabilities.add((value.query.order, value.key.order))
        if not isinstance(value, Activation):
            return
        if isinstance(value.base, ImageBase):
            self._add_image(value, value.base, float(step.max()), reason)
            return
        place = self._place(value)
        if place is None:
            return
        base, factor, features = place
        steps = np.full(base.features, np.nan)
        steps[features] = np.broadcast_to(along(step, len(value.shape), grid.axis) * factor, features.shape)
        old = self.found[wide].get(base.order, np.full(base.features, np.nan))
        if (id(value), wide) in self.seen and (np.abs(old / steps - 1) > SAME).any():
            # each of its readers rounds it in its own way; else it is rounded again on its way to one reader
            steps = np.fmax(old, steps)
            reason = "", "rounded to several scales in the file, once in the machine"
        self.seen.add((id(value), wide))
        self.found[wide][base.order] = np.where(np.isnan(steps), old, steps)
        if reason:
            self.reasons[base.order] = reason

    def _place(self, x: Activation) -> tuple[Base, float, NDArray[np.int64]] | None:
        """The base that a tensor's numbers belong to, their factor there, and the features of its elements."""
        for tokens in x.settled:
            if isinstance(tokens, Tokens):
                return tokens.base, 1.0, np.broadcast_to(np.arange(tokens.base.features), x.shape)
        base: Base | None = x.base
        factor = 1.0
        if x.curve is not None:
            straight, name = affine(x.curve), recognize(x.curve)
            if straight is not None:
                base = self.context.made(("fold", x.base.order, "affine", *straight))
                if base is None and straight[1] == 0:
                    base, factor = x.base, 1 / abs(straight[0])
            else:
                base = self.context.made(("activation", x.base.order, name))
        if base is None:
            return None
        index = x.full_index() % base.features
        return base, factor, index.astype(np.int64)

    def _add_image(self, x: Activation, base: ImageBase, step: float, reason: Reason | None) -> None:
        """The image may be normalized before it is rounded."""
        slope, intercept = (1.0, 0.0) if x.curve is None else (affine(x.curve) or (0.0, 0.0))
        gain, offset = base.gain * slope, np.abs(base.offset * slope + intercept)
        if not gain.all():
            return
        if (gain == gain[0]).all() and not offset.any():
            self.images.append((step / abs(float(gain[0])), reason))
            return
        reach = float(((step * NARROW + offset) / np.abs(gain)).max())
        found = f"{step:.4g} after normalization"
        self.images.append((reach / NARROW, (found, "the machine rounds the image before its normalization")))

    def image(self, given: Given, name: str) -> None:
        """Fill in the scale of the image."""
        if self.images:
            exact = [entry for entry in self.images if entry[1] is None]
            scale, reason = (exact or self.images)[-1]
            given.narrow[name] = np.array([scale])
            if reason is not None:
                given.reasons[name] = reason

    def of(self, base: Base, *, wide: bool) -> Steps | None:
        """The scale of every feature of a base, or of what it is a part of; None where one is missing."""
        own = self.found[wide].get(base.order)
        if own is None or np.isnan(own).any():
            order, features = self.parts.get(base.order, (-1, None))
            whole = None if order < 0 else self.of(self.context.bases[order], wide=wide)
            if whole is None:
                return None
            rest = whole if features is None else whole[features]
            own = rest if own is None else np.where(np.isnan(own), rest, own)
        return own

    def _reason(self, base: Base) -> Reason | None:
        while base.order not in self.reasons and base.order in self.parts:
            base = self.context.bases[self.parts[base.order][0]]
        return self.reasons.get(base.order)

    def before(self, base: Base) -> float | None:
        """Largest magnitude of a result before its bias."""
        bias, level = 0.0, None
        if isinstance(base, PatchBase):
            bias, here = float(np.abs(base.init).max()), cast(Base | None, base.conv)
        elif isinstance(base, LinearBase) and base.activation is None:
            bias, here = float(np.abs(base.bias).max()), base.parent
        else:
            return None
        while here is not None and level is None:
            level = self.of(here, wide=False)
            here = here.parent
        return None if level is None else float(level.max()) * (NARROW + 1) + bias

    def wide_probabilities(self, base: Base) -> bool:
        """The probabilities of an attention have 16 bits."""
        sources = base.sources
        return len(sources) == 3 and (sources[0].order, sources[1].order) in self.probabilities

    def describe(self, base: Base, name: str, given: Given) -> None:
        """Fill in what the file says of one node."""
        for table, wide in ((given.narrow, False), (given.wide, True)):
            scale = self.of(base, wide=wide)
            if scale is not None:
                table[name] = scale
        reach = self.before(base)
        if reach is not None:
            given.before[name] = reach
        if (reason := self._reason(base)) is not None:
            given.reasons[name] = reason
        step = base.step if isinstance(base, LinearBase) else None
        step = base.conv.step if isinstance(base, PatchBase) else step
        if step is not None:
            given.weights[name] = step
        if isinstance(base, MixtureBase):
            given.experts[name] = tuple(
                self._expert(base.experts[number]) for number in range(base.gates.logits.features)
            )
            gate = base.gates.logits.step
            if gate is not None and (gate == gate[0]).all():
                given.gates[name] = float(gate[0])

    def _expert(self, fc2: LinearBase) -> GivenExpert:
        fc1 = cast(LinearBase, fc2.source)
        hidden, made, bits = self.of(fc1, wide=False), self.of(fc2, wide=False), 8
        if hidden is None and (exact := self.of(fc1, wide=True)) is not None:
            hidden, bits = exact * 256, 16
        if made is None and (exact := self.of(fc2, wide=True)) is not None:
            made = exact * ((WIDE + 1) / (NARROW + 1))
        return GivenExpert(
            fc1.step,
            fc2.step,
            None if hidden is None else float(hidden.max()),
            self.before(fc2) if made is None else float(made.max()) * (NARROW + 1),
            bits,
        )
