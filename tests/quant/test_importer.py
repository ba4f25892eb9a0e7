"""Import of the bundled model and of damaged and foreign files; no torch needed."""

from __future__ import annotations

import contextlib

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from hwattn.models import find_workload
from hwattn.quant.importer import count_macs, graph_of, import_onnx
from hwattn.quant.reference import evaluate, outputs
from hwattn.spec.errors import RefusedError
from hwattn.spec.graph import Attention, Linear, MixtureOfExperts, PatchEmbed

WORKLOAD = find_workload("digits")
MODEL = onnx.load(WORKLOAD.model)
DIM = 8


def edited() -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(MODEL)
    return model


def node_of(model: onnx.ModelProto, op: str, index: int = 0) -> onnx.NodeProto:
    return [node for node in model.graph.node if node.op_type == op][index]


def run(path, feeds):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds)


def test_bundled_model_equals_onnxruntime() -> None:
    report = import_onnx(WORKLOAD.model)
    graph = report.graph
    assert graph is not None
    images = WORKLOAD.test_set()["image"][:64]
    for task, name in enumerate(("digit", "stroke")):
        wanted = run(WORKLOAD.model, {"image": images, "task": np.array(task)})[task]
        found = outputs(graph, evaluate(graph, images, task), task)
        assert set(found) == {name}
        np.testing.assert_allclose(found[name], wanted, atol=1e-4)


def test_bundled_model_structure() -> None:
    report = import_onnx(WORKLOAD.model)
    graph = report.graph
    assert graph is not None
    assert (graph.image, graph.image_shape, graph.task_input, graph.tasks) == ("image", (1, 8, 8), "task", 2)
    assert [node.name for node in graph.nodes[:9]] == [
        "patch_embed", "blocks.0.norm1", "blocks.0.attn.q", "blocks.0.attn.k", "blocks.0.attn.v",
        "blocks.0.attn", "blocks.0.attn.proj", "blocks.0.add1", "blocks.0.norm2",
    ]  # fmt: skip
    assert [node.name for node in graph.nodes[-6:]] == [
        "blocks.3.add2", "norm", "cls", "head.digit", "patches", "head.stroke",
    ]  # fmt: skip
    mixtures = [node for node in graph.nodes if isinstance(node, MixtureOfExperts)]
    assert [node.name for node in mixtures] == ["blocks.1.moe", "blocks.3.moe"]
    for node in mixtures:
        assert (len(node.experts), node.k, node.renormalize, node.activation) == (8, 2, False, "gelu")
        assert node.gate_weight.shape == (2, 8, 48)
    assert [(o.name, o.shape, o.task) for o in graph.outputs] == [("digit", (10,), 0), ("stroke", (16, 6), 1)]
    by_name = set()
    for node in graph.nodes:
        assert all(name in by_name or name == "image" for name in node.inputs), "not in topological order"
        by_name.add(node.name)
    assert len(by_name) == len(graph.nodes)


def test_counts() -> None:
    report = import_onnx(WORKLOAD.model)
    weights = [int(np.prod(t.dims)) for t in MODEL.graph.initializer if t.data_type == TensorProto.FLOAT]
    # class token and bias of the patch embedding go into the position embedding; two gates get biases
    assert report.parameters == sum(size for size in weights if size > 1) - 2 * 48 + 2 * 2 * 8
    tokens, dim = 17, 48
    attention = tokens * 4 * dim * dim + 2 * tokens * tokens * dim
    moe = tokens * (8 * dim + 2 * 2 * dim * 32)
    mlp = tokens * 2 * dim * 96
    assert report.macs == 16 * 4 * dim + 4 * attention + 2 * (moe + mlp) + 10 * dim + 16 * 6 * dim
    assert report.graph is not None and report.macs == count_macs(report.graph)


def test_every_node_is_accounted_for() -> None:
    report = import_onnx(WORKLOAD.model)
    assert [(entry.node, entry.op) for entry in report.mapped] == [
        (n.name, n.op_type) for n in MODEL.graph.node
    ]
    becomes = {entry.node: entry.becomes for entry in report.mapped}
    assert becomes["node_layer_norm"] == "blocks.0.norm1"
    assert becomes["node_gelu"] == "blocks.0.mlp.fc1"
    assert becomes["node_index_select"] == "constant of blocks.1.moe"
    qkv = "blocks.0.attn.q, blocks.0.attn.k, blocks.0.attn.v"
    assert becomes["node_MatMul_13"] == becomes["node_permute"] == qkv
    assert "unused" not in becomes.values()


