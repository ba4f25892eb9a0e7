"""The quantizer on hand-made graphs: integers within their limits, close to float, and clear refusals."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from hwattn.compiler import compile_model
from hwattn.quant.calibration import collect
from hwattn.quant.migration import migrate
from hwattn.quant.quantizer import Quantization, quantize
from hwattn.quant.reference import evaluate, route
from hwattn.quant.report import measure
from hwattn.quant.roles import Role, check_roles, tensor_roles
from hwattn.quant.settings import Settings
from hwattn.quant.simulate import simulate, wide_tensors
from hwattn.sim.model.executor import Executor
from hwattn.spec.config import load_preset
from hwattn.spec.errors import RefusedError
from hwattn.spec.graph import (
    Add,
    Attention,
    Expert,
    Graph,
    LayerNorm,
    Linear,
    MixtureOfExperts,
    Node,
    Output,
    PatchEmbed,
    Rows,
)
from hwattn.spec.numbers import GATE_LIMIT
from hwattn.spec.quantized import (
    QuantizedAttention,
    QuantizedLayerNorm,
    QuantizedLinear,
    QuantizedMixture,
    QuantizedPatchEmbed,
)

DIM, HEADS, EXPERTS, TOKENS = 12, 3, 4, 5


class Maker:
    """Makes nodes with random weights."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def array(self, *shape: int, size: float = 1.0) -> Any:
        return (self.rng.standard_normal(shape) * size).astype(np.float32)

    def linear(
        self, name: str, source: str, outputs: int, inputs: int, activation: str | None = None
    ) -> Linear:
        weight, bias = self.array(outputs, inputs, size=inputs**-0.5), self.array(outputs, size=0.2)
        return Linear(name, (source,), weight, bias, activation)

    def norm(self, name: str, source: str, spread: float = 0.3) -> LayerNorm:
        gamma = np.exp(self.array(DIM, size=spread))
        return LayerNorm(name, (source,), gamma, self.array(DIM, size=0.2), 1e-5)

    def mixture(self, name: str, source: str, tasks: int, renormalize: bool) -> MixtureOfExperts:
        experts = tuple(
            Expert(
                self.array(8, DIM, size=DIM**-0.5),
                self.array(8, size=0.1),
                self.array(DIM, 8, size=8**-0.5),
                self.array(DIM, size=0.1),
            )
            for _ in range(EXPERTS)
        )
        gate, bias = self.array(tasks, EXPERTS, DIM), self.array(tasks, EXPERTS)
        return MixtureOfExperts(name, (source,), experts, "gelu", gate, bias, 2, renormalize)


