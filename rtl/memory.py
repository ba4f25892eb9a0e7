"""Activation and weight memory: block RAM behind prioritized ports."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import Any

import numpy as np
from amaranth.hdl import Array, Assert, Cat, Module, Mux, Signal, Value
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2
from numpy.typing import NDArray

from hwattn.rtl.interfaces import read_port, write_port
from hwattn.spec.config import AcceleratorConfig


def grant(m: Module, wanted: Sequence[Any]) -> list[Signal]:
    """Return one bit per client: it asks, and no client before it in the list does."""
    granted = [Signal(name=f"grant_{index}") for index in range(len(wanted))]
    for index, bit in enumerate(granted):
        m.d.comb += bit.eq(wanted[index] & ~Cat(wanted[:index]).any())
    return granted


def select(chosen: Sequence[Value], values: Sequence[Any]) -> Any:
    """Return the value whose bit is set, 0 if none is; at most one is."""
    return reduce(or_, [value & bit.replicate(len(value)) for bit, value in zip(chosen, values, strict=True)])


class BankedMemory(Component):
    """The activation memory: `act_banks` banks of `act_words` words, each with one read and one write in a cycle.

    Parameters
    ----------
    config : AcceleratorConfig
    readers, writers : int
        Number of ports; of those that want the same bank, the one with the lowest index goes first.

    Members
    -------
    reads : In(read_port(config)).array(readers)
    writes : In(write_port(config)).array(writers)
    read_conflicts : Out(readers)
        One bit per reader: it asks, and must wait in this cycle.
    write_conflicts : Out(writers)
    abort : In(1)
        Readers are reset, and get no word that they ask for in this cycle.

    Latency
    -------
    Data one cycle after the request's handshake; one word per cycle, bank and direction. A word that is written can be read from
    the second cycle after its handshake on.

    Bit accuracy
    ------------
    Word ``b * act_words + i`` is word i of bank b; all are 0 at first.
    """

    def __init__(self, config: AcceleratorConfig, readers: int, writers: int) -> None:
        self.config = config
        super().__init__(
            {
                "reads": In(read_port(config)).array(readers),
                "writes": In(write_port(config)).array(writers),
                "read_conflicts": Out(readers),
                "write_conflicts": Out(writers),
                "abort": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        index_bits = ceil_log2(config.act_words)
        bank_bits = ceil_log2(config.act_banks)
        reads, writes = list(self.reads), list(self.writes)
        outputs = []

        def bank_of(address: Any) -> Any:
            return address[index_bits : index_bits + bank_bits]

        def ready(wanted: Sequence[tuple[Any, Any]]) -> list[Any]:
            """Whether each client goes first in its bank: without the banks' choices, which would make the path longer."""
            return [
                valid & ~Cat(other & (bank_of(at) == bank_of(address)) for other, at in wanted[:index]).any()
                for index, (valid, address) in enumerate(wanted)
            ]

        read_ready = ready([(port.request.valid, port.request.payload) for port in reads])
        write_ready = ready([(port.valid, port.payload.addr) for port in writes])
        for bank in range(config.act_banks):
            m.submodules[f"bank_{bank}"] = memory = block_ram(8 * config.lanes, config.act_words)
            read, write = memory.read_port(), memory.write_port(granularity=8)
            outputs.append(read.data)
            granted = grant(
                m, [port.request.valid & (bank_of(port.request.payload) == bank) for port in reads]
            )
            m.d.comb += [
                read.en.eq(Cat(granted).any()),
                read.addr.eq(select(granted, [port.request.payload[:index_bits] for port in reads])),
            ]
            granted = grant(m, [port.valid & (bank_of(port.payload.addr) == bank) for port in writes])
            sent = Signal(
                data.StructLayout({"en": config.lanes, "addr": index_bits, "data": 8 * config.lanes})
            )
            m.d.comb += [
                sent.en.eq(select(granted, [port.payload.mask for port in writes])),
                sent.addr.eq(select(granted, [port.payload.addr[:index_bits] for port in writes])),
                sent.data.eq(select(granted, [port.payload.data for port in writes])),
            ]
            # written a cycle later: it has come a long way
            m.d.sync += [write.en.eq(sent.en), write.addr.eq(sent.addr), write.data.eq(sent.data)]
            assert_apart(m, read, sent)
            assert_apart(m, read, write)
        for index, port in enumerate(reads):
            served = Signal(bank_bits, name=f"served_{index}")
            m.d.sync += port.valid.eq(port.request.valid & port.request.ready & ~self.abort)
            with m.If(port.request.valid):
                m.d.sync += [
                    served.eq(bank_of(port.request.payload)),
                    Assert(
                        port.request.payload < config.act_total_words, "read beyond the activation memory"
                    ),
                ]
            m.d.comb += [
                port.request.ready.eq(read_ready[index]),
                port.data.eq(Array(outputs)[served]),
                self.read_conflicts[index].eq(port.request.valid & ~port.request.ready),
            ]
        for index, port in enumerate(writes):
            with m.If(port.valid):
                m.d.sync += Assert(
                    port.payload.addr < config.act_total_words, "write beyond the activation memory"
                )
            m.d.comb += [
                port.ready.eq(write_ready[index]),
                self.write_conflicts[index].eq(port.valid & ~port.ready),
            ]
        return m


