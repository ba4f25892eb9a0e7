"""Reference attention against masked softmax, NATTEN's own outputs and torch's flex attention."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hwattn.sim.gna import Pattern
from hwattn.sim.gna.reference import attention, merge
from hwattn.spec.errors import RefusedError

GOLDEN = Path(__file__).parents[2] / "data" / "gna" / "golden.jsonl"
PATTERNS = [
    Pattern(23, 6, 3),
    Pattern((7, 9), (4, 5), (2, 3), (1, 1), (True, False)),
    Pattern((6, 5, 8), (3, 4, 2), (2, 1, 2), (2, 1, 3)),
    Pattern((8, 8), (8, 8)),
]


def _random(
    pattern: Pattern, heads: int, heads_kv: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    shape = (2, *pattern.layout)
    return (
        random.normal(size=(*shape, heads, 8)),
        random.normal(size=(*shape, heads_kv, 8)),
        random.normal(size=(*shape, heads_kv, 5)),
    )


@pytest.mark.parametrize("pattern", PATTERNS)
def test_masked_softmax_with_grouped_queries(pattern: Pattern) -> None:
    q, k, v = _random(pattern, 4, 2)
    output, lse = attention(q, k, v, pattern)
    flat = [array.reshape(2, pattern.tokens, *array.shape[-2:]) for array in (q, k, v)]
    for batch in range(2):
        for head in range(4):
            logits = flat[0][batch, :, head] @ flat[1][batch, :, head // 2].T / np.sqrt(8)
            weights = np.exp(logits) * pattern.mask()
            expected = weights @ flat[2][batch, :, head // 2] / weights.sum(axis=1, keepdims=True)
            got = output.reshape(2, pattern.tokens, 4, 5)[batch, :, head]
            np.testing.assert_allclose(got, expected, atol=1e-12)
            np.testing.assert_allclose(
                lse.reshape(2, -1, 4)[batch, :, head], np.log(weights.sum(axis=1)), atol=1e-12
            )


def test_additional_keys_equal_two_merged_attentions() -> None:
    pattern = PATTERNS[1]
    q, k, v = _random(pattern, 3, 3)
    random = np.random.default_rng(1)
    more_k, more_v = random.normal(size=(2, 11, 3, 8)), random.normal(size=(2, 11, 3, 5))
    joint, joint_lse = attention(q, k, v, pattern, additional_keys=more_k, additional_values=more_v)
    logits = np.einsum("bxyhd,bkhd->bxyhk", q, more_k) / np.sqrt(8)
    weights = np.exp(logits)
    extra = np.einsum("bxyhk,bkhd->bxyhd", weights / weights.sum(-1, keepdims=True), more_v)
    merged, merged_lse = merge(attention(q, k, v, pattern), (extra, np.log(weights.sum(-1))))
    np.testing.assert_allclose(joint, merged, atol=1e-12)
    np.testing.assert_allclose(joint_lse, merged_lse, atol=1e-12)


def test_mean_pooling_as_natten_computed_it() -> None:
    torch = pytest.importorskip("torch")
    checked = 0
    for line in GOLDEN.read_text().splitlines():
        case = json.loads(line)
        probe = case.get("mean_pool_probe")
        if probe is None or checked == 12:
            continue
        pattern = Pattern(
            case["shape"], case["kernel_size"], case["stride"], case["dilation"], case["is_causal"]
        )
        generator = torch.Generator().manual_seed(case["id"])
        value = torch.randn(1, *pattern.layout, 1, 8, generator=generator).numpy()
        zeros = np.zeros((1, *pattern.layout, 1, 8))
        output, lse = attention(zeros, zeros, value, pattern)
        flat = output.reshape(-1, 8)
        np.testing.assert_allclose(flat[0], probe["out_first"], atol=2e-6)
        counts = pattern.mask().sum(axis=1)
        np.testing.assert_allclose(np.exp(lse.reshape(-1)), counts, rtol=1e-12)
        checked += 1
    assert checked == 12


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("pattern", PATTERNS[1:3])
def test_torch_flex_attention_agrees(pattern: Pattern) -> None:
    torch = pytest.importorskip("torch")
    from hwattn.sim.gna.flex import flex_attention

    random = np.random.default_rng(2)
    q = random.normal(size=(1, *pattern.layout, 4, 16))
    k, v = (random.normal(size=(1, *pattern.layout, 2, 16)) for _ in range(2))
    expected, _ = attention(q, k, v, pattern)
    got = flex_attention(*(torch.tensor(array) for array in (q, k, v)), pattern)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1, 4, 1, 8), (1, 5, 1, 8), (1, 4, 1, 8)), r"key of shape \(1, 5, 1, 8\)"),
        (((1, 4, 3, 8), (1, 4, 2, 8), (1, 4, 2, 8)), "3 heads with 2 KV heads"),
        (((1, 4, 1, 8), (1, 4, 1, 4), (1, 4, 1, 8)), "equal head_dim of query and key"),
    ],
)
def test_refusals(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        attention(*(np.zeros(shape) for shape in shapes), Pattern(4, 2))  # type: ignore[arg-type]
