"""The machine as events: when the dispatcher, the queues, the units and external memory do their part of every instruction.

Tokens, queues and memory all pass from earlier to later instructions of the program, so one pass in program order finds every time. Cycle 0
is the first in which the machine runs.

What is left out, because it is small: two units that want the same bank of a memory in the same cycle (the one of lower priority waits). A
machine whose units always find their banks free is predicted to the cycle.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from hwattn.sim.perf.memory import MemoryPort, Span
from hwattn.sim.perf.program import ProgramStream
from hwattn.sim.perf.units import MATRIX_SETUP, stream_cycles, unit_cycles
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.encoding import disassemble
from hwattn.spec.errors import RefusedError
from hwattn.spec.external import ExternalMemory
from hwattn.spec.isa import (
    EXTERNAL_QUEUES,
    INSTRUCTIONS,
    QUEUES,
    Fetch,
    Halt,
    Instruction,
    Matmul,
    Predicated,
    Queue,
    Route,
    Store,
)
from hwattn.spec.program import Program

OVERLAPPING = (Queue.MATRIX, Queue.FETCH)
"""Queues whose unit takes a command before it has ended the one before."""

OUTSTANDING = 4
"""Commands that such a unit may hold."""

FETCH_DEPTH = 16
"""Least depth of the FETCH queue."""

MATRIX_IN_FLIGHT = 3
"""Matmuls whose last word has been asked for and whose last column is on its way."""

PASSES = 4
"""Most passes over a program with Stores."""

DISPATCH_CYCLES = 2
FIRST_DISPATCH = 2


class Moment(IntEnum):
    """What happens to an instruction: the dispatcher hands it over, its unit accepts it, it ends."""

    DISPATCHED = 0
    ACCEPTED = 1
    DONE = 2


@dataclass
class Event:
    """An instruction's course through the machine.

    Parameters
    ----------
    index : int
        In the program.
    instruction : Instruction
    skipped : bool
        Its expert's queue was too short.
    times : list of int
        Cycle of each `Moment`.
    causes : list of (Event, Moment) or None
        What each moment waited for: of all that had to come before, the last; None at the start of the program.
    freed : int
        Cycle in which its unit could accept the next command.
    rows : int
        Rows that it worked on, if it has such a field.
    """

    index: int
    instruction: Instruction
    skipped: bool = False
    times: list[int] = field(default_factory=lambda: [0, 0, 0])
    causes: list[tuple[Event, Moment] | None] = field(default_factory=lambda: [None, None, None])
    freed: int = 0
    rows: int = 0


Waits = list[tuple[int, Event, Moment]]
"""What a moment waits for: the cycle from which each lets it go on, and the moment it is."""


class Machine:
    """Runs a task's instructions, one after the other, for their times.

    Parameters
    ----------
    program : Program
    task : int
    memory : ExternalMemory
    queue_lengths : sequence of sequences of int
        For each mixture of the task in the order of the program, the tokens in the queue of every expert.

    Raises
    ------
    RefusedError
        There is no such task, an instruction is unknown, or the queue lengths are not those of the program's mixtures.
    """

    def __init__(
        self,
        program: Program,
        task: int,
        memory: ExternalMemory,
        queue_lengths: Sequence[Sequence[int]] = (),
    ) -> None:
        if not 0 <= task < len(program.entries):
            raise RefusedError(
                f"task {task}", f"0 to {len(program.entries) - 1}", "name a task of the program"
            )
        self.program, self.task = program, task
        self.config: AcceleratorConfig = program.config
        self.memory = memory
        self.queue_lengths = [tuple(counts) for counts in queue_lengths]
        self._begin()
        self.cycles = 0
        """Cycles of the free run, as the machine's counter says."""

    def _begin(self, reads: Sequence[Span] = ()) -> None:
        self._port = MemoryPort(self.config, self.memory, reads)
        entry = self.program.entries[self.task]
        streamed = self.config.program_streamed
        self._stream = ProgramStream(self.config, self._port, entry) if streamed else None
        self._lengths = deque(self.queue_lengths)
        self._metaqueue: list[tuple[int, int]] = []

    def free(self) -> list[Event]:
        """Run with all queues at work; return the events of all instructions but the Halt, and set `cycles`.

        Stores wait for the bursts that Fetches read meanwhile, which stand before or after them in the program: a program with Stores
        is run again with the bursts of the pass before until they stay as they are.
        """
        reads: list[Span] = []
        for _ in range(PASSES):
            self._begin(reads)
            events = self._pass()
            settled = self._port.spans == reads
            reads = self._port.spans
            if settled or not any(isinstance(event.instruction, Store) for event in events):
                break
        halt = events[-1].times[Moment.DISPATCHED] + DISPATCH_CYCLES if events else FIRST_DISPATCH
        if self._stream:
            last = events[-1].index if events else self.program.entries[self.task] - 1
            halt = max(halt, self._stream.ready(last + 1))
            halt = max(halt, self._stream.settled(halt))
        self.cycles = max(halt, *(event.times[Moment.DONE] for event in events), 0) + 2
        return events

    def _pass(self) -> list[Event]:
        """Run once."""
        events: list[Event] = []
        queues: list[list[Event]] = [[] for _ in range(QUEUES)]
        tokens: defaultdict[tuple[int, int], deque[Event]] = defaultdict(deque)
        for index, instruction in self._instructions():
            event = Event(index, instruction)
            own = queues[instruction.queue]
            self._dispatch(event, events[-1] if events else None, own)
            if self._stream:
                if not events:
                    event.times[Moment.DISPATCHED] = max(FIRST_DISPATCH, self._stream.ready(index))
                self._stream.consume(index, event.times[Moment.DISPATCHED])
            self._run(event, own, self._tokens(event, tokens))
            own.append(event)
            events.append(event)
        self._complete()
        return events

    def single_steps(self) -> list[tuple[Event, int]]:
        """Run every instruction alone; return with each the cycles from its step until the machine has come to rest."""
        self._begin()
        steps = []
        for index, instruction in self._instructions():
            event = Event(index, instruction)
            if instruction.queue in EXTERNAL_QUEUES:
                # the memory comes to rest between steps
                self._port = MemoryPort(self.config, self.memory)
            self._dispatch(event, None, [])
            if self._stream:
                # what this instruction makes room for is read while it runs
                self._stream.moved(self._port, 0)
                self._stream.consume(index, event.times[Moment.DISPATCHED])
            self._run(event, [], [])
            steps.append((event, event.times[Moment.DONE] - event.times[Moment.DISPATCHED] + 3))
        self._complete()
        return steps

    def _instructions(self) -> Iterator[tuple[int, Instruction]]:
        """Walk over the task's instructions up to its Halt, keeping the metaqueue as each Route leaves it."""
        for index in range(self.program.entries[self.task], len(self.program.instructions)):
            instruction = self.program.instructions[index]
            if type(instruction) is Halt:
                return
            if type(instruction) not in INSTRUCTIONS.values():
                known = ", ".join(kind.__name__ for kind in INSTRUCTIONS.values())
                raise RefusedError(
                    f"instruction {index} of the unknown kind {type(instruction).__name__}",
                    known,
                    "compile the program again",
                )
            if instruction.queue in EXTERNAL_QUEUES and not self.config.external_words:
                raise RefusedError(
                    f"instruction {index}, {disassemble(instruction)}, on a machine without external memory",
                    "instructions of the machine's own queues",
                    "set external_words",
                )
            yield index, instruction
            if isinstance(instruction, Route) and instruction.last:
                self._route(index)
        raise RefusedError(
            f"the program of task {self.task} has no HALT", "a whole program", "compile the program again"
        )

    def _route(self, index: int) -> None:
        """Take the queue lengths that a Route leaves."""
        if not self._lengths:
            raise RefusedError(
                f"no queue lengths for the mixture that instruction {index} routes",
                "the tokens of every expert for each mixture",
                "give them with --queue-lengths",
            )
        counts = self._lengths.popleft()
        if len(counts) > self.config.experts or any(not 0 <= count <= self.config.tokens for count in counts):
            raise RefusedError(
                f"queue lengths {', '.join(map(str, counts))}",
                f"at most {self.config.experts} experts of 0 to {self.config.tokens} tokens",
                "correct the queue lengths",
            )
        self._metaqueue = [(expert, count) for expert, count in enumerate(counts) if count]

    def _complete(self) -> None:
        if self._lengths:
            raise RefusedError(
                f"queue lengths for {len(self._lengths)} mixtures too many",
                "those of the task's mixtures",
                "leave the others out",
            )

    def _dispatch(self, event: Event, before: Event | None, own: list[Event]) -> None:
        """The dispatcher hands over one instruction in two cycles, if the queue has room."""
        if before is None:
            event.times[Moment.DISPATCHED] = FIRST_DISPATCH
            return
        earliest = before.times[Moment.DISPATCHED] + DISPATCH_CYCLES
        if self._stream:
            earliest = max(earliest, self._stream.ready(event.index))
        waits: Waits = [(earliest, before, Moment.DISPATCHED)]
        queue = event.instruction.queue
        depth = self._depth(queue)
        if len(own) >= depth:
            # the oldest of `depth` has left, and the next one has moved into the output register
            leaver = own[-depth]
            waits.append((leaver.times[Moment.ACCEPTED] + 1, leaver, Moment.ACCEPTED))
        _settle(event, Moment.DISPATCHED, waits)

    def _depth(self, queue: Queue) -> int:
        """Instructions that wait in front of a unit."""
        return max(self.config.queue_depth, FETCH_DEPTH if queue == Queue.FETCH else 0)

    def _tokens(self, event: Event, tokens: defaultdict[tuple[int, int], deque[Event]]) -> Waits:
        """Take the tokens that an instruction waits for, and leave its own."""
        instruction, queue = event.instruction, int(event.instruction.queue)
        waits: Waits = []
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
                source = waiting.popleft()
                waits.append((source.times[Moment.DONE] + 1, source, Moment.DONE))
            if instruction.push >> giver & 1:
                tokens[queue, giver].append(event)
        return waits

    def _run(self, event: Event, own: list[Event], tokens: Waits) -> None:
        """From the queue's head through its unit."""
        instruction = event.instruction
        expert = self._resolve(event)
        # through the memory before the output register, where there is one
        to_head = 1 if self._depth(instruction.queue) == 1 else 2
        waits: Waits = [(event.times[Moment.DISPATCHED] + to_head, event, Moment.DISPATCHED), *tokens]
        if own:
            before = own[-1]
            waits.append((before.times[Moment.ACCEPTED] + 1, before, Moment.ACCEPTED))
            if event.skipped or instruction.queue not in OVERLAPPING:
                waits.append((before.times[Moment.DONE] + 1, before, Moment.DONE))
            elif len(own) >= OUTSTANDING:
                older = own[-OUTSTANDING]
                waits.append((older.times[Moment.DONE] + 1, older, Moment.DONE))
        # from the head, one cycle to the unit
        waits = [(cycle + 1, cause, moment) for cycle, cause, moment in waits]
        if not event.skipped:
            waits += self._unit_free(event, own)
        accepted = _settle(event, Moment.ACCEPTED, waits)
        if event.skipped:
            _settle(event, Moment.DONE, [(accepted, event, Moment.ACCEPTED)])
        elif isinstance(instruction, Fetch):
            source = instruction.source + expert * instruction.expert_stride
            times = self._port.fetch(instruction, source, accepted)
            event.freed = times.free
            cause = (own[-1], Moment.DONE) if times.behind and own else (event, Moment.ACCEPTED)
            _settle(event, Moment.DONE, [(times.done, *cause)])
        elif isinstance(instruction, Store):
            _settle(event, Moment.DONE, [(self._port.store(instruction, accepted), event, Moment.ACCEPTED)])
        else:
            cycles = self._unit_cycles(event)
            if isinstance(instruction, Matmul):
                event.freed = accepted + MATRIX_SETUP + stream_cycles(instruction)
            _settle(event, Moment.DONE, [(accepted + cycles, event, Moment.ACCEPTED)])

    def _unit_cycles(self, event: Event) -> int:
        """Cycles of an instruction whose unit's time is its own."""
        cycles = unit_cycles(event.instruction, self.config, event.rows)
        if cycles is None:
            raise RefusedError(
                f"instruction {event.index} ({disassemble(event.instruction)}), whose cycles nothing is known of",
                "an instruction with a cost in hwattn.sim.perf.units",
                "report it",
            )
        return cycles

    def _unit_free(self, event: Event, own: list[Event]) -> Waits:
        """What the unit of an overlapping queue itself waits for."""
        if not own:
            return []
        before = own[-1]
        waits: Waits = [(before.freed, before, Moment.ACCEPTED)]
        if isinstance(event.instruction, Matmul):
            previous = next((each for each in reversed(own) if not each.skipped), None)
            accumulates = event.instruction.accumulate or (
                previous is not None
                and isinstance(previous.instruction, Matmul)
                and previous.instruction.accumulate
            )
            if accumulates:
                waits.append((before.times[Moment.DONE] + 1, before, Moment.DONE))
            if len(own) >= MATRIX_IN_FLIGHT:
                older = own[-MATRIX_IN_FLIGHT]
                waits.append((older.times[Moment.DONE] + 1, older, Moment.DONE))
        return waits

    def _resolve(self, event: Event) -> int:
        """Look up the expert of a predicated instruction; set whether it is skipped, and its rows."""
        instruction = event.instruction
        event.rows = getattr(instruction, "rows", 0)
        if not (isinstance(instruction, Predicated) and instruction.expert_enable):
            return 0
        if instruction.meta >= len(self._metaqueue):
            event.skipped = True
            return 0
        expert, count = self._metaqueue[instruction.meta]
        left = count - instruction.first
        event.skipped = left <= 0
        event.rows = min(event.rows, left)
        return expert


def _settle(event: Event, moment: Moment, waits: Waits) -> int:
    """Set a moment of an event to the latest of what it waits for; return its cycle."""
    cycle, cause, when = max(waits, key=lambda wait: wait[0])
    event.times[moment] = cycle
    event.causes[moment] = (cause, when)
    return cycle
