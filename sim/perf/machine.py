"""A task on a machine: the cycles of its free run, and of every instruction alone."""

from __future__ import annotations

from collections.abc import Sequence

from hwattn.sim.perf.dispatcher import FIRST_DISPATCH, Dispatcher
from hwattn.sim.perf.events import UNKNOWN, Event, Moment
from hwattn.sim.perf.run import Run
from hwattn.sim.perf.sequence import sequence
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.errors import RefusedError
from hwattn.spec.external import ExternalMemory
from hwattn.spec.program import Program

HALT_CYCLES = 2
"""Cycles from the Halt, or from the last end, until the machine has stopped."""

STEP_CYCLES = 3
"""Cycles of a single step before its instruction is dispatched and after it has ended."""


class Machine:
    """Runs a task's instructions for their times.

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
        self.cycles = 0
        """Cycles of the free run, as the machine's counter says."""

    def free(self) -> list[Event]:
        """Run with all queues at work; return the events of all instructions but the Halt, and set `cycles`."""
        events = sequence(self.program, self.task, self.queue_lengths)
        run = self._begin()
        dispatcher = Dispatcher(events, run.queues, run.reader)
        run.advance(dispatcher.advance)
        if dispatcher.halt == UNKNOWN:
            raise RefusedError(
                f"a program of {len(self.program.instructions)} instructions",
                f"at most {self.config.program_capacity} in this external memory",
                "raise external_words",
            )
        owed = run.reader.end if run.reader else 0
        self.cycles = (
            max(dispatcher.halt, owed, *(event.times[Moment.DONE] for event in events)) + HALT_CYCLES
        )
        return events

    def single_steps(self) -> list[tuple[Event, int]]:
        """Run every instruction alone; return with each the cycles from its step until the machine has come to rest."""
        run = self._begin()
        run.advance()
        steps = []
        rest = FIRST_DISPATCH
        for event in sequence(self.program, self.task, self.queue_lengths):
            # the memory comes to rest between steps
            dispatched = max(rest, run.port.end) + run.port.bandwidth.refill
            run.put(event, dispatched)
            run.advance()
            rest = event.times[Moment.DONE]
            steps.append((event, rest - dispatched + STEP_CYCLES))
        return steps

    def _begin(self) -> Run:
        return Run(self.config, self.memory, self.program.entries[self.task])
