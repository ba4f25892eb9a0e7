"""Runs a compiled program on a batch of images, bit for bit as the hardware does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwattn.sim.model import external, loader, operations, writer
from hwattn.sim.model.predicate import Active, active
from hwattn.sim.model.state import State
from hwattn.spec.encoding import disassemble
from hwattn.spec.isa import (
    Copy,
    Fetch,
    Halt,
    Instruction,
    Load,
    Matmul,
    Norm,
    Post,
    Predicated,
    Route,
    Softmax,
    Store,
)
from hwattn.spec.numbers import Int64
from hwattn.spec.program import Program
from hwattn.spec.tables import activation_table

Observer = Callable[[int, State], None]
"""Called after every instruction, skipped ones too, with its index in the program and the state."""

STATE_BYTES = 1 << 27
"""State held at once: a longer batch is run in parts."""

BATCH_MAX = 256


@dataclass(frozen=True)
class Result:
    """What a run gives.

    Parameters
    ----------
    outputs : dict of str to ndarray of float32
        The task's outputs under their ONNX names, batch first.
    integers : dict of str to ndarray of int16, shape (batch, rows, columns)
        The same as the machine leaves them.
    routing : list of ndarray of int64, shape (batch, tokens, k)
        For each mixture in the order of the program, the experts of every token in order of rank.
    """

    outputs: dict[str, NDArray[np.float32]]
    integers: dict[str, NDArray[np.int16]]
    routing: list[Int64]


class Executor:
    """The bit-accurate model of a machine with a program.

    Parameters
    ----------
    program : Program
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self._table = activation_table(program.activation)

    @property
    def batch_limit(self) -> int:
        """Images whose state is held at once."""
        config = self.program.config
        one = State(config, 1, self.program.scratch_words)
        size = one.memory.nbytes + one.slots.nbytes + one.accumulators.nbytes + 2 * one.queue_token.nbytes
        return max(1, min(BATCH_MAX, STATE_BYTES // size))

    def run(self, images: NDArray[np.float32], task: int) -> Result:
        """Run a task on images.

        Parameters
        ----------
        images : ndarray of float32, shape (batch, channels, height, width)
            As for the ONNX model.
        task : int

        Returns
        -------
        Result

        Raises
        ------
        ValueError
            There is no such task, the images have another shape, or the program leaves its machine's memories.
        """
        if not len(images):
            raise ValueError("no images")
        limit = self.batch_limit
        starts = range(0, len(images), limit)
        parts = [self._run_part(images[start : start + limit], task) for start in starts]
        if len(parts) == 1:
            return parts[0]
        return Result(
            {name: np.concatenate([part.outputs[name] for part in parts]) for name in parts[0].outputs},
            {name: np.concatenate([part.integers[name] for part in parts]) for name in parts[0].integers},
            [np.concatenate(group) for group in zip(*(part.routing for part in parts), strict=True)],
        )

    def _run_part(self, images: NDArray[np.float32], task: int) -> Result:
        state = self.start(images)
        self.execute(state, task)
        return self.result(state, task)

    def start(self, images: NDArray[np.float32], state: State | None = None) -> State:
        """Write images into the memory that the program names, of the machine after reset or of `state`.

        Returns
        -------
        State
        """
        port = self.program.image
        if images.shape[1:] != port.shape:
            raise ValueError(f"images of shape {images.shape}; expected (batch, {port.shape})")
        state = state or State(self.program.config, len(images), self.program.scratch_words)
        if state.batch != len(images):
            raise ValueError(f"{len(images)} images for a state of {state.batch}")
        state.routing.clear()
        integers = port.quantize(images).reshape(len(images), -1).view(np.uint8)
        if port.external:
            first = port.base - self.program.scratch[0] * self.program.config.lanes
            state.scratch.reshape(state.batch, -1)[:, first : first + integers.shape[1]] = integers
        else:
            state.view(port.base, integers.shape[1:], (1,))[...] = integers
        return state

    def execute(self, state: State, task: int, observer: Observer | None = None) -> None:
        """Run a task's instructions up to its Halt, calling `observer` after each but the Halt."""
        for index in self.steps(state, task):
            if observer is not None:
                observer(index, state)

    def steps(self, state: State, task: int) -> Iterator[int]:
        """Run a task's instructions one by one, yielding the index of each (but the Halt) when it is done."""
        entries = self.program.entries
        if not 0 <= task < len(entries):
            raise ValueError(f"task {task} of {len(entries)}")
        for index in range(entries[task], len(self.program.instructions)):
            instruction = self.program.instructions[index]
            if type(instruction) is Halt:
                return
            try:
                self._execute(instruction, state)
            except (ValueError, IndexError) as error:
                raise ValueError(f"instruction {index}, {disassemble(instruction)}: {error}") from error
            yield index
        raise ValueError(f"the program of task {task} has no HALT")

    def step_through(
        self, image: NDArray[np.float32], task: int, state: State | None = None
    ) -> Iterator[tuple[int, State]]:
        """Run a task on one image, stopping after every instruction.

        Parameters
        ----------
        image : ndarray of float32, shape (channels, height, width)
        task : int
        state : State, optional
            What an earlier run has left, of batch 1; the machine after reset by default.

        Yields
        ------
        index : int
            Index of the instruction that is done (or was skipped).
        state : State
            The state after it; ``state.memory[0]`` is the activation memory.
        """
        state = self.start(image[None], state)
        for index in self.steps(state, task):
            yield index, state

    def result(self, state: State, task: int) -> Result:
        """Read the outputs of a task and the routing out of the state."""
        integers = {port.name: port.read(state.words) for port in self.program.outputs if port.task == task}
        outputs = {
            port.name: (integers[port.name] * np.float64(port.scale))
            .astype(np.float32)
            .reshape(state.batch, *port.shape)
            for port in self.program.outputs
            if port.task == task
        }
        return Result(outputs, integers, list(state.routing))

    def _execute(self, instruction: Instruction, state: State) -> None:
        """Run one instruction in all images in which its predicate holds."""
        where: Active | None = None
        if isinstance(instruction, Predicated) and instruction.expert_enable:
            where = active(state, instruction)
            if where is None:
                return
        match instruction:
            case Load():
                loader.load(instruction, self.program, state, where)
            case Copy():
                loader.copy(instruction, self.program, state)
            case Matmul():
                operations.matmul(instruction, self.program, state, where)
            case Post():
                writer.post(instruction, self.program, self._table, state, where)
            case Softmax():
                operations.softmax(instruction, state)
            case Norm():
                operations.norm(instruction, self.program, state)
            case Route():
                operations.route_tokens(instruction, self.program, state)
            case Fetch():
                external.fetch(instruction, self.program, state, where)
            case Store():
                external.store(instruction, self.program, state)
            case _:
                raise ValueError("an unknown instruction")
