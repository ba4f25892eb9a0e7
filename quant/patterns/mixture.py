"""The mixture of experts in its dense form: softmax, TopK, ScatterElements, and a weighted sum over all experts."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from hwattn.quant.onnx_bases import AddBase, Base, GateBase, LinearBase, MixtureBase
from hwattn.quant.onnx_selections import Choice
from hwattn.quant.onnx_values import Activation, Known, Refusal, Total, Value
from hwattn.quant.patterns.context import Context, attribute
from hwattn.quant.patterns.tokens import Tokens, select_tokens, tokens_of, tokenwise

_REMEDY = (
    "write the mixture as softmax over all experts, topk, scatter into zeros, and a sum of "
    "gates[..., i:i+1] * expert_i(x)"
)
NEGLIGIBLE = 1e-6
"""Largest constant added to a sum of routing weights to keep it from zero."""
MASKED = -1e4
"""Scores at or below this are out of the choice."""


def softmax(context: Context, x: Activation) -> Activation:
    """Softmax over the experts: of a gate's scores, of the chosen scores, or of masked scores."""
    if isinstance(x.base, GateBase):
        stage = x.base.stage
        if x.base.normalized or x.curve is not None:
            raise Refusal("a second softmax of routing weights", _REMEDY)
        made = "gates" if stage == "masked" else stage
        return _next(context, x, made, x.base.k, normalized=True, renormalize=True)
    tokens = tokens_of(context, x)
    logits = linear_gate(tokens)
    base = context.new(
        GateBase,
        tokens=logits.tokens,
        features=logits.features,
        logits=logits,
        stage="softmax",
        k=0,
        normalized=True,
        renormalize=False,
    )
    return tokenwise(context, base, tokens)


