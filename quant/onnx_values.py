"""What the importer knows about an ONNX tensor: constant numbers, or where each of its elements comes from.

The importer runs the ONNX graph with a small concrete batch. A tensor that depends on the image is an `Activation`:
an array of indices into the result of a `Base` (N, tokens, features), so that any chain of Reshape, Transpose, Split,
Slice, Gather and the like is carried out on the indices instead of being matched.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hwattn.quant.onnx_bases import Base, Float, Steps

Index = NDArray[np.int32]
Curve = NDArray[np.float64]


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


class Routed(ABC):
    """What is known of the choice of experts, and of tensors that depend on it; see `onnx_selections`."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""


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