def test_names_do_not_matter(tmp_path) -> None:
    model = edited()
    names: dict[str, str] = {"": ""}
    keep = {value.name for value in (*model.graph.input, *model.graph.output)}
    fresh = lambda name: name if name in keep else names.setdefault(name, f"t{len(names)}")  # noqa: E731
    for tensor in model.graph.initializer:
        tensor.name = fresh(tensor.name)
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.name = ""
        for field in (node.input, node.output):
            for i, name in enumerate(field):
                field[i] = fresh(name)
    onnx.save(model, tmp_path / "m.onnx")
    graph = graph_of(tmp_path / "m.onnx")
    for node, other in zip(graph.nodes, graph_of(WORKLOAD.model).nodes, strict=True):
        assert (node.name, node.inputs) == (other.name, other.inputs)
        if isinstance(node, Linear):
            np.testing.assert_array_equal(node.weight, other.weight)


def test_constant_nodes_and_identities(tmp_path) -> None:
    """Weights as Constant nodes behind Identity and a pair of Transposes, as some exporters leave them."""
    model = edited()
    weights = [t for t in model.graph.initializer if len(t.dims) == 2]
    first: list[onnx.NodeProto] = []
    for tensor in weights:
        first += [
            helper.make_node("Constant", [], [tensor.name + "_c"], value=tensor),
            helper.make_node("Identity", [tensor.name + "_c"], [tensor.name + "_i"]),
            helper.make_node("Transpose", [tensor.name + "_i"], [tensor.name + "_t"], perm=[1, 0]),
            helper.make_node("Transpose", [tensor.name + "_t"], [tensor.name], perm=[1, 0]),
        ]
        model.graph.initializer.remove(tensor)
    nodes = [*first, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, tmp_path / "m.onnx")
    graph, wanted = graph_of(tmp_path / "m.onnx"), graph_of(WORKLOAD.model)
    np.testing.assert_array_equal(graph.by_name["head.digit"].weight, wanted.by_name["head.digit"].weight)


def test_external_data(tmp_path) -> None:
    onnx.save(edited(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    assert import_onnx(tmp_path / "m.onnx").parameters == import_onnx(WORKLOAD.model).parameters
    (tmp_path / "m.data").unlink()
    with pytest.raises(RefusedError, match=r"names external data that cannot be read .*m\.data"):
        import_onnx(tmp_path / "m.onnx")


# small models made by hand


def small(nodes, weights, *, image=("N", 3, 4, 4), extra=(), elem=TensorProto.FLOAT, outputs=("y",)):
    inputs = [helper.make_tensor_value_info("image", elem, image), *extra]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["a", "b", "c"]) for name in outputs]
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, made, constants)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.x", 1)], ir_version=9
    )


RNG = np.random.default_rng(3)
WEIGHTS = {
    "kernel": RNG.standard_normal((DIM, 3, 2, 2)).astype(np.float32),
    "to_rows": np.array([0, DIM, -1]),
    "w": RNG.standard_normal((DIM, 5)).astype(np.float32),
    "square": RNG.standard_normal((DIM, DIM)).astype(np.float32),
    "gamma": RNG.standard_normal(DIM).astype(np.float32),
    "beta": RNG.standard_normal(DIM).astype(np.float32),
    "three": np.float32(3),
}
EMBED = [
    helper.make_node("Conv", ["image", "kernel"], ["conv"], strides=[2, 2]),
    helper.make_node("Reshape", ["conv", "to_rows"], ["rows"]),
    helper.make_node("Transpose", ["rows"], ["tokens"], perm=[0, 2, 1]),
    helper.make_node("LayerNormalization", ["tokens", "gamma", "beta"], ["norm"]),
]
HEAD = [helper.make_node("MatMul", ["h", "w"], ["y"])]


