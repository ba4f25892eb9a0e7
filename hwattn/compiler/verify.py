"""The checker: proves from a finished program that its queues can neither deadlock nor meet a hazard out of order."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hwattn.compiler.accesses import Access, AccessMap, LastAccess
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.errors import FailedError
from hwattn.spec.isa import QUEUES, TOKEN_LIMIT, Halt, Instruction, Queue
from hwattn.spec.program import Program


def verify_program(program: Program) -> None:
    """Prove every task of a program.

    1. The n-th pop of a pair of queues comes after its n-th push in program order, and none is left over: since the dispatcher and
       every queue keep program order, the oldest unfinished instruction can always start, so there is no deadlock.
    2. Every read after write, write after read and write after write between two queues is ordered by tokens.
    3. No counter of tokens passes ``TOKEN_LIMIT``, however far one queue runs ahead.
    4. Nothing is read that was not written before.

    Raises
    ------
    FailedError
        Names the instruction; it means a defect of the compiler (or of a program made by hand).
    """
    ends = [*program.entries[1:], len(program.instructions)]
    for task, (start, stop) in enumerate(zip(program.entries, ends, strict=True)):
        instructions = program.instructions[start:stop]
        if not instructions or not isinstance(instructions[-1], Halt):
            raise _defect(f"task {task} does not end with Halt")
        TaskCheck(instructions, program.config, _filled(program), program.scratch).run()


def _filled(program: Program) -> NDArray[np.int64]:
    """Locations, as numbered by `AccessMap`, that the host fills: the image, and the program's own entries."""
    accesses = AccessMap(program.config, program.scratch)
    first = program.image.base // program.config.lanes
    if program.image.external:
        first += accesses.scratch - program.scratch[0]
    image = np.arange(first, first + program.image.words(program.config.lanes))
    if not program.config.external_words:
        return image
    params = accesses.params + np.arange(len(program.params))
    return np.concatenate((image, params, accesses.norms + np.arange(len(program.norm_params))))


class TaskCheck:
    """The check of one task.

    Parameters
    ----------
    instructions : sequence of Instruction
    config : AcceleratorConfig
    filled : ndarray of int64
        Locations that the host has written.
    scratch : tuple of int
        First external word that changes from image to image, and the number of those words.
    """

    def __init__(
        self,
        instructions: Sequence[Instruction],
        config: AcceleratorConfig,
        filled: NDArray[np.int64],
        scratch: tuple[int, int] = (0, 0),
    ) -> None:
        self.instructions = instructions
        self.accesses = AccessMap(config, scratch)
        self.last = LastAccess(self.accesses.count, QUEUES)
        self.known = [[-1] * QUEUES for _ in range(QUEUES)]
        self.after: list[tuple[int, ...]] = []
        self.tokens: dict[tuple[int, int], deque[int]] = {
            (source, target): deque() for source in range(QUEUES) for target in range(QUEUES)
        }
        self.popped: dict[tuple[int, int], list[int]] = {pair: [] for pair in self.tokens}
        self.pushed: dict[tuple[int, int], int] = dict.fromkeys(self.tokens, 0)
        self.written = np.zeros(self.accesses.count, bool)
        self.written[filled] = True

    def run(self) -> None:
        """Walk the program once."""
        walk = self.accesses.walk(self.instructions)
        for index, (instruction, access) in enumerate(zip(self.instructions, walk, strict=True)):
            queue = int(instruction.queue)
            self._pop(index, instruction, queue)
            self._check_hazards(index, queue, access)
            self._check_written(index, access)
            self.known[queue][queue] = index
            self.after.append(tuple(self.known[queue]))
            self.last.record(queue, index, access)
            self._push(index, instruction, queue)
        for (source, target), waiting in self.tokens.items():
            if waiting:
                raise _defect(
                    f"{len(waiting)} tokens from {Queue(source).name} to {Queue(target).name} are left over"
                )

    def _describe(self, index: int) -> str:
        return f"instruction {index} ({type(self.instructions[index]).__name__})"

    def _pop(self, index: int, instruction: Instruction, queue: int) -> None:
        for other in range(QUEUES):
            if instruction.pop >> other & 1:
                waiting = self.tokens[other, queue]
                if not waiting:
                    raise _defect(
                        f"{self._describe(index)} waits for a token of {Queue(other).name} that never comes"
                    )
                source = waiting.popleft()
                self.popped[other, queue].append(index)
                self.known[queue] = [
                    max(pair) for pair in zip(self.known[queue], self.after[source], strict=True)
                ]

    def _push(self, index: int, instruction: Instruction, queue: int) -> None:
        for other in range(QUEUES):
            if instruction.push >> other & 1:
                pair = queue, other
                self.tokens[pair].append(index)
                self.pushed[pair] += 1
                consumed = int(np.searchsorted(self.popped[pair], self.after[index][other], side="right"))
                if self.pushed[pair] - consumed > TOKEN_LIMIT:
                    raise _defect(
                        f"{self._describe(index)} can make more than {TOKEN_LIMIT} tokens wait in {Queue(other).name}"
                    )

    def _check_hazards(self, index: int, queue: int, access: Access) -> None:
        for other, before in enumerate(self.last.conflicts(access)):
            if other != queue and before > self.known[queue][other]:
                raise _defect(f"{self._describe(index)} is not ordered after {self._describe(int(before))}")

    def _check_written(self, index: int, access: Access) -> None:
        unknown = access.reads[~self.written[access.reads]]
        if unknown.size:
            unknown = unknown[(unknown < self.accesses.states) | ~np.isin(unknown, access.writes)]
        if unknown.size:
            raise _defect(
                f"{self._describe(index)} reads {self.accesses.name(int(unknown[0]))}, which nothing has written"
            )
        self.written[access.writes] = True


def _defect(found: str) -> FailedError:
    return FailedError(
        found, "a program whose order holds however its queues overlap", "report this as a defect"
    )
