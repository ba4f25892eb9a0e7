"""What the handlers share: the batch, evaluation of single nodes, and the bases made so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from hwattn.quant.host import open_session
from hwattn.quant.onnx_bases import Base
from hwattn.quant.onnx_values import (
    Activation,
    Foreign,
    Grid,
    Index,
    Known,
    Quantized,
    Refusal,
    Routed,
    Scores,
    Value,
)
from hwattn.quant.patterns.sizes import MAX_ELEMENTS, check_size

_BROKEN = frozenset(["GatherElements", "QuantizeLinear", "DequantizeLinear"])
"""Operators that onnx's reference evaluator gets wrong (indices of another length than the data), or lacks before opset 19."""

B = TypeVar("B", bound=Base)


class Context:
    """State of one import.

    Parameters
    ----------
    batch : int
        Images in the batch that the graph is run with.
    tasks : int
        Number of tasks.
    opset : int
        Version of the ONNX operator set.

    Attributes
    ----------
    roundings : list of (Value, Grid)
        Values that the file rounds with QuantizeLinear and DequantizeLinear, in its order.
    """

    def __init__(self, batch: int, tasks: int, opset: int) -> None:
        self.batch = batch
        self.tasks = tasks
        self.opset = opset
        self.node = -1
        self.bases: list[Base] = []
        self.made_by: dict[int, int] = {}
        self.roundings: list[tuple[Value, Grid]] = []
        self._cache: dict[tuple[object, ...], Base] = {}

    def new(self, kind: type[B], **fields: Any) -> B:
        """Make a base, numbered after all others."""
        if self.batch * fields["tokens"] * fields["features"] > MAX_ELEMENTS:
            raise Refusal(
                f"a tensor of {fields['tokens']:,} tokens or pixels and {fields['features']:,} features",
                f"a batch of {self.batch} has more than {MAX_ELEMENTS:,} elements: use fewer",
            )
        base = kind(order=len(self.bases), **fields)
        self.made_by[base.order] = self.node
        self.bases.append(base)
        return base

    def once(self, key: tuple[object, ...], make: Callable[[], B]) -> B:
        """The base of that key, made the first time."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]  # type: ignore[return-value]

    def made(self, key: tuple[object, ...]) -> Base | None:
        """The base of that key, where `once` has made it."""
        return self._cache.get(key)

    def parts(self) -> dict[int, tuple[int, Index | None]]:
        """By the order of a base that is a part of another: the other's order, and its features there (None for all)."""
        found: dict[int, tuple[int, Index | None]] = {}
        for key, base in self._cache.items():
            match key:
                case "features", int() as order, bytes() as features:
                    found[base.order] = order, np.frombuffer(features, np.int32)
                case "rows", int() as order, *_:
                    found[base.order] = order, None
        return found

    def run(self, node: onnx.NodeProto, inputs: Sequence[NDArray[Any] | None]) -> list[NDArray[Any]]:
        """Evaluate one node on arrays; an input that is not there is None."""
        feeds = {name: array for name, array in zip(node.input, inputs, strict=True) if name}
        check_size(node, list(feeds.values()))
        try:
            with np.errstate(all="ignore"):
                if node.op_type in _BROKEN or node.domain not in ("", "ai.onnx"):
                    results: Sequence[Any] = self._by_onnxruntime(node, feeds)
                else:
                    results = list(self._evaluator(node, list(feeds)).run(None, feeds))
        except MemoryError as error:
            raise Refusal("its result does not fit in memory", "check the shapes in the model") from error
        except Exception as error:
            raise Refusal(
                f"it cannot be evaluated: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
                "check the model with onnx.checker and onnxruntime; only the batch axis may be dynamic",
            ) from error
        return [np.asarray(result) for result in results]

    def _evaluator(self, node: onnx.NodeProto, inputs: list[str]) -> ReferenceEvaluator:
        # a graph, because the evaluator takes a bare node at the newest operator set
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = onnx.helper.make_graph(
            [node], "node", [onnx.ValueInfoProto(name=name) for name in inputs], outputs
        )
        return ReferenceEvaluator(graph, opsets={"": self.opset})

    def _by_onnxruntime(self, node: onnx.NodeProto, feeds: dict[str, Any]) -> list[NDArray[Any]]:
        inputs = [
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in feeds.items()
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        opsets = [onnx.helper.make_opsetid("", self.opset)]
        if node.domain:
            opsets.append(onnx.helper.make_opsetid(node.domain, 1))
        model = onnx.helper.make_model(
            onnx.helper.make_graph([node], "node", inputs, outputs), opset_imports=opsets, ir_version=10
        )
        session = open_session(model.SerializeToString(), node.op_type)
        return [np.asarray(result) for result in session.run(None, feeds)]

    def whole(self, base: Base) -> Activation:
        """All of a base, as (batch, tokens, features)."""
        return Activation(base, (self.batch, base.tokens, base.features), node=self.node)

    def unless_whole(self, base: Base, index: Index) -> Index | None:
        """None where the indices are all of the base in its own order."""
        shape = (self.batch, base.tokens, base.features)
        if index.shape != shape:
            return index
        whole = np.arange(index.size, dtype=np.int32).reshape(shape)
        return None if np.array_equal(index, whole) else index

    def constant(self, value: Value | None, what: str) -> NDArray[Any]:
        """The array of a constant input."""
        if isinstance(value, Known):
            return value.array
        raise Refusal(f"{what} is not a constant", "export with fixed shapes apart from the batch axis")


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The value of an attribute of a node."""
    for item in node.attribute:
        if item.name == name:
            return onnx.helper.get_attribute_value(item)
    return default


def shape_of(value: Value | None) -> tuple[int, ...] | None:
    """The shape of a value, where it has one."""
    if isinstance(value, Quantized):
        return shape_of(value.of)
    if isinstance(value, Known):
        return value.arrays[0].shape
    if isinstance(value, Foreign):
        return value.example.shape
    if isinstance(value, Activation | Scores | Routed):
        return value.shape
    return None