def saved(model, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_smallest_model(tmp_path) -> None:
    path = saved(small([*EMBED, helper.make_node("MatMul", ["norm", "w"], ["y"])], WEIGHTS), tmp_path)
    graph = graph_of(path)
    assert [type(node) for node in graph.nodes[:1]] == [PatchEmbed]
    images = RNG.standard_normal((3, 3, 4, 4)).astype(np.float32)
    found = outputs(graph, evaluate(graph, images, 0), 0)["y"]
    np.testing.assert_allclose(found, run(path, {"image": images})[0], atol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "op", "reason"),
    [
        ([helper.make_node("Hardmax", ["norm"], ["h"])], "Hardmax", "Hardmax is not mapped"),
        ([helper.make_node("Foo", ["norm"], ["h"], domain="com.x")], "Foo", "domain 'com.x'"),
        ([helper.make_node("MatMul", ["norm", "square"], ["q"]), helper.make_node("Elu", ["q"], ["h"])], "Elu",
         "no activation of the machine"),
        ([helper.make_node("MatMul", ["norm", "square"], ["q"]), helper.make_node("Mul", ["q", "norm"], ["h"])],
         "Mul", "results of two different layers"),
        ([helper.make_node("Concat", ["norm", "tokens"], ["h"], axis=1)], "Concat", "different layers"),
        ([helper.make_node("Cast", ["norm"], ["c"], to=TensorProto.FLOAT16),
          helper.make_node("Cast", ["c"], ["h"], to=TensorProto.FLOAT)], "Cast", "FLOAT16"),
        ([helper.make_node("RandomNormalLike", ["norm"], ["h"])], "RandomNormalLike", "no place"),
        ([helper.make_node("Mul", ["norm", "norm"], ["h"])], "Mul", "no activation of the machine"),
        ([helper.make_node("Transpose", ["norm"], ["t"], perm=[1, 0, 2]),
          helper.make_node("Add", ["t", "t2"], ["h"])], "Add", ""),
        ([helper.make_node("ReduceMean", ["norm"], ["h"], axes=[1])], "ReduceMean", "mean pooling"),
        ([helper.make_node("Softmax", ["norm"], ["h"])], "Softmax", "linear gate"),
        ([helper.make_node("LayerNormalization", ["norm", "gamma"], ["h"], axis=1)], "LayerNormalization",
         "LayerNormalization from axis 1"),
        ([helper.make_node("Add", ["norm", "image"], ["h"])], "Add", "shapes"),
    ],
)  # fmt: skip
def test_refused_nodes(nodes, op, reason, tmp_path) -> None:
    if any("t2" in node.input for node in nodes):
        nodes = [helper.make_node("LayerNormalization", ["norm", "gamma"], ["x2"]),
                 helper.make_node("Reshape", ["x2", "shape"], ["t2"]), *nodes]  # fmt: skip
    weights = WEIGHTS | {"shape": np.array([4, -1, DIM])}
    path = saved(small([*EMBED, *nodes, *HEAD], weights), tmp_path)
    report = import_onnx(path)
    assert report.graph is None and report.macs == 0
    assert [entry.op for entry in report.refused] == [op]
    assert reason in report.refused[0].reason
    assert report.refused[0].remedy
    with pytest.raises(RefusedError, match=rf"1 node cannot be mapped: {op} ") as raised:
        graph_of(path)
    assert report.refused[0].reason in raised.value.found


def test_all_refused_nodes_are_named_at_once(tmp_path) -> None:
    nodes = [
        *EMBED,
        helper.make_node("Hardmax", ["norm"], ["a"]),
        helper.make_node("Add", ["a", "three"], ["b"]),
        helper.make_node("Softplus", ["norm"], ["c"]),
        helper.make_node("MatMul", ["c", "w"], ["d"]),
        helper.make_node("MatMul", ["b", "w"], ["y"]),
    ]
    report = import_onnx(saved(small(nodes, WEIGHTS, outputs=("y", "d")), tmp_path))
    assert [(entry.op, entry.reason) for entry in report.refused] == [
        ("Hardmax", "Hardmax is not mapped"),
        ("Softplus", "softplus follows a LayerNorm"),
    ]
    assert report.unreached == 3
    assert [entry.op for entry in report.mapped] == ["Conv", "Reshape", "Transpose", "LayerNormalization"]


