"""What the importer knows about tensors that depend on which experts a token chose, besides what `onnx_values` says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwattn.quant.onnx_bases import Base, Float, GateBase, LinearBase
from hwattn.quant.onnx_values import Activation, Index, Routed


@dataclass(frozen=True, eq=False, kw_only=True)
class ExpertsBase(Base):
    """Results of experts side by side: place by place, `width` features each.

    Parameters
    ----------
    chosen : GateBase or None
        The expert chosen j-th is in place j; with None it is expert j, and all of them are there.
    experts : dict of int to LinearBase
        The layer of each expert, on all tokens.
    count : int
        Number of experts.
    gates : GateBase or None
        The weights that the results are multiplied by.
    """

    chosen: GateBase | None
    experts: dict[int, LinearBase]
    count: int
    gates: GateBase | None = None

    @property
    def places(self) -> int:
        """Results for each token."""
        return self.count if self.chosen is None else self.chosen.k

    @property
    def width(self) -> int:
        """Features of one expert."""
        return self.features // self.places

    @property
    def sources(self) -> tuple[Base, ...]:
        """The bases that it is computed from."""
        return tuple(self.experts.values())


@dataclass(frozen=True, eq=False)
class Choice(Routed):
    """The experts that a TopK chose; `codes` holds, for each element, ``row * k + place`` in the weights of `chosen`."""

    chosen: GateBase
    codes: Index

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return self.codes.shape


@dataclass(frozen=True, eq=False)
class Mask(Routed):
    """Tests whether an expert was chosen: for each element, ``(row * k + place) * experts + expert``.

    With `anywhere` whether it was chosen in any place: ``row * experts + expert``.
    """

    chosen: GateBase
    codes: Index
    anywhere: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return self.codes.shape


@dataclass(frozen=True, eq=False)
class Weighed(Routed):
    """Routing weights of the chosen times tests for an expert, with the codes of the `Mask`."""

    weights: GateBase
    codes: Index

    @property
    def chosen(self) -> GateBase:
        """What was chosen."""
        return self.weights

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return self.codes.shape


@dataclass(frozen=True)
class Selection:
    """The tokens that chose an expert.

    The graph is run as if every token had chosen it, once, in each place in turn: what the result for a token is does not
    depend on the others, so that leaving out those that did not choose it changes nothing.

    Parameters
    ----------
    chosen : GateBase
    expert : int
    layout : bytes
        All choices in the order in which NonZero looks at them (int32): that of the selected tokens.
    order : bytes
        The tokens' rows (int64) in the order that the graph is run with.
    """

    chosen: GateBase
    expert: int
    layout: bytes
    order: bytes


@dataclass(frozen=True, eq=False)
class Places(Routed):
    """Integers for the tokens of a selection, such as their rows: one array for each place that the choice may be in."""

    selection: Selection
    numbers: tuple[NDArray[np.generic], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of each array."""
        return self.numbers[0].shape


@dataclass(frozen=True, eq=False)
class Selected(Routed):
    """A tensor of the tokens of a selection: the sum of `terms`, each as it is for all tokens."""

    selection: Selection
    terms: tuple[Activation, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """As if all tokens were selected."""
        return self.terms[0].shape


@dataclass(frozen=True, eq=False)
class Gathered(Routed):
    """Weights of the chosen expert of each token: ``stack[expert chosen at outer].flat[inner]``.

    Parameters
    ----------
    chosen : GateBase or None
        None for all experts: `outer` is the expert itself.
    stack : ndarray of float32, shape (experts, ...)
    outer, inner : ndarray of int32
        They broadcast to the tensor's shape; `outer` as the codes of a `Choice`.
    """

    chosen: GateBase | None
    stack: Float
    outer: Index
    inner: Index

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return np.broadcast_shapes(self.outer.shape, self.inner.shape)
