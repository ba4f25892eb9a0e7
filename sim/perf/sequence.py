"""A task's instructions in the order of the program: the experts they are for, and whose tokens they take.

Neither depends on time: queues keep the order of the program, and so do the tokens between two queues.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence

from hwattn.sim.perf.events import Event
from hwattn.spec.encoding import disassemble
from hwattn.spec.errors import RefusedError
from hwattn.spec.isa import EXTERNAL_QUEUES, INSTRUCTIONS, QUEUES, Halt, Instruction, Predicated, Queue, Route
from hwattn.spec.program import Program


def sequence(program: Program, task: int, queue_lengths: Sequence[Sequence[int]]) -> list[Event]:
    """Return the events of a task's instructions, all but the Halt, without times.

    Parameters
    ----------
    program : Program
    task : int
    queue_lengths : sequence of sequences of int
        For each mixture of the task in the order of the program, the tokens in the queue of every expert.

    Raises
    ------
    RefusedError
        An instruction is unknown or waits for a token that none before it leaves, there is no Halt, or the queue lengths are not those of
        the program's mixtures.
    """
    lengths = deque(queue_lengths)
    metaqueue: list[tuple[int, int]] = []
    tokens: defaultdict[tuple[int, int], deque[Event]] = defaultdict(deque)
    events = []
    for index, instruction in _instructions(program, task):
        event = _resolved(index, instruction, metaqueue)
        _pass_tokens(event, tokens)
        events.append(event)
        if isinstance(instruction, Route) and instruction.last:
            metaqueue = _routed(program, index, lengths)
    if lengths:
        raise RefusedError(
            f"queue lengths for {len(lengths)} mixtures too many",
            "those of the task's mixtures",
            "leave the others out",
        )
    return events


def _instructions(program: Program, task: int) -> Iterator[tuple[int, Instruction]]:
    """Walk over a task's instructions up to its Halt."""
    for index in range(program.entries[task], len(program.instructions)):
        instruction = program.instructions[index]
        if type(instruction) is Halt:
            return
        if type(instruction) not in INSTRUCTIONS.values():
            known = ", ".join(kind.__name__ for kind in INSTRUCTIONS.values())
            raise RefusedError(
                f"instruction {index} of the unknown kind {type(instruction).__name__}",
                known,
                "compile the program again",
            )
        if instruction.queue in EXTERNAL_QUEUES and not program.config.external_words:
            raise RefusedError(
                f"instruction {index}, {disassemble(instruction)}, on a machine without external memory",
                "instructions of the machine's own queues",
                "set external_words",
            )
        yield index, instruction
    raise RefusedError(
        f"the program of task {task} has no HALT", "a whole program", "compile the program again"
    )


def _resolved(index: int, instruction: Instruction, metaqueue: list[tuple[int, int]]) -> Event:
    """Look up the expert of a predicated instruction: whether it is skipped, and its rows."""
    event = Event(index, instruction, rows=getattr(instruction, "rows", 0))
    if not (isinstance(instruction, Predicated) and instruction.expert_enable):
        return event
    if instruction.meta >= len(metaqueue):
        event.skipped = True
        return event
    event.expert, count = metaqueue[instruction.meta]
    left = count - instruction.first
    event.skipped = left <= 0
    event.rows = min(event.rows, left)
    return event


def _routed(program: Program, index: int, lengths: deque[Sequence[int]]) -> list[tuple[int, int]]:
    """Return the experts that have tokens, and how many, as a Route leaves them."""
    config = program.config
    if not lengths:
        raise RefusedError(
            f"no queue lengths for the mixture that instruction {index} routes",
            "the tokens of every expert for each mixture",
            "give them with --queue-lengths",
        )
    counts = lengths.popleft()
    if len(counts) > config.experts or any(not 0 <= count <= config.tokens for count in counts):
        raise RefusedError(
            f"queue lengths {', '.join(map(str, counts))}",
            f"at most {config.experts} experts of 0 to {config.tokens} tokens",
            "correct the queue lengths",
        )
    return [(expert, count) for expert, count in enumerate(counts) if count]


def _pass_tokens(event: Event, tokens: defaultdict[tuple[int, int], deque[Event]]) -> None:
    """Take the tokens that an instruction waits for, and leave its own."""
    instruction, queue = event.instruction, int(event.instruction.queue)
    for giver in range(QUEUES):
        if instruction.pop >> giver & 1:
            waiting = tokens[giver, queue]
            if not waiting:
                raise RefusedError(
                    f"instruction {event.index} ({disassemble(instruction)}) waits for a token of "
                    f"queue {Queue(giver).name} that no instruction before it leaves",
                    "a program in sequential order",
                    "compile the program again",
                )
            event.givers.append(waiting.popleft())
        if instruction.push >> giver & 1:
            tokens[queue, giver].append(event)
