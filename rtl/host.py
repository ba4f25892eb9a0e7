"""The host's side of the machine: reads and writes of 32-bit units, decoded into regions."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hwattn.rtl.entries import UNIT_BITS, entry_ports, put_entry
from hwattn.rtl.external_access import external_access_port
from hwattn.rtl.interfaces import (
    TABLE_ADDRESS_BITS,
    WORD_ADDRESS_BITS,
    entry_write,
    read_port,
    table_layout,
    write_port,
)
from hwattn.rtl.pipeline import delayed
from hwattn.rtl.word_crc import WordCrc
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.entries import ENTRY_REGIONS
from hwattn.spec.isa import EXTERNAL_ADDRESS_BITS, INSTRUCTION_BITS, PC_BITS
from hwattn.spec.registers import REGION_SHIFT, UNITS, Control, Region, Register

REGISTER_BITS = 8

REGISTER_CYCLES = 3
"""From `register_read` to `register_data`."""

REQUEST_LAYOUT = data.StructLayout({"write": 1, "addr": UNIT_BITS, "data": UNIT_BITS})
"""A host request: a write of `data`, or a read, which is answered by one response."""


def host_request() -> wiring.Signature:
    """Return the stream of the host's requests."""
    return stream.Signature(REQUEST_LAYOUT)


def host_response() -> wiring.Signature:
    """Return the stream of answers to reads, in order."""
    return stream.Signature(UNIT_BITS)


