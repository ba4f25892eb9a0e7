"""The 90 cases that NATTEN itself produced: windows, mask hashes and visited counts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwattn.sim.gna import Pattern

GOLDEN = Path(__file__).parents[2] / "data" / "gna" / "golden.jsonl"
CASES = [json.loads(line) for line in GOLDEN.read_text().splitlines()]


def test_all_ninety_cases_are_here() -> None:
    assert len(CASES) == 90


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"case{case['id']}")
def test_case(case: dict[str, Any]) -> None:
    pattern = Pattern(case["shape"], case["kernel_size"], case["stride"], case["dilation"], case["is_causal"])
    for axis, expected in enumerate(case["axis_windows"]):
        first, last, step, count = np.array(expected).T
        windows = pattern.windows(axis)
        np.testing.assert_array_equal(windows[:, 0], first)
        np.testing.assert_array_equal(windows[:, 1], last + 1)
        np.testing.assert_array_equal(windows[:, 2], step)
        assert [len(range(*window)) for window in windows.tolist()] == count.tolist()
    mask = pattern.mask()
    assert hashlib.sha256(np.packbits(mask).tobytes()).hexdigest() == case["mask_sha256"]
    assert pattern.unmasked_pairs == case["unmasked_pairs"] == mask.sum()

    tiles = case["tiles"]
    visited = pattern.visited_kv_tiles(case["q_tile"], case["kv_tile"])
    np.testing.assert_array_equal(visited, np.concatenate([np.ravel(group) for group in tiles["visited"]]))
    speedup = pattern.speedup(case["q_tile"], case["kv_tile"])
    assert speedup.max_visited == tiles["max_visited"]
    assert speedup.mean_visited == pytest.approx(tiles["mean_visited"], rel=1e-12)
    assert speedup.dense_tiles == tiles["kv_tiles_self_attention"]
    assert speedup.block_sparse == tiles["fully_block_sparse"]