def make_graph(seed: int = 0, tasks: int = 2, renormalize: bool = False, spread: float = 0.3) -> Graph:
    """One dense and one mixture branch, and one output per task."""
    make = Maker(seed)
    nodes: list[Node] = [
        PatchEmbed("embed", ("image",), make.array(DIM, 1, 2, 2), make.array(TOKENS, DIM), 1),
        make.norm("norm1", "embed", spread),
        *(make.linear(name, "norm1", DIM, DIM) for name in "qkv"),
        Attention("attend", ("q", "k", "v"), HEADS, (DIM // HEADS) ** -0.5),
        make.linear("proj", "attend", DIM, DIM),
        Add("sum1", ("embed", "proj")),
        make.norm("norm2", "sum1", spread),
        make.linear("fc1", "norm2", 20, DIM, "gelu"),
        make.linear("fc2", "fc1", DIM, 20),
        Add("sum2", ("sum1", "fc2")),
        make.norm("norm3", "sum2", spread),
        make.mixture("mixture", "norm3", tasks, renormalize),
        Add("sum3", ("mixture", "sum2")),
        make.norm("norm4", "sum3", spread),
        Rows("class", ("norm4",), 0, 1),
        make.linear("head", "class", 3, DIM),
        Rows("patches", ("norm4",), 1, TOKENS),
        make.linear("dense", "patches", 2, DIM),
    ]
    outputs = (Output("head", "head", (3,), 0), Output("dense", "dense", (4, 2), tasks - 1))
    return Graph("image", (1, 4, 4), "task" if tasks > 1 else None, tasks, tuple(nodes), outputs)


def make_images(count: int = 48, seed: int = 9) -> Any:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 1, 4, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def made() -> Quantization:
    return quantize(make_graph(), make_images(), "small", "ab")


def test_every_tensor_is_close_to_float_on_other_images(made: Quantization) -> None:
    layers = measure(made.graph, made.model, make_images(64, seed=10))
    assert [layer.name for layer in layers] == [node.name for node in make_graph().nodes]
    assert {layer.kind for layer in layers} >= {"PatchEmbed", "LayerNorm", "MixtureOfExperts"}
    low = {layer.name: layer.sqnr_db for layer in layers if layer.sqnr_db < 30}
    assert not low
    assert made.residual_sqnr_db > 60


def test_integers_and_scales_are_those_of_the_contract(made: Quantization) -> None:
    model = made.model
    assert (model.name, model.source, model.tasks, model.image_shape) == ("small", "ab", 2, (1, 4, 4))
    assert set(model.scales) == {"image", *(node.name for node in model.nodes)}
    for name, scale in model.scales.items():
        assert scale.dtype == np.float64 and np.all(scale > 0)
        assert scale.shape == ((HEADS,) if name in ("q", "k", "v") else (1,))
    stream = ["embed", "proj", "sum1", "fc2", "sum2", "mixture", "sum3"]
    assert len({float(model.scales[name][0]) for name in stream}) == 1
    assert model.scales["class"] is model.scales["norm4"] or model.scales["class"] == model.scales["norm4"]
    for node in model.nodes:
        if isinstance(node, QuantizedLinear):
            assert (node.matrix.weight.dtype, node.matrix.scale.dtype, node.matrix.bias.dtype) == (
                np.int8,
                np.float64,
                np.int32,
            )
        if isinstance(node, QuantizedLayerNorm):
            assert (node.gamma.dtype, node.beta.dtype) == (np.int16, np.int32)
            assert 9 <= node.shift <= 31 and node.epsilon >= 1
            assert node.wide == (node.name == "norm3")
        if isinstance(node, QuantizedPatchEmbed):
            assert node.weight.shape == (DIM, 1, 2, 2) and node.init.dtype == np.int16
        if isinstance(node, QuantizedMixture):
            assert (
                node.gate_weight.dtype == np.int16
                and np.abs(node.gate_weight.astype(int)).max() == GATE_LIMIT
            )
            assert node.gate_bias.dtype == np.int64 and len(node.experts) == EXPERTS
    assert wide_tensors(model) == {*stream, "head", "dense"}


def test_quantization_is_deterministic(made: Quantization) -> None:
    again = quantize(make_graph(), make_images(), "small", "ab")
    for left, right in zip(made.model.nodes, again.model.nodes, strict=True):
        if isinstance(left, QuantizedLinear) and isinstance(right, QuantizedLinear):
            assert np.array_equal(left.matrix.weight, right.matrix.weight)
            assert np.array_equal(left.matrix.bias, right.matrix.bias)


@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("tasks", [1, 3])
def test_routing_follows_float(tasks: int, renormalize: bool) -> None:
    graph = make_graph(3, tasks, renormalize)
    made = quantize(graph, make_images(), "m")
    images = make_images(64, seed=11)
    mixture = graph.by_name["mixture"]
    assert isinstance(mixture, MixtureOfExperts)
    for task in range(tasks):
        chosen, _ = route(mixture, evaluate(graph, images, task)["norm3"], task)
        mine = simulate(made.model, images, task).routing["mixture"]
        assert mine.shape == (64, TOKENS, 2)
        assert np.mean(np.sort(mine) == np.sort(chosen)) > 0.97


def test_migration_keeps_the_function_and_helps_uneven_channels() -> None:
    graph, images = make_graph(5, spread=1.5), make_images()
    moved, statistics = migrate(graph, collect(graph, images))
    values, other = evaluate(graph, images, 1), evaluate(moved, images, 1)
    for name in ("proj", "fc1", "mixture", "dense"):
        np.testing.assert_allclose(other[name], values[name], rtol=1e-3, atol=1e-4)
    assert not np.allclose(other["norm2"], values["norm2"], rtol=0.1)
    np.testing.assert_allclose(statistics.peaks["norm2"], np.abs(other["norm2"]).max(), rtol=1e-4)
    with_it, without = (
        {layer.name: layer.sqnr_db for layer in measure(made.graph, made.model, make_images(64, seed=12))}
        for made in (
            quantize(graph, images, "m"),
            quantize(graph, images, "m", settings=Settings(migration=False)),
        )
    )
    assert with_it["fc2"] > without["fc2"] + 1
    assert with_it["proj"] > without["proj"]


def test_keys_are_centred_and_balanced_against_queries() -> None:
    graph, images = make_graph(6), make_images()
    key, query = graph.by_name["k"], graph.by_name["q"]
    assert isinstance(key, Linear) and isinstance(query, Linear)
    uneven = np.float32([1, 30, 1, 1] * HEADS)
    graph = replaced(graph, "k", weight=key.weight * uneven[:, None], bias=key.bias + np.float32(20))
    graph = replaced(graph, "q", weight=query.weight / uneven[:, None], bias=query.bias / uneven)
    moved, statistics = migrate(graph, collect(graph, images))
    values, other = evaluate(graph, images, 0), evaluate(moved, images, 0)
    np.testing.assert_allclose(other["proj"], values["proj"], rtol=1e-3, atol=1e-3)
    assert np.abs(other["k"].mean(axis=(0, 1))).max() < 0.01 * other["k"].std()
    reach = np.abs(statistics.rows("k")).max(axis=0)
    assert reach.max() / reach.min() < 10
    with_it, without = (
        {layer.name: layer.sqnr_db for layer in measure(made.graph, made.model, make_images(64, seed=12))}
        for made in (
            quantize(graph, images, "m"),
            quantize(graph, images, "m", settings=Settings(migration=False)),
        )
    )
    assert with_it["attend"] > without["attend"] + 3


def test_ranges_of_the_machine_are_watched(made: Quantization) -> None:
    assert made.warnings == ()
    graph = make_graph()
    key, fc1 = graph.by_name["k"], graph.by_name["fc1"]
    mixture = graph.by_name["mixture"]
    assert isinstance(key, Linear) and isinstance(fc1, Linear) and isinstance(mixture, MixtureOfExperts)
    graph = replaced(graph, "k", weight=key.weight * np.float32(100))
    graph = replaced(graph, "fc1", bias=fc1.bias - np.float32(40))
    loud = dataclasses.replace(mixture.experts[2], fc1_bias=np.full(8, 50, np.float32))
    graph = replaced(graph, "mixture", experts=(*mixture.experts[:2], loud, mixture.experts[3]))
    scores, dense, experts = quantize(graph, make_images(), "m").warnings
    assert re.match(r"attend: attention scores reach \d+ and saturate at 89; ", scores)
    assert re.match(r"fc1: inputs of its activation reach 4\d and saturate at 32; ", dense)
    assert re.match(r"mixture: inputs of its activation reach 5\d and saturate at 32; ", experts)


def test_migration_leaves_a_shared_value_alone() -> None:
    graph = make_graph()
    nodes = tuple(
        dataclasses.replace(node, inputs=("q", "v", "v")) if node.name == "attend" else node
        for node in graph.nodes
    )
    graph = dataclasses.replace(graph, nodes=tuple(node for node in nodes if node.name != "k"))
    moved, _ = migrate(graph, collect(graph, make_images()))
    left, right = graph.by_name["proj"], moved.by_name["proj"]
    assert isinstance(left, Linear) and isinstance(right, Linear)
    assert np.array_equal(left.weight, right.weight)


def test_an_output_may_be_the_residual_stream() -> None:
    graph = make_graph()
    graph = dataclasses.replace(graph, outputs=(Output("features", "sum3", (TOKENS, DIM), None),))
    made = quantize(graph, make_images(), "m")
    assert made.model.scales["sum3"] == made.model.scales["embed"]
    last = measure(made.graph, made.model, make_images(16, seed=13))[-1]
    assert last.name == "sum3" and last.sqnr_db > 30


def test_rows_of_the_stream_stay_in_the_stream() -> None:
    make = Maker(0)
    graph = make_graph()
    nodes = (
        *graph.nodes[:-5],
        Rows("first", ("sum3",), 0, 1),
        make.norm("norm4", "first"),
        make.linear("head", "norm4", 3, DIM),
    )
    graph = dataclasses.replace(graph, nodes=nodes, outputs=(Output("head", "head", (3,), None),))
    assert tensor_roles(graph)["first"] is Role.RESIDUAL
    assert simulate(quantize(graph, make_images(), "m").model, make_images(3), 1).tensors["head"].shape == (
        3,
        1,
        3,
    )


def replaced(graph: Graph, name: str, **changes: Any) -> Graph:
    """The graph with one node changed."""
    nodes = tuple(dataclasses.replace(node, **changes) if node.name == name else node for node in graph.nodes)
    return dataclasses.replace(graph, nodes=nodes)


@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        ("sum1", ("norm1", "proj"), r"norm1 \(LayerNorm\) is added to the residual stream or normalized"),
        ("fc1", ("sum1",), r"fc1 \(Linear\) reads sum1, which is stored as residual"),
        ("fc1", ("q",), r"fc1 \(Linear\) reads q, which is stored as heads"),
        ("attend", ("q", "k", "norm1"), r"norm1 \(LayerNorm\) is a query, key or value"),
        ("mixture", ("fc1",), r"mixture \(MixtureOfExperts\) reads fc1; expected a LayerNorm"),
        ("fc1", ("image",), r"reads image, which is stored as an image"),
    ],
)
def test_refused_uses(name: str, inputs: tuple[str, ...], message: str) -> None:
    graph = replaced(make_graph(), name, inputs=inputs)
    with pytest.raises(RefusedError, match=message):
        check_roles(graph, tensor_roles(graph))


