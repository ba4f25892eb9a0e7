"""The memory map, the layouts and the scales: laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwattn.compiler.layout import RowLayout, ceil_div, pack_int16, split_evenly
from hwattn.compiler.lowering.attention import attention_slots
from hwattn.compiler.lowering.mixture import gate_rows
from hwattn.compiler.memory import Buffer, ReadOnlyMemory, place_buffers
from hwattn.compiler.scales import (
    check_accumulators,
    route_scaling,
    row_scaling,
    scaling,
    score_scaling,
)
from hwattn.sim.model.post import reciprocal
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.errors import RefusedError
from hwattn.spec.numbers import signed_digits


@st.composite
def buffer_lists(draw: st.DrawFn) -> list[Buffer]:
    made = []
    for index in range(draw(st.integers(1, 12))):
        first = draw(st.integers(0, 6))
        made.append(
            Buffer(
                f"b{index}",
                draw(st.integers(1, 40)),
                first,
                first + draw(st.integers(0, 4)),
                frozenset(f"b{other}" for other in draw(st.sets(st.integers(0, 11), max_size=3))),
            )
        )
    return made


@settings(deadline=None, max_examples=150)
@given(buffers=buffer_lists(), banks=st.sampled_from([1, 2, 4, 8]))
def test_live_buffers_never_overlap(buffers: list[Buffer], banks: int) -> None:
    config = AcceleratorConfig(act_banks=banks, act_words=32)
    buffers.append(Buffer("image", 7, -1, 5))
    try:
        place_buffers(buffers, config)
    except RefusedError as error:
        act_words = int(error.remedy.rsplit("=", 1)[1])
        assert act_words > 32 and act_words & (act_words - 1) == 0
        config = config.replace(act_words=act_words)
        place_buffers(buffers, config)
    assert buffers[-1].base == 0
    for index, one in enumerate(buffers):
        assert one.base >= 0 and one.base + one.words <= config.act_total_words
        for other in buffers[:index]:
            alive = one.first <= other.last and other.first <= one.last
            apart = one.base + one.words <= other.base or other.base + other.words <= one.base
            assert apart or not alive


def test_what_is_read_together_lies_in_different_banks() -> None:
    config = AcceleratorConfig(act_banks=4, act_words=64)
    buffers = [
        Buffer("keys", 40, 0, 3),
        Buffer("values", 20, 0, 3),
        Buffer("queries", 30, 1, 2, frozenset({"keys", "values"})),
    ]
    place_buffers(buffers, config)
    keys, values, queries = (buffer.base // 64 for buffer in buffers)
    assert queries not in (keys, values)


def test_spreading_never_costs_a_fit() -> None:
    config = AcceleratorConfig(act_banks=4, act_words=32)
    buffers = [Buffer(f"b{index}", 60, 0, 1, frozenset({"b0", "b1"})) for index in range(2)]
    place_buffers([*buffers, Buffer("c", 8, 1, 1, frozenset({"b0"}))], config)
    assert sorted(buffer.base for buffer in buffers) == [0, 60]


def test_read_only_memory_holds_everything_once() -> None:
    memory = ReadOnlyMemory("weight_words", (4,), np.int8)
    rows = np.arange(12).reshape(3, 4)
    assert [memory.add(rows), memory.add(rows + 1), memory.add(rows.astype(np.int8))] == [0, 3, 0]
    contents = memory.contents(AcceleratorConfig())
    assert contents.dtype == np.int8 and np.array_equal(contents, np.concatenate((rows, rows + 1)))
    with pytest.raises(RefusedError, match="weight_words=5, too small by 1: the model needs 6 entries"):
        memory.contents(AcceleratorConfig(weight_words=5))
    assert ReadOnlyMemory("norm_words", (), np.int64).contents(AcceleratorConfig()).shape == (0,)


@given(
    groups=st.integers(1, 4), group=st.integers(1, 20), lanes=st.sampled_from([4, 8]), seed=st.integers(0, 9)
)
def test_packed_rows(groups: int, group: int, lanes: int, seed: int) -> None:
    layout = RowLayout(groups * group, group, lanes)
    matrix = np.random.default_rng(seed).integers(-128, 128, (3, layout.features)).astype(np.int8)
    packed = layout.pack(matrix).reshape(3, -1)
    for feature in range(layout.features):
        start = layout.word(feature // group * group) * lanes + feature % group
        assert np.array_equal(packed[:, start], matrix[:, feature])
    assert np.abs(packed.astype(int)).sum() == np.abs(matrix.astype(int)).sum()
    assert packed.shape[1] == layout.words * lanes == groups * ceil_div(group, lanes) * lanes


def test_int16_layout() -> None:
    words = pack_int16(np.array([[1, -1, 256, -32768, 5]], np.int16), 4)
    assert words.view(np.uint8).tolist() == [[1, 255, 0, 0], [0, 255, 1, 128], [5, 0, 0, 0], [0, 0, 0, 0]]


@given(total=st.integers(1, 500), largest=st.integers(1, 100), unit=st.integers(1, 16))
def test_even_pieces(total: int, largest: int, unit: int) -> None:
    largest = max(largest, unit)
    pieces = split_evenly(total, largest, unit)
    assert sum(length for _, length in pieces) == total
    assert [start for start, _ in pieces] == list(np.cumsum([0, *(length for _, length in pieces)])[:-1])
    assert all(0 < length <= largest for _, length in pieces)
    assert all(start % unit == 0 for start, _ in pieces)
    assert len(pieces) <= ceil_div(total, largest // unit * unit)


@given(seed=st.integers(0, 50), dim=st.integers(1, 20), experts=st.integers(1, 4))
def test_gate_rows_give_the_exact_score(seed: int, dim: int, experts: int) -> None:
    rng = np.random.default_rng(seed)
    weight, x = rng.integers(-32639, 32640, (experts, dim)), rng.integers(-32639, 32640, dim)
    layout = RowLayout(dim, dim, 4)
    low, high = (layout.pack(digit[None].astype(np.int8)).reshape(-1) for digit in signed_digits(x))
    wide = np.concatenate((low, high)).astype(np.int64)
    columns = gate_rows(weight, 4).reshape(3 * experts, -1).astype(np.int64) @ wide
    score = columns.reshape(experts, 3) @ [1, 1 << 8, 1 << 16]
    assert np.array_equal(score, weight @ x)


@given(
    ratio=st.floats(1e-5, 10), keys=st.integers(1, 65535), share=st.floats(0, 1), acc=st.integers(0, 2**30)
)
def test_row_scaling_divides_by_the_sum(ratio: float, keys: int, share: float, acc: int) -> None:
    constants = row_scaling(ratio, 1.0, keys, "attention")
    total = max(2**15, int(share * keys * 65535))
    multiplier, shift = (
        int(value) for value in reciprocal(np.int64(total), constants.multiplier, constants.shift)
    )
    assert 1 <= shift <= 47
    assert constants.shift <= 47 - (keys * 65535).bit_length()
    exact = acc * 256 * ratio / total
    assert abs(acc * multiplier / 2.0**shift - exact) <= acc / 2.0**shift + 2e-4 * exact + (
        acc / 2.0**constants.shift / total
    )


@given(factor=st.floats(1e-12, 1e-2))
def test_route_scaling_keeps_the_score(factor: float) -> None:
    score_shift, constants = route_scaling(factor, "gate")
    y = factor * math.log2(math.e) * 256
    assert 0 <= score_shift < 64
    assert np.isclose(constants.multiplier / 2.0 ** (constants.shift + score_shift), y, rtol=1e-4)
    assert score_shift == 0 or 2.0**-9 < constants.multiplier / 2.0**constants.shift <= 2.0**-7


def test_score_scaling_is_base_two() -> None:
    constants = score_scaling(0.01, "attention")
    assert np.isclose(constants.multiplier / 2.0**constants.shift, 0.01 * 256 / math.log(2), rtol=1e-4)


def test_scales_out_of_range() -> None:
    with pytest.raises(RefusedError, match="layer: a scale of 40000 between accumulator and result"):
        scaling(40000.0, "layer")
    with pytest.raises(RefusedError, match="attention: a scale of 51200 between accumulator and result"):
        row_scaling(200.0, 1.0, 17, "attention")


def test_accumulators_are_bounded_exactly() -> None:
    weight = np.full((2, 3), -128)
    bias = np.array([0, 2**31 - 1 - 3 * 128 * 128])
    check_accumulators(weight, bias, 128, "layer")
    with pytest.raises(RefusedError, match="layer: output channel 1 can reach 2147483648 in the accumulator"):
        check_accumulators(weight, bias + np.array([0, 1]), 128, "layer")


@pytest.mark.parametrize("p_bits", [8, 16])
@pytest.mark.parametrize("row_slots", range(2, 9))
def test_attention_slots_are_apart(row_slots: int, p_bits: int) -> None:
    if (row_slots, p_bits) == (2, 16):
        return
    slots = attention_slots(row_slots, p_bits)
    used = [*slots.query, *(slot + index for slot in slots.probability for index in range(p_bits // 8))]
    assert len(set(used)) == len(used) and max(used) < row_slots and slots.probability
