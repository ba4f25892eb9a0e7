"""One of the instruction queues: waits for tokens, resolves the expert, and hands commands to the units."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from hwattn.rtl.commands import command_layout, command_stream
from hwattn.rtl.interfaces import lookup_port
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.encoding import fields
from hwattn.spec.isa import (
    EXTERNAL_QUEUES,
    INSTRUCTIONS,
    OPCODE_BITS,
    PC_BITS,
    QUEUES,
    Halt,
    Instruction,
    Predicated,
    Queue,
    Route,
)

OVERLAPPING = (Queue.MATRIX, Queue.FETCH)
"""Queues whose unit takes a command before it has ended the one before."""

OUTSTANDING = 4
"""Commands that such a unit may hold."""

FETCH_DEPTH = 16
"""Instructions waiting in front of the FETCH unit: prefetch must not keep others from being dispatched."""


def queue_kinds(config: AcceleratorConfig, queue: Queue) -> list[type[Instruction]]:
    """Return the kinds of instruction that a machine's units of a queue run, Halt left out."""
    left_out = (Halt,) if config.experts else (Halt, Route)
    return [kind for kind in INSTRUCTIONS.values() if kind.queue == queue and kind not in left_out]


def machine_queues(config: AcceleratorConfig) -> tuple[Queue, ...]:
    """Return the queues that a machine has."""
    return tuple(queue for queue in Queue if config.external_words or queue not in EXTERNAL_QUEUES)


def unit_kinds(config: AcceleratorConfig) -> tuple[type[Instruction], ...]:
    """Return every kind of instruction that a machine's units run, in order of queues: the order of commands."""
    return tuple(kind for queue in machine_queues(config) for kind in queue_kinds(config, queue))


def lookup_queues(config: AcceleratorConfig) -> tuple[Queue, ...]:
    """Return the queues that read the metaqueue, in the order of the router's look-ups; none in a machine without a router."""
    if not config.experts:
        return ()
    return tuple(
        queue
        for queue in machine_queues(config)
        if any(issubclass(kind, Predicated) for kind in queue_kinds(config, queue))
    )


def instruction_layout(kind: type[Instruction]) -> data.StructLayout:
    """Return the layout of an encoded instruction of a kind, without the bits above its last field."""
    return data.StructLayout({"opcode": OPCODE_BITS, **{field.name: field.bits for field in fields(kind)}})


def entry_layout(config: AcceleratorConfig, queue: Queue) -> data.StructLayout:
    """Return what waits in a queue: the instruction, cut to the widest kind of this queue, and its number."""
    width = max(instruction_layout(kind).size for kind in queue_kinds(config, queue))
    return data.StructLayout({"word": width, "pc": PC_BITS})


