"""What does not fit is refused, with the field to raise and by how much; raising it by that much serves."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
from random_models import ModelBuilder, vit

from hwattn.compiler import compile_model
from hwattn.spec.config import load_preset
from hwattn.spec.errors import RefusedError
from hwattn.spec.graph import Add, Node, Output
from hwattn.spec.quantized import (
    QuantizedAttention,
    QuantizedLinear,
    QuantizedMatrix,
    QuantizedMixture,
    QuantizedModel,
)

SMALL: dict[str, Any] = {"dim": 24, "heads": 2, "hidden": 40, "expert_hidden": 20, "experts": 4}


@pytest.mark.parametrize(
    ("config", "model"),
    [
        ({"weight_words": 100}, {}),
        ({"param_words": 100}, {}),
        ({"norm_words": 16}, {}),
        ({"program_words": 50}, {}),
        ({"act_words": 16}, {}),
        ({"acc_columns": 8}, {}),
        ({"acc_columns": 4}, {"blocks": "d"}),
        ({"row_words": 1}, {"dim": 48}),
        ({"row_words": 1}, {"image": (1, 12, 12), "kernel": (12, 12)}),
        ({"row_slots": 2}, {"p_bits": 16}),
        ({"experts": 2}, {}),
        ({"tokens": 5}, {}),
    ],
)
def test_the_named_field_serves(config: dict[str, int], model: dict[str, Any]) -> None:
    machine = load_preset("digits").replace(**config)
    field = next(iter(config))
    quantized = vit(**{**SMALL, "blocks": "dm", **model})
    for _ in range(2):
        with pytest.raises(
            RefusedError, match=rf"^{field}={getattr(machine, field)}, too small by"
        ) as refused:
            compile_model(quantized, machine)
        named = re.fullmatch(rf"raise it with --set {field}=(\d+)", refused.value.remedy)
        assert named
        value = int(named[1])
        assert refused.value.expected == f"{field} of {value} or more"
        assert f"too small by {value - getattr(machine, field)}:" in refused.value.found
        machine = machine.replace(**{field: value})
        try:
            compile_model(quantized, machine)
        except RefusedError:
            continue
        return
    raise AssertionError(f"{field}: raising it as told twice did not serve")


def change(model: QuantizedModel, name: str, **fields: Any) -> QuantizedModel:
    nodes = [
        dataclasses.replace(node, **fields) if node.name == name else node  # type: ignore[arg-type]
        for node in model.nodes
    ]
    return dataclasses.replace(model, nodes=tuple(nodes))


def refused(model: QuantizedModel, message: str, **config: int) -> None:
    with pytest.raises(RefusedError, match=message):
        compile_model(model, load_preset("digits").replace(**config))


@pytest.fixture
def model() -> QuantizedModel:
    return vit(**SMALL, blocks="dm")


def of(model: QuantizedModel, name: str, kind: type[Node]) -> Any:
    node = model.by_name[name]
    assert isinstance(node, kind)
    return node


def test_two_activations(model: QuantizedModel) -> None:
    refused(change(model, "b0.mlp.fc1", activation="silu"), "activations gelu, silu in one model")


def test_key_block(model: QuantizedModel) -> None:
    refused(change(model, "b0.attn.mix", key_block=6), "key_block=6; expected a multiple of lanes=8")
    long = vit(**SMALL, blocks="d", image=(1, 24, 24), key_block=136)
    refused(
        long,
        "acc_columns=128, too small by 128: b0.attn.mix has blocks of 136 keys",
        act_words=4096,
        row_words=32,
    )
    refused(long, "row_words=16, too small by 1", act_words=4096, acc_columns=256)


def test_accumulator_overflow(model: QuantizedModel) -> None:
    node = of(model, "b0.mlp.fc1", QuantizedLinear)
    bias = node.matrix.bias.copy()
    bias[3] = -(2**31) + 5
    matrix = QuantizedMatrix(node.matrix.weight, node.matrix.scale, bias)
    refused(change(model, node.name, matrix=matrix), "b0.mlp.fc1: output channel 3 can reach 2147")


def test_scales_that_cannot_be_written(model: QuantizedModel) -> None:
    node = of(model, "head0", QuantizedLinear)
    matrix = QuantizedMatrix(node.matrix.weight, node.matrix.scale * 1e12, node.matrix.bias)
    refused(
        change(model, node.name, matrix=matrix), r"head0: a scale of .*; expected a factor from 0 to 2\*\*15"
    )


def test_value_scale_far_from_the_result(model: QuantizedModel) -> None:
    scales = {**model.scales, "b0.attn.mix": np.array([1e-6])}
    refused(
        dataclasses.replace(model, scales=scales), "b0.attn.mix: a scale of .*between accumulator and result"
    )


def test_wrong_number_of_scales(model: QuantizedModel) -> None:
    scales = {**model.scales, "b0.attn.norm": np.ones(2)}
    refused(dataclasses.replace(model, scales=scales), "tensor b0.attn.norm with 2 scales")
    scales = {**model.scales, "b0.attn.q": np.ones(3)}
    refused(dataclasses.replace(model, scales=scales), "b0.attn.q: 3 scales; expected 1, or 2")


def test_layer_norm_out_of_range(model: QuantizedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(change(model, "norm", shift=8), "norm: shift 8; expected shift of 9 to 63")
    refused(change(model, "norm", epsilon=0), "norm: epsilon 0; expected epsilon of 1 to")
    # as if the model had the most features that there can be, which without a mean are one less
    monkeypatch.setattr("hwattn.compiler.lowering.norm.DIM_LIMIT", 24)
    refused(change(model, "norm", zero_mean=True), "features 24; expected features of 1 to 23")


def test_mixtures(model: QuantizedModel) -> None:
    node = of(model, "b1.moe.mixture", QuantizedMixture)
    refused(change(model, node.name, k=5), "k=5 of 4 experts; expected 1 to 4")
    odd = dataclasses.replace(
        node.experts[1], fc2=dataclasses.replace(node.experts[1].fc2, weight=np.zeros((24, 8), np.int8))
    )
    refused(change(model, node.name, experts=(node.experts[0], odd)), "experts of different shapes")
    bias = node.gate_bias.copy()
    bias[1, 2] = 2**47
    refused(change(model, node.name, gate_bias=bias), r"a gate score that can reach \d+; expected less than")


def builder() -> tuple[ModelBuilder, str]:
    build = ModelBuilder(0, 16, 1)
    return build, build.embed((1, 4, 4), (2, 2), 1)


def finish(build: ModelBuilder, tensor: str, shape: tuple[int, ...]) -> QuantizedModel:
    return build.finish((1, 4, 4), [Output("out", tensor, shape, None)])


def test_sum_of_two_residual_streams() -> None:
    build, x = builder()
    doubled = build.add(Add("doubled", (x, x)), 1 / 2048)
    refused(
        finish(build, doubled, (5, 16)),
        "doubled: the sum of embed and embed; expected the residual stream plus",
    )


def test_branch_that_is_read_twice() -> None:
    build, x = builder()
    branch = build.linear("branch", build.norm("n", x), 16, 1 / 2048)
    y = build.add(Add("y", (x, branch)), 1 / 2048)
    z = build.add(Add("z", (y, branch)), 1 / 2048)
    refused(finish(build, z, (5, 16)), "branch is read by y, z; expected y as its only reader")


def test_mixture_that_is_not_added() -> None:
    build, x = builder()
    build.mixture(x, "moe", 8, 2, 1)
    refused(finish(build, "moe.mixture", (5, 16)), "whose result is not added to the residual stream")


def test_output_that_is_no_linear_layer() -> None:
    build, x = builder()
    refused(finish(build, build.norm("n", x), (5, 16)), "n is needed as int16")


def test_output_shape() -> None:
    build, x = builder()
    head = build.linear("head", build.norm("n", x), 3, 1 / 4096)
    refused(
        finish(build, head, (16,)),
        r"output out of shape \(16,\); expected 15 elements, 5 tokens of 3 features",
    )


def test_value_from_the_middle_of_a_tensor() -> None:
    build, x = builder()
    normed = build.norm("n", x)
    q, v = build.linear("q", normed, 16, 3 / 127), build.linear("v", normed, 16, 3 / 127)
    late = build.rows("late", v, 1, 5)
    mixed = build.add(QuantizedAttention("mix", (q, q, late), 2, 0.3, 8, 0), 2 / 127)
    head = build.linear("head", mixed, 3, 1 / 4096)
    refused(
        finish(build, head, (5, 3)), "late: the value of an attention starts at token 1 of another tensor"
    )


def test_unknown_node() -> None:
    build, x = builder()
    build.add(Node("odd", (x,)), 1.0)
    refused(finish(build, "odd", (5, 16)), "odd: a node of kind Node")


def test_address_beyond_an_instruction_field(model: QuantizedModel) -> None:
    refused(model, r"embed: Matmul.acc_base=16384 does not fit 14 bits", acc_columns=16384)