TASK = helper.make_tensor_value_info("task", TensorProto.INT64, [])
FINE = [*EMBED, helper.make_node("MatMul", ["norm", "w"], ["y"])]


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (small(FINE, WEIGHTS, image=("N", 3, "H", "W")), r"has the shape \['N', 3, 'H', 'W'\]"),
        (small(FINE, WEIGHTS, image=("N", 3, 4)), "has 0 inputs with four axes"),
        (small(FINE, WEIGHTS, image=("N", 3, 10**5, 10**5)), "has 30,000,000,000 numbers"),
        (small(FINE, WEIGHTS, elem=TensorProto.FLOAT16), "is of type FLOAT16"),
        (small(FINE, WEIGHTS, extra=[TASK]), "has 1 outputs and a task input"),
        (small(FINE, WEIGHTS, extra=[helper.make_tensor_value_info("t", TensorProto.FLOAT, [])]), "inputs 't'"),
        (small(FINE, WEIGHTS, extra=[TASK, helper.make_tensor_value_info("m", TensorProto.INT64, [])]),
         "'task', 'm'"),
        (small(FINE, WEIGHTS | {"gamma": np.full(DIM, np.nan, np.float32)}), "'gamma' .* holds NaN"),
        (small([], {}), "holds no nodes"),
        (small(FINE[1:], WEIGHTS), "is not valid ONNX"),
        (small(FINE[::-1], WEIGHTS), "is not valid ONNX"),
    ],
)  # fmt: skip
def test_refused_files(model, found, tmp_path) -> None:
    with pytest.raises(RefusedError, match=found) as raised:
        import_onnx(saved(model, tmp_path))
    assert raised.value.expected and raised.value.remedy


def test_weights_that_are_not_finite(tmp_path) -> None:
    weights = WEIGHTS | {"w": np.full((DIM, 5), np.inf, np.float32)}
    report = import_onnx(saved(small(FINE, weights), tmp_path))
    (entry,) = report.refused
    assert entry.node == "y" and "hold infinity or NaN" in entry.reason


@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_operator_on_flat_heads(scale, tmp_path) -> None:
    options = {} if scale is None else {"scale": scale}
    nodes = [
        *EMBED,
        helper.make_node("MatMul", ["norm", "square"], ["q"]),
        helper.make_node("MatMul", ["norm", "square2"], ["k"]),
        helper.make_node("Attention", ["q", "k", "q"], ["h"], q_num_heads=2, kv_num_heads=2, **options),
        *HEAD,
    ]
    model = small(nodes, WEIGHTS | {"square2": RNG.standard_normal((DIM, DIM)).astype(np.float32)})
    model.opset_import[0].version = 23
    path = saved(model, tmp_path)
    graph = graph_of(path)
    assert graph.by_name["blocks.0.attn"].scale == pytest.approx(scale or (DIM / 2) ** -0.5)
    images = RNG.standard_normal((3, 3, 4, 4)).astype(np.float32)
    found = outputs(graph, evaluate(graph, images, 0), 0)["y"]
    np.testing.assert_allclose(found, run(path, {"image": images})[0], atol=1e-4)
    node_of(model, "Attention").attribute.append(helper.make_attribute("is_causal", 1))
    assert "a mask, a softcap or a cache" in import_onnx(saved(model, tmp_path)).refused[0].reason


def test_task_used_outside_a_gate(tmp_path) -> None:
    weights = WEIGHTS | {"table": RNG.standard_normal((2, DIM, 5)).astype(np.float32)}
    nodes = [
        *EMBED,
        helper.make_node("Gather", ["table", "task"], ["mine"], axis=0),
        helper.make_node("MatMul", ["norm", "mine"], ["y"]),
        helper.make_node("MatMul", ["norm", "w"], ["z"]),
    ]
    path = saved(small(nodes, weights, extra=[TASK], outputs=("y", "z")), tmp_path)
    (entry,) = import_onnx(path).refused
    assert entry.node == "y" and "weights depend on the task, outside a gate" in entry.reason
    weights["table"] = RNG.standard_normal((3, DIM, 5)).astype(np.float32)
    path = saved(small(nodes, weights, extra=[TASK], outputs=("y", "z")), tmp_path)
    assert "a table for 3 tasks" in import_onnx(path).refused[0].reason


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, r"cannot be read \(No such file or directory\)"),
        (b"", "is empty"),
        (b"not a model", "is not an ONNX file"),
        (b"\x00" * 1000, "is not an ONNX file"),
        (WORKLOAD.model.read_bytes()[:1000], "is not an ONNX file, or is cut short"),
        (WORKLOAD.model.read_bytes()[:-1], "is not an ONNX file, or is cut short"),
    ],
)
def test_not_onnx(content, found, tmp_path) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RefusedError, match=found):
        import_onnx(path)


