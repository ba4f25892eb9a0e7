"""Queue lengths of a program's mixtures: what it routes, and even lengths where no image says more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwattn.sim.model.executor import Executor
from hwattn.spec.errors import RefusedError
from hwattn.spec.isa import Halt, Route
from hwattn.spec.program import Program


@dataclass(frozen=True)
class Routing:
    """A mixture's routing: `tokens` tokens, `k` of `experts` for each."""

    experts: int
    tokens: int
    k: int

    @property
    def even(self) -> tuple[int, ...]:
        """Queue lengths as equal as can be."""
        least, more = divmod(self.tokens * self.k, self.experts)
        return tuple(least + (expert < more) for expert in range(self.experts))


def routings(program: Program, task: int) -> list[Routing]:
    """Return the routings of a task, in the order of its program."""
    found = []
    tokens = 0
    for instruction in program.instructions[program.entries[task] :]:
        if isinstance(instruction, Halt):
            break
        if isinstance(instruction, Route):
            tokens = instruction.rows + (0 if instruction.clear else tokens)
            if instruction.last:
                found.append(Routing(instruction.experts, tokens, instruction.k))
    return found


def queue_lengths(program: Program, task: int, image: NDArray[np.float32]) -> list[tuple[int, ...]]:
    """Return the tokens in every expert's queue, for each mixture of a task, when an image is run.

    Parameters
    ----------
    program : Program
    task : int
    image : ndarray of float32
        Without a batch axis.
    """
    wanted = routings(program, task)
    if not wanted:
        return []
    chosen = Executor(program).run(image[None], task).routing
    return [
        tuple(np.bincount(each.ravel(), minlength=routing.experts).tolist())
        for each, routing in zip(chosen, wanted, strict=True)
    ]


def parse_lengths(text: str, wanted: list[Routing]) -> list[tuple[int, ...]]:
    """Read the queue lengths of a task's mixtures.

    Parameters
    ----------
    text : str
        ``even``, or the tokens of every expert separated by commas, mixtures separated by semicolons; one list holds for all.
    wanted : list of Routing

    Raises
    ------
    RefusedError
        Other words, another number of mixtures or experts, or a sum that the routing cannot give.
    """
    if text == "even":
        return [routing.even for routing in wanted]
    try:
        lists = [tuple(int(word) for word in part.split(",")) for part in text.split(";")]
    except ValueError:
        raise RefusedError(
            f"queue lengths {text!r}",
            "even, or whole numbers separated by commas, mixtures by semicolons",
            "write for example 4,0,3,1",
        ) from None
    if len(lists) == 1:
        lists *= len(wanted)
    if len(lists) != len(wanted):
        raise RefusedError(
            f"queue lengths of {len(lists)} mixtures",
            f"{len(wanted)}",
            "give one list for each, or one for all",
        )
    for lengths, routing in zip(lists, wanted, strict=True):
        total = routing.tokens * routing.k
        if (
            len(lengths) != routing.experts
            or sum(lengths) != total
            or not all(0 <= each <= routing.tokens for each in lengths)
        ):
            raise RefusedError(
                f"the queue lengths {', '.join(map(str, lengths))}",
                f"{routing.experts} lengths of 0 to {routing.tokens} with the sum {total}",
                "correct --queue-lengths",
            )
    return lists