class WordMemory(Component):
    """A memory of words in one bank, such as the weight memory, with initial contents.

    Parameters
    ----------
    config : AcceleratorConfig
    depth : int
        Words.
    readers : int
        Number of read ports; the one with the lowest index goes first.
    init : ndarray of int8, shape (words, lanes), optional
        Contents of the first words at power-up; the others are 0.

    Members
    -------
    reads : In(read_port(config)).array(readers)
    write : In(write_port(config))
        Always ready.
    read_conflicts : Out(readers)
        One bit per reader: it asks, and must wait in this cycle.
    abort : In(1)
        Readers are reset, and get no word that they ask for in this cycle.

    Latency
    -------
    Data one cycle after the request's handshake; one read and one write per cycle.
    """

    def __init__(
        self, config: AcceleratorConfig, depth: int, readers: int, init: NDArray[np.int8] | None = None
    ) -> None:
        self.config = config
        self.depth = depth
        self._contents = [] if init is None else word_contents(init, depth, config.lanes)
        super().__init__(
            {
                "reads": In(read_port(config)).array(readers),
                "write": In(write_port(config)),
                "read_conflicts": Out(readers),
                "abort": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = block_ram(8 * self.config.lanes, self.depth, self._contents)
        read, write = memory.read_port(), memory.write_port(granularity=8)
        reads = list(self.reads)
        granted = grant(m, [port.request.valid for port in reads])
        for index, (port, bit) in enumerate(zip(reads, granted, strict=True)):
            m.d.comb += [
                port.request.ready.eq(bit),
                port.data.eq(read.data),
                self.read_conflicts[index].eq(port.request.valid & ~bit),
            ]
            m.d.sync += port.valid.eq(bit & ~self.abort)
            with m.If(bit):
                m.d.sync += Assert(port.request.payload < self.depth, "read beyond the memory")
        # something is read in every cycle, so that the wires to all blocks wait for nobody's wish, which may come late
        *first, address = (port.request.payload for port in reads)
        for port, payload in reversed(list(zip(reads, first, strict=False))):
            address = Mux(port.request.valid, payload, address)
        asked = Signal(data.StructLayout({"en": 1, "addr": len(read.addr)}))
        m.d.comb += [
            asked.en.eq(Cat(granted).any()),
            asked.addr.eq(address),
            read.en.eq(1),
            read.addr.eq(asked.addr),
            self.write.ready.eq(1),
            write.addr.eq(self.write.payload.addr),
            write.data.eq(self.write.payload.data),
        ]
        with m.If(self.write.valid):
            m.d.comb += write.en.eq(self.write.payload.mask)
            m.d.sync += Assert(self.write.payload.addr < self.depth, "write beyond the memory")
        assert_apart(m, asked, write)
        return m


def block_ram(shape: Any, depth: int, init: Sequence[Any] = ()) -> Memory:
    """Return a memory whose reads in the cycle of a write to the same address are undefined in hardware.

    `shape` is a number of bits or any shape of Amaranth. Tokens exclude such reads (`assert_apart`). Otherwise Yosys builds logic around each
    block RAM that makes them return the old word; flows look for the attribute (`boards.nextpnr`).
    """
    return Memory(shape=shape, depth=depth, init=init, attrs={"no_rw_check": 1})


def assert_apart(m: Module, read: Any, write: Any) -> None:
    """Assert that a word of a `block_ram` is not read in the cycle in which it is written, by these ports."""
    together = read.en & write.en.any() & (read.addr == write.addr)
    m.d.sync += Assert(~together, "a word of block RAM is read while it is written")


def word_contents(words: NDArray[np.int8], depth: int, lanes: int) -> list[int]:
    """Return int8 `words`, shape (words, lanes), as initial contents of a memory of `depth` words."""
    if words.ndim != 2 or words.shape[1] != lanes or len(words) > depth:
        raise ValueError(f"contents of shape {words.shape} do not fit {depth} words of {lanes} bytes")
    return [int.from_bytes(word.tobytes(), "little") for word in np.ascontiguousarray(words, np.int8)]
