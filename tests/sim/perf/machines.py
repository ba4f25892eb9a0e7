"""Programs for the cycle model's tests, on small machines and on the presets, and the queue lengths of an image."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
from random_models import vit

from hwattn.compiler import compile_model
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.isa import Fetch, Halt, Memory, Queue, Store
from hwattn.spec.program import Program

Image = NDArray[np.float32]

ODD = AcceleratorConfig(
    rows=5,
    lanes=8,
    post_lanes=2,
    softmax_lanes=3,
    norm_lanes=4,
    act_words=64,
    weight_words=2048,
    param_words=512,
    norm_words=128,
    program_words=512,
    acc_columns=32,
    row_words=4,
    experts=4,
    tokens=16,
)

EXTERNAL = AcceleratorConfig(
    rows=3,
    lanes=4,
    post_lanes=2,
    softmax_lanes=3,
    norm_lanes=2,
    act_banks=2,
    act_words=128,
    weight_words=192,
    param_words=512,
    norm_words=128,
    program_words=2048,
    acc_banks=4,
    acc_columns=32,
    row_words=8,
    row_slots=6,
    experts=4,
    tokens=16,
    queue_depth=1,
    external_words=1 << 14,
)

PAGED = ODD.replace(
    act_banks=2,
    act_words=128,
    weight_words=192,
    param_words=48,
    norm_words=40,
    program_words=2048,
    acc_banks=4,
    row_slots=6,
    tokens=24,
    external_words=1 << 14,
)

PAGED_SHAPE: dict[str, Any] = {
    "image": (3, 12, 30),
    "kernel": (3, 6),
    "dim": 12,
    "heads": 2,
    "hidden": 16,
    "experts": 4,
    "expert_hidden": 8,
    "blocks": "dm",
}


def compiled(config: AcceleratorConfig, **shape: Any) -> tuple[Program, Image]:
    """A random model's program, and an image for it."""
    model = vit(**shape)
    rng = np.random.default_rng(2)
    return compile_model(model, config), rng.normal(0, 0.8, model.image_shape).astype(np.float32)


def odd() -> tuple[Program, Image]:
    """A dense block and a mixture with 16-bit probabilities, where nothing divides anything."""
    return compiled(
        ODD,
        image=(1, 6, 6),
        dim=20,
        heads=2,
        hidden=24,
        experts=4,
        expert_hidden=12,
        blocks="dm",
        p_bits=16,
    )


def external() -> tuple[Program, Image]:
    """The same kinds with weights that pass a small buffer."""
    return compiled(
        EXTERNAL, image=(1, 4, 4), dim=12, heads=2, hidden=16, experts=4, expert_hidden=8, blocks="dm"
    )


def paged(**changes: int) -> tuple[Program, Image]:
    """The same kinds with image and parameters in external memory too."""
    program, image = compiled(PAGED.replace(**changes), **PAGED_SHAPE)
    assert program.image.external
    assert not len(program.params)
    assert not len(program.norm_params)
    return program, image


def streamed() -> tuple[Program, Image]:
    """Image, parameters and program in external memory, of which 40 instructions are read ahead."""
    return paged(program_words=40, program_streamed=1)


def wide() -> tuple[Program, Image]:
    """Words of two instructions each, and a LayerNorm that holds one row at a time."""
    config = PAGED.replace(
        rows=3,
        lanes=64,
        norm_lanes=8,
        weight_words=64,
        program_words=40,
        program_streamed=1,
        external_words=1 << 12,
    )
    return compiled(config, **PAGED_SHAPE)


def spilled(**changes: int) -> tuple[Program, Image]:
    """A dense block over 65 tokens whose activations pass through external memory, and with them weights."""
    program, image = compiled(
        EXTERNAL.replace(queue_depth=4, **changes),
        image=(1, 16, 16),
        dim=8,
        heads=2,
        hidden=24,
        blocks="d",
        tasks=1,
    )
    assert program.scratch_words > program.config.act_total_words
    return program, image


def transfers() -> tuple[Program, Image]:
    """Stores and Fetches of many lengths one after the other, over pages and in runs."""
    program, image = external()
    program = dataclasses.replace(program, scratch_words=8192)
    base = program.scratch[0]
    chain = []
    for words, runs in ((1, 1), (3, 5), (64, 2), (200, 1)):
        chain += [
            Store(target=base + 1000, words=words, runs=runs, source_stride=7, target_stride=1100),
            Fetch(
                memory=Memory.ACT,
                source=base + 1000,
                words=words,
                runs=runs,
                source_stride=1100,
                target_stride=9,
            ),
            Fetch(
                memory=Memory.WEIGHT,
                source=base + 1000,
                words=min(words, 150),
                runs=runs,
                source_stride=1100,
                target_stride=9,
            ),
        ]
    instructions = [
        dataclasses.replace(
            each,
            pop=1 << chain[index - 1].queue if index and chain[index - 1].queue != each.queue else 0,
            push=1 << chain[index + 1].queue
            if index + 1 < len(chain) and chain[index + 1].queue != each.queue
            else 0,
        )
        for index, each in enumerate(chain)
    ]
    assert {each.queue for each in instructions} == {Queue.FETCH, Queue.STORE}
    return (
        dataclasses.replace(
            program,
            instructions=(*instructions, Halt()),
            labels=("transfers",) * (len(instructions) + 1),
            entries=(0,),
            outputs=(),
            macs=(0,),
        ),
        image,
    )
