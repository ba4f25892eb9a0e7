"""Graphs that are not the usual ViT: shared tensors, several residual streams, outputs from the middle, cut tokens."""

from __future__ import annotations

import numpy as np
from random_models import RESIDUAL_SCALE, ModelBuilder, vit
from test_compile import assert_exact

from hwattn.compiler import compile_model
from hwattn.spec.config import AcceleratorConfig, load_preset
from hwattn.spec.graph import Add, Output
from hwattn.spec.isa import Copy, Memory, Norm, Post, Route
from hwattn.spec.quantized import QuantizedAttention, QuantizedModel

CONFIG = AcceleratorConfig(rows=3, lanes=8, program_words=1 << 14, act_words=1024)
IMAGE = (1, 6, 6)


def start(tasks: int = 1) -> tuple[ModelBuilder, str]:
    build = ModelBuilder(3, 16, tasks)
    return build, build.embed(IMAGE, (2, 2), 1)


def finish(build: ModelBuilder, *outputs: tuple[str, tuple[int, ...], int | None]) -> QuantizedModel:
    made = [Output(f"out{index}", *output) for index, output in enumerate(outputs)]
    return build.finish(IMAGE, made)


def test_residual_stream_as_output_and_kept_for_later() -> None:
    build, x = start()
    y = build.mlp(x, "first", 24)
    z = build.mlp(y, "second", 24)
    model = finish(build, (y, (10, 16), None), (z, (10, 16), None))
    program = compile_model(model, CONFIG)
    copies = [one for one in program.instructions if isinstance(one, Copy)]
    assert [one.memory for one in copies] == [Memory.WEIGHT, Memory.ACT]
    assert_exact(model, CONFIG)


def test_long_skip_connection() -> None:
    build, x = start()
    inner = build.mlp(x, "first", 24)
    branch = build.linear("skip", build.norm("n", inner), 16, RESIDUAL_SCALE)
    both = build.add(Add("both", (x, branch)), RESIDUAL_SCALE)
    assert_exact(finish(build, (both, (10, 16), None)), CONFIG)


def test_some_tokens_of_the_residual_stream_go_on() -> None:
    build, x = start()
    kept = build.rows("kept", build.mlp(x, "first", 24), 2, 7)
    y = build.mixture(build.attention(kept, "attn", 2), "moe", 8, 3, 1)
    last = build.rows("last", y, 1, 3)
    head = build.linear("head", build.norm("n", last), 5, 1 / 4096)
    assert_exact(finish(build, (head, (2, 5), 0)), CONFIG)


def test_query_key_and_value_shared() -> None:
    build, x = start()
    normed = build.norm("n", x)
    q = build.linear("q", normed, 16, 3 / 127)
    v = build.linear("v", normed, 24, 3 / 127)
    mixed = build.add(QuantizedAttention("mix", (q, q, q), 2, 0.3, 8, 0), 2 / 127)
    other = build.add(QuantizedAttention("other", (q, q, v), 2, 0.3, 16, 0), 2 / 127)
    first = build.linear("first", mixed, 5, 1 / 4096)
    second = build.linear("second", other, 5, 1 / 4096, "gelu")
    assert_exact(finish(build, (first, (10, 5), None), (second, (10, 5), None)), CONFIG)


def test_few_queries_many_keys() -> None:
    build, x = start()
    normed = build.norm("n", x)
    q = build.linear("q", build.rows("cls", normed, 0, 1), 16, 3 / 127)
    k, v = build.linear("k", normed, 16, 3 / 127), build.linear("v", normed, 16, 3 / 127)
    mixed = build.add(QuantizedAttention("mix", (q, k, v), 4, 0.3, 8, 0), 2 / 127)
    assert_exact(finish(build, (build.linear("head", mixed, 4, 1 / 4096), (1, 4), None)), CONFIG)


def test_two_layers_of_activation_in_the_residual_stream() -> None:
    build, x = start()
    branch = build.linear("branch", build.norm("n", x), 16, RESIDUAL_SCALE, "gelu")
    y = build.add(Add("y", (branch, x)), RESIDUAL_SCALE)
    assert_exact(finish(build, (y, (10, 16), None)), CONFIG)


def test_tasks_share_everything_but_gates_and_heads() -> None:
    model, config = vit(blocks="dm"), load_preset("digits")
    one = compile_model(vit(blocks="dm", tasks=1), config)
    two = compile_model(model, config)
    rows = 8 * 3  # digit rows of one gate
    head = 6 * 6
    assert len(two.weights) - len(one.weights) == rows * 12 + head
    assert len(two.params) - len(one.params) == 6
    assert len(two.norm_params) - len(one.norm_params) == 8


def test_only_what_the_output_needs_is_computed() -> None:
    program = compile_model(vit(blocks="m"), load_preset("digits"))
    first = program.instructions[: program.entries[1]]
    second = program.instructions[program.entries[1] :]
    assert [one.rows for one in first if isinstance(one, Route)] == [1]
    assert [one.rows for one in second if isinstance(one, Route)] == [4, 4, 4, 4]
    assert sum(one.rows for one in first if isinstance(one, Norm)) == 17 + 1 + 1
    assert {output.name for output in program.outputs if output.task == 0} == {"out0"}
    assert program.macs[0] < program.macs[1]


def test_macs_are_those_of_the_graph() -> None:
    dim, hidden, tokens = 48, 96, 17
    (macs,) = compile_model(vit(blocks="dd", tasks=1), load_preset("digits")).macs
    attention = 2 * tokens * tokens * dim
    whole = 4 * tokens * dim * dim + attention + 2 * tokens * dim * hidden
    last = 2 * tokens * dim * dim + 2 * dim * dim + 2 * tokens * dim + 2 * dim * hidden
    assert macs == 16 * 4 * dim + whole + last + 10 * dim


def test_padded_heads_are_posted_one_by_one() -> None:
    model = vit(dim=18, heads=3, blocks="d", tasks=1)
    program = compile_model(model, CONFIG)
    posts = [
        one
        for one, label in zip(program.instructions, program.labels, strict=True)
        if isinstance(one, Post) and label == "b0.attn.k" and one.rows == 3
    ]
    assert {one.columns for one in posts} == {6, 18}


def test_same_model_compiles_to_the_same_program() -> None:
    first, second = (compile_model(vit(), load_preset("digits")) for _ in range(2))
    assert first.hash == second.hash and first.instructions == second.instructions
    assert np.array_equal(first.weights, second.weights)
