"""Second half of LayerNorm: normalizes, scales, narrows, and writes words."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import Component, In, Out

from hwattn.rtl.commands import command_layout
from hwattn.rtl.interfaces import NORM_PARAM_BITS, WORD_ADDRESS_BITS, write_port
from hwattn.rtl.layernorm_scale import SHIFT_BITS, scale_layout
from hwattn.rtl.layernorm_sums import elements_layout
from hwattn.rtl.pipeline import Countdown, delayed
from hwattn.rtl.requantize import halved
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.isa import Norm
from hwattn.spec.numbers import GATE_LIMIT

BETA_BITS = 32
NORMAL_BITS = 18
QUEUE_GROUPS = 16
"""Groups between the first beat's read and the last word's write; more than the pipeline holds."""

STAGES = 11
PARAM_STAGE = 5


class LayerNormLanes(Component):
    """`norm_lanes` elements per cycle from the row buffer to the activation memory.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    command : In(command_layout(Norm))
        Holds from `begin` on.
    begin : In(1)
        Pulse: start with row 0.
    groups : In
        Groups of `lanes` elements in a row.
    scale : In(stream of scale_layout())
        One for each row.
    read : Out(1)
        Take the next beat from the row buffer.
    elements : In(elements_layout(config))
        That beat, one cycle later.
    param_beat : Out
        Beat of the row whose parameters are needed.
    params : In(data.ArrayLayout(NORM_PARAM_BITS, norm_lanes))
        Those parameters, one cycle later.
    act_write : Out(write_port(config))
    done : Out(1)

    Latency
    -------
    One beat per cycle, unless writes take longer: a group of `lanes` elements is one word, or three with `wide`. 13 cycles from a
    group's last beat to its first write.

    Bit accuracy
    ------------
    ``hwattn.sim.model.layernorm.layer_norm``.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        dim_bits = command_layout(Norm).members["dim"].width
        super().__init__(
            {
                "command": In(command_layout(Norm)),
                "begin": In(1),
                "groups": In(dim_bits),
                "scale": In(stream.Signature(scale_layout())),
                "read": Out(1),
                "elements": In(elements_layout(config)),
                "param_beat": Out(dim_bits),
                "params": In(data.ArrayLayout(NORM_PARAM_BITS, config.norm_lanes)),
                "act_write": Out(write_port(config)),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes, width = self.config.lanes, self.config.norm_lanes
        m.submodules.groups = queue = SyncFIFO(width=3 * 8 * lanes, depth=QUEUE_GROUPS)
        tag, scale = self._issue(m, queue)
        tags = [tag, *delayed(m, tag, STAGES, "tag")]
        scales = [scale, *delayed(m, scale, PARAM_STAGE, "scale")]
        m.d.comb += self.param_beat.eq(tags[PARAM_STAGE].beat)
        results = [self._lane(m, lane, tags, scales) for lane in range(width)]

        # A group grows from the top: the beat that came first ends at the bottom
        packed = []
        for kind in range(3):
            beat = Cat(result[kind] for result in results)
            if width == lanes:
                packed.append(beat)
                continue
            earlier = Signal(8 * (lanes - width), name=f"earlier_{kind}")
            whole = Cat(earlier, beat)
            with m.If(tags[STAGES].valid):
                m.d.sync += earlier.eq(whole[8 * width :])
            packed.append(whole)
        m.d.comb += [
            queue.w_data.eq(Cat(packed)),
            queue.w_en.eq(tags[STAGES].valid & tags[STAGES].group_end),
        ]
        self._write(m, queue)
        return m

    def _issue(self, m: Module, queue: SyncFIFO) -> tuple[Any, Any]:
        """Read the beats of a row when its scale is there, and there is room for its groups."""
        width = self.config.norm_lanes
        beats = self.config.lanes // width
        tag = Signal(
            data.StructLayout({"valid": 1, "group_end": 1, "mask": width, "beat": len(self.param_beat)})
        )
        scale = Signal(scale_layout())
        in_row = Signal()
        groups, feature = Countdown(self.groups, "groups_issued"), Signal.like(self.command.dim)
        position, beat = Signal(range(beats)), Signal.like(self.param_beat)
        in_flight = Signal(range(QUEUE_GROUPS + 1))
        row_end = tag.valid & tag.group_end & groups.last
        m.d.comb += [
            tag.valid.eq(in_row & ((position != 0) | (in_flight != QUEUE_GROUPS))),
            tag.group_end.eq(position == beats - 1),
            tag.beat.eq(beat),
            self.read.eq(tag.valid),
            self.scale.ready.eq(~in_row | row_end),
        ]
        m.d.comb += [tag.mask[lane].eq(feature + lane < self.command.dim) for lane in range(width)]
        with m.If(tag.valid):
            m.d.sync += [position.eq(position + 1), beat.eq(beat + 1), feature.eq(feature + width)]
            with m.If(tag.group_end):
                m.d.sync += position.eq(0)
                groups.step(m)
        with m.If(row_end):
            m.d.sync += in_row.eq(0)
        with m.If(self.scale.valid & self.scale.ready):
            m.d.sync += [in_row.eq(1), scale.eq(self.scale.payload)]
            m.d.sync += [feature.eq(0), beat.eq(0)]
            groups.restart(m)
        m.d.sync += in_flight.eq(in_flight + (tag.valid & (position == 0)) - self._written(queue))
        return tag, scale

    def _written(self, queue: SyncFIFO) -> Value:
        return queue.r_rdy & queue.r_en

    def _lane(self, m: Module, lane: int, tags: list[Any], scales: list[Any]) -> tuple[Value, Value, Value]:
        """Compute one lane; returns the int8 result, the low and the high digit."""

        def register(name: str, value: Value, shape: Any = None) -> Signal:
            result = Signal(value.shape() if shape is None else shape, name=f"{name}_{lane}")
            m.d.sync += result.eq(value)
            return result

        x = register("x", self.elements[lane])
        scaled = register("scaled", self.command.dim * x)
        centred = register("centred", scaled - scales[3].total, signed(30))
        product = register("product", centred * scales[4].significand)
        # Shifts leave one bit below the result, which rounds it
        normal = register("normal", product >> (scales[5].shift - 1)[:SHIFT_BITS])
        z = register("z", halved(normal, NORMAL_BITS), signed(NORMAL_BITS))
        parameter = register("parameter", self.params[lane])
        gamma, beta = parameter[BETA_BITS:].as_signed(), parameter[:BETA_BITS].as_signed()
        weighted = register("weighted", z * gamma)
        biased = register("biased", weighted + register("beta", beta))
        fine = register("fine", biased >> (self.command.shift - 9)[: len(self.command.shift)])
        narrow = halved((fine >> 8).as_signed(), 8)
        # comparisons beside the sum: (fine + 1) >> 1 > GATE_LIMIT where fine > 2 * GATE_LIMIT
        wide = Mux(
            fine > 2 * GATE_LIMIT,
            GATE_LIMIT,
            Mux(fine < -2 * GATE_LIMIT - 1, -GATE_LIMIT, (fine + 1) >> 1),
        )
        kept = tags[STAGES - 1].mask[lane]
        out8 = register("out8", Mux(kept, narrow, 0), signed(8))
        digits = register("digits", Mux(kept, wide, 0), signed(16))
        return out8, digits[:8], ((digits + 128) >> 8)[:8]

    def _write(self, m: Module, queue: SyncFIFO) -> None:
        """Write a group's word of results, then its words of low and of high digits."""
        lanes, command = self.config.lanes, self.command
        target, wide_target, target_row, wide_row = (Signal(WORD_ADDRESS_BITS) for _ in range(4))
        part = Signal(2)
        groups, rows = Countdown(self.groups, "groups_written"), Countdown(command.rows, "rows_written")
        words = data.View(data.ArrayLayout(8 * lanes, 3), queue.r_data)
        next_target = (target_row + command.target_stride)[:WORD_ADDRESS_BITS]
        next_wide = (wide_row + command.wide_stride)[:WORD_ADDRESS_BITS]
        last_part = Signal()  # the next one is a group's first
        # of the word at hand, and of the one after it: in registers, because the grant that waits for the address comes late
        address, following = Signal(WORD_ADDRESS_BITS), Signal(WORD_ADDRESS_BITS)
        write = self.act_write.payload
        m.d.comb += [
            self.act_write.valid.eq(queue.r_rdy),
            write.addr.eq(address),
            write.mask.eq(~0),
            write.data.eq(words[part]),
            queue.r_en.eq(self.act_write.ready & last_part),
            self.done.eq(self._written(queue) & groups.last & rows.last),
        ]
        # there in time: low digits are written before the high ones
        high_target = Signal(WORD_ADDRESS_BITS)
        m.d.sync += high_target.eq(wide_target + self.groups)
        with m.If(last_part):
            m.d.comb += following.eq(Mux(groups.last, next_target, target + 1))
        with m.Else():
            m.d.comb += following.eq(Mux(part[0], high_target, wide_target))
        with m.If(self.act_write.valid & self.act_write.ready):
            m.d.sync += [
                part.eq(Mux(last_part, 0, part + 1)),
                last_part.eq(Mux(last_part, ~command.wide, part[0])),
                address.eq(following),
            ]
        with m.If(self._written(queue)):
            m.d.sync += [target.eq(target + 1), wide_target.eq(wide_target + 1)]
            groups.step(m)
            with m.If(groups.last):
                m.d.sync += [each.eq(next_target) for each in (target, target_row)]
                m.d.sync += [each.eq(next_wide) for each in (wide_target, wide_row)]
                rows.step(m)
        with m.If(self.begin):
            m.d.sync += last_part.eq(~command.wide)
            m.d.sync += [each.eq(command.target) for each in (address, target, target_row)]
            m.d.sync += [each.eq(command.wide_target) for each in (wide_target, wide_row)]
            groups.restart(m)
            rows.restart(m)
