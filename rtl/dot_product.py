"""Dot products of one resident row with streamed words: one multiplier for each product."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from hwattn.rtl.adder_tree import adder_tree
from hwattn.rtl.memory import assert_apart, block_ram
from hwattn.spec.config import AcceleratorConfig

PRODUCT_BITS = 17


def resident_words(config: AcceleratorConfig) -> int:
    """Words of the memory of one resident row: `row_slots` slots, each from a power of two on."""
    return ((config.row_slots - 1) << int(ceil_log2(config.row_words))) + config.row_words


def dot_shape(config: AcceleratorConfig) -> Any:
    """Shape of a dot product of words."""
    return signed(PRODUCT_BITS + ceil_log2(config.lanes))


def dot_ports(config: AcceleratorConfig, rows: int) -> dict[str, Any]:
    """Return the ports of a component that multiplies `rows` resident rows with the words that stream past them.

    write_enable, write_addr, write_data : In(rows), In, In
        Write of one word into the resident rows whose bit is set; the address is (slot, word).
    fetch, fetch_addr : In
        Read of the resident words that go with the streamed word of the next cycle.
    streamed, resident_unsigned : In(8 * lanes), In(1)
        The streamed word, two cycles after `fetch`, and whether the resident bytes that it meets are uint8.
    dot : Out(dot_shape(config)).array(rows)
    """
    words = resident_words(config)
    return {
        "write_enable": In(rows),
        "write_addr": In(range(words)),
        "write_data": In(8 * config.lanes),
        "fetch": In(1),
        "fetch_addr": In(range(words)),
        "streamed": In(8 * config.lanes),
        "resident_unsigned": In(1),
        "dot": Out(dot_shape(config)).array(rows),
    }


def resident_row(m: Module, ports: Any, config: AcceleratorConfig, row: int) -> Signal:
    """Add the memory of a resident row; return the word that meets the streamed one."""
    m.submodules[f"resident_{row}"] = memory = block_ram(8 * config.lanes, resident_words(config))
    read, write = memory.read_port(), memory.write_port()
    resident = Signal(8 * config.lanes, name=f"resident_word_{row}")
    m.d.comb += [
        read.en.eq(ports.fetch),
        read.addr.eq(ports.fetch_addr),
        write.en.eq(ports.write_enable[row]),
        write.addr.eq(ports.write_addr),
        write.data.eq(ports.write_data),
    ]
    assert_apart(m, read, write)
    m.d.sync += resident.eq(read.data)
    return resident


class DotProduct(Component):
    """Dot products of one resident row with streamed words.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    :func:`dot_ports` for one row.

    Latency
    -------
    `dot` comes ``1 + tree_stages(lanes)`` cycles after `streamed`, ``3 + tree_stages(lanes)`` after `fetch`. One word per cycle.

    Bit accuracy
    ------------
    ``hwattn.sim.model.matrix.matrix_product`` of one word.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(dot_ports(config, 1))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        resident = resident_row(m, self, self.config, 0)
        products = []
        for lane in range(self.config.lanes):
            product = Signal(signed(PRODUCT_BITS), name=f"product_{lane}")
            byte = resident.word_select(lane, 8)
            operand = Cat(byte, byte[7] & ~self.resident_unsigned).as_signed()
            m.d.sync += product.eq(operand * self.streamed.word_select(lane, 8).as_signed())
            products.append(product)
        m.d.comb += self.dot[0].eq(adder_tree(m, products, "sum"))
        return m
