"""The float evaluation of a graph, against small cases worked out another way."""

from __future__ import annotations

import numpy as np
import pytest

from hwattn.quant.reference import activate, evaluate, outputs, patches, route
from hwattn.spec.errors import RefusedError
from hwattn.spec.graph import (
    Add,
    Attention,
    Expert,
    Graph,
    LayerNorm,
    Linear,
    MixtureOfExperts,
    Output,
    PatchEmbed,
    Rows,
)
from hwattn.spec.tables import ACTIVATIONS

RNG = np.random.default_rng(7)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def small_graph(*nodes, first: int = 1, outputs_of: tuple[Output, ...] = ()) -> Graph:
    embed = PatchEmbed("x", ("image",), normal(6, 3, 2, 2), normal(7, 6), first)
    return Graph("image", (3, 4, 6), "task", 2, (embed, *nodes), outputs_of)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_equal_the_exact_functions(name: str) -> None:
    x = np.linspace(-20, 20, 4001).astype(np.float32)
    exact = [ACTIVATIONS[name][0](float(value)) for value in x]
    np.testing.assert_allclose(activate(name, x), exact, atol=2e-6)
    assert activate(None, x) is x


def test_patches_are_row_major() -> None:
    image = np.arange(24, dtype=np.float32).reshape(1, 1, 4, 6)
    cut = patches(image, (2, 3))
    assert cut.shape == (1, 4, 6)
    np.testing.assert_array_equal(cut[0, 1], [3, 4, 5, 9, 10, 11])
    np.testing.assert_array_equal(cut[0, 2], [12, 13, 14, 18, 19, 20])


def test_patch_embedding_adds_to_the_constant_tokens() -> None:
    graph = small_graph()
    embed = graph.by_name["x"]
    images = normal(2, 3, 4, 6)
    x = evaluate(graph, images, 0)["x"]
    np.testing.assert_array_equal(x[:, 0], np.broadcast_to(embed.init[0], (2, 6)))
    wanted = embed.init[6] + np.tensordot(embed.weight, images[1, :, 2:4, 4:6], axes=3)
    np.testing.assert_allclose(x[1, 6], wanted, rtol=1e-5, atol=1e-5)


def test_attention_layernorm_rows_and_outputs() -> None:
    norm = LayerNorm("n", ("x",), normal(6), normal(6), 1e-5)
    attention = Attention("a", ("n", "x", "n"), heads=2, scale=0.3)
    graph = small_graph(
        norm,
        attention,
        Add("s", ("a", "x")),
        Rows("cls", ("s",), 0, 1),
        Linear("head", ("cls",), normal(3, 6), normal(3), "relu"),
        outputs_of=(Output("y", "head", (3,), 0), Output("all", "s", (7, 6), None)),
    )
    values = evaluate(graph, normal(2, 3, 4, 6), 1)
    x, n = values["x"][1], values["n"][1]
    np.testing.assert_allclose(n, (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) * norm.gamma + norm.beta,
                               atol=1e-3)  # fmt: skip
    p = np.exp(0.3 * n[:, 3:] @ x[:, 3:].T)
    wanted = p / p.sum(1, keepdims=True) @ n[:, 3:]
    np.testing.assert_allclose(values["a"][1, :, 3:], wanted, atol=1e-5)
    assert values["head"].min() == 0
    assert set(outputs(graph, values, 1)) == {"all"}
    made = outputs(graph, values, 0)
    assert made["y"].shape == (2, 3) and made["all"].shape == (2, 7, 6)


@pytest.mark.parametrize("renormalize", [False, True])
def test_mixture_equals_the_dense_form(renormalize: bool) -> None:
    experts = tuple(Expert(normal(5, 6), normal(5), normal(6, 5), normal(6)) for _ in range(4))
    node = MixtureOfExperts("m", ("x",), experts, "gelu", normal(2, 4, 6), normal(2, 4), 2, renormalize)
    values = evaluate(small_graph(node), normal(3, 3, 4, 6), 1)
    x = values["x"]
    scores = x @ node.gate_weight[1].T + node.gate_bias[1]
    kept = scores >= np.sort(scores, axis=-1)[..., -2:-1]
    p = np.exp(scores)
    p = np.where(kept, p, 0) / (np.where(kept, p, 0) if renormalize else p).sum(-1, keepdims=True)
    dense = sum(
        p[..., i : i + 1] * (activate("gelu", x @ e.fc1_weight.T + e.fc1_bias) @ e.fc2_weight.T + e.fc2_bias)
        for i, e in enumerate(experts)
    )
    np.testing.assert_allclose(values["m"], dense, rtol=1e-4, atol=1e-4)


def test_ties_go_to_the_lower_expert() -> None:
    expert = Expert(normal(5, 6), normal(5), normal(6, 5), normal(6))
    node = MixtureOfExperts("m", ("x",), (expert,) * 4, "relu", np.zeros((1, 4, 6), np.float32),
                            np.float32([[0, 1, 1, 1]]), 2, False)  # fmt: skip
    chosen, weights = route(node, normal(1, 3, 6), 0)
    np.testing.assert_array_equal(chosen, np.broadcast_to([1, 2], (1, 3, 2)))
    np.testing.assert_allclose(weights, np.e / (3 * np.e + 1), rtol=1e-6)


def test_wrong_images_and_tasks_are_refused() -> None:
    graph = small_graph()
    with pytest.raises(RefusedError, match=r"images of shape \(2, 3, 4, 4\); expected \(N, 3, 4, 6\)"):
        evaluate(graph, normal(2, 3, 4, 4), 0)
    with pytest.raises(RefusedError, match="task 2; expected 0 to 1"):
        evaluate(graph, normal(2, 3, 4, 6), 2)
