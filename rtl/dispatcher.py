"""Fetches the program in order, fills the queues, and keeps the tokens between them."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Assert, Cat, Const, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hwattn.rtl.commands import command_stream
from hwattn.rtl.interfaces import entry_write, lookup_port
from hwattn.rtl.memory import block_ram
from hwattn.rtl.queue import InstructionQueue, lookup_queues, machine_queues, unit_kinds
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.isa import INSTRUCTION_BITS, OPCODE_BITS, PC_BITS, QUEUES, TOKEN_LIMIT, Opcode, Queue
from hwattn.spec.registers import ErrorCause


class Dispatcher(wiring.Component):
    """The command processor (the decoupled access-execute scheme of VTA, between all pairs of queues).

    A fault of a unit stops the machine at once: the queues are emptied, and `abort` tells the units to drop what they do.

    Parameters
    ----------
    config : AcceleratorConfig
    program : sequence of int
        Encoded instructions: initial contents of the program memory.

    Members
    -------
    program_write : In(entry_write)
        The host's writes into the program memory, whole instructions; where `program_streamed` there is none, and they are dropped.
    instruction : In(stream.Signature(256)), reading : Out(1), owing : In(1)
        With `program_streamed` only: the instructions from `entry` on, wanted as long as `reading` is high; whether words of some that are not
        wanted any more are still to come, before which a run does not end.
    start, step : In(1), entry : In(16), single_step : In(1)
        Begin at `entry`; with `single_step`, held until done, run one instruction for each `step`.
    running, paused, done, error : Out(1), cause : Out(4), pc : Out(16)
        `paused`: single-step, all at rest, `pc` comes next. `done` and `error` stay until the next start.
    fault : In(4)
        A cause of error, of `spec.registers.ErrorCause`, or 0.
    abort : Out(1)
        For one cycle after a fault.
    command_K : Out(command_stream(kind)), done_K : In(1)
        To and from each unit, K the kind's name in lower case.
    lookups : Out(lookup_port()), one for each queue of `lookup_queues`
    issued, skipped : Out(1)
        An instruction has been handed to a queue; instructions skipped in this cycle (a count).
    head, occupied, working, waiting : one for each queue
        As in InstructionQueue.

    Latency
    -------
    An instruction is fetched every two cycles while its queue has room, and where the program is streamed as it comes.
    """

    def __init__(self, config: AcceleratorConfig, program: Sequence[int] = ()) -> None:
        self.config = config
        self.program = list(program)
        members = {
            "program_write": In(entry_write(PC_BITS, INSTRUCTION_BITS)),
            "start": In(1),
            "step": In(1),
            "single_step": In(1),
            "entry": In(PC_BITS),
            "running": Out(1),
            "paused": Out(1),
            "done": Out(1),
            "error": Out(1),
            "cause": Out(4),
            "pc": Out(PC_BITS),
            "issued": Out(1),
            "skipped": Out(range(QUEUES + 1)),
            "fault": In(4),
            "abort": Out(1),
            "lookups": Out(lookup_port()).array(len(lookup_queues(config))),
            "head": Out(PC_BITS).array(QUEUES),
            "occupied": Out(QUEUES),
            "working": Out(QUEUES),
            "waiting": Out(QUEUES),
        }
        if config.program_streamed:
            members |= {
                "instruction": In(stream.Signature(INSTRUCTION_BITS)),
                "reading": Out(1),
                "owing": In(1),
            }
        for kind in unit_kinds(config):
            members[f"command_{kind.__name__.lower()}"] = Out(command_stream(kind))
            members[f"done_{kind.__name__.lower()}"] = In(1)
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        queues = {queue: InstructionQueue(self.config, queue) for queue in machine_queues(self.config)}
        for queue, unit in queues.items():
            m.submodules[f"queue_{queue.name.lower()}"] = ResetInserter(self.abort)(unit)
        self._connect(m, queues)
        self._tokens(m, queues)
        self._fetch(m, queues)
        return m

    def _connect(self, m: Module, queues: dict[Queue, InstructionQueue]) -> None:
        """Tie the queues to the component's ports."""
        for queue, unit in queues.items():
            for number, kind in enumerate(unit.kinds):
                name = kind.__name__.lower()
                connect(m, getattr(unit, f"command_{number}"), flipped(getattr(self, f"command_{name}")))
                m.d.comb += getattr(unit, f"done_{number}").eq(getattr(self, f"done_{name}"))
            m.d.comb += [
                self.head[queue].eq(unit.head),
                self.occupied[queue].eq(unit.occupied),
                self.working[queue].eq(unit.working),
                self.waiting[queue].eq(unit.waiting),
            ]
        for port, queue in zip(self.lookups, lookup_queues(self.config), strict=True):
            connect(m, queues[queue].lookup, flipped(port))
        m.d.comb += self.skipped.eq(sum(unit.skipped for unit in queues.values()))

    def _tokens(self, m: Module, queues: dict[Queue, InstructionQueue]) -> None:
        """Count the tokens between every pair of queues."""
        for giver in queues:
            for taker in queues:
                if giver == taker:
                    continue
                count = Signal(
                    range(TOKEN_LIMIT + 1), name=f"tokens_{giver.name.lower()}_{taker.name.lower()}"
                )
                # counted a cycle later, by when neither can have been looked for in vain: a token that has just been left is known to be
                # there, and a queue that has just taken one does not ask again in the next cycle
                left, taken, some = Signal(), Signal(), Signal()
                m.d.sync += [left.eq(queues[giver].left[taker]), taken.eq(queues[taker].taken[giver])]
                following = (count + left - taken)[: len(count)]
                m.d.sync += [count.eq(following), some.eq(following != 0)]
                with m.If(self.start):
                    m.d.sync += [count.eq(0), some.eq(0)]
                m.d.comb += queues[taker].ready_from[giver].eq(some | left)
                m.d.sync += Assert(~left | taken | (count != TOKEN_LIMIT))

    def _fetch(self, m: Module, queues: dict[Queue, InstructionQueue]) -> None:
        """Read the program in order and hand each instruction to its queue."""
        accepted = Signal()
        word, here = self._next(m, accepted)
        # the queue that it is for, or that it is a Halt: a cycle after it has come
        halts, targets = Signal(), {queue: Signal(name=f"to_{queue.name.lower()}") for queue in queues}
        opcode = word[:OPCODE_BITS]
        m.d.sync += halts.eq(opcode == Opcode.HALT)
        for queue, target in targets.items():
            codes = [kind.opcode for kind in unit_kinds(self.config) if kind.queue == queue]
            m.d.sync += target.eq(Cat(opcode == code for code in codes).any())
        at_rest = Cat(unit.idle for unit in queues.values()).all()
        with m.If(self.running & (self.fault != ErrorCause.NONE) & ~self.error):
            m.d.sync += [self.error.eq(1), self.cause.eq(self.fault), self.abort.eq(1)]
        with m.If(self.abort):
            m.d.sync += self.abort.eq(0)
        for unit in queues.values():
            m.d.comb += [
                unit.instruction.payload.word.eq(word),
                unit.instruction.payload.pc.eq(self.pc),
            ]

        with m.FSM() as fsm:
            with m.State("Stopped"), m.If(self.start):
                m.d.sync += [
                    self.pc.eq(self.entry),
                    self.done.eq(0),
                    self.error.eq(0),
                    self.cause.eq(ErrorCause.NONE),
                ]
                m.next = "Next"
            with m.State("Next"):
                with m.If(self.error):
                    m.next = "Drain"
                with m.Elif(self.single_step):
                    # queues have seen the last instruction in this cycle, at the latest
                    with m.If(at_rest):
                        m.next = "Paused"
                with m.Else():
                    m.next = "Fetch"
            with m.State("Paused"):
                m.d.comb += self.paused.eq(1)
                with m.If(self.step):
                    m.next = "Fetch"
            with m.State("Fetch"):
                with m.If(here):
                    m.next = "Decode"
                with m.If(self.error):
                    m.next = "Drain"
            with m.State("Decode"):
                m.d.comb += [queues[queue].instruction.valid.eq(target) for queue, target in targets.items()]
                taken = [queues[queue].instruction.ready & target for queue, target in targets.items()]
                m.d.comb += accepted.eq(Cat(taken).any())
                with m.If(halts):
                    m.next = "Drain"
                with m.Elif(~Cat(targets.values()).any()):
                    m.d.sync += [self.error.eq(1), self.cause.eq(ErrorCause.UNKNOWN_INSTRUCTION)]
                    m.next = "Drain"
                with m.If(accepted):
                    with m.If(self.pc == self.config.program_capacity - 1):
                        m.d.sync += [self.error.eq(1), self.cause.eq(ErrorCause.END_OF_PROGRAM)]
                        m.next = "Drain"
                    with m.Else():
                        m.d.sync += self.pc.eq(self.pc + 1)
                        with m.If(self.single_step):
                            m.next = "Next"
                        with m.Else():
                            m.next = "Fetch"
                with m.If(self.error):
                    m.next = "Drain"
            with m.State("Drain"), m.If(at_rest & self._settled()):
                m.d.sync += self.done.eq(~self.error)
                m.next = "Stopped"
        m.d.comb += [self.issued.eq(accepted), self.running.eq(~fsm.ongoing("Stopped"))]
        if self.config.program_streamed:
            m.d.comb += self.reading.eq(self.running & ~fsm.ongoing("Drain"))

    def _settled(self) -> Value:
        """Whether no more words of the program come; a memory that has failed is not waited for."""
        return ~self.owing | self.error if self.config.program_streamed else Const(1)

    def _next(self, m: Module, accepted: Signal) -> tuple[Value, Value]:
        """Return the instruction at `pc`, which is `accepted` at last, and whether it is there."""
        m.d.comb += self.program_write.ready.eq(1)
        if self.config.program_streamed:
            m.d.comb += self.instruction.ready.eq(accepted)
            return self.instruction.payload, self.instruction.valid
        m.submodules.program = program = block_ram(INSTRUCTION_BITS, self.config.program_words, self.program)
        write, read = program.write_port(), program.read_port()
        m.d.comb += [
            write.addr.eq(self.program_write.payload.addr),
            write.data.eq(self.program_write.payload.data),
            write.en.eq(self.program_write.valid),
            # one ahead in the cycle that accepts, so that the instruction is there a cycle later
            read.addr.eq(Mux(accepted, self.pc + 1, self.pc)),
        ]
        return read.data, Const(1)
