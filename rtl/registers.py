"""Registers and counters of the machine, as spec/registers.py numbers them."""

from __future__ import annotations

from enum import IntEnum

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwattn.rtl.axi import ADDRESS_BITS, PAGE_BITS
from hwattn.rtl.counters import Counters
from hwattn.rtl.entries import UNIT_BITS
from hwattn.rtl.host import REGISTER_BITS, window_bits
from hwattn.rtl.interfaces import WORD_ADDRESS_BITS, entry_write
from hwattn.rtl.queue import machine_queues
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.isa import EXTERNAL_ADDRESS_BITS, PC_BITS, QUEUES, Queue
from hwattn.spec.registers import (
    BUS_TIMEOUT_CYCLES,
    IDENTIFICATION,
    VERSION,
    ActReader,
    ActWriter,
    Control,
    Register,
    WeightReader,
)


class Registers(wiring.Component):
    """The register file: identification, control, status and cycle counters.

    Parameters
    ----------
    config : AcceleratorConfig
    program_hash : int
        Initial value of PROGRAM_HASH.
    interval_shift : int
        Initial value of INTERVAL_SHIFT, 6 or 7.

    Members
    -------
    register : In(8), read : In(1), data : Out(32)
        Read port: `register` comes a cycle before `read` and holds until `data`, `hwattn.rtl.host.REGISTER_CYCLES` after it, is taken.
    write : In(entry_write(8, 32))
        Writes, always taken at once.
    start, step, reset : Out(1)
        One-cycle pulses that a write to CONTROL makes.
    single_step : Out(1), entry : Out(16), interval_shift : Out(1)
        Settings; `interval_shift` is 0 for 6 and 1 for 7.
    scan_base, scan_words, scan_crc
        The host's scans.
    running, paused, done, error, cause, pc, head, occupied, working, waiting, issued, skipped
        State and events of the dispatcher.
    bus_timeout : Out(32), external_page : Out(28), external_window : Out
        Settings of the port to external memory.
    matrix_active, read_stall, write_stall, weight_stall, read_beat, write_beat : In
        Events that are counted while the machine runs.

    Latency
    -------
    `hwattn.rtl.host.REGISTER_CYCLES` to read, one to write. What is counted is of the cycle before last.
    """

    def __init__(self, config: AcceleratorConfig, program_hash: int = 0, interval_shift: int = 6) -> None:
        self.config = config
        self.program_hash = program_hash
        self.initial_interval_shift = interval_shift
        super().__init__(
            {
                "register": In(REGISTER_BITS),
                "read": In(1),
                "data": Out(UNIT_BITS),
                "write": In(entry_write(REGISTER_BITS, UNIT_BITS)),
                "start": Out(1),
                "step": Out(1),
                "reset": Out(1),
                "single_step": Out(1),
                "entry": Out(PC_BITS),
                "interval_shift": Out(1, init=interval_shift - 6),
                "scan_base": Out(EXTERNAL_ADDRESS_BITS),
                "scan_words": Out(WORD_ADDRESS_BITS + 1),
                "scan_crc": In(UNIT_BITS),
                "running": In(1),
                "paused": In(1),
                "done": In(1),
                "error": In(1),
                "cause": In(4),
                "pc": In(PC_BITS),
                "head": In(PC_BITS).array(QUEUES),
                "occupied": In(QUEUES),
                "working": In(QUEUES),
                "waiting": In(QUEUES),
                "issued": In(1),
                "skipped": In(range(QUEUES + 1)),
                "bus_timeout": Out(UNIT_BITS, init=BUS_TIMEOUT_CYCLES),
                "external_page": Out(ADDRESS_BITS - PAGE_BITS),
                "external_window": Out(window_bits(config)),
                "matrix_active": In(1),
                "read_beat": In(1),
                "write_beat": In(1),
                "read_stall": In(len(ActReader)),
                "write_stall": In(len(ActWriter)),
                "weight_stall": In(len(WeightReader)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        program_hash = Signal(UNIT_BITS, init=self.program_hash)
        readable: dict[int, Value | int] = {
            Register.IDENTIFICATION: IDENTIFICATION,
            Register.VERSION: VERSION,
            Register.CONFIG_HASH: self.config.hash,
            Register.PROGRAM_HASH: program_hash,
            Register.ENTRY: self.entry,
            Register.STATUS: Cat(self.running, self.paused, self.done, self.error),
            Register.ERROR: self.cause,
            Register.PC: self.pc,
            Register.INTERVAL_SHIFT: self.interval_shift + 6,
            Register.SCAN_BASE: self.scan_base,
            Register.SCAN_WORDS: self.scan_words,
            Register.SCAN_CRC: self.scan_crc,
        }
        if self.config.external_words:
            readable |= {
                Register.BUS_TIMEOUT: self.bus_timeout,
                Register.EXTERNAL_PAGE: self.external_page,
                Register.EXTERNAL_WINDOW: self.external_window,
            }
        for queue in range(QUEUES):
            readable[Register.HEAD + queue] = Cat(self.head[queue], self.occupied[queue], self.working[queue])
        self._control(m, program_hash)
        counted, counter = self._counters(m)
        held = Signal(UNIT_BITS)

        with m.Switch(self.register):
            for number, value in readable.items():
                with m.Case(int(number)):
                    m.d.sync += held.eq(value)
            with m.Default():
                m.d.sync += held.eq(0)
        m.d.comb += self.data.eq(Mux(counted, counter, held))
        return m

    def _control(self, m: Module, program_hash: Signal) -> None:
        """Decode writes."""
        value = self.write.payload.data
        m.d.comb += self.write.ready.eq(1)
        m.d.sync += [self.start.eq(0), self.step.eq(0), self.reset.eq(0)]
        with m.If(self.write.valid), m.Switch(self.write.payload.addr):
            with m.Case(Register.CONTROL):
                starts = (value & Control.START) != 0
                m.d.sync += [
                    self.start.eq(starts),
                    self.step.eq((value & Control.STEP) != 0),
                    self.reset.eq((value & Control.RESET) != 0),
                ]
                with m.If(starts):
                    m.d.sync += self.single_step.eq((value & Control.SINGLE_STEP) != 0)
            with m.Case(Register.INTERVAL_SHIFT):
                m.d.sync += self.interval_shift.eq(value == 7)
            settings = [
                (Register.PROGRAM_HASH, program_hash),
                (Register.ENTRY, self.entry),
                (Register.SCAN_BASE, self.scan_base),
                (Register.SCAN_WORDS, self.scan_words),
            ]
            if self.config.external_words:
                settings += [
                    (Register.BUS_TIMEOUT, self.bus_timeout),
                    (Register.EXTERNAL_PAGE, self.external_page),
                    (Register.EXTERNAL_WINDOW, self.external_window),
                ]
            for register, target in settings:
                with m.Case(register):
                    m.d.sync += target.eq(value)

    def _counters(self, m: Module) -> tuple[Signal, Value]:
        """Count events from each start on, while the machine runs; return whether a counter has been read, and its value."""
        events: dict[int, Value | int] = {
            Register.CYCLES: 1,
            Register.MATRIX_ACTIVE: self.matrix_active,
            Register.ISSUED: self.issued,
            Register.SKIPPED: self.skipped,
        }
        groups: list[tuple[IntEnum, Value]] = [
            (Register.BUSY, self.working),
            (Register.WAITING, self.waiting),
            (Register.READ_STALL, self.read_stall),
            (Register.WRITE_STALL, self.write_stall),
            (Register.WEIGHT_STALL, self.weight_stall),
        ]
        for first, bits in groups:
            for number in range(len(bits)):
                events[first + number] = bits[number]
        for queue in set(Queue) - set(machine_queues(self.config)):
            del events[Register.BUSY + queue], events[Register.WAITING + queue]
        if self.config.external_words:
            events |= {Register.READ_BEATS: self.read_beat, Register.WRITE_BEATS: self.write_beat}
        most = [QUEUES if register == Register.SKIPPED else 1 for register in events]
        m.submodules.counters = counters = Counters(most, UNIT_BITS)
        # events come from everywhere, and are counted a cycle late; on the way from `read` to `data` there are as many registers
        # as `hwattn.rtl.host.REGISTER_CYCLES` says
        m.d.sync += counters.count.eq(self.running)
        m.d.comb += counters.clear.eq(self.start)
        counted, is_counter, value = Signal(), Signal(), Signal(UNIT_BITS)
        m.d.sync += [is_counter.eq(0), counters.chosen.eq(0)]
        m.d.sync += [
            counters.read.eq(is_counter & self.read),
            counted.eq(is_counter),
            value.eq(counters.value),
        ]
        for number, (register, event) in enumerate(events.items()):
            m.d.sync += counters.events[number].eq(event)
            with m.If(self.register == int(register)):
                m.d.sync += [counters.chosen[number].eq(1), is_counter.eq(1)]
        return counted, value
