"""The loader: fills resident rows from either memory, and copies words into the activation memory."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Assert, Cat, Const, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2, exact_log2

from hwattn.rtl.commands import command_layout, command_stream
from hwattn.rtl.interfaces import WORD_ADDRESS_BITS, entry_port, read_port, resident_port, write_port
from hwattn.rtl.pipeline import Countdown, room_register
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.isa import Copy, Load, Memory

QUEUE_WORDS = 4
"""Words between the memory and the target: two on their way, one waiting, one leaving."""

COPY_WORD_BITS = 16


class Loader(Component):
    """One address generator, one packer of granules, two targets.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    load : In(command_stream(Load)), copy : In(command_stream(Copy))
        One command at a time; `load` goes first.
    done, busy : Out(1)
    act, weight : Out(read_port(config))
    resident : Out(resident_port(config))
        Results of `load`.
    act_write : Out(write_port(config))
        Results of `copy`.
    entry : Out(entry_port())
        Tokens of the rows of a gathering load.

    Latency
    -------
    One granule per cycle, and one word of zeros per cycle. From acceptance to `done`, without stalls: 7 cycles and the granules
    and words of zeros of all rows; and one for every `row_wrap` in `row_first`; a gathering load starts 2 cycles later, and a row
    of less than 4 granules takes 4 cycles.

    Bit accuracy
    ------------
    ``hwattn.sim.model.loader``.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.address_bits = ceil_log2(max(config.act_total_words, config.weight_words) * config.lanes)
        loads = command_layout(Load).members
        self._job = data.StructLayout(
            {
                **{name: loads[name] for name in loads if name not in ("base", "row_first", "words", "n0")},
                "words": COPY_WORD_BITS,
                "n0": COPY_WORD_BITS,
                "copy": 1,
                "target": WORD_ADDRESS_BITS,
            }
        )
        super().__init__(
            {
                "load": In(command_stream(Load)),
                "copy": In(command_stream(Copy)),
                "done": Out(1),
                "busy": Out(1),
                "act": Out(read_port(config)),
                "weight": Out(read_port(config)),
                "resident": Out(resident_port(config)),
                "act_write": Out(write_port(config)),
                "entry": Out(entry_port()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        job = Signal(self._job)
        start = Signal(self.address_bits)  # of row 0 of the current wrap; where the gathered rows begin
        factor = Signal(max(len(job.row_wrap), len(self.entry.token)))  # rows past `start`
        begin = Signal()
        m.d.comb += [self.load.ready.eq(~self.busy), self.copy.ready.eq(~self.busy & ~self.load.valid)]
        load, copy = self.load.payload, self.copy.payload
        with m.If(self.load.valid & self.load.ready):
            m.d.sync += [
                job[name].eq(load[name]) for name in command_layout(Load).members if name in self._job.members
            ]
            m.d.sync += [
                job.copy.eq(0),
                start.eq(load.base),
                factor.eq(load.row_first),
                begin.eq(1),
                self.busy.eq(1),
            ]
        with m.If(self.copy.valid & self.copy.ready):
            lane_bits = exact_log2(self.config.lanes)
            fields = {"words": copy.words, "n0": copy.words, "target": copy.target, "memory": copy.memory}
            fields |= {
                "copy": 1,
                "gather": 0,
                "rows": 1,
                "row_wrap": 1,
                "n1": 1,
                "n2": 1,
                "granule": lane_bits,
            }
            m.d.sync += [job[name].eq(value) for name, value in fields.items()]
            m.d.sync += [start.eq(copy.source << lane_bits), factor.eq(0), begin.eq(1), self.busy.eq(1)]
        with m.If(self.done):
            m.d.sync += self.busy.eq(0)

        row_start, row_ready, take = self._rows(m, job, start, factor, begin)
        item, request = self._granules(m, job, row_start, row_ready, take)
        self._pack(m, job, begin, item, request)
        return m

    def _rows(
        self, m: Module, job: Any, start: Signal, factor: Signal, begin: Signal
    ) -> tuple[Signal, Signal, Signal]:
        """Find where each row starts, ahead of its granules.

        Returns the start, whether it is `ready`, and a signal to set when it is taken.
        """
        row_start, product = Signal(self.address_bits), Signal(self.address_bits)
        row, ready, take, ahead = Signal.like(job.rows), Signal(), Signal(), Signal()
        rows, wrap_end = Countdown(job.rows, "rows"), Signal()
        m.d.comb += [self.entry.expert.eq(job.expert), self.entry.index.eq(job.first + row + ahead)]
        with m.FSM():
            with m.State("idle"), m.If(begin):
                m.d.sync += [begin.eq(0), row.eq(0)]
                rows.restart(m)
                m.next = "reduce"
            with m.State("reduce"):
                with m.If(job.gather):
                    m.next = "token"
                with m.Elif(factor >= job.row_wrap):
                    m.d.sync += [factor.eq(factor - job.row_wrap), start.eq(start + job.row_jump)]
                with m.Else():
                    m.next = "multiply"
                    m.d.sync += product.eq(factor * job.row_stride)
            with m.State("token"):
                m.d.sync += factor.eq(self.entry.token)
                m.next = "product"
            with m.State("product"):
                m.d.sync += product.eq(factor * job.row_stride)
                m.next = "multiply"
            with m.State("multiply"):
                m.d.sync += [
                    row_start.eq(start + product),
                    ready.eq(1),
                    wrap_end.eq(factor + 1 == job.row_wrap),
                ]
                m.next = "ready"
            with m.State("ready"):
                m.d.comb += ahead.eq(1)
                with m.If(take):
                    m.d.sync += row.eq(row + 1)
                    rows.step(m)
                    with m.If(rows.last):
                        m.d.sync += ready.eq(0)
                        m.next = "idle"
                    with m.Elif(job.gather):
                        m.d.sync += ready.eq(0)
                        m.next = "token"
                    with m.Elif(wrap_end):
                        following = (start + job.row_jump)[: self.address_bits]
                        m.d.sync += [row_start.eq(following), start.eq(following)]
                        m.d.sync += [factor.eq(0), wrap_end.eq(job.row_wrap == 1)]
                    with m.Else():
                        m.d.sync += [row_start.eq(row_start + job.row_stride), factor.eq(factor + 1)]
                        m.d.sync += wrap_end.eq(factor + 2 == job.row_wrap)
        return row_start, ready, take

    def _granules(
        self, m: Module, job: Any, row_start: Signal, row_ready: Signal, take: Signal
    ) -> tuple[Any, Signal]:
        """Walk over the granules of each row, then over the words of zeros.

        Returns the item of this cycle (its `valid` says that it goes on its way) and a signal to set when there is room for one.
        """
        lanes, lane_bits = self.config.lanes, exact_log2(self.config.lanes)
        address, start1, start2 = (Signal(self.address_bits) for _ in range(3))
        counts = [Countdown(getattr(job, name), name) for name in ("n0", "n1", "n2", "words")]
        inner, middle, outer, words = counts
        position = Signal(lane_bits)
        in_row, filling, room = Signal(), Signal(), Signal()
        last0, last1, last2 = inner.last, middle.last, outer.last
        next1 = (start1 + job.stride1)[: self.address_bits]
        next2 = (start2 + job.stride2)[: self.address_bits]
        # the granule at hand is the last one of its word: a word is full of granules, or of one
        full, whole = Signal(), job.granule == lane_bits
        shape = data.StructLayout(
            {
                **{"valid": 1, "zero": 1, "emit": 1, "rotation": lane_bits, "mask": lanes},
                "word": len(self.act.request.payload),
            }
        )
        # an item that is not let through at once is held, and the walk goes on meanwhile: it never waits for the grant, which comes late
        item, held, offered, sent = Signal(shape), Signal(shape), Signal(shape), Signal(shape)
        row_end = item.valid & item.emit & words.last
        m.d.comb += [
            item.valid.eq(in_row & ~held.valid),
            item.zero.eq(filling),
            item.emit.eq(filling | full | (last0 & last1 & last2)),
            item.rotation.eq(address - position),
            item.word.eq(address >> lane_bits),
            take.eq(row_ready & (~in_row | row_end)),
        ]
        m.d.comb += [item.mask[lane].eq(((position ^ lane) >> job.granule) == 0) for lane in range(lanes)]
        self._send(m, job, offered, sent, room)
        m.d.comb += offered.eq(Mux(held.valid, held, item))
        with m.If(~held.valid):
            m.d.sync += held.eq(item)
        m.d.sync += held.valid.eq(offered.valid & ~sent.valid)

        with m.If(item.valid):
            m.d.sync += [
                position.eq(position + (Const(1) << job.granule)),
                full.eq(position + (Const(2) << job.granule) == lanes),
            ]
            with m.If(item.emit):
                m.d.sync += [position.eq(0), full.eq(whole)]
                words.step(m)
            m.d.sync += address.eq(address + (Const(1) << job.granule))
            inner.step(m)
            with m.If(last0):
                m.d.sync += [address.eq(next1), start1.eq(next1)]
                middle.step(m)
                with m.If(last1):
                    m.d.sync += [each.eq(next2) for each in (address, start1, start2)]
                    outer.step(m)
                    with m.If(last2):
                        m.d.sync += filling.eq(1)
        with m.If(row_end):
            m.d.sync += Assert(filling | (last0 & last1 & last2), "a row of more granules than words")
            m.d.sync += in_row.eq(0)
        with m.If(take):
            m.d.sync += [in_row.eq(1), filling.eq(0), position.eq(0), full.eq(whole)]
            m.d.sync += [each.eq(row_start) for each in (address, start1, start2)]
            for count in counts:
                count.restart(m)
        return sent, room

    def _send(self, m: Module, job: Any, offered: Any, sent: Any, room: Signal) -> None:
        """Request the word of an item that is offered; `sent` is the item once there is room for it and its request, if it has one, is granted."""
        from_weight = job.memory == Memory.WEIGHT
        wanted = offered.valid & ~offered.zero & room
        granted = Mux(from_weight, self.weight.request.ready, self.act.request.ready)
        m.d.comb += [
            self.act.request.valid.eq(wanted & ~from_weight),
            self.weight.request.valid.eq(wanted & from_weight),
            self.act.request.payload.eq(offered.word),
            self.weight.request.payload.eq(offered.word),
            sent.eq(offered),
            sent.valid.eq(offered.valid & room & (offered.zero | granted)),
        ]

    def _pack(self, m: Module, job: Any, begin: Signal, item: Any, room: Signal) -> None:
        """Put the granules that arrive into words, and send the words to their target."""
        lanes = self.config.lanes
        m.submodules.queue = queue = SyncFIFO(width=8 * lanes, depth=QUEUE_WORDS)
        asked, arrived = Signal(item.shape()), Signal(item.shape())
        from_memory, partial, merged = (Signal(8 * lanes) for _ in range(3))
        from_weight = job.memory == Memory.WEIGHT
        m.d.sync += [
            asked.eq(item),
            arrived.eq(asked),
            from_memory.eq(Mux(from_weight, self.weight.data, self.act.data)),
        ]
        m.d.sync += Assert(
            (asked.valid & ~asked.zero) == Mux(from_weight, self.weight.valid, self.act.valid),
            "a word one cycle after its request",
        )
        # a signal for each step: an expression would be written out twice as long with every step
        rotated = from_memory
        for bit, choice in enumerate(arrived.rotation):
            step = Signal(8 * lanes, name=f"rotated_{bit}")
            m.d.comb += step.eq(Mux(choice, rotated.rotate_right(8 << bit), rotated))
            rotated = step
        taken, chosen = Signal(lanes), Signal(8 * lanes)
        m.d.comb += [
            taken.eq(Mux(arrived.zero, 0, arrived.mask)),
            chosen.eq(Cat(bit.replicate(8) for bit in taken)),
            merged.eq((partial & ~chosen) | (rotated & chosen)),
            queue.w_data.eq(merged),
            queue.w_en.eq(arrived.valid & arrived.emit),
        ]
        with m.If(arrived.valid):
            m.d.sync += partial.eq(Mux(arrived.emit, 0, merged))

        row, word, target = Signal.like(job.rows), Signal.like(job.words), Signal.like(job.target)
        rows, words = Countdown(job.rows, "rows_sent"), Countdown(job.words, "words_sent")
        sent = queue.r_rdy & queue.r_en
        merges = arrived.valid & ~arrived.emit
        m.d.comb += room.eq(room_register(m, QUEUE_WORDS, entered=item.valid, left=sent, dropped=merges))
        m.d.comb += [
            self.resident.valid.eq(queue.r_rdy & ~job.copy),
            self.resident.payload.slot.eq(job.slot),
            self.resident.payload.row.eq(row),
            self.resident.payload.word.eq(word),
            self.resident.payload.data.eq(queue.r_data),
            self.act_write.valid.eq(queue.r_rdy & job.copy),
            self.act_write.payload.addr.eq(target),
            self.act_write.payload.data.eq(queue.r_data),
            self.act_write.payload.mask.eq(~0),
            queue.r_en.eq(Mux(job.copy, self.act_write.ready, self.resident.ready)),
            self.done.eq(sent & words.last & rows.last),
        ]
        with m.If(sent):
            m.d.sync += [word.eq(word + 1), target.eq(target + 1)]
            words.step(m)
            with m.If(words.last):
                m.d.sync += [word.eq(0), row.eq(Mux(rows.last, 0, row + 1))]
                rows.step(m)
        with m.If(begin):
            m.d.sync += target.eq(job.target)
            words.restart(m)
            rows.restart(m)
