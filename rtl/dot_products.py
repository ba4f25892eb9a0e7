"""The dot products of all resident rows, in the style of the target's multipliers."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib.wiring import Component

from hwattn.rtl.dot_product import DotProduct, dot_ports
from hwattn.rtl.dot_product_pair import DotProductPair, StreamSum
from hwattn.rtl.multipliers import MultiplierStyle
from hwattn.spec.config import AcceleratorConfig


class DotProducts(Component):
    """Dot products of `rows` resident rows with streamed words.

    Rows that share multipliers are neighbours; of an odd number the last one has multipliers of its own.

    Parameters
    ----------
    config : AcceleratorConfig
    style : MultiplierStyle

    Members
    -------
    ``dot_ports`` for all rows.

    Latency
    -------
    `dot` comes ``1 + tree_stages(lanes)`` cycles after `streamed`, ``3 + tree_stages(lanes)`` after `fetch`, in both styles. One word
    per cycle.

    Bit accuracy
    ------------
    ``hwattn.sim.model.matrix.matrix_product`` of one word.
    """

    def __init__(self, config: AcceleratorConfig, style: MultiplierStyle) -> None:
        self.config = config
        self.style = style
        super().__init__(dot_ports(config, config.rows))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, rows = self.config, self.config.rows
        paired = rows - rows % 2 if self.style is MultiplierStyle.PACKED else 0
        columns: list[DotProductPair | DotProduct] = [DotProductPair(config) for _ in range(paired // 2)]
        if paired:
            m.submodules.stream_sum = stream_sum = StreamSum(config)
            m.d.comb += [
                stream_sum.streamed.eq(self.streamed),
                stream_sum.resident_unsigned.eq(self.resident_unsigned),
            ]
            m.d.comb += [pair.bias.eq(stream_sum.total) for pair in columns]
        columns += [DotProduct(config) for _ in range(rows - paired)]
        first = 0
        for index, column in enumerate(columns):
            m.submodules[f"column_{index}"] = column
            m.d.comb += [
                getattr(column, name).eq(getattr(self, name))
                for name in (
                    "write_addr",
                    "write_data",
                    "fetch",
                    "fetch_addr",
                    "streamed",
                    "resident_unsigned",
                )
            ]
            wide = len(column.dot)
            m.d.comb += column.write_enable.eq(self.write_enable[first : first + wide])
            m.d.comb += [self.dot[first + row].eq(column.dot[row]) for row in range(wide)]
            first += wide
        return m
