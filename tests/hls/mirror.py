"""One instruction on the NumPy model and on the C++ machine, from the same random state; everything they may write is compared."""

from __future__ import annotations

import numpy as np
from draw import Draw, program_of, random_state

from hwattn.hls.csim import CMachine
from hwattn.sim.model.executor import Executor
from hwattn.spec.registers import ErrorCause

KINDS = ("load", "copy", "matmul", "post", "softmax", "norm", "route")


class Drawn:
    """NumPy's `integers` of one value, drawn by Hypothesis, so that a failing instruction shrinks."""

    def __init__(self, data):
        self._data = data

    def integers(self, low, high):
        from hypothesis import strategies

        return self._data.draw(strategies.integers(low, high - 1))


def put_state(machine: CMachine, state, softmax=("maximum", "growth", "total")) -> None:
    """Copy the first image's state of the model into the machine."""
    lanes = machine.config.lanes
    machine.act[...] = state.memory[0].reshape(-1, lanes)
    machine.slots[...] = state.slots[0]
    machine.accumulators[...] = state.accumulators[0]
    for name in softmax:
        machine.softmax[name] = getattr(state, name)[0]
    machine.queue_token[...] = state.queue_token[0]
    machine.queue_gate[...] = state.queue_gate[0]
    machine.queue_count[...] = state.queue_count[0]
    machine.metaqueue[...] = state.metaqueue[0]
    machine.metaqueue_length[...] = state.metaqueue_length[0]


def differences(machine: CMachine, state) -> list[str]:
    """Names of the memories in which machine and model differ."""
    length = int(state.metaqueue_length[0])
    pairs = {
        "act": (machine.act.reshape(-1), state.memory[0]),
        "slots": (machine.slots, state.slots[0]),
        "accumulators": (machine.accumulators, state.accumulators[0]),
        "maximum": (machine.softmax["maximum"], state.maximum[0]),
        "total": (machine.softmax["total"], state.total[0]),
        "growth": (machine.softmax["growth"], state.growth[0]),
        "queue_token": (machine.queue_token, state.queue_token[0]),
        "queue_gate": (machine.queue_gate, state.queue_gate[0]),
        "queue_count": (machine.queue_count, state.queue_count[0]),
        "metaqueue": (machine.metaqueue[:length], state.metaqueue[0, :length]),
        "metaqueue_length": (machine.metaqueue_length[0], length),
    }
    return [name for name, (found, wanted) in pairs.items() if not np.array_equal(found, wanted)]


def compare(machine: CMachine, kind: str, draw: Draw, seed: int) -> None:
    """Run one random instruction of a kind on both."""
    random = np.random.default_rng(seed)
    instruction = getattr(draw, kind)()
    program = program_of(machine.config, [instruction], random)
    state = random_state(machine.config, random, batch=1)
    if kind in ("post", "softmax", "route") and seed % 2:
        full = np.iinfo(np.int32)
        state.accumulators[...] = random.integers(full.min, full.max, state.accumulators.shape, endpoint=True)
    machine.load(program)
    put_state(machine, state)
    Executor(program).execute(state, 0)
    assert machine.execute(instruction) == ErrorCause.NONE
    assert differences(machine, state) == [], instruction
