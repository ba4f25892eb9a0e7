"""Laws of the rule on random small cases: closed forms against brute force, and the degenerate identities."""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwattn.sim.gna import Pattern
from hwattn.sim.gna.axis import leaders
from hwattn.sim.gna.counting import count_visits
from hwattn.sim.gna.explanation import explain
from hwattn.sim.gna.parallel import axis_halo
from hwattn.sim.gna.sparsity import axis_skips_mask, kernel_skips_mask
from hwattn.spec.errors import RefusedError

AxisCase = tuple[int, int, int, int, bool, int, int]


@st.composite
def axis_cases(draw: st.DrawFn, longest: int = 14) -> AxisCase:
    dilation = draw(st.integers(1, 3))
    window = draw(st.integers(2, max(2, longest // dilation)))
    length = draw(st.integers(window * dilation, max(longest, window * dilation)))
    stride = draw(st.integers(1, window))
    tiles = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    return length, window, stride, dilation, draw(st.booleans()), *tiles


@st.composite
def cases(draw: st.DrawFn) -> tuple[Pattern, tuple[int, ...], tuple[int, ...]]:
    rank = draw(st.integers(1, 3))
    axes = [draw(axis_cases({1: 24, 2: 10, 3: 6}[rank])) for _ in range(rank)]
    length, window, stride, dilation, causal, q_tile, kv_tile = (
        tuple(column) for column in zip(*axes, strict=True)
    )
    return Pattern(length, window, stride, dilation, causal), q_tile, kv_tile  # type: ignore[arg-type]


def brute_axis(length: int, window: int, stride: int, dilation: int, causal: bool) -> npt.NDArray[np.bool_]:
    """The rule of one axis, query by query, from its definition."""
    mask = np.zeros((length, length), dtype=np.bool_)
    for group in range(dilation):
        members = list(range(group, length, dilation))
        for position, query in enumerate(members):
            together = [p for p in range(len(members)) if p // stride == position // stride]
            whole = [p for p in range(len(members) + stride) if p // stride == position // stride]
            leader = min(whole[-1] if causal else whole[len(whole) // 2], len(members) - 1)
            assert position in together
            if causal:
                keys = [p for p in range(leader - window + 1, position + 1) if p >= 0]
            else:
                start = leader - window // 2
                while start < 0:
                    start += 1
                while start + window > len(members):
                    start -= 1
                keys = list(range(start, start + window))
            mask[query, [members[p] for p in keys]] = True
    return mask


def brute_mask(pattern: Pattern) -> npt.NDArray[np.bool_]:
    mask = np.ones((1, 1), dtype=np.bool_)
    for a in pattern.axes:
        mask = np.kron(mask, brute_axis(a.length, a.window, a.stride, a.dilation, a.causal)).astype(np.bool_)
    return mask


def group_tiles(pattern: Pattern, tile: tuple[int, ...]) -> list[list[npt.NDArray[np.int64]]]:
    """Token indices of each tile, by dilation group, tiles padded to the longest group's number."""
    index = np.arange(pattern.tokens).reshape(pattern.layout)
    groups = []
    for group in product(*(range(d) for d in pattern.dilation)):
        part = index[tuple(slice(g, None, d) for g, d in zip(group, pattern.dilation, strict=True))]
        counts = [-(-axis.group_length(0) // t) for axis, t in zip(pattern.axes, tile, strict=True)]
        groups.append(
            [
                part[tuple(slice(c * t, c * t + t) for c, t in zip(corner, tile, strict=True))].ravel()
                for corner in product(*(range(count) for count in counts))
            ]
        )
    return groups


@settings(deadline=None, max_examples=100)
@given(cases())
def test_mask_equals_brute_force(case: tuple[Pattern, tuple[int, ...], tuple[int, ...]]) -> None:
    pattern = case[0]
    mask = pattern.mask()
    np.testing.assert_array_equal(mask, brute_mask(pattern))
    assert pattern.unmasked_pairs == mask.sum()
    assert mask.any(axis=1).all()


@settings(deadline=None, max_examples=100)
@given(cases())
def test_static_counts_equal_brute_force_forward_and_backward(
    case: tuple[Pattern, tuple[int, ...], tuple[int, ...]],
) -> None:
    pattern, q_tile, kv_tile = case
    mask = brute_mask(pattern)
    forward, backward = [], []
    for queries, keys in zip(group_tiles(pattern, q_tile), group_tiles(pattern, kv_tile), strict=True):
        touched = np.array([[mask[np.ix_(q, k)].any() for k in keys] for q in queries])
        forward += touched.sum(axis=1).tolist()
        backward += touched.sum(axis=0).tolist()
    assert pattern.visited_kv_tiles(q_tile, kv_tile).tolist() == forward
    assert pattern.visited_q_tiles(q_tile, kv_tile).tolist() == backward


@settings(deadline=None, max_examples=60)
@given(cases(), st.integers(1, 9), st.integers(1, 9))
def test_flat_counts_equal_brute_force(
    case: tuple[Pattern, tuple[int, ...], tuple[int, ...]], q_tile: int, kv_tile: int
) -> None:
    pattern = case[0]
    mask = brute_mask(pattern)
    n = pattern.tokens
    touched = np.array(
        [
            [mask[q : q + q_tile, k : k + kv_tile].any() for k in range(0, n, kv_tile)]
            for q in range(0, n, q_tile)
        ]
    )
    assert pattern.visited_kv_tiles(q_tile, kv_tile, "flat").tolist() == touched.sum(axis=1).tolist()
    assert pattern.visited_q_tiles(q_tile, kv_tile, "flat").tolist() == touched.sum(axis=0).tolist()


@settings(deadline=None, max_examples=80)
@given(cases())
def test_dynamic_visits_no_more_than_static(case: tuple[Pattern, tuple[int, ...], tuple[int, ...]]) -> None:
    pattern, q_tile, kv_tile = case
    dynamic = pattern.visited_kv_tiles(q_tile, kv_tile, "dynamic")
    static = pattern.visited_kv_tiles(q_tile, kv_tile, "static")
    assert (dynamic <= static).all()
    np.testing.assert_array_equal(
        pattern.visited_kv_tiles(q_tile, 1, "dynamic"), pattern.visited_kv_tiles(q_tile, 1, "static")
    )


@settings(deadline=None, max_examples=120)
@given(cases())
def test_no_mask_means_whole_tiles(case: tuple[Pattern, tuple[int, ...], tuple[int, ...]]) -> None:
    pattern, q_tile, kv_tile = case
    mask = brute_mask(pattern)
    whole = True
    for queries, keys in zip(group_tiles(pattern, q_tile), group_tiles(pattern, kv_tile), strict=True):
        for q in queries:
            for k in keys:
                block = mask[np.ix_(q, k)]
                if block.any() and (not block.all() or k.size < prod(kv_tile)):
                    whole = False
    speedup = pattern.speedup(q_tile, kv_tile)
    assert speedup.block_sparse == whole
    assert speedup.block_sparse == (not speedup.reasons)
    if (
        not pattern.takes_fast_path
        and min(*q_tile, *kv_tile, 2) >= 2
        and all(a.length % (t * a.dilation) == 0 for a, t in zip(pattern.axes, kv_tile, strict=True))
    ):
        # NATTEN's test never skips a mask that is needed
        assert whole or not kernel_skips_mask(pattern, q_tile, kv_tile, "static")


@settings(deadline=None, max_examples=80)
@given(st.lists(axis_cases(30), min_size=1, max_size=20), st.sampled_from(["static", "dynamic"]))
def test_many_at_once_equals_one_by_one(axes: list[AxisCase], tiling: str) -> None:
    columns = np.array(axes, dtype=np.int64)[:, :, None]
    length, window, stride, dilation, causal, q_tile, kv_tile = columns.transpose(1, 0, 2)
    counted = count_visits(
        length, window, stride, dilation, causal, q_tile=q_tile, kv_tile=kv_tile, tiling=tiling
    )
    for index, (n, w, s, d, c, tq, tkv) in enumerate(axes):
        speedup = Pattern(n, w, s, d, c).speedup(tq, tkv, tiling)
        assert counted.max_visited[index] == speedup.max_visited
        assert counted.mean_visited[index] == pytest.approx(speedup.mean_visited)
        assert counted.simulated[index] == pytest.approx(speedup.simulated)
        assert counted.mean[index] == pytest.approx(speedup.mean)


@settings(deadline=None, max_examples=80)
@given(axis_cases(40))
def test_leaders_and_windows_are_monotone(case: AxisCase) -> None:
    axis = Pattern(*case[:5]).axes[0]
    windows = Pattern(*case[:5]).windows(0)
    for group, n in enumerate(axis.group_lengths().tolist()):
        assert (np.diff(leaders(np.arange(n), n, axis)) >= 0).all()
        assert (np.diff(windows[group :: axis.dilation, :2], axis=0) >= 0).all()


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 30), st.data())
def test_degenerate_identities(length: int, data: st.DataObject) -> None:
    window = data.draw(st.integers(2, length))
    neighborhood = Pattern(length, window).mask()
    for query in range(length):
        start = min(max(query - window // 2, 0), length - window)
        assert np.flatnonzero(neighborhood[query]).tolist() == list(range(start, start + window))
    blocks = length // window * window
    block = np.arange(blocks) // window
    np.testing.assert_array_equal(Pattern(blocks, window, window).mask(), block[:, None] == block[None, :])
    local = (block[:, None] == block[None, :]) & np.tri(blocks, dtype=np.bool_)
    np.testing.assert_array_equal(Pattern(blocks, window, window, causal=True).mask(), local)
    stride = data.draw(st.integers(1, length))
    assert Pattern(length, length, stride).mask().all()
    np.testing.assert_array_equal(Pattern(length, length, causal=True).mask(), np.tri(length, dtype=np.bool_))


@settings(deadline=None, max_examples=60)
@given(cases(), st.data())
def test_explanation_names_exactly_the_keys(
    case: tuple[Pattern, tuple[int, ...], tuple[int, ...]], data: st.DataObject
) -> None:
    pattern = case[0]
    query = tuple(data.draw(st.integers(0, n - 1)) for n in pattern.layout)
    told = explain(pattern, query)
    row = brute_mask(pattern)[np.ravel_multi_index(query, pattern.layout)]
    assert told.key_count == row.sum()
    for index in range(pattern.tokens):
        key = tuple(int(i) for i in np.unravel_index(index, pattern.layout))
        assert bool(told.sees(key)) != bool(row[index])


@settings(deadline=None, max_examples=80)
@given(axis_cases(30), st.data())
def test_halo_is_what_a_slab_sees_outside(case: AxisCase, data: st.DataObject) -> None:
    axis = Pattern(*case[:5]).axes[0]
    begin = data.draw(st.integers(0, axis.length - 1))
    stop = data.draw(st.integers(begin + 1, axis.length))
    keys = np.flatnonzero(brute_axis(*case[:5])[begin:stop].any(axis=0))
    before, after = axis_halo(axis, begin, stop)
    assert before == max(begin - int(keys.min()), 0)
    assert after == max(int(keys.max()) + 1 - stop, 0)


def test_worked_examples() -> None:
    assert Pattern(12, 5, 4).windows(0)[[0, 4, 8], :2].tolist() == [[0, 5], [4, 9], [7, 12]]
    assert Pattern(12, 6, 4).windows(0)[[3, 7, 11], :2].tolist() == [[0, 6], [3, 9], [6, 12]]
    assert Pattern(12, 4, 4, causal=True).windows(0)[[0, 3, 4, 11], :2].tolist() == [
        [0, 1],
        [0, 4],
        [4, 5],
        [8, 12],
    ]
    assert Pattern(11, 4, 2, 2).windows(0)[[4, 5, 10]].tolist() == [[2, 9, 2], [3, 10, 2], [4, 11, 2]]


def test_predicate_is_sound_for_tiles_of_two_and_more() -> None:
    for length, window, q_tile, kv_tile in product(range(2, 17), range(2, 17), (2, 4), (2, 4)):
        if window > length or length % kv_tile:
            continue
        for stride in range(1, window + 1):
            pattern = Pattern(length, window, stride)
            if axis_skips_mask(pattern.axes[0], q_tile, kv_tile):
                assert pattern.speedup(q_tile, kv_tile).block_sparse


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((8, 8, 8, 8), 2), "a layout of 4 axes; expected 1, 2 or 3 axes"),
        ((8, 1), "axis 0: window 1; expected a window of at least 2"),
        ((8, 4, 5), "axis 0: stride 5 with window 4"),
        ((8, 4, 0), "axis 0: stride 0"),
        ((8, 4, 1, 3), "axis 0: window 4 with dilation 3 spans 12 tokens of 8"),
        ((8, 4, 1, 0), "axis 0: dilation 0"),
        (((8, 8), (4, 4, 4)), r"window \(4, 4, 4\) for a layout of 2 axes"),
        (((8, 8), 2.5), "window .*; expected integers"),
        ((8, 4, 1, 1, 2), "causal .* expected one bool per axis"),
    ],
)
def test_refusals(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        Pattern(*arguments)  # type: ignore[arg-type]


def test_large_layouts_are_counted_without_a_mask() -> None:
    pattern = Pattern((64, 128, 128), (16, 32, 32), (4, 8, 8))
    assert pattern.tokens == 1 << 20
    assert pattern.visited_kv_tiles((4, 8, 8), (2, 8, 8)).shape == (16 * 16 * 16,)
    with pytest.raises(RefusedError, match="at most 65536 tokens"):
        pattern.mask()
    with pytest.raises(RefusedError, match="at most 1048576 tokens and"):
        Pattern((2048, 2048), 16).visited_kv_tiles(256, 128, "flat")
    with pytest.raises(RefusedError, match="67108864 tiles listed one by one"):
        Pattern((1024, 1024, 64), 16).visited_kv_tiles(1, 4)
    with pytest.raises(RefusedError, match="axis 0: length 100000000; expected at most 16777216 tokens"):
        Pattern(100_000_000, 16)
    with pytest.raises(RefusedError, match="additional_kv -1; expected 0 or more"):
        Pattern(16, 4).mask(-1)
