"""Dependency tokens: as few as order every hazard between queues.

Every queue runs in order, so a hazard with one instruction of another queue orders all earlier ones of that queue too. What a queue
knows of the others is kept as a vector clock: a hazard that the clock already covers, directly or through a third queue, needs no
token. Tokens between two queues are counted, not named: since both ends of the chosen pairs increase, the n-th pop always meets
the n-th push.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hwattn.compiler.accesses import AccessMap, LastAccess
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.isa import QUEUES, Instruction


def synchronize(
    instructions: Sequence[Instruction], config: AcceleratorConfig, scratch: tuple[int, int] = (0, 0)
) -> list[Instruction]:
    """Set `pop` and `push` of the instructions of one task.

    Parameters
    ----------
    instructions : sequence of Instruction
        In program order, which defines their meaning.
    config : AcceleratorConfig
    scratch : tuple of int
        First external word that changes from image to image, and the number of those words.

    Returns
    -------
    list of Instruction
    """
    accesses = AccessMap(config, scratch)
    last = LastAccess(accesses.count, QUEUES)
    known = [[-1] * QUEUES for _ in range(QUEUES)]
    after: list[tuple[int, ...]] = []
    pops, pushes = [0] * len(instructions), [0] * len(instructions)
    for index, (instruction, access) in enumerate(
        zip(instructions, accesses.walk(instructions), strict=True)
    ):
        queue = int(instruction.queue)
        wanted = sorted(
            ((int(other_index), other) for other, other_index in enumerate(last.conflicts(access))),
            reverse=True,
        )
        for other_index, other in wanted:
            if other != queue and other_index > known[queue][other]:
                pops[index] |= 1 << other
                pushes[other_index] |= 1 << queue
                known[queue] = [max(pair) for pair in zip(known[queue], after[other_index], strict=True)]
        known[queue][queue] = index
        after.append(tuple(known[queue]))
        last.record(queue, index, access)
    return [
        replace(instruction, pop=pop, push=push)
        for instruction, pop, push in zip(instructions, pops, pushes, strict=True)
    ]
