"""LayerNorm: exact integer sums, one reciprocal square root per row, no division."""

from __future__ import annotations

import numpy as np
from amaranth.hdl import Array, Assert, Module, Mux, Signal
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out, connect, flipped
from amaranth.utils import ceil_log2, exact_log2
from numpy.typing import NDArray

from hwattn.rtl.commands import command_layout, command_stream
from hwattn.rtl.interfaces import (
    NORM_PARAM_BITS,
    PARAM_ADDRESS_BITS,
    entry_write,
    norm_param_port,
    read_port,
    write_port,
)
from hwattn.rtl.layernorm_lanes import LayerNormLanes
from hwattn.rtl.layernorm_scale import LayerNormScale
from hwattn.rtl.layernorm_sums import LayerNormSums, elements_layout
from hwattn.rtl.memory import assert_apart, block_ram
from hwattn.rtl.pipeline import room_register
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.isa import Norm

DIM_LIMIT = 4096


class LayerNorm(Component):
    """The LayerNorm unit, and the norm memory.

    Rows flow through three parts that work at the same time on different rows: sums, scale, and lanes. A buffer holds the
    elements of rows between the first and the last part, so that the activation memory is read once.

    Parameters
    ----------
    config : AcceleratorConfig
    params : ndarray of int64, shape (entries,), optional
        Initial contents of the norm memory: 48 bits each, gamma (16 signed) above beta (32 signed), or the bias of a gate.

    Members
    -------
    command : In(command_stream(Norm))
        `dim` is at most `norm_words` and 4096, with `zero_mean` 4095.
    done, busy : Out(1)
    act : Out(read_port(config)), act_write : Out(write_port(config))
    param_write : In(entry_write(PARAM_ADDRESS_BITS, 48))
        Always ready.
    param : In(norm_param_port())
        Reads for the router, answered while the unit is idle.

    Latency
    -------
    ``37 + B + max(B, 2 * G - 1) + (rows - 1) * max(B, 2 * G, 15)`` cycles from acceptance to `done`, and 2 more with `wide`, for G = ceil(dim / lanes)
    groups and B = G * lanes / norm_lanes beats, where nothing stalls, the buffer (of `norm_words` elements, rounded up to a power of
    two) holds some rows, and with `wide` ``lanes / norm_lanes`` is at least 3.

    Bit accuracy
    ------------
    ``hwattn.sim.model.layernorm.layer_norm``.
    """

    def __init__(self, config: AcceleratorConfig, params: NDArray[np.int64] | None = None) -> None:
        self.config = config
        self.params = np.zeros(0, np.int64) if params is None else params
        if len(self.params) > config.norm_words:
            raise ValueError(f"{len(self.params)} entries do not fit {config.norm_words}")
        super().__init__(
            {
                "command": In(command_stream(Norm)),
                "done": Out(1),
                "busy": Out(1),
                "act": Out(read_port(config)),
                "act_write": Out(write_port(config)),
                "param_write": In(entry_write(PARAM_ADDRESS_BITS, NORM_PARAM_BITS)),
                "param": In(norm_param_port()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        command, groups = Signal(command_layout(Norm)), Signal(command_layout(Norm).members["dim"])
        begin = Signal()
        m.submodules.sums = sums = LayerNormSums(config)
        m.submodules.scale = scale = LayerNormScale()
        m.submodules.lanes = lanes = LayerNormLanes(config)
        connect(m, sums.sums, scale.sums)
        connect(m, scale.scale, lanes.scale)
        connect(m, sums.act, flipped(self.act))
        connect(m, lanes.act_write, flipped(self.act_write))
        m.d.comb += [
            self.command.ready.eq(~self.busy),
            self.done.eq(lanes.done),
            scale.dim.eq(command.dim),
            scale.epsilon.eq(command.epsilon),
        ]
        for part in (sums, lanes):
            m.d.comb += [part.command.eq(command), part.begin.eq(begin), part.groups.eq(groups)]
        accepted = self.command.valid & self.command.ready
        dim = self.command.payload.dim
        m.d.sync += begin.eq(accepted)
        with m.If(accepted):
            m.d.sync += [
                command.eq(self.command.payload),
                groups.eq((dim + (config.lanes - 1)) >> exact_log2(config.lanes)),
                self.busy.eq(1),
            ]
        with m.If(begin):
            fits = (command.dim != 0) & (command.dim <= min(DIM_LIMIT, config.norm_words))
            fits &= ~(command.zero_mean & (command.dim == DIM_LIMIT))
            m.d.sync += Assert(fits & (command.rows != 0) & (command.shift >= 9), "Norm outside its bounds")
        with m.If(self.done):
            m.d.sync += self.busy.eq(0)
        self._buffer(m, sums, lanes)
        self._parameters(m, command, lanes)
        return m

    def _buffer(self, m: Module, sums: LayerNormSums, lanes: LayerNormLanes) -> None:
        """Keep the elements of rows until their scale is known, in a ring."""
        config = self.config
        longest = -(-min(DIM_LIMIT, config.norm_words) // config.lanes) * (config.lanes // config.norm_lanes)
        depth = 1 << ceil_log2(longest)
        layout = elements_layout(config)
        m.submodules.rows = memory = block_ram(layout.size, depth)
        read, write = memory.read_port(), memory.write_port()
        step = sums.elements.valid & sums.elements.ready
        put, get = Signal(range(depth)), Signal(range(depth))
        # written a cycle late: what has been summed up is read much later
        stored, elements = Signal(), Signal(layout)
        m.d.sync += [stored.eq(step), elements.eq(sums.elements.payload)]
        m.d.comb += [
            sums.elements.ready.eq(room_register(m, depth, entered=step, left=lanes.read)),
            write.en.eq(stored),
            write.addr.eq(put),
            write.data.eq(elements),
            read.en.eq(lanes.read),
            read.addr.eq(get),
            lanes.elements.eq(read.data),
        ]
        assert_apart(m, read, write)
        m.d.sync += [put.eq(put + stored), get.eq(get + lanes.read)]

    def _parameters(self, m: Module, command: data.View, lanes: LayerNormLanes) -> None:
        """Hold entry i in memory ``i % norm_lanes``, so that a beat reads all its entries at once."""
        width = self.config.norm_lanes
        lane_bits = exact_log2(width)
        depth = -(-self.config.norm_words // width)
        entries = [int(value) & ((1 << NORM_PARAM_BITS) - 1) for value in self.params]
        outputs = []
        first = Signal(PARAM_ADDRESS_BITS)  # entry of lane 0
        m.d.comb += first.eq(
            Mux(self.busy, command.param_base + (lanes.param_beat << lane_bits), self.param.addr)
        )
        m.d.comb += self.param_write.ready.eq(1)
        for lane in range(width):
            m.submodules[f"params_{lane}"] = memory = block_ram(NORM_PARAM_BITS, depth, entries[lane::width])
            read, write = memory.read_port(), memory.write_port()
            here = self.param_write.payload.addr[:lane_bits] == lane
            m.d.comb += [
                read.en.eq(1),
                read.addr.eq((first + (width - 1 - lane)) >> lane_bits),
                write.en.eq(self.param_write.valid & here),
                write.addr.eq(self.param_write.payload.addr >> lane_bits),
                write.data.eq(self.param_write.payload.data),
            ]
            outputs.append(read.data)
        turned = Signal(lane_bits)
        m.d.sync += turned.eq(first)
        for lane in range(width):
            m.d.comb += lanes.params[lane].eq(Array(outputs)[(turned + lane)[:lane_bits]])
        m.d.comb += self.param.data.eq(lanes.params[0])