def test_folder(tmp_path) -> None:
    with pytest.raises(RefusedError, match="is a folder"):
        import_onnx(tmp_path)


def test_wrong_sums_of_experts_are_refused(tmp_path) -> None:
    model = edited()
    # the third expert takes the column of the second
    columns = [node for node in model.graph.node if node.op_type == "Slice" and node.input[0] == "scatter"]
    columns[2].input[1:3] = columns[1].input[1:3]
    report = import_onnx(saved(model, tmp_path))
    assert "one expert twice" in report.refused[0].reason
    becomes = {entry.node: entry.becomes for entry in report.mapped}
    assert becomes["node_layer_norm_2"] == "blocks.1.norm1", "what comes before is still named"


def test_attention_scale_and_epsilon_come_from_the_file(tmp_path) -> None:
    model = edited()
    node_of(model, "LayerNormalization").attribute.extend([])
    for item in node_of(model, "LayerNormalization").attribute:
        if item.name == "epsilon":
            item.f = 0.25
    graph = graph_of(saved(model, tmp_path))
    assert graph.by_name["blocks.0.norm1"].epsilon == 0.25
    attention = graph.by_name["blocks.0.attn"]
    assert isinstance(attention, Attention) and (attention.heads, attention.scale) == (3, 0.25)


CONTENT = WORKLOAD.model.read_bytes()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(CONTENT) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    st.one_of(st.none(), st.integers(0, len(CONTENT))),
)
def test_damaged_files_never_crash(tmp_path_factory, changes, length) -> None:
    content = bytearray(CONTENT)
    for place, value in changes:
        content[place] = value
    path = tmp_path_factory.mktemp("damaged") / "m.onnx"
    path.write_bytes(content[:length])
    with contextlib.suppress(RefusedError):
        report = import_onnx(path)
        assert (report.graph is None) == bool(report.refused)


def _edit(model: onnx.ModelProto, random) -> None:
    """Change one thing about a node that is not a constant."""
    nodes = model.graph.node
    place = random.randrange(len(nodes))
    node = nodes[place]
    match random.choice(["swap", "operator", "attribute", "source"]):
        case "swap":
            one, other = random.randrange(len(node.input)), random.randrange(len(node.input))
            node.input[one], node.input[other] = node.input[other], node.input[one]
        case "operator":
            node.op_type = random.choice(["Add", "Mul", "Sub", "Div", "Relu", "Softmax", "Identity", "Neg"])
        case "attribute":
            for item in node.attribute:
                item.f *= 0.5
                item.i += random.choice([-1, 1])
                item.ints[:] = random.sample(list(item.ints), len(item.ints))
        case "source":
            before = [name for other in nodes[max(0, place - 20) : place] for name in other.output]
            node.input[random.randrange(len(node.input))] = random.choice(before or ["image"])


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.randoms(use_true_random=False))
def test_changed_models_are_refused_or_still_right(tmp_path_factory, random) -> None:
    model = edited()
    _edit(model, random)
    path = saved(model, tmp_path_factory.mktemp("changed"))
    images = WORKLOAD.test_set()["image"][:2]
    with contextlib.suppress(RefusedError):
        graph = graph_of(path)
        values = [outputs(graph, evaluate(graph, images, task), task) for task in range(2)]
        for task, name in enumerate(("digit", "stroke")):
            wanted = run(path, {"image": images, "task": np.array(task)})[task]
            np.testing.assert_allclose(values[task][name], wanted, rtol=1e-3, atol=1e-3)