def test_an_output_that_is_a_layer_norm_is_refused() -> None:
    graph = dataclasses.replace(make_graph(), outputs=(Output("y", "norm4", (TOKENS, DIM), None),))
    with pytest.raises(RefusedError, match=r"norm4 \(LayerNorm\) is a model output; expected a linear layer"):
        quantize(graph, make_images(), "m")


def test_bad_calibration_images_are_refused() -> None:
    graph = make_graph()
    with pytest.raises(RefusedError, match="missing or hold values that are not finite"):
        quantize(graph, np.zeros((0, 1, 4, 4), np.float32), "m")
    with pytest.raises(RefusedError, match="missing or hold values that are not finite"):
        quantize(graph, np.full((2, 1, 4, 4), np.nan, np.float32), "m")
    with pytest.raises(RefusedError, match=r"images of shape \(2, 3, 4, 4\)"):
        quantize(graph, np.zeros((2, 3, 4, 4), np.float32), "m")
    broken = replaced(graph, "fc1", bias=np.full(20, np.inf, np.float32))
    with pytest.raises(RefusedError, match="values that are not finite, first in fc1"):
        quantize(broken, make_images(), "m")


def test_one_image_and_equal_images_are_enough() -> None:
    for images in (make_images(1), np.zeros((3, 1, 4, 4), np.float32)):
        made = quantize(make_graph(), images, "m")
        layers = measure(made.graph, made.model, images)
        assert min(layer.sqnr_db for layer in layers) > 20


