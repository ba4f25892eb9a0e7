"""FETCH and STORE of the C++ machine against the NumPy model."""

from __future__ import annotations

import dataclasses

import numpy as np
from draw import CONFIGS, program_of, random_state
from hypothesis import given, settings
from hypothesis import strategies as st
from mirror import differences, put_state

from hwattn.cli.models import resolve_model
from hwattn.compiler import compile_model
from hwattn.hls.csim import CMachine
from hwattn.sim.model.executor import Executor
from hwattn.sim.model.state import State
from hwattn.spec import isa
from hwattn.spec.config import load_preset
from hwattn.spec.isa import Memory
from hwattn.spec.registers import ErrorCause

WEIGHTS, SCRATCH, EXTERNAL = 200, 90, 512


@st.composite
def runs(draw, limits):
    """Words, runs, and for each of two memories a first word and a stride, within the memories' words."""
    words, count = draw(st.integers(1, 9)), draw(st.integers(1, 4))
    found = []
    for limit in limits:
        stride = draw(st.integers(words, 12))
        found += [draw(st.integers(0, limit - stride * (count - 1) - words)), stride]
    return words, count, *found


@st.composite
def instructions(draw, config):
    """A FETCH or a STORE within its memories."""
    if draw(st.booleans()):
        words, count, source, source_stride, target, target_stride = draw(
            runs((config.act_total_words, SCRATCH))
        )
        return isa.Store(
            words=words,
            runs=count,
            source=source,
            source_stride=source_stride,
            target=EXTERNAL - SCRATCH + target,
            target_stride=target_stride,
        )
    of_weights = draw(st.booleans())
    words, count, source, source_stride, target, target_stride = draw(
        runs((WEIGHTS if of_weights else SCRATCH, config.act_total_words))
    )
    return isa.Fetch(
        memory=Memory.ACT,
        words=words,
        runs=count,
        source=source + (0 if of_weights else EXTERNAL - SCRATCH),
        source_stride=source_stride,
        target=target,
        target_stride=target_stride,
    )


def test_equals_the_model():
    config = CONFIGS[0].replace(external_words=EXTERNAL, weight_words=WEIGHTS)
    machine = CMachine(config)

    @settings(max_examples=60)
    @given(instructions(config), st.integers(0, 2**32 - 1))
    def check(instruction, seed):
        random = np.random.default_rng(seed)
        drawn = program_of(config, [instruction], random)
        program = dataclasses.replace(drawn, scratch_words=SCRATCH)
        executor = Executor(program)
        state = State(config, 1, SCRATCH)
        for name, array in vars(random_state(config, random, batch=1)).items():
            if isinstance(array, np.ndarray) and array.shape == getattr(state, name).shape:
                getattr(state, name)[...] = array
        state.scratch[...] = random.integers(0, 256, state.scratch.shape)
        machine.load(program)
        put_state(machine, state)
        machine.external_words[-SCRATCH:] = state.scratch[0]
        executor.execute(state, 0)
        assert machine.execute(instruction) == ErrorCause.NONE
        assert differences(machine, state) == []
        assert np.array_equal(machine.external_words[-SCRATCH:], state.scratch[0])

    check()


def test_the_bundled_model_from_external_memory():
    """Weights and parameters pass through small memories; the activation memory is compared after every instruction."""
    resolved = resolve_model("digits")
    settings_ = {"external_words": 1 << 16, "weight_words": 2048, "program_words": 4096}
    settings_ |= {"param_words": 256, "norm_words": 96}
    program = compile_model(resolved.model, load_preset("digits").replace(**settings_))
    image = resolved.workload.test_set()[resolved.model.image][:1]
    machine, executor = CMachine(program.config), Executor(program)
    assert not len(program.params) and not len(program.norm_params)
    machine.load(program)
    for task in range(len(program.entries)):
        state = executor.start(image)
        machine.act[...] = state.words[0]
        for index in executor.steps(state, task):
            assert machine.execute(program.instructions[index]) == ErrorCause.NONE
            assert np.array_equal(machine.act, state.words[0]), index