class InstructionQueue(wiring.Component):
    """Holds instructions in order and runs one at a time; of `OVERLAPPING` queues the unit takes the next one as soon as it can.

    Parameters
    ----------
    config : AcceleratorConfig
    queue : Queue
        Which of them it is; a unit for each of its kinds is commanded.

    Members
    -------
    instruction : In(stream of entry_layout(config, queue))
    ready_from : In(QUEUES)
        Bit q: a token from queue q is waiting here.
    taken, left : Out(QUEUES)
        Bit q, for one cycle: a token from queue q is taken; a token is left for queue q.
    lookup : Out(lookup_port())
        The metaqueue, read as the instruction starts; of no use in a machine without a router.
    command_N : Out(command_stream(kind)), done_N : In(1)
        To and from the unit of the queue's N-th kind.
    head : Out(PC_BITS), occupied, working, waiting, skipped, idle : Out(1)
        The oldest instruction, whether there is one, whether a unit works, whether the oldest waits for a token; a skipped instruction
        ends (one cycle); nothing is held and nothing runs.

    Latency
    -------
    Two cycles from a head with all its tokens to the unit's command, one from `done` to the next head; a skipped instruction takes two,
    and waits until what runs has ended.
    """

    def __init__(self, config: AcceleratorConfig, queue: Queue) -> None:
        self.config = config
        self.queue = queue
        self.kinds = queue_kinds(config, queue)
        members = {
            "instruction": In(stream.Signature(entry_layout(config, queue))),
            "ready_from": In(QUEUES),
            "taken": Out(QUEUES),
            "left": Out(QUEUES),
            "lookup": Out(lookup_port()),
            "head": Out(PC_BITS),
            "occupied": Out(1),
            "working": Out(1),
            "waiting": Out(1),
            "skipped": Out(1),
            "idle": Out(1),
        }
        for number, kind in enumerate(self.kinds):
            members[f"command_{number}"] = Out(command_stream(kind))
            members[f"done_{number}"] = In(1)
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        layout = entry_layout(self.config, self.queue)
        depth = max(self.config.queue_depth, FETCH_DEPTH if self.queue == Queue.FETCH else 0)
        m.submodules.buffer = buffer = fifo.SyncFIFOBuffered(width=layout.size, depth=depth)
        head = data.View(layout, buffer.r_data)
        m.d.comb += [
            buffer.w_data.eq(self.instruction.payload.as_value()),
            buffer.w_en.eq(self.instruction.valid),
            self.instruction.ready.eq(buffer.w_rdy),
        ]
        views = [
            data.View(instruction_layout(kind), head.word[: instruction_layout(kind).size])
            for kind in self.kinds
        ]
        # operation code, pop and push lie at the same place in every kind
        opcode, pop, push = views[0].opcode, views[0].pop, views[0].push
        tokens_here = (pop & ~self.ready_from) == 0
        expert = Signal.like(self.lookup.expert)
        left_of_queue = Signal.like(self.lookup.count)
        accepted, skip = Signal(), Signal()
        running = self._running(m, buffer, head.pc, push, accepted)
        # looked up before it is known whether the router has been waited for: of no effect until then
        remaining = self._resolve(m, opcode, views, skip)

        with m.FSM() as fsm:
            with m.State("Wait"), m.If(buffer.r_rdy & self._may_start(running)):
                m.d.comb += self.waiting.eq(~tokens_here & ~running.any())
                m.d.sync += [expert.eq(self.lookup.expert), left_of_queue.eq(remaining)]
                with m.If(tokens_here):
                    with m.If(~skip):
                        m.d.comb += self.taken.eq(pop)
                        m.next = "Issue"
                    with m.Elif(~running.any()):
                        m.d.comb += self.taken.eq(pop)
                        m.next = "Skip"
            with m.State("Issue"):
                for number, (kind, view) in enumerate(zip(self.kinds, views, strict=True)):
                    command = getattr(self, f"command_{number}")
                    m.d.comb += self._command(kind, view, command.payload, expert, left_of_queue)
                    with m.If(opcode == kind.opcode):
                        m.d.comb += command.valid.eq(1)
                        with m.If(command.ready):
                            m.d.comb += accepted.eq(1)
                            m.next = "Wait"
            with m.State("Skip"):
                m.d.comb += [buffer.r_en.eq(1), self.left.eq(push), self.skipped.eq(1)]
                m.next = "Wait"
        m.d.comb += [
            self.working.eq(fsm.ongoing("Issue") | running.any()),
            self.idle.eq((buffer.level == 0) & fsm.ongoing("Wait") & ~running.any()),
        ]
        return m

    def _may_start(self, running: Signal) -> Value:
        """Whether the head may start while `running` commands have not ended."""
        return running != OUTSTANDING if self.queue in OVERLAPPING else running == 0

    def _running(
        self, m: Module, buffer: fifo.SyncFIFOBuffered, pc: Value, push: Value, accepted: Signal
    ) -> Signal:
        """Keep the tokens that running commands will leave, in order; return the number of those commands."""
        limit = OUTSTANDING if self.queue in OVERLAPPING else 1
        running = Signal(range(limit + 1))
        entries = [
            Signal(data.StructLayout({"push": QUEUES, "pc": PC_BITS}), name=f"running_{i}")
            for i in range(limit)
        ]
        done = Cat(getattr(self, f"done_{number}") for number in range(len(self.kinds))).any() & running.any()
        position = running - done  # of a command that is accepted now
        m.d.sync += running.eq(running + accepted - done)
        for index, entry in enumerate(entries):
            with m.If(done & (index + 1 < limit)):
                m.d.sync += entry.eq(entries[min(index + 1, limit - 1)])
            # one that runs alone starts when none runs: without waiting for `done`, which comes late
            with m.If(accepted & (position == index if limit > 1 else 1)):
                m.d.sync += [entry.push.eq(push), entry.pc.eq(pc)]
        with m.If(accepted):
            m.d.comb += buffer.r_en.eq(1)
        with m.If(done):
            m.d.comb += self.left.eq(entries[0].push)
        m.d.comb += [
            self.head.eq(Mux(running.any(), entries[0].pc, pc)),
            self.occupied.eq(buffer.r_rdy | running.any()),
        ]
        return running

    def _predicated(self, kind: type[Instruction]) -> bool:
        """Whether instructions of a kind may depend on an expert, in this machine."""
        return issubclass(kind, Predicated) and self.config.experts > 0

    def _resolve(self, m: Module, opcode: data.View, views: Sequence[data.View], skip: Signal) -> Signal:
        """Look up the expert of a predicated instruction; return what its queue holds beyond `first`."""
        remaining = Signal.like(self.lookup.count)
        for kind, view in zip(self.kinds, views, strict=True):
            if self._predicated(kind):
                with m.If(opcode == kind.opcode):
                    m.d.comb += [
                        self.lookup.meta.eq(view.meta),
                        # by the sign of a difference, which is quicker than a comparison
                        skip.eq(
                            view.expert_enable
                            & (~self.lookup.present | ~(view.first - self.lookup.count)[-1])
                        ),
                        remaining.eq(self.lookup.count - view.first),
                    ]
        return remaining

    def _command(
        self,
        kind: type[Instruction],
        view: data.View,
        payload: data.View,
        expert: Signal,
        left_of_queue: Signal,
    ) -> list[object]:
        """Fill a unit's command from the instruction; `expert` counts only where the instruction asks for one."""
        predicated = self._predicated(kind)
        assignments: list[object] = []
        for name, _ in command_layout(kind):
            target = getattr(payload, name)
            if name == "expert":
                value = Mux(view.expert_enable, expert, Const(0)) if predicated else Const(0)
            elif name == "rows" and predicated:
                fewer = view.expert_enable & (left_of_queue < view.rows)
                value = Mux(fewer, left_of_queue, view.rows)
            else:
                value = getattr(view, name)
            assignments.append(target.eq(value))
        return assignments
