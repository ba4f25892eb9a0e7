"""The dataflow attention kernel against the NumPy model's functions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwattn.cli.hls_vectors import attention_result
from hwattn.hls.csim import CAttention
from hwattn.spec.config import AcceleratorConfig

KERNELS = [
    (AcceleratorConfig(rows=3, lanes=4), 5, 7),
    (AcceleratorConfig(rows=4, lanes=8), 16, 16),
]
"""Configuration, features of a head, keys of a block."""


@pytest.fixture(scope="module", params=KERNELS, ids=["ragged", "whole"])
def kernel(request):
    config, head_dim, key_block = request.param
    return CAttention(config, head_dim, key_block), head_dim, key_block


@st.composite
def cases(draw, head_dim, key_block):
    """Queries, keys, values and scaling, from small values to saturating ones, sometimes all equal."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    queries, keys = draw(st.integers(1, 10)), draw(st.integers(1, 3 * key_block + 1))
    heads, span = draw(st.integers(1, 3)), draw(st.sampled_from([1, 20, 128]))
    scaling = [
        [
            draw(st.integers(2**15, 2**16 - 1)),
            draw(st.integers(14, 30)),
            draw(st.integers(2**15, 2**16 - 1)),
            draw(st.integers(1, 12)),
        ]
        for _ in range(heads)
    ]
    q, k, v = (
        random.integers(-span, span, (count, heads, head_dim)).astype(np.int8)
        for count in (queries, keys, keys)
    )
    return q, k, v, np.array(scaling, np.int64), draw(st.booleans())


def test_equals_the_model(kernel):
    run, head_dim, key_block = kernel

    @settings(max_examples=80)
    @given(cases(head_dim, key_block))
    def check(case):
        q, k, v, scaling, p16 = case
        wanted = attention_result(q, k, v, scaling, key_block, p16)
        assert np.array_equal(run.run(q, k, v, scaling, p16), wanted)

    check()