def test_outliers_beyond_int16_are_refused() -> None:
    graph = make_graph()
    embed = graph.by_name["embed"]
    assert isinstance(embed, PatchEmbed)
    init = embed.init.copy()
    # the other tokens' values are lost: the power of all tokens counts, so the outlier is one expert's
    init *= np.float32(1e-3)
    graph = replaced(graph, "embed", init=init, weight=embed.weight * np.float32(1e-3))
    mixture = graph.by_name["mixture"]
    assert isinstance(mixture, MixtureOfExperts)
    loud = dataclasses.replace(mixture.experts[0], fc2_bias=np.full(DIM, 1e3, np.float32))
    graph = replaced(graph, "mixture", experts=(loud, *mixture.experts[1:]))
    with pytest.raises(RefusedError, match="outliers in the residual stream .* expected at least 40 dB"):
        quantize(graph, make_images(), "m")


@pytest.mark.parametrize(("seed", "tasks", "renormalize", "p_bits"), [(0, 1, True, 8), (1, 2, False, 16)])
def test_the_compiled_program_computes_what_the_simulation_does(
    seed: int, tasks: int, renormalize: bool, p_bits: int
) -> None:
    graph = make_graph(seed, tasks, renormalize)
    model = quantize(graph, make_images(), "m").model
    nodes = tuple(
        dataclasses.replace(node, p_bits=p_bits) if isinstance(node, QuantizedAttention) else node
        for node in model.nodes
    )
    model = dataclasses.replace(model, nodes=nodes)
    executor, images = Executor(compile_model(model, load_preset("tiny"))), make_images(128, seed=14)
    for task in range(tasks):
        result, expected = executor.run(images, task), simulate(model, images, task)
        for output in model.outputs:
            if output.task in (None, task):
                made, wanted = result.integers[output.name].ravel(), expected.tensors[output.tensor].ravel()
                scale = model.scales[output.tensor][0]
                # the simulation takes roots, quotients and activations in floating point: few roundings differ
                assert np.mean(np.abs(made - np.rint(wanted / scale)) <= 1) > 0.9
