"""Operators of the domain com.microsoft, which onnxruntime's transformer optimizer writes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from hwattn.quant.onnx_bases import GateBase, MixtureBase
from hwattn.quant.onnx_values import Activation, Known, Refusal, Value
from hwattn.quant.patterns import attention, elementwise, linear, products
from hwattn.quant.patterns.context import Context, attribute
from hwattn.quant.patterns.mixture import check_expert, layer, linear_gate
from hwattn.quant.patterns.tokens import tokens_of, tokenwise

_REMEDY = (
    "optimize the model for float32, without masks, caches and rotary embeddings, or give the plain model"
)
_ACTIVATIONS = {b"relu": "relu", b"gelu": "gelu_tanh", b"silu": "silu"}
"""Of MoE; its GELU is the tanh form in onnxruntime's kernels."""


def gelu(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """Gelu, BiasGelu, FastGelu and QuickGelu; a second input is a bias before the function."""
    x = _there(inputs[0])
    for bias in inputs[1:]:
        if bias is not None:
            x = elementwise.binary(context, "Add", x, bias)
    return elementwise.unary(context, node, [x])


def fused_matmul(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """``alpha * A @ B``, each transposed first where its attribute says so."""
    if attribute(node, "transBatchA", 0) or attribute(node, "transBatchB", 0):
        raise Refusal("FusedMatMul that transposes the batch", _REMEDY)
    operands: list[Value | None] = [
        _transposed(_there(value)) if attribute(node, name, 0) else value
        for value, name in zip(inputs, ("transA", "transB"), strict=True)
    ]
    (y,) = products.matmul(context, node, operands)
    alpha = np.float32(attribute(node, "alpha", 1.0))
    return [y if alpha == 1 else elementwise.binary(context, "Mul", y, Known((np.asarray(alpha),)))]


def packed_attention(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """Attention with the projections of q, k and v in one matrix."""
    x, weight, bias, mask, past, added = (*inputs, *[None] * 6)[:6]
    if not isinstance(x, Activation) or not isinstance(weight, Known) or len(x.shape) != 3:
        raise Refusal("Attention of something else than tokens and constant weights", _REMEDY)
    _check_plain(node, x.shape[:2], mask, added, [past, *inputs[6:]])
    y: Value = linear.linear(context, x, weight)
    if bias is not None:
        y = elementwise.binary(context, "Add", y, bias)
    assert isinstance(y, Activation)
    sizes = attribute(node, "qkv_hidden_sizes") or [y.shape[-1] // 3] * 3
    ends = np.cumsum(sizes)
    if len(ends) != 3 or ends[-1] != y.shape[-1]:
        raise Refusal(f"Attention of {y.shape[-1]} features with qkv_hidden_sizes {list(sizes)}", _REMEDY)
    q, k, v = (_features(y, int(end - size), int(end)) for size, end in zip(sizes, ends, strict=True))
    return [_attend(context, node, q, k, v)]


def multi_head_attention(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """MultiHeadAttention of q, k and v (batch, tokens, features), with their bias in one vector."""
    q, k, v, bias, mask, added = (*inputs, *[None] * 6)[:6]
    parts = [part for part in (q, k, v) if isinstance(part, Activation) and len(part.shape) == 3]
    if len(parts) != 3:
        raise Refusal(
            "MultiHeadAttention whose query, key and value are not (batch, tokens, features)", _REMEDY
        )
    _check_plain(node, parts[1].shape[:2], mask, added, list(inputs[6:]))
    if bias is not None:
        vector = context.constant(bias, "its bias")
        ends = np.cumsum([part.shape[-1] for part in parts])
        biased = [
            elementwise.binary(context, "Add", part, Known((one,)))
            for part, one in zip(parts, np.split(vector, ends[:-1]), strict=True)
        ]
        parts = [part for part in biased if isinstance(part, Activation)]
    return [_attend(context, node, *parts)]


def _attend(
    context: Context, node: onnx.NodeProto, q: Activation, k: Activation, v: Activation
) -> Activation:
    heads = attribute(node, "num_heads", 1)
    q, k, v = (attention.split(part, heads) for part in (q, k, v))
    return attention.joined(attention.of_heads(context, q, k, v, attribute(node, "scale", 0.0) or None))


def _check_plain(
    node: onnx.NodeProto,
    tokens: tuple[int, ...],
    mask: Value | None,
    added: Value | None,
    rest: list[Value | None],
) -> None:
    """Refuse masks that hide something, caches and rotary embeddings."""
    flags = ("unidirectional", "do_rotary", "past_present_share_buffer")
    hides = not (mask is None or _sees_all(mask, tokens)) or not (
        added is None or attention.hides_nothing(added)
    )
    if hides or any(attribute(node, flag, 0) for flag in flags):
        raise Refusal(f"{node.op_type} with a mask or rotary embedding", _REMEDY)
    if any(value is not None for value in rest) or any(node.output[1:]):
        raise Refusal(f"{node.op_type} with a cache", _REMEDY)


def _sees_all(mask: Value, tokens: tuple[int, ...]) -> bool:
    """The mask is one for every key, or says that all keys count."""
    if not isinstance(mask, Known) or len(mask.arrays) != 1 or mask.array.dtype.kind != "i":
        return False
    batch, keys = tokens
    visible = keys if mask.array.ndim == 1 else 1
    return len(mask.array) == batch and bool((mask.array == visible).all())


def mixture_of_experts(context: Context, node: onnx.NodeProto, inputs: list[Value | None]) -> list[Value]:
    """MoE: softmax of the router's scores, the k best, experts of two layers with stacked weights."""
    x, router, w1, b1, w2, b2, *others = (*inputs, *[None] * 6)[: max(6, len(inputs))]
    name = attribute(node, "activation_type", b"relu")
    if name not in _ACTIVATIONS or any(value is not None for value in others):
        raise Refusal(f"MoE with the activation {name.decode()} or a third layer", _REMEDY)
    if attribute(node, "use_sparse_mixer", 0) or not isinstance(x, Activation):
        raise Refusal("MoE with a sparse mixer, or of no tokens", _REMEDY)
    if not isinstance(router, Activation):
        raise Refusal("MoE whose router is no linear layer", _REMEDY)
    tokens, routed = tokens_of(context, x), tokens_of(context, router)
    logits = linear_gate(routed)
    places = np.arange(context.batch * tokens.base.tokens)
    rows = [places if one.rows is None else one.rows for one in (tokens, routed)]
    if not np.array_equal(rows[0], rows[1]):
        raise Refusal("MoE whose router sees the tokens in another order", _REMEDY)
    first, second = (np.asarray(context.constant(w, "its weights"), np.float32) for w in (w1, w2))
    count, features = logits.features, tokens.base.features
    if first.shape[::2] != (count, features) or second.shape != (count, features, first.shape[1]):
        raise Refusal(
            f"MoE with weights of shapes {first.shape} and {second.shape} for {count} experts of {features} features",
            "give them as (experts, hidden, features) and (experts, features, hidden)",
        )
    bias = [
        np.zeros(w.shape[:2], np.float32) if b is None else context.constant(b, "its bias")
        for w, b in ((first, b1), (second, b2))
    ]
    k = int(attribute(node, "k", 1))
    if not 1 <= k <= count:
        raise Refusal(f"MoE that takes {k} of {count} experts", _REMEDY)
    gates = context.new(
        GateBase,
        tokens=logits.tokens,
        features=count,
        logits=logits,
        stage="gates",
        k=k,
        normalized=True,
        renormalize=bool(attribute(node, "normalize_routing_weights", 0)),
    )
    experts = {}
    for number in range(count):
        fc1 = layer(context, tokens.base, first[number], bias[0][number], _ACTIVATIONS[name])
        experts[number] = layer(context, fc1, second[number], bias[1][number])
        check_expert(experts[number], gates)
    base = context.new(
        MixtureBase, tokens=tokens.base.tokens, features=features, gates=gates, experts=experts
    )
    return [tokenwise(context, base, tokens)]


def _there(value: Value | None) -> Value:
    if value is None:
        raise Refusal("an operand is missing", "check the model with onnxruntime")
    return value


def _features(x: Activation, start: int, stop: int) -> Activation:
    index = x.full_index()[..., start:stop]
    return Activation(x.base, index.shape, index, x.curve, node=x.node)


def _transposed(value: Value) -> Value:
    if isinstance(value, Known):
        return Known(tuple(array.swapaxes(-1, -2) for array in value.arrays))
    if not isinstance(value, Activation) or value.offset is not None:
        raise Refusal("FusedMatMul of something else than tokens", _REMEDY)
    index = value.full_index().swapaxes(-1, -2)
    return Activation(value.base, index.shape, index, value.curve, node=value.node)


HANDLERS: dict[str, Callable[[Context, onnx.NodeProto, list[Value | None]], list[Value]]] = {
    **dict.fromkeys(["Gelu", "BiasGelu", "FastGelu", "QuickGelu"], gelu),
    "Attention": packed_attention,
    "MultiHeadAttention": multi_head_attention,
    "FusedMatMul": fused_matmul,
    "MoE": mixture_of_experts,
}
"""What to do with an operator of com.microsoft that depends on the image."""
