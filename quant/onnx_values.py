"""What the importer knows about an ONNX tensor: constant numbers, or where each of its elements comes from.

The importer runs the ONNX graph with a small concrete batch. A tensor that depends on the image is an `Activation`:
an array of indices into the result of a `Base` (N, tokens, features), so that any chain of Reshape, Transpose, Split,
Slice, Gather and the like is carried out on the indices instead of being matched.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
Index = NDArray[np.int32]
Curve = NDArray[np.float64]
Steps = NDArray[np.float64]


class Refusal(Exception):
    """A node that cannot be mapped.

    Parameters
    ----------
    reason, remedy : str
        What is wrong, and what the user can do.
    node : int or None
        The ONNX node to blame; the one at hand by default.
    """

    def __init__(self, reason: str, remedy: str, node: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy
        self.node = node


@dataclass(frozen=True, eq=False)
class Known:
    """A constant: one array, or one for each task where it depends on the task input.

    Parameters
    ----------
    steps : tuple of ndarray of float64
        Where it was dequantized: for each array the real value of one integer, in the array's shape; else empty.
    counted : bool
        It holds the number of tokens of a selection, which the image decides: good for shapes of selected tokens alone.
    """

    arrays: tuple[NDArray[np.generic], ...]
    steps: tuple[NDArray[np.float64], ...] = ()
    counted: bool = False

    @property
    def array(self) -> NDArray[np.generic]:
        """The constant, where it is the same for every task."""
        if len(self.arrays) != 1:
            raise Refusal(
                "a value that depends on the task is used outside a gate",
                "let only gates depend on the task: index their weights by it",
            )
        return self.arrays[0]

    @property
    def scalar(self) -> float | None:
        """Its value, where all elements are one number."""
        first = self.arrays[0]
        if first.size == 0 or first.dtype.kind not in "fiub":
            return None
        value = first.flat[0]
        if all((array == value).all() for array in self.arrays):
            return float(value)
        return None


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


@dataclass(eq=False)
class Activation:
    """A tensor that depends on the image: ``curve(base[index]) + offset``.

    Parameters
    ----------
    base : Base
        Where the elements come from.
    shape : tuple of int
        The tensor's shape, batch included.
    index : ndarray of int32 or None
        For each element its place in the flattened base, -1 where only `offset` counts; None for all of the base in
        its own order.
    curve : ndarray of float64 or None
        An element-wise function, sampled on ``patterns.pointwise.GRID``; None for the identity.
    offset : ndarray of float32 or None
        Constants of the same shape.
    node : int
        The ONNX node that made it.
    settled : list
        Empty, or the `Tokens` that it was found to be; outlives the tensor in the report.
    """

    base: Base
    shape: tuple[int, ...]
    index: Index | None = None
    curve: Curve | None = None
    offset: Float | None = None
    node: int = -1
    settled: list[object] = field(default_factory=list, repr=False)

    def full_index(self) -> Index:
        """The indices written out."""
        if self.index is not None:
            return self.index
        return np.arange(int(np.prod(self.shape)), dtype=np.int32).reshape(self.shape)

    def same_elements(self, other: Activation) -> bool:
        """Both take the same elements of the same base, whatever their curves."""
        if self.base is not other.base or self.shape != other.shape:
            return False
        if self.offset is not None or other.offset is not None:
            return self is other
        if self.index is None and other.index is None:
            return True
        return np.array_equal(self.full_index(), other.full_index())


@dataclass(frozen=True, eq=False)
class Moment:
    """A step of a LayerNorm written out: ``kind`` of the features of `source`, one number per token or centred.

    With `zero_mean` it is a step of RMSNorm, whose variance is the mean of the squares.
    """

    kind: str
    source: Activation
    epsilon: float = 0.0
    zero_mean: bool = False


@dataclass(frozen=True, eq=False)
class Total:
    """The sum over the experts of routing weights, plus a constant too small to matter."""

    weights: Activation


class Routed:
    """What is known of the choice of experts, and of tensors that depend on it; see `onnx_selections`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class NaNTest:
    """IsNaN of a tensor that is never NaN."""

    of: Value


@dataclass(frozen=True, eq=False)
class Scores:
    """Attention scores, or probabilities once `normalized`.

    Parameters
    ----------
    query, key : Base
        Features of head h are ``h * head_dim`` onwards.
    image : ndarray of int32, shape (leading,)
        Which image each matrix belongs to; `head` likewise.
    shape : tuple of int
        (leading axes, queries, keys).
    """

    query: Base
    key: Base
    image: NDArray[np.int64]
    head: NDArray[np.int64]
    scale: float
    shape: tuple[int, ...]
    normalized: bool = False


@dataclass(frozen=True)
class Grid:
    """What QuantizeLinear rounds to: ``real = (integer - zero) * step`` with integers from `low` to `high`.

    Parameters
    ----------
    step, zero : ndarray of float64, ndarray of int64
        One number, or one for each place of `axis`.
    """

    step: Steps
    zero: NDArray[np.int64]
    axis: int
    low: int
    high: int


@dataclass(frozen=True, eq=False)
class Quantized:
    """The integers that QuantizeLinear made of a value, on their way to DequantizeLinear."""

    of: Value
    grid: Grid


@dataclass(frozen=True, eq=False)
class Foreign:
    """A tensor that the host computes; `example` is what it makes of arbitrary inputs."""

    example: NDArray[np.generic]


@dataclass(frozen=True, eq=False)
class Unknown:
    """The result of a refused node, or of one behind it."""


Value = Known | Activation | Moment | Total | Routed | NaNTest | Scores | Quantized | Foreign | Unknown
