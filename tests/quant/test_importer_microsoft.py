"""Import of operators of com.microsoft: built by hand, and as onnxruntime's transformer optimizer writes them."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_importer import EMBED, run, saved

from hwattn.quant.importer import import_onnx
from hwattn.quant.reference import evaluate, outputs
from hwattn.spec.graph import Attention, LayerNorm, Linear, MixtureOfExperts

DIM, HIDDEN, EXPERTS, TOKENS = 8, 6, 4, 4
RNG = np.random.default_rng(5)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


WEIGHTS = {
    "kernel": floats(DIM, 3, 2, 2),
    "to_rows": np.array([0, DIM, -1]),
    "flat": np.array([-1, DIM]),
    "back": np.array([-1, TOKENS, DIM]),
    "heads": np.array([0, TOKENS, 2, DIM // 2]),
    **{name: floats(DIM) for name in ("gamma", "beta", "bias", "gamma2", "beta2")},
    **{name: floats(DIM, DIM) for name in ("square", "second")},
    "packed": floats(DIM, 3 * DIM),
    "packed_bias": floats(3 * DIM),
    "w": floats(DIM, 5),
    "router": floats(DIM, EXPERTS),
    "w1": floats(EXPERTS, HIDDEN, DIM),
    "b1": floats(EXPERTS, HIDDEN),
    "w2": floats(EXPERTS, DIM, HIDDEN),
    "b2": floats(EXPERTS, DIM),
    "ones": np.ones((2, TOKENS), np.int32),
    "lengths": np.full(2, TOKENS, np.int32),
    "hidden_key": np.array([[1, 1, 1, 0]] * 2, np.int32),
    "no_bias": np.zeros((1, 1, TOKENS, TOKENS), np.float32),
    "some_bias": floats(1, 1, TOKENS, TOKENS),
}


def ms(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs, outputs, op, domain="com.microsoft", **attributes)


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs, outputs, **attributes)


def model(*nodes, opset=17, batch="N"):
    """Tokens ``norm``, the given nodes, which make ``h``, and a linear head."""
    used = {name for one in [*EMBED, *nodes] for name in one.input} | {"w"}
    constants = [numpy_helper.from_array(np.asarray(v), k) for k, v in WEIGHTS.items() if k in used]
    graph = helper.make_graph(
        [*EMBED, *nodes, node("MatMul", ["h", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, TOKENS, 5])],
        constants,
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def same(path, atol=1e-4):
    report = import_onnx(path)
    assert report.refused == ()
    images = RNG.standard_normal((2, 3, 4, 4)).astype(np.float32)
    found = outputs(report.graph, evaluate(report.graph, images, 0), 0)["y"]
    np.testing.assert_allclose(found, run(path, {"image": images})[0], rtol=1e-4, atol=atol)
    return report.graph


@pytest.mark.parametrize(
    ("op", "activation", "bias"),
    [("Gelu", "gelu", False), ("BiasGelu", "gelu", True), ("FastGelu", "gelu_tanh", True),
     ("FastGelu", "gelu_tanh", False), ("QuickGelu", "quick_gelu", False)],
)  # fmt: skip
def test_activations(op, activation, bias, tmp_path):
    nodes = [
        node("MatMul", ["norm", "square"], ["a"]),
        ms(op, ["a", "bias"][: 2 if bias else 1], ["b"]),
        node("MatMul", ["b", "second"], ["h"]),
    ]
    graph = same(saved(model(*nodes), tmp_path))
    assert [n.activation for n in graph.nodes if isinstance(n, Linear)] == [activation, None, None]


@pytest.mark.parametrize(("bias", "total"), [(False, False), (True, True)])
def test_skip_layer_normalization(bias, total, tmp_path):
    inputs = ["a", "tokens", "gamma2", "beta2", *(["bias"] if bias else [])]
    nodes = [
        node("MatMul", ["norm", "square"], ["a"]),
        ms("SkipLayerNormalization", inputs, ["n", *(["", "", "sum"] if total else [])], epsilon=1e-3),
        node("MatMul", ["n", "second"], ["b"]),
        node("Add", ["b", "sum" if total else "tokens"], ["h"]),
    ]
    graph = same(saved(model(*nodes, opset=14), tmp_path))
    assert [n.epsilon for n in graph.nodes if isinstance(n, LayerNorm)][1] == pytest.approx(1e-3)


@pytest.mark.parametrize("fused", [False, True])
def test_simplified_layer_normalization(fused, tmp_path):
    if fused:
        norm = ms("SkipSimplifiedLayerNormalization", ["a", "tokens", "gamma2", "bias"], ["n", "", "", "sum"])
        before = []
    else:
        norm = node("SimplifiedLayerNormalization", ["sum", "gamma2"], ["n"], axis=-1, epsilon=1e-4)
        before = [node("Add", ["a", "tokens"], ["sum"])]
    nodes = [
        node("MatMul", ["norm", "square"], ["a"]),
        *before,
        norm,
        node("MatMul", ["n", "second"], ["b"]),
        node("Add", ["b", "sum"], ["h"]),
    ]
    graph = same(saved(model(*nodes), tmp_path))
    assert [n.zero_mean for n in graph.nodes if isinstance(n, LayerNorm)] == [False, True]


PACKED = ["norm", "packed", "packed_bias"]
SPLIT = [
    node("MatMul", ["norm", "packed"], ["qkv"]),
    node("Split", ["qkv"], ["q", "k", "v"], axis=-1),
]


@pytest.mark.parametrize(
    "nodes",
    [
        [ms("Attention", PACKED, ["h"], num_heads=2)],
        [ms("Attention", PACKED, ["h"], num_heads=4, qkv_hidden_sizes=[8, 8, 8], scale=0.3)],
        [ms("Attention", [*PACKED, "ones", "", "no_bias"], ["h"], num_heads=2)],
        [ms("Attention", [*PACKED, "lengths"], ["h"], num_heads=2)],
        [*SPLIT, ms("MultiHeadAttention", ["q", "k", "v", "packed_bias"], ["h"], num_heads=2)],
        [*SPLIT, ms("MultiHeadAttention", ["q", "k", "v", "", "ones"], ["h"], num_heads=4, scale=0.3)],
        [*SPLIT, node("Reshape", ["q", "heads"], ["q4"]), node("Reshape", ["k", "heads"], ["k4"]),
         node("Reshape", ["v", "heads"], ["v4"]), node("Transpose", ["q4"], ["qh"], perm=[0, 2, 1, 3]),
         node("Transpose", ["k4"], ["kh"], perm=[0, 2, 1, 3]), node("Transpose", ["v4"], ["vh"], perm=[0, 2, 1, 3]),
         ms("FusedMatMul", ["qh", "kh"], ["s"], transB=1, alpha=0.4), node("Softmax", ["s"], ["p"]),
         node("MatMul", ["p", "vh"], ["o4"]), node("Transpose", ["o4"], ["o"], perm=[0, 2, 1, 3]),
         node("Reshape", ["o", "back"], ["h"])],
    ],
)  # fmt: skip
def test_attention(nodes, tmp_path):
    masked = any(name in ("ones", "lengths") for one in nodes for name in one.input)
    graph = same(saved(model(*nodes, opset=14, batch=2 if masked else "N"), tmp_path))
    assert sum(isinstance(n, Attention) for n in graph.nodes) == 1


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([ms("Attention", [*PACKED, "hidden_key"], ["h"], num_heads=2)], "a mask"),
        ([ms("Attention", [*PACKED, "", "", "some_bias"], ["h"], num_heads=2)], "a mask"),
        ([ms("Attention", PACKED, ["h"], num_heads=2, unidirectional=1)], "a mask"),
        ([ms("Attention", PACKED, ["h"], num_heads=2, qkv_hidden_sizes=[8, 8, 4])], "qkv_hidden_sizes"),
        ([*SPLIT, ms("MultiHeadAttention", ["q", "k", "v"], ["h", "pk", "pv"], num_heads=2)], "a cache"),
        ([ms("NGramRepeatBlock", ["norm"], ["h"])], "NGramRepeatBlock is not mapped"),
    ],
)
def test_refused(nodes, reason, tmp_path):
    report = import_onnx(saved(model(*nodes, batch=2), tmp_path))
    assert report.graph is None
    assert reason in report.refused[0].reason


def mixture(inputs, **attributes):
    return [
        node("Reshape", ["norm", "flat"], ["x"]),
        node("MatMul", ["x", "router"], ["scores"]),
        ms("MoE", ["x", "scores", *inputs], ["m"], **attributes),
        node("Reshape", ["m", "back"], ["h"]),
    ]


ALL = ["w1", "b1", "w2", "b2"]


@pytest.mark.parametrize(
    ("inputs", "activation", "k", "divide"),
    [(ALL, "relu", 1, 0), (ALL, "gelu", 2, 1), (ALL, "silu", 2, 0), (["w1", "", "w2", ""], "silu", 3, 1)],
)
def test_mixture(inputs, activation, k, divide, tmp_path):
    attributes = {"activation_type": activation, "k": k, "normalize_routing_weights": divide}
    graph = same(saved(model(*mixture(inputs, **attributes)), tmp_path))
    (found,) = (n for n in graph.nodes if isinstance(n, MixtureOfExperts))
    assert (found.k, found.renormalize, len(found.experts)) == (k, bool(divide), EXPERTS)
    assert found.activation == {"gelu": "gelu_tanh"}.get(activation, activation)


@pytest.mark.parametrize(
    ("inputs", "attributes", "reason"),
    [
        (ALL, {"activation_type": "swiglu", "k": 2, "swiglu_fusion": 1}, "activation swiglu"),
        (ALL, {"activation_type": "silu", "k": 9}, "takes 9 of 4 experts"),
        (["w2", "b1", "w1", "b2"], {"activation_type": "silu", "k": 2}, "weights of shapes"),
        (ALL, {"activation_type": "silu", "k": 2, "use_sparse_mixer": 1}, "sparse mixer"),
    ],
)
def test_refused_mixtures(inputs, attributes, reason, tmp_path):
    report = import_onnx(saved(model(*mixture(inputs, **attributes)), tmp_path))
    assert report.graph is None
    assert reason in report.refused[0].reason


@pytest.mark.parametrize(("style", "opset"), [("separate", 14), ("mha", 17)])
def test_optimized(style, opset, tmp_path):
    pytest.importorskip("torch")
    import torch_vits as vits
    from onnxruntime.transformers import optimizer
    from test_importer_torch import imported

    network = vits.ViT(vits.Block(vits.Attend(style, "scores")), vits.Block())
    path = vits.export(network, tmp_path / "m.onnx", opset=opset)
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        made = optimizer.optimize_model(
            str(path), "vit", num_heads=vits.HEADS, hidden_size=vits.DIM, opt_level=0
        )
        made.save_model_to_file(str(tmp_path / "o.onnx"))
    finally:
        logging.disable(level)
    found = {one.op_type for one in onnx.load(tmp_path / "o.onnx").graph.node}
    assert {"BiasGelu", "LayerNormalization"} <= found
    assert ("SkipLayerNormalization" in found) == (style == "separate")
    graph = imported(tmp_path / "o.onnx")
    wanted = import_onnx(path).graph
    assert [(type(n), n.name) for n in graph.nodes] == [(type(n), n.name) for n in wanted.nodes]
