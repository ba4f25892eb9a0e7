"""Compiled programs give, bit for bit, what the quantized graph says, on machines of many shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graph_reference import evaluate
from random_models import vit

from hwattn.compiler import compile_model
from hwattn.compiler.lowering.attention import key_block
from hwattn.sim.model.executor import Executor
from hwattn.spec.config import AcceleratorConfig, load_preset
from hwattn.spec.quantized import QuantizedAttention, QuantizedModel

ROOM = {"act_words": 4096, "program_words": 1 << 16, "weight_words": 1 << 16, "tokens": 64}


def assert_exact(model: QuantizedModel, config: AcceleratorConfig, images: int = 3) -> None:
    """Compile, run every task twice on one state's memories, and compare every output."""
    program = compile_model(model, config)
    executor = Executor(program)
    rng = np.random.default_rng(1)
    batch = rng.normal(0, 0.8, (images, *model.image_shape)).astype(np.float32)
    integers = program.image.quantize(batch)

    def block(name: str, keys: int) -> int:
        node = model.by_name[name]
        assert isinstance(node, QuantizedAttention)
        return key_block(node, keys, config)

    state = executor.start(batch)
    for task in range(model.tasks):
        reference = evaluate(model, integers, task, block)
        for _ in range(2):
            executor.execute(executor.start(batch, state), task)
            found = executor.result(state, task).integers
            outputs = [output for output in model.outputs if output.task in (None, task)]
            assert found.keys() == {output.name for output in outputs}
            for output in outputs:
                assert np.array_equal(found[output.name], reference[output.tensor]), (task, output.name)


@pytest.mark.parametrize("preset", ["digits", "tiny"])
def test_presets_hold_the_digits_model(preset: str) -> None:
    assert_exact(vit(blocks="dmdm"), load_preset(preset))


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 7])
@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_rows_and_lanes(rows: int, lanes: int) -> None:
    config = AcceleratorConfig(rows=rows, lanes=lanes, softmax_lanes=1, row_words=32, **ROOM)
    assert_exact(vit(dim=24, heads=2, hidden=40, expert_hidden=20, experts=4, blocks="dm"), config)


SHAPES: dict[str, dict[str, Any]] = {
    "odd head_dim": {"dim": 27, "heads": 3},
    "head_dim of one": {"dim": 6, "heads": 6},
    "five tokens": {"image": (3, 4, 4), "blocks": "md"},
    "three channels": {"image": (3, 8, 12), "kernel": (4, 2)},
    "large kernel": {"image": (2, 32, 32), "kernel": (16, 16)},
    "image with a rest": {"image": (1, 9, 11), "kernel": (2, 3)},
    "two extra tokens": {"first": 2},
    "16-bit probabilities": {"p_bits": 16},
    "blocks of keys": {"key_block": 8},
    "blocks of keys, 16 bits": {"key_block": 8, "p_bits": 16},
    "16-bit inputs": {"bits": 16},
    "16-bit inputs, odd head_dim": {"bits": 16, "dim": 27, "heads": 3, "hidden": 37, "expert_hidden": 21},
    "16-bit inputs and probabilities": {"bits": 16, "p_bits": 16, "blocks": "md"},
    "renormalized gates": {"renormalize": True, "k": 3, "experts": 5},
    "all experts": {"k": 4, "experts": 4},
    "one task": {"tasks": 1},
    "three tasks": {"tasks": 3},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_shapes(shape: dict[str, Any]) -> None:
    config = AcceleratorConfig(rows=3, lanes=8, softmax_lanes=1, row_words=16, **ROOM)
    model = {"dim": 24, "heads": 2, "hidden": 40, "expert_hidden": 20, "experts": 4, "blocks": "dm"}
    assert_exact(vit(**{**model, **shape}), config)


MACHINES: dict[str, dict[str, int]] = {
    "rows cut along the features": {"row_words": 3},
    "rows cut in many pieces": {"row_words": 2, "row_slots": 2},
    "columns cut in chunks": {"acc_columns": 16},
    "two slots": {"row_slots": 2},
    "three slots": {"row_slots": 3},
    "eight slots": {"row_slots": 8},
    "one bank": {"act_banks": 1},
    "many small banks": {"act_banks": 32, "act_words": 64},
}


@pytest.mark.parametrize("p_bits", [8, 16])
@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES.keys())
def test_machines(machine: dict[str, int], p_bits: int) -> None:
    if p_bits == 16 and machine.get("row_slots") == 2:
        pytest.skip("16-bit probabilities need 3 slots")
    config = AcceleratorConfig(rows=4, lanes=8, **{**ROOM, **machine})
    model = vit(dim=48, hidden=72, experts=4, expert_hidden=40, blocks="dm", p_bits=p_bits, image=(1, 10, 10))
    assert_exact(model, config, images=2)