def top_k(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """The k best experts of each token: their weights and their indices."""
    x = inputs[0]
    if not isinstance(x, Activation):
        raise Refusal("TopK of something else than a gate's scores", _REMEDY)
    if attribute(node, "axis", -1) not in (-1, len(x.shape) - 1) or attribute(node, "largest", 1) != 1:
        raise Refusal("TopK that does not take the largest over the last axis", _REMEDY)
    k = int(np.ravel(context.constant(inputs[1], "k"))[0])
    best = _best(context, x, k)
    return [best, Choice(_gate(best), best.full_index())]


def largest(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """ArgMax or ReduceMax over the experts: the best expert of each token, or its weight, as of a TopK with k = 1."""
    x = inputs[0]
    if not isinstance(x, Activation):
        raise Refusal(f"{node.op_type} of something else than a gate's scores", _REMEDY)
    last = len(x.shape) - 1
    axes = np.ravel(context.constant(inputs[1], "its axes")) if len(inputs) > 1 else attribute(node, "axes")
    if node.op_type == "ArgMax":
        axes = [attribute(node, "axis", 0)]
    over = axes is not None and [int(axis) % (last + 1) for axis in axes] == [last]
    if not over or attribute(node, "select_last_index", 0):
        raise Refusal(f"{node.op_type} that is not the first largest over the last axis", _REMEDY)
    tokens = tokens_of(context, x)
    rows = b"" if tokens.rows is None else tokens.rows.tobytes()
    key = ("best", tokens.base.order, rows, tokens.leading)
    base = context.once(key, lambda: _gate(_best(context, x, 1)))
    best = tokenwise(context, base, tokens).full_index()
    best = best if attribute(node, "keepdims", 1) else best[..., 0]
    if node.op_type == "ArgMax":
        return [Choice(base, best)]
    return [Activation(base, best.shape, context.unless_whole(base, best), node=context.node)]


def _gate(x: Activation) -> GateBase:
    assert isinstance(x.base, GateBase)
    return x.base


def _best(context: Context, x: Activation, k: int) -> Activation:
    """The weights of the k best experts."""
    if isinstance(x.base, GateBase) and x.base.stage == "softmax" and x.curve is None:
        tokens, logits, normalized = _routing_tokens(context, x), x.base.logits, True
    else:
        tokens = tokens_of(context, x)
        logits, normalized = linear_gate(tokens), False
    if not 1 <= k <= logits.features:
        raise Refusal(f"TopK takes {k} of {logits.features} experts", _REMEDY)
    base = context.new(
        GateBase,
        tokens=logits.tokens,
        features=k,
        logits=logits,
        stage="chosen",
        k=k,
        normalized=normalized,
        renormalize=False,
    )
    return tokenwise(context, base, tokens)


def total(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """ReduceSum of routing weights over the experts."""
    x = inputs[0]
    weights = isinstance(x, Activation) and isinstance(x.base, GateBase) and x.curve is None
    if not isinstance(x, Activation) or not weights:
        raise Refusal("ReduceSum of something else than routing weights", "only sums over experts are mapped")
    axes = attribute(node, "axes") if len(inputs) < 2 else np.ravel(context.constant(inputs[1], "its axes"))
    last = len(x.shape) - 1
    if axes is None or [int(a) % (last + 1) for a in axes] != [last] or attribute(node, "keepdims", 1) != 1:
        raise Refusal("a sum of routing weights over another axis than the experts", _REMEDY)
    return [Total(x)]


def renormalized(context: Context, x: Activation, divisor: Total) -> Activation:
    """Routing weights divided by their sum."""
    base = x.base
    if (
        not isinstance(base, GateBase)
        or base.stage not in ("chosen", "gates")
        or not base.normalized
        or not x.same_elements(divisor.weights)
    ):
        raise Refusal("something is divided by a sum of routing weights that is not its own", _REMEDY)
    return _next(context, x, base.stage, base.k, normalized=True, renormalize=True)


def scatter(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """Routing weights of the chosen experts put back in their columns."""
    data, choice, updates = inputs[:3]
    if not isinstance(data, Known) or not isinstance(choice, Choice) or not isinstance(updates, Activation):
        raise Refusal(f"{node.op_type} that does not put routing weights into a constant", _REMEDY)
    base = updates.base
    axis = attribute(node, "axis", 0)
    if axis not in (-1, len(updates.shape) - 1) or attribute(node, "reduction", b"none") != b"none":
        raise Refusal("ScatterElements over another axis than the experts, or with a reduction", _REMEDY)
    ours = isinstance(base, GateBase) and base.stage == "chosen" and same_choice(base, choice.chosen)
    if (
        not ours
        or updates.curve is not None
        or not np.array_equal(choice.codes, updates.full_index())
        or data.array.shape != (*updates.shape[:-1], choice.chosen.logits.features)
    ):
        raise Refusal("the weights scattered are not those that TopK chose", _REMEDY)
    assert isinstance(base, GateBase)
    tokens = _routing_tokens(context, updates)
    fill = data.scalar
    if base.normalized and fill == 0:
        stage = "gates"
    elif not base.normalized and fill is not None and fill <= MASKED:
        stage = "masked"
    else:
        raise Refusal(f"routing weights are scattered into {fill}, before or without a softmax", _REMEDY)
    made = scattered(context, base) if stage == "gates" else in_columns(context, base, stage)
    return [tokenwise(context, made, tokens)]


def scattered(context: Context, base: GateBase) -> GateBase:
    """The weights of the chosen in the columns of their experts, the others zero."""
    if not base.normalized:
        raise Refusal("experts are weighted by scores that went through no softmax", _REMEDY)
    return context.once(("scattered", base.order), lambda: in_columns(context, base, "gates"))


def in_columns(context: Context, base: GateBase, stage: str, *, normalized: bool | None = None) -> GateBase:
    """The chosen in the columns of their experts; normalized as they are, or as said."""
    return context.new(
        GateBase,
        tokens=base.tokens,
        features=base.logits.features,
        parent=base,
        logits=base.logits,
        stage=stage,
        k=base.k,
        normalized=base.normalized if normalized is None else normalized,
        renormalize=base.renormalize,
    )


def same_choice(one: GateBase, other: GateBase) -> bool:
    """Both go back to the same TopK."""
    return choice_of(one) is choice_of(other)


def choice_of(base: GateBase) -> GateBase:
    """The TopK that a step of routing goes back to."""
    while isinstance(base.parent, GateBase):
        base = base.parent
    return base


def weighted(context: Context, gate: Activation, expert: Activation) -> Activation:
    """One column of the gates times one expert's result."""
    gates = gate.base
    if not isinstance(gates, GateBase) or gates.stage != "gates" or gate.curve is not None:
        raise Refusal("a product with routing weights that were not scattered into zeros", _REMEDY)
    made = tokens_of(context, expert)
    fc2 = made.base
    if _broadcast(gate.shape, expert.shape) != expert.shape:
        raise Refusal(f"routing weights of shape {gate.shape} times experts of shape {expert.shape}", _REMEDY)
    index = np.broadcast_to(gate.full_index(), expert.shape).reshape(-1, expert.shape[-1])
    column, rows = index[:, 0] % gates.features, index[:, 0] // gates.features
    aligned = (
        np.array_equal(index, np.broadcast_to(index[:, :1], index.shape)) and (column == column[0]).all()
    )
    if aligned:
        base, kept = select_tokens(context, fc2, rows)
        aligned = base is fc2 and _same_rows(kept, made.rows)
    if not aligned:
        raise Refusal("a product of routing weights that is not one column times one expert", _REMEDY)
    check_expert(fc2, gates)
    assert isinstance(fc2, LinearBase)
    base = context.new(
        MixtureBase,
        tokens=fc2.tokens,
        features=fc2.features,
        gates=gates,
        experts={int(column[0]): fc2},
    )
    return tokenwise(context, base, made)


def merged(context: Context, left: Activation, right: Activation) -> Activation | None:
    """The sum of two parts of one mixture, one of which may hang on a residual; None where it is none."""
    if not isinstance(left.base, MixtureBase) and not isinstance(right.base, MixtureBase):
        return None
    if left.shape != right.shape or not np.array_equal(left.full_index(), right.full_index()):
        return None
    for one, other in ((left, right), (right, left)):
        base = one.base
        if isinstance(base, MixtureBase) and isinstance(other.base, MixtureBase):
            return _merge(context, one, other.base)
        if isinstance(base, AddBase) and isinstance(other.base, MixtureBase):
            for part, rest in ((base.left, base.right), (base.right, base.left)):
                if isinstance(part, MixtureBase) and not part.whole and part.gates is other.base.gates:
                    mixture = _merge(context, Activation(part, one.shape, one.index), other.base)
                    total = context.new(
                        AddBase, tokens=base.tokens, features=base.features, left=rest, right=mixture.base
                    )
                    return Activation(total, one.shape, one.index, node=context.node)
    return None


def _merge(context: Context, x: Activation, other: MixtureBase) -> Activation:
    base = x.base
    assert isinstance(base, MixtureBase)
    if base.gates is not other.gates or set(base.experts) & set(other.experts):
        raise Refusal("a sum of experts of different gates, or of one expert twice", _REMEDY)
    made = context.new(
        MixtureBase,
        tokens=base.tokens,
        features=base.features,
        parent=base,
        gates=base.gates,
        experts=base.experts | other.experts,
    )
    return Activation(made, x.shape, x.index, node=context.node)


def layer(
    context: Context,
    source: Base,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32] | None = None,
    activation: str | None = None,
) -> LinearBase:
    """A linear layer of an expert: weight (out, in), bias (out,) or none."""
    return context.new(
        LinearBase,
        tokens=source.tokens,
        features=len(weight),
        source=source,
        weight=np.ascontiguousarray(weight, np.float32),
        bias=np.zeros(len(weight), np.float32) if bias is None else np.asarray(bias, np.float32),
        activation=activation,
    )


def check_expert(base: object, gates: GateBase) -> None:
    """Refuse what is no expert of two linear layers on the input of the gate."""
    fc1 = base.source if isinstance(base, LinearBase) else None
    if (
        not isinstance(base, LinearBase)
        or not isinstance(fc1, LinearBase)
        or base.activation is not None
        or fc1.activation is None
        or fc1.source is not gates.logits.source
        or base.weight.ndim != 2
        or fc1.weight.ndim != 2
    ):
        raise Refusal(
            "an expert that is not fc1, activation, fc2 on the input of the gate",
            "make each expert two linear layers with an activation between them, on the gate's own input",
        )


def linear_gate(tokens: Tokens) -> LinearBase:
    """The layer that makes a gate's scores."""
    base = tokens.base
    if not isinstance(base, LinearBase) or base.activation is not None:
        raise Refusal(
            "a softmax or TopK of something else than attention scores or a linear gate",
            "remove a softmax from the model's end (return logits); let gates be one linear layer",
        )
    return base


def _routing_tokens(context: Context, x: Activation) -> Tokens:
    """The tokens of a step of routing, which must be all of them."""
    tokens = tokens_of(context, x)
    if tokens.base is not x.base:
        raise Refusal("routing of some of the tokens", "route all tokens, then slice")
    return tokens


def _next(
    context: Context, x: Activation, stage: str, k: int, *, normalized: bool, renormalize: bool
) -> Activation:
    base = x.base
    assert isinstance(base, GateBase)
    made = context.new(
        GateBase,
        tokens=base.tokens,
        features=base.features,
        parent=base,
        logits=base.logits,
        stage=stage,
        k=k,
        normalized=normalized,
        renormalize=renormalize,
    )
    return Activation(made, x.shape, x.index, node=context.node)


def _same_rows(left: object, right: object) -> bool:
    if left is None or right is None:
        return left is right
    return np.array_equal(np.asarray(left), np.asarray(right))


def _broadcast(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...] | None:
    try:
        return np.broadcast_shapes(left, right)
    except ValueError:
        return None