def window_bits(config: AcceleratorConfig) -> int:
    """Return the bits of the register EXTERNAL_WINDOW: what a unit's number in external memory has beyond a region's."""
    return EXTERNAL_ADDRESS_BITS + exact_log2(config.lanes * 8 // UNIT_BITS) - REGION_SHIFT


class Host(wiring.Component):
    """Serves the host's requests one after the other.

    Parameters
    ----------
    config : AcceleratorConfig

    Members
    -------
    request : In(host_request()), response : Out(host_response())
    register : Out(8), register_read : Out(1), register_data : In(32)
        Register to read, a cycle before `register_read`; its value comes one cycle after that.
    register_write : Out(entry_write(8, 32))
        Writes to registers, the ones to CONTROL among them.
    act_read : Out(read_port), act_write, weight_write : Out(write_port)
    param_write, norm_write, table_write, program_write : Out(entry_write)
        Whole entries of the other memories.
    external : Out(external_access_port(config)), window : In
        To external memory, of machines with a port to it; the register EXTERNAL_WINDOW.
    scan_base, scan_words : In
        The range that CONTROL.SCAN, CONTROL.CLEAR and CONTROL.SCAN_EXTERNAL go over.
    scan_crc : Out(32)
        CRC-32 of the last scan.

    Latency
    -------
    Three cycles for a write, four for a read of memory, seven for a register, more where a memory is busy, and to external memory as
    long as it takes. A scan takes a cycle for each word, of external memory as long as reading it, and at its end `WordCrc.cycles`; no
    other request is taken meanwhile.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self._lane_bits = exact_log2(config.lanes * 8 // UNIT_BITS)
        external = {
            "external": Out(external_access_port(config)),
            "window": In(window_bits(config)),
        }
        super().__init__(
            {
                **(external if config.external_words else {}),
                "request": In(host_request()),
                "response": Out(host_response()),
                "register": Out(REGISTER_BITS),
                "register_read": Out(1),
                "register_data": In(UNIT_BITS),
                "register_write": Out(entry_write(REGISTER_BITS, UNIT_BITS)),
                "act_read": Out(read_port(config)),
                "act_write": Out(write_port(config)),
                "weight_write": Out(write_port(config)),
                **{name: Out(port) for name, port in entry_ports().items()},
                "table_write": Out(entry_write(TABLE_ADDRESS_BITS, table_layout())),
                "program_write": Out(entry_write(PC_BITS, INSTRUCTION_BITS)),
                "scan_base": In(EXTERNAL_ADDRESS_BITS),
                "scan_words": In(WORD_ADDRESS_BITS + 1),
                "scan_crc": Out(UNIT_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        request = Signal(REQUEST_LAYOUT)
        unit, region = request.addr[:REGION_SHIFT], request.addr[REGION_SHIFT:]
        units_in_word = self.config.lanes * 8 // UNIT_BITS
        lane, word = unit[: self._lane_bits], unit[self._lane_bits :]
        answer = Signal(UNIT_BITS)
        begin, last, settled, asking = (Signal() for _ in range(4))
        scan_control = Control.SCAN | Control.CLEAR
        if self.config.external_words:
            scan_control |= Control.SCAN_EXTERNAL
            self._ask(m, asking, request, Cat(word, self.window), lane)
        m.d.comb += [
            self.response.payload.eq(answer),
            self.register.eq(unit),
            self.register_write.payload.addr.eq(unit),
            self.register_write.payload.data.eq(request.data),
        ]
        written = {
            Region.CSR: self.register_write,
            Region.ACT: self.act_write,
            Region.WEIGHT: self.weight_write,
            Region.PARAM: self.param_write,
            Region.NORM: self.norm_write,
            Region.TABLE: self.table_write,
            Region.PROGRAM: self.program_write,
        }
        entry_complete = self._entries(m, request, unit, region)
        for port in (self.act_write, self.weight_write):
            m.d.comb += [
                port.payload.addr.eq(word),
                port.payload.data.eq(request.data.replicate(units_in_word)),
                port.payload.mask.eq(0b1111 << (lane << 2)),
            ]
        m.d.comb += self.act_read.request.payload.eq(word)
        m.d.sync += self.register_read.eq(0)

        with m.FSM() as fsm:
            with m.State("Idle"):
                m.d.comb += self.request.ready.eq(1)
                with m.If(self.request.valid):
                    # only now: units of an entry are collected from the request before
                    m.d.sync += request.eq(self.request.payload)
                    m.next = "Decode"
            with m.State("Decode"):
                with m.If(request.write):
                    m.next = "Write"
                with m.Elif(region == Region.ACT):
                    m.d.comb += self.act_read.request.valid.eq(1)
                    with m.If(self.act_read.request.ready):
                        m.next = "Read memory"
                with m.Else():
                    m.d.sync += self.register_read.eq(1)
                    m.next = "Read register 0"
                if self.config.external_words:
                    with m.If(region == Region.EXTERNAL):
                        m.next = "External"
            if self.config.external_words:
                with m.State("External"):
                    m.d.comb += asking.eq(1)
                    m.d.sync += answer.eq(self.external.data.word_select(lane, UNIT_BITS))
                    with m.If(self.external.done):
                        m.next = "Respond"
                        with m.If(request.write):
                            m.next = "Idle"
            with m.State("Write"):
                with m.Switch(region):
                    for number, port in written.items():
                        with m.Case(number):
                            complete = entry_complete.get(number, Const(1))
                            m.d.comb += port.valid.eq(complete)
                            with m.If(port.ready | ~complete):
                                m.next = "Idle"
                    with m.Default():
                        m.next = "Idle"
                controls = (region == Region.CSR) & (unit == Register.CONTROL)
                with m.If(controls & ((request.data & scan_control) != 0) & (self.scan_words != 0)):
                    m.d.comb += begin.eq(1)
                    m.next = "Scan"
            with m.State("Read memory"):
                m.next = "Respond"
            for cycle in range(REGISTER_CYCLES):
                with m.State(f"Read register {cycle}"):
                    m.next = f"Read register {cycle + 1}" if cycle + 1 < REGISTER_CYCLES else "Take register"
            with m.State("Take register"):
                m.d.sync += answer.eq(self.register_data)
                with m.If(region != Region.CSR):
                    m.d.sync += answer.eq(0)
                m.next = "Respond"
            with m.State("Respond"):
                m.d.comb += self.response.valid.eq(1)
                with m.If(self.response.ready):
                    m.next = "Idle"
            with m.State("Scan"), m.If(last):
                m.next = "Settle"
            # the last words of a scan are still on their way into the CRC
            with m.State("Settle"), m.If(settled):
                m.next = "Idle"
        # outside of the states, so that what comes last is chosen last
        with m.If(fsm.ongoing("Read memory")):
            m.d.sync += answer.eq(self.act_read.data.word_select(lane, UNIT_BITS))
        self._scan(m, request.data, begin, last, settled, asking)
        return m

    def _ask(self, m: Module, asking: Signal, request: data.View, word: Value, lane: Value) -> None:
        """Ask for a word of external memory: that of the request, or the next one of a scan; once, while `asking` waits for the answer."""
        waiting = Signal()
        port, payload = self.external, self.external.request.payload
        m.d.comb += [
            port.request.valid.eq(asking & ~waiting),
            payload.word.eq(word),
            payload.write.eq(request.write & (request.addr[REGION_SHIFT:] == Region.EXTERNAL)),
            payload.data.eq(request.data.replicate(self.config.lanes * 8 // UNIT_BITS)),
            payload.mask.eq(0b1111 << (lane << 2)),
        ]
        with m.If(port.done):
            m.d.sync += waiting.eq(0)
        with m.Elif(port.request.valid & port.request.ready):
            m.d.sync += waiting.eq(1)

    def _entries(self, m: Module, request: data.View, unit: Signal, region: Signal) -> dict[Region, Signal]:
        """Collect the units of an entry, written one after the other; return, by region, whether the unit at hand completes one."""
        held = Signal(INSTRUCTION_BITS - UNIT_BITS)
        with m.If(self.request.valid & self.request.ready & self.request.payload.write):
            m.d.sync += held.eq(Cat(held, request.data)[UNIT_BITS:])
        complete = {}
        ports = {
            Region.PARAM: self.param_write,
            Region.NORM: self.norm_write,
            Region.TABLE: self.table_write,
            Region.PROGRAM: self.program_write,
        }
        for number, port in ports.items():
            units = UNITS[number]
            unit_bits = units.bit_length() - 1
            whole = Cat(held, request.data)[-units * UNIT_BITS :]
            low, high = whole[:UNIT_BITS], whole[UNIT_BITS:]
            entry = port.payload.data
            m.d.comb += port.payload.addr.eq(unit[unit_bits:])
            complete[number] = unit[:unit_bits].all()
            if number in ENTRY_REGIONS.values():
                m.d.comb += put_entry(number, entry, low, high)
            elif number == Region.TABLE:
                m.d.comb += [entry.value.eq(low), entry.difference.eq(high)]
            else:
                m.d.comb += entry.eq(whole)
        return complete

    def _scan(
        self, m: Module, control: Value, begin: Signal, last: Signal, settled: Signal, asking: Signal
    ) -> None:
        """Go over the range: read each word into the CRC, or write it with zeros.

        `last` marks the last word's cycle, and `settled` is set after it when the CRC is there.
        """
        m.submodules.crc = checksum = WordCrc(8 * self.config.lanes)
        place, left, final = Signal.like(self.scan_base), Signal.like(self.scan_words), Signal()
        moved, arrives = Signal(), Signal()
        # what the scan does, held in registers: memories are addressed by it
        reads, outside, clears = Signal(), Signal(), Signal()
        word = Signal(8 * self.config.lanes)
        external = Const(self.config.external_words > 0) & ((control & Control.SCAN_EXTERNAL) != 0)
        inside = (control & Control.SCAN) != 0
        # one cycle after another: asked for, there, in `word`, in the CRC
        lasts = delayed(m, last & (reads | outside), 3, "last")
        m.d.comb += [
            last.eq(moved & final),
            checksum.word.eq(word),
            checksum.finish.eq(lasts[-1]),
            settled.eq(~(Cat(lasts).any() | checksum.busy)),
            self.scan_crc.eq(checksum.crc),
        ]
        m.d.sync += [
            arrives.eq(moved & (reads | outside)),
            checksum.start.eq(begin & (inside | external)),
            checksum.valid.eq(arrives),
            word.eq(self.act_read.data),
        ]
        if self.config.external_words:
            with m.If(external):
                # the last word that came stays until the next one
                m.d.sync += word.eq(self.external.data)
        with m.If(outside):
            if self.config.external_words:
                m.d.comb += [
                    asking.eq(1),
                    self.external.request.payload.word.eq(place),
                    moved.eq(self.external.done),
                ]
        with m.Elif(reads):
            m.d.comb += [
                self.act_read.request.payload.eq(place),
                self.act_read.request.valid.eq(1),
                moved.eq(self.act_read.request.ready),
            ]
        with m.Elif(clears):
            m.d.comb += [
                self.act_write.payload.addr.eq(place),
                self.act_write.payload.data.eq(0),
                self.act_write.payload.mask.eq(~0),
                self.act_write.valid.eq(1),
                moved.eq(self.act_write.ready),
            ]
        with m.If(begin):
            m.d.sync += [place.eq(self.scan_base), left.eq(self.scan_words), final.eq(self.scan_words == 1)]
            m.d.sync += [outside.eq(external), reads.eq(inside & ~external), clears.eq(~inside & ~external)]
        with m.Elif(moved):
            m.d.sync += [place.eq(place + 1), left.eq(left - 1), final.eq(left == 2)]
            with m.If(final):
                m.d.sync += [outside.eq(0), reads.eq(0), clears.eq(0)]
