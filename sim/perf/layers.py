"""Which layer every cycle belongs to, and what bounds each: the critical path through the machine's events.

From the last moment back to the first, each moment waited for one other, the last to come. These waits follow each other without gaps, so
their lengths add up to the run's cycles. A wait belongs to the layer and to the unit of the instruction that was at work in it; work that
is hidden behind other work is not on the path.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hwattn.sim.perf.events import Event, Moment
from hwattn.sim.perf.machine import Machine
from hwattn.sim.perf.units import stream_cycles
from hwattn.spec.config import INSTRUCTION_BYTES
from hwattn.spec.isa import Copy, Fetch, Instruction, Load, Matmul, Norm, Post, Route, Softmax, Store

DISPATCH = "dispatch"
HIDDEN = "hidden"

BOUNDS: dict[type[Instruction], str] = {
    Matmul: "compute",
    Fetch: "memory",
    Store: "memory",
    Post: "post-processing",
    Softmax: "softmax",
    Norm: "normalization",
    Route: "routing",
    Load: "loading",
    Copy: "loading",
}
"""What a run waits for, by the kind of the instruction at work; `DISPATCH`: no instruction had been handed over."""

KINDS: dict[type[Instruction], str] = {
    Route: "mixture",
    Softmax: "attention",
    Norm: "layer_norm",
    Matmul: "linear",
}
"""What a layer is, by the first of these instructions that it has."""


@dataclass
class Layer:
    """A layer's part in a run.

    Parameters
    ----------
    name : str
        As the program labels its instructions.
    causes : Counter of str
        Cycles of the critical path by what they wait for.
    kinds : set of type
        Of its instructions.
    instructions, skipped : int
    streamed : int
        Words that pass the matrix unit: cycles in which its multipliers work.
    bytes_external : int
        To and from external memory.
    """

    name: str
    causes: Counter[str] = field(default_factory=Counter)
    kinds: set[type[Instruction]] = field(default_factory=set)
    instructions: int = 0
    skipped: int = 0
    streamed: int = 0
    bytes_external: int = 0

    @property
    def cycles(self) -> int:
        """Cycles on the critical path; those of all layers add up to the run's."""
        return sum(self.causes.values())

    @property
    def kind(self) -> str:
        """What the layer is, as its instructions show."""
        return next((name for kind, name in KINDS.items() if kind in self.kinds), "copy")

    @property
    def bound(self) -> str:
        """What most of the cycles wait for."""
        return max(self.causes, key=lambda cause: self.causes[cause]) if self.cycles else HIDDEN


def layers(machine: Machine, events: list[Event]) -> list[Layer]:
    """Divide a free run among the layers of its program, in the order of the program.

    Parameters
    ----------
    machine : Machine
    events : list of Event
        Of `machine.free()`.

    Returns
    -------
    list of Layer
        Their cycles add up to `machine.cycles`.
    """
    labels = machine.program.labels
    found: dict[str, Layer] = {}
    # a Fetch may stand before the instructions of earlier layers
    for event in sorted(events, key=lambda event: isinstance(event.instruction, Fetch)):
        layer = found.setdefault(labels[event.index], Layer(labels[event.index]))
        layer.kinds.add(type(event.instruction))
        layer.instructions += 1
        layer.skipped += event.skipped
        layer.bytes_external += INSTRUCTION_BYTES * machine.config.program_streamed
        if event.skipped:
            continue
        match event.instruction:
            case Matmul():
                layer.streamed += stream_cycles(event.instruction)
            case Fetch() | Store():
                words = event.instruction.words * event.instruction.runs
                layer.bytes_external += words * machine.config.lanes
    here: tuple[Event, Moment] | None = None
    if events:
        here = max(events, key=lambda event: event.times[Moment.DONE]), Moment.DONE
        if events[-1].times[Moment.DISPATCHED] + 2 >= here[0].times[Moment.DONE]:
            here = events[-1], Moment.DISPATCHED
    end = machine.cycles
    while here is not None:
        event, moment = here
        before = event.causes[moment]
        start = before[0].times[before[1]] if before else 0
        owner, cause = _owner(event, moment, before)
        found[labels[owner.index]].causes[cause] += end - start
        end, here = start, before
    return list(found.values())


def _owner(event: Event, moment: Moment, before: tuple[Event, Moment] | None) -> tuple[Event, str]:
    """Return the instruction at work before a moment, and what that is a wait for."""
    if moment == Moment.DISPATCHED:
        return event, DISPATCH
    streams = before is not None and moment == before[1] == Moment.ACCEPTED
    owner = before[0] if streams and before is not None else event
    return owner, BOUNDS[type(owner.instruction)]
