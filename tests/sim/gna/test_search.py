"""Stride pruning against the paper's lists, and the search."""

from __future__ import annotations

from math import prod
from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwattn.sim.gna import Pattern, search
from hwattn.sim.gna.exploration import pareto, windows_of_sparsity
from hwattn.sim.gna.strides import axis_strides, pruned_strides
from hwattn.spec.errors import RefusedError

HUNYUAN = (30, 48, 80)


def _speedups(pattern: Pattern, q_tile: tuple[int, ...], kv_tile: tuple[int, ...]) -> list[float]:
    return sorted(
        {
            round(Pattern(pattern.layout, pattern.window, stride).speedup(q_tile, kv_tile).simulated, 2)
            for stride in pruned_strides(pattern, q_tile, kv_tile)
        }
    )


@pytest.mark.parametrize(
    ("layout", "window", "q_tile", "kv_tile", "expected"),
    [
        (HUNYUAN, (18, 24, 24), (4, 8, 8), (2, 8, 8), [3.27, 3.6, 4.0, 5.45, 6.0, 6.67, 9.09, 10.0, 11.11]),
        (HUNYUAN, (30, 40, 40), (2, 16, 8), (2, 8, 8), [1.43, 1.71, 2.0, 2.4]),
        ((16, 44, 80), (16, 32, 48), (8, 4, 8), (4, 4, 8), [1.75, 1.96, 2.04, 2.29]),
        ((16, 44, 80), (16, 24, 16), (8, 4, 8), (4, 4, 8), [5.24, 6.11, 7.86, 9.17]),
        ((256, 256), (80, 80), (16, 16), (16, 8), [6.1, 7.31, 8.53, 10.24]),
    ],
)
def test_the_papers_speedups(
    layout: tuple[int, ...],
    window: tuple[int, ...],
    q_tile: tuple[int, ...],
    kv_tile: tuple[int, ...],
    expected: list[float],
) -> None:
    assert _speedups(Pattern(layout, window), q_tile, kv_tile) == expected


def test_the_papers_strides() -> None:
    axes = Pattern(HUNYUAN, (18, 24, 24)).axes
    assert [
        axis_strides(a, q, kv, "static") for a, q, kv in zip(axes, (4, 8, 8), (2, 8, 8), strict=True)
    ] == [
        (1, 2, 16),
        (1, 8),
        (1, 8),
    ]
    sequence = Pattern(32768, 2048).axes[0]
    assert axis_strides(sequence, 256, 128, "static") == (1, 256)
    assert axis_strides(sequence, 128, 128, "static")[:2] == (1, 256)


def test_hunyuan_on_blackwell_in_seconds() -> None:
    begin = perf_counter()
    result = search(HUNYUAN, "b200", heads=24, head_dim=128, window=(18, 24, 24))
    assert perf_counter() - begin < 5
    assert not result.best.projection.masked
    assert result.best.pattern.stride == (16, 8, 8)
    assert result.best.speedup.simulated == pytest.approx(11.11, abs=0.01)
    times = [candidate.projection.total_ms for candidate in result.candidates]
    assert times == sorted(times)
    localities = [candidate.locality for candidate in result.front]
    assert localities == sorted(localities)
    assert result.front[-1].pattern.stride == (1, 1, 1)


def test_search_by_sparsity_and_over_backends() -> None:
    result = search((64, 64), "h100", heads=8, head_dim=64, sparsity=0.75, all_backends=True)
    assert {candidate.projection.backend for candidate in result.candidates} >= {"hopper-fna"}
    assert all(abs(candidate.pattern.sparsity - 0.75) <= 0.01 for candidate in result.candidates)
    assert (
        search((64, 64), "h100", heads=8, head_dim=64, window=16, backward=True).best.projection.kernel_ms > 0
    )


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12))
def test_pareto_keeps_exactly_what_nothing_dominates(points: list[tuple[float, float]]) -> None:
    kept = [point for point, keep in zip(points, pareto(points), strict=True) if keep]
    for time, locality in points:
        assert any(t <= time and kept_locality >= locality for t, kept_locality in kept)
    for time, locality in kept:
        assert not any(
            t <= time and other >= locality and (t, other) != (time, locality) for t, other in points
        )


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=3), st.floats(0, 0.99))
def test_windows_of_a_sparsity_are_valid(layout: list[int], sparsity: float) -> None:
    windows = windows_of_sparsity(layout, sparsity)
    assert 1 <= len(windows) <= 24
    near = [abs(1 - prod(window) / prod(layout) - sparsity) <= 0.01 for window in windows]
    assert all(near) or len(windows) == 1
    for window in windows:
        Pattern(layout, window)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "both or neither of window and sparsity"),
        ({"window": 8, "sparsity": 0.5}, "both or neither of window and sparsity"),
        ({"sparsity": 0.5, "layout": (1, 8)}, "axis 0: length 1; expected at least 2 tokens"),
        ({"window": 4, "layout": (8,) * 4}, "a layout of 4 axes"),
        (
            {"window": 64, "layout": (2048,) * 3, "gpu": "a100"},
            "a layout of 8589934592 tokens for cutlass-fna",
        ),
        ({"sparsity": 1.0}, "sparsity 1.0; expected a number from 0 to below 1"),
        ({"window": 8, "dtype": "fp8", "gpu": "a100", "all_backends": True}, "fp8 with head_dim 64 on A100"),
    ],
)
def test_refusals(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        search(**{"layout": (32, 32), "gpu": "h100", "heads": 1, "head_dim": 64, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("layout", "window", "stride", "most", "dense"),
    [
        ((256, 256), 80, 1, 160, 512),
        ((256, 256), 80, 16, 160, 512),
        ((16, 44, 80), (16, 24, 16), 1, 440, 440),
        (HUNYUAN, (18, 24, 24), 1, 306, 900),
    ],
)
def test_flat_tiling_wastes_what_multidimensional_tiling_saves(
    layout: tuple[int, ...], window: int | tuple[int, ...], stride: int, most: int, dense: int
) -> None:
    speedup = Pattern(layout, window, stride).speedup(256, 128, "flat")
    assert (speedup.max_visited, speedup.dense_tiles) == (most, dense)
