"""Attention divided over GPUs."""

from __future__ import annotations

import pytest

from hwattn.sim.gna import Pattern, project
from hwattn.sim.gna.parallel import project_parallel
from hwattn.sim.gna.projection import Problem
from hwattn.spec.errors import RefusedError

PATTERN = Pattern((30, 48, 80), (18, 24, 24), (16, 8, 8))
PROBLEM = Problem(heads=24, head_dim=128, heads_kv=24)
TILES = {"q_tile": (4, 8, 8), "kv_tile": (2, 8, 8)}


def test_one_gpu_is_the_plain_projection() -> None:
    alone = project(PATTERN, "b200", heads=24, head_dim=128, **TILES)
    for mode in ("heads", "sequence"):
        shown = project_parallel(PATTERN, 1, "b200", mode, problem=PROBLEM, **TILES)
        assert shown.total_ms == pytest.approx(alone.total_ms)
        assert shown.halo_bytes == 0 and shown.efficiency == pytest.approx(1.0)


@pytest.mark.parametrize("gpus", [2, 4, 8])
def test_more_gpus_are_faster_and_never_better_than_linear(gpus: int) -> None:
    heads = project_parallel(PATTERN, gpus, "b200", "heads", problem=PROBLEM, **TILES)
    rows = project_parallel(PATTERN, gpus, "b200", "sequence", 2, problem=PROBLEM, **TILES)
    assert heads.halo_ms == 0 and rows.halo_ms > 0
    assert 0.5 < rows.efficiency < heads.efficiency <= 1.1
    # an inner slab fetches the window's reach on both sides
    assert rows.halo_tokens <= 2 * 24 * 30 * 48
    assert rows.halo_bytes == 2 * 2 * rows.halo_tokens * 24 * 128


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, "b200"), "0 GPUs; expected at least 1"),
        ((9, "b200"), "9 GPUs for 8 Q tiles along the axis"),
        ((25, "b200", "heads"), "25 GPUs for 24 KV heads"),
        ((2, "b200", "rows"), "mode 'rows'"),
        ((2, "b200", "sequence", 3), "axis 3; expected 0 to 2"),
    ],
)
def test_refusals(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        project_parallel(PATTERN, *arguments, problem=PROBLEM, **TILES)  # type: ignore[arg-type]
