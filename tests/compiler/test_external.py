"""Weights and activations in external memory: the same results as on chip, fetched once, early, and never before their place is free."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import vit

from hwattn.compiler import compile_model
from hwattn.compiler.prefetch import AHEAD, Labelled, schedule_fetches
from hwattn.sim.model.executor import Executor
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.errors import RefusedError
from hwattn.spec.isa import Fetch, Instruction, Matmul, Memory, Norm, Route, Store
from hwattn.spec.program import Program

ON_CHIP = AcceleratorConfig(
    rows=5,
    lanes=8,
    post_lanes=2,
    softmax_lanes=2,
    act_words=1024,
    weight_words=1 << 14,
    param_words=8192,
    norm_words=1024,
    program_words=8192,
    acc_columns=64,
    row_words=16,
    row_slots=6,
    tokens=64,
)
EXTERNAL = ON_CHIP.replace(weight_words=512, acc_banks=4, external_words=1 << 15)


def outputs(program: Program, task: int, images: int = 2) -> dict[str, Any]:
    rng = np.random.default_rng(task)
    batch = rng.normal(0, 0.8, (images, *program.image.shape)).astype(np.float32)
    return Executor(program).run(batch, task).integers


def assert_same(first: Program, second: Program) -> None:
    for task in range(len(first.entries)):
        expected, found = outputs(first, task), outputs(second, task)
        assert expected.keys() == found.keys()
        for name, integers in expected.items():
            np.testing.assert_array_equal(found[name], integers, err_msg=name)


@pytest.mark.parametrize(
    "shape", [{}, {"blocks": "md", "experts": 5, "k": 3}, {"dim": 40, "heads": 5, "p_bits": 16, "bits": 16}]
)
def test_fetched_weights_give_the_same_results(shape: dict[str, Any]) -> None:
    model = vit(**shape)
    assert_same(compile_model(model, ON_CHIP), compile_model(model, EXTERNAL))


@pytest.mark.parametrize(
    ("lanes", "sizes", "paged"),
    [
        (4, {"param_words": 200, "norm_words": 104}, {Memory.PARAM, Memory.NORM}),
        (8, {"param_words": 200}, {Memory.PARAM}),
        (16, {"norm_words": 104}, {Memory.NORM}),
    ],
)
@pytest.mark.parametrize("blocks", ["d", "m"])
def test_fetched_parameters_give_the_same_results(
    lanes: int, sizes: dict[str, int], paged: set[Memory], blocks: str
) -> None:
    model = vit(blocks=blocks, experts=5, k=3)
    program = compile_model(model, EXTERNAL.replace(lanes=lanes, weight_words=2048, **sizes))
    fetched = {Memory(one.memory) for one in program.instructions if isinstance(one, Fetch)}
    assert fetched - {Memory.ACT, Memory.WEIGHT} == paged
    assert (len(program.params) == 0, len(program.norm_params) == 0) == (
        Memory.PARAM in paged,
        Memory.NORM in paged,
    )
    assert_same(compile_model(model, ON_CHIP.replace(lanes=lanes, weight_words=1 << 15)), program)


def test_a_layer_whose_parameters_do_not_fit_is_refused() -> None:
    with pytest.raises(RefusedError, match="param_words=90, too small by 6: one chunk of parameters"):
        compile_model(vit(blocks="d"), EXTERNAL.replace(param_words=90))
    with pytest.raises(RefusedError, match="norm_words=40, too small by 8: one chunk of LayerNorm"):
        compile_model(vit(blocks="d"), EXTERNAL.replace(norm_words=40))


@settings(deadline=None, max_examples=6)
@given(
    rows=st.integers(2, 9),
    side=st.integers(4, 8),
    heads=st.sampled_from([1, 2]),
    p_bits=st.sampled_from([8, 16]),
    bits=st.sampled_from([8, 16]),
    act_words=st.sampled_from([128, 256]),
    first=st.integers(0, 2),
    blocks=st.sampled_from(["", "d"]),
)
def test_activations_in_external_memory_give_the_same_results(
    rows: int, side: int, heads: int, p_bits: int, bits: int, act_words: int, first: int, blocks: str
) -> None:
    model = vit(
        image=(1, 2 * side, 2 * side),
        dim=8 * heads,
        heads=heads,
        hidden=24,
        blocks=blocks,
        p_bits=p_bits,
        bits=bits,
        tasks=1,
        first=max(1, first),
        key_block=32,
    )
    spilled = compile_model(model, EXTERNAL.replace(rows=rows, act_banks=2, act_words=act_words))
    assert_same(compile_model(model, ON_CHIP.replace(rows=rows)), spilled)


@pytest.mark.parametrize(
    ("image", "kernel", "act_words", "stores"),
    [
        ((3, 12, 10), (3, 2), 64, False),
        ((3, 20, 28), (4, 7), 64, False),
        ((3, 20, 28), (4, 7), 128, False),
        ((2, 16, 16), (2, 2), 64, True),
    ],
)
def test_an_image_that_does_not_fit_passes_in_bands(
    image: tuple[int, int, int], kernel: tuple[int, int], act_words: int, stores: bool
) -> None:
    """Rows that fill no whole words, one band and several, and activations that do not fit either."""
    model = vit(image=image, kernel=kernel, dim=8, heads=1, hidden=8, blocks="d", tasks=1 + (not stores))
    program = compile_model(model, EXTERNAL.replace(act_banks=2, act_words=act_words))
    assert program.image.external
    assert program.image.base == (program.scratch[0] + program.scratch_words) * 8 - (
        program.image.words(8) * 8
    )
    assert any(isinstance(one, Store) for one in program.instructions) == stores
    assert_same(compile_model(model, ON_CHIP), program)


def test_hidden_activations_pass_in_blocks_of_tokens() -> None:
    model = vit(image=(1, 12, 12), dim=8, heads=1, hidden=96, blocks="dd")
    program = compile_model(model, EXTERNAL.replace(act_banks=2, act_words=128))
    assert not program.scratch_words
    fetched = Counter(
        one.source
        for one, label in zip(program.instructions, program.labels, strict=True)
        if isinstance(one, Fetch) and label == "b0.mlp.fc1"
    )
    # four blocks in each of two tasks
    assert set(fetched.values()) == {8}
    assert_same(compile_model(model, ON_CHIP), program)


def test_memory_on_chip_does_not_grow_with_the_sequence() -> None:
    config = EXTERNAL.replace(act_banks=2, act_words=512, external_words=1 << 18, program_words=1 << 16)
    scratch = []
    for side in (12, 24, 48):
        model = vit(image=(1, side, side), kernel=(1, 1), dim=8, heads=1, hidden=8, blocks="d", tasks=1)
        program = compile_model(model, config)
        assert program.config == config
        scratch.append(program.scratch_words)
    assert scratch[0] < scratch[1] < scratch[2]


def test_a_mixture_needs_its_tokens_on_chip() -> None:
    with pytest.raises(
        RefusedError, match="a mixture of experts over 17 tokens whose activations do not fit on chip"
    ):
        compile_model(vit(blocks="m"), EXTERNAL.replace(act_banks=2, act_words=64))


def test_weights_that_are_too_many_for_external_memory_are_refused() -> None:
    with pytest.raises(RefusedError, match="external_words=1024, too small by"):
        compile_model(vit(), EXTERNAL.replace(external_words=1024))


def test_a_buffer_without_room_for_one_chunk_is_refused() -> None:
    with pytest.raises(
        RefusedError, match="weight_words=16, too small by .* needs .* rows of weights at once"
    ):
        compile_model(vit(), EXTERNAL.replace(weight_words=16))


def stream(chunk: int) -> Labelled:
    return Labelled(Matmul(memory=Memory.WEIGHT, words=1, n0=1, n1=1, base=3), "layer", chunk)


def fetch(chunk: int, words: int = 40, **fields: int) -> Labelled:
    return Labelled(Fetch(memory=Memory.WEIGHT, words=words, runs=1, **fields), "layer", chunk)


def plain(instruction: Instruction) -> Labelled:
    return Labelled(instruction, "layer", None)


def order(program: list[Labelled], config: AcceleratorConfig, scratch: tuple[int, int] = (0, 0)) -> list[str]:
    scheduled = schedule_fetches(program, config, scratch)
    return [
        f"{type(one.instruction).__name__[0]}{'' if one.chunk is None else one.chunk}" for one in scheduled
    ]


BUFFER = EXTERNAL.replace(weight_words=100)


def test_a_fetch_moves_up_to_where_its_place_is_free() -> None:
    program = [each for chunk in range(4) for each in (fetch(chunk), stream(chunk), stream(chunk))]
    assert order(program, BUFFER) == ["F0", "F1", "M0", "M0", "F2", "M1", "M1", "F3", "M2", "M2", "M3", "M3"]
    placed = schedule_fetches(program, BUFFER)
    targets = [one.instruction.target for one in placed if isinstance(one.instruction, Fetch)]
    assert targets == [0, 40, 0, 40]
    bases = [one.instruction.base for one in placed if isinstance(one.instruction, Matmul)]
    assert bases == [3, 3, 43, 43, 3, 3, 43, 43]


def test_an_experts_weights_are_fetched_behind_the_routing() -> None:
    program = [
        plain(Norm()),
        plain(Route(last=1)),
        plain(Norm()),
        fetch(0, expert_enable=1),
        stream(0),
        fetch(1),
        stream(1),
    ]
    assert order(program, BUFFER) == ["N", "R", "F0", "F1", "N", "M0", "M1"]


def test_what_the_program_stores_is_fetched_behind_the_store() -> None:
    program = [
        plain(Norm()),
        plain(Store()),
        plain(Norm()),
        fetch(0, source=900),
        stream(0),
        fetch(1),
        stream(1),
    ]
    assert order(program, BUFFER, (500, 1000)) == ["N", "S", "F0", "F1", "N", "M0", "M1"]
    assert order(program, BUFFER) == ["F0", "F1", "N", "S", "N", "M0", "M1"]


def test_no_more_chunks_are_under_way_than_the_fetchers_queue_holds() -> None:
    program = [each for chunk in range(3 * AHEAD) for each in (fetch(chunk, 1), stream(chunk))]
    names = order(program, BUFFER)
    for chunk in range(AHEAD, 3 * AHEAD):
        assert names.index(f"F{chunk}") > names.index(f"M{chunk - AHEAD}")
    assert names.index(f"F{AHEAD - 1}") < names.index("M0")


def test_two_chunks_that_are_used_together_need_room_for_both() -> None:
    program = [fetch(0, 60), fetch(1, 60), stream(0), stream(1), stream(0)]
    with pytest.raises(
        RefusedError, match="weight_words=100, too small by 20: two chunks of weights at once"
    ):
        order(program, BUFFER)
