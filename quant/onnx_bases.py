"""Results of an ONNX graph that have, or may get, a node in the graph of the compiler."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
Steps = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Base:
    """A result (N, tokens, features) that has, or may get, a node in the graph.

    Parameters
    ----------
    order : int
        Bases are numbered in topological order.
    tokens, features : int
        Shape for one image.
    parent : Base or None
        The base that this one refines (a bias added, rows selected).
    """

    order: int
    tokens: int
    features: int
    parent: Base | None = None

    @property
    def sources(self) -> tuple[Base, ...]:
        """The bases that it is computed from."""
        return ()


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageBase(Base):
    """The image times `gain` plus `offset` (each (channels,)); tokens are pixels, features channels."""

    height: int
    width: int
    gain: Float
    offset: Float


@dataclass(frozen=True, eq=False, kw_only=True)
class ConvBase(Base):
    """Projected patches, without class token and position: weight (dim, channels, kh, kw), bias (dim,).

    `step` is as of `LinearBase`.
    """

    weight: Float
    bias: Float
    step: Steps | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class PatchBase(Base):
    """Patches in their place among constant tokens `init` (tokens, dim); see ``spec.graph.PatchEmbed``."""

    conv: ConvBase
    init: Float
    first: int


@dataclass(frozen=True, eq=False, kw_only=True)
class NormBase(Base):
    """LayerNorm of `source` over its features, with `zero_mean` RMSNorm."""

    source: Base
    gamma: Float
    beta: Float
    epsilon: float
    zero_mean: bool = False

    @property
    def sources(self) -> tuple[Base, ...]:
        """The bases that it is computed from."""
        return (self.source,)


@dataclass(frozen=True, eq=False, kw_only=True)
class LinearBase(Base):
    """``activation(source @ weight.T + bias)``; with a leading task axis in both where they depend on the task.

    `step` (features,) is what the rows of the weight are integer multiples of, where the file holds them as integers.
    """

    source: Base
    weight: Float
    bias: Float
    activation: str | None = None
    step: Steps | None = None

    @property
    def sources(self) -> tuple[Base, ...]:
        """The bases that it is computed from."""
        return (self.source,)


@dataclass(frozen=True, eq=False, kw_only=True)
class AttentionBase(Base):
    """softmax(q k^T * scale) v of each head, heads side by side."""

    query: Base
    key: Base
    value: Base
    heads: int
    scale: float

    @property
    def sources(self) -> tuple[Base, ...]:
        """The bases that it is computed from."""
        return (self.query, self.key, self.value)


@dataclass(frozen=True, eq=False, kw_only=True)
class AddBase(Base):
    """A residual addition."""

    left: Base
    right: Base

    @property
    def sources(self) -> tuple[Base, ...]:
        """The bases that it is computed from."""
        return (self.left, self.right)


@dataclass(frozen=True, eq=False, kw_only=True)
class RowsBase(Base):
    """Tokens `start` to `stop` - 1 of `source`."""

    source: Base
    start: int
    stop: int

    @property
    def sources(self) -> tuple[Base, ...]:
        """The bases that it is computed from."""
        return (self.source,)


@dataclass(frozen=True, eq=False, kw_only=True)
class GateBase(Base):
    """A step of the routing of a mixture: `logits` are the gate's scores.

    Parameters
    ----------
    stage : str
        ``"softmax"`` over all experts; ``"chosen"``, the k best ones; ``"masked"``, scores with all but the k best at
        minus infinity; ``"gates"``, weights with all but k at zero.
    k : int
        Experts per token, 0 before the choice.
    normalized : bool
        The weights have been through a softmax.
    renormalize : bool
        The weights of the chosen add up to one.
    """

    logits: LinearBase
    stage: str
    k: int
    normalized: bool
    renormalize: bool

    @property
    def sources(self) -> tuple[Base, ...]:
        """The bases that it is computed from."""
        return (self.logits,)


@dataclass(frozen=True, eq=False, kw_only=True)
class MixtureBase(Base):
    """A sum of experts weighted by columns of `gates`; whole when every expert is there.

    Parameters
    ----------
    places : frozenset of int or None
        The places of the choice whose experts are in the sum; None for all.
    """

    gates: GateBase
    experts: dict[int, LinearBase]
    places: frozenset[int] | None = None

    @property
    def whole(self) -> bool:
        """Every expert of the gate is in the sum."""
        return not self.missing

    @property
    def missing(self) -> str:
        """What is not in the sum yet; empty where it is whole."""
        if self.places is not None:
            places = sorted(set(range(self.gates.k)) - self.places)
            return f"place {', '.join(map(str, places))} of the choice"
        experts = sorted(set(range(self.gates.logits.features)) - set(self.experts))
        return f"expert {', '.join(map(str, experts))}" if experts else ""

    @property
    def sources(self) -> tuple[Base, ...]:
        """The bases that it is computed from."""
        return (self.gates.logits.source,)
