"""The order of an SDRAM's commands: power-up, refresh, opening and closing rows, and the columns of words."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import exact_log2

from hwattn.rtl.sdram_pins import ALL_BANKS, Command, Step
from hwattn.spec.dram import DramTiming


class SdramSequencer(Component):
    """Issues the columns of one word after the other, and what must come before them.

    Parameters
    ----------
    timing : DramTiming
    steps : sequence of Step
        The commands of power-up.
    columns : int
        Of a word; a power of two.
    period : int
        Cycles from one wish for a refresh to the next.

    Members
    -------
    wanted, writes, nowhere : In(1), place : In
        A word waits; it is written; it lies beyond the chip, so that its columns pass without a command; number of its first column. From
        a word's first column to its last they must not change.
    skip : In(1)
        The column that is issued in this cycle passes without a command.
    issue, last : Out(1), index : Out
        A column is issued in this cycle; it is the word's last one; its number in the word.
    command, bank, address : Out
        To the pins.
    running : Out(1)
        Power-up is over.
    released, enabled : Out(1)
        As of the last `Step`.

    Latency
    -------
    The first column in the cycle of `wanted` where its row is open, the next ones each `timing.ccd` cycles. One cycle between words only where
    a row must be opened or a refresh is due; rows are closed and opened as `timing` allows.
    """

    def __init__(self, timing: DramTiming, steps: Sequence[Step], columns: int, period: int) -> None:
        self.timing = timing
        self.steps = steps
        self.columns = columns
        self.period = period
        chip = timing.chip
        super().__init__(
            {
                "wanted": In(1),
                "writes": In(1),
                "nowhere": In(1),
                "place": In(chip.address_bits),
                "skip": In(1),
                "issue": Out(1),
                "last": Out(1),
                "index": Out(range(columns)),
                "command": Out(3),
                "bank": Out(chip.bank_bits),
                "address": Out(chip.row_bits),
                "running": Out(1),
                "released": Out(1),
                "enabled": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        timing, chip = self.timing, self.timing.chip
        column = self.place[: chip.column_bits]
        bank = self.place[chip.column_bits :][: chip.bank_bits]
        row = self.place[chip.column_bits + chip.bank_bits :]
        banks = 1 << chip.bank_bits
        rows = Array(Signal(chip.row_bits, name=f"row_{number}") for number in range(banks))
        opened = Signal(banks)
        is_open = Array(opened)[bank]
        target_bank, target_row = Signal.like(self.bank), Signal.like(self.address)
        step = Signal(range(len(self.steps)))
        due = self._timer(m)

        # what must pass before the next command, column or read, before a row may be closed, and before one may be opened
        pause = Signal(range(max(step.after for step in self.steps) + 1))
        to_column, to_read = Signal(range(timing.ccd)), Signal(range(timing.write_to_read))
        to_close = Signal(range(max(timing.ras, timing.write_to_close, timing.read_to_close) + 1))
        to_open = Signal(range(timing.opening + 1))
        for left in (pause, to_column, to_read, to_close, to_open):
            with m.If(left.any()):
                m.d.sync += left.eq(left - 1)

        def send(command: Command, then: int, state: str) -> None:
            """Send a command; the next one comes `then` cycles later, in another state."""
            m.d.comb += self.command.eq(command)
            m.d.sync += pause.eq(then - 1)
            m.next = state

        m.d.comb += [
            self.last.eq(self.issue & (self.index == self.columns - 1)),
            self.bank.eq(bank),
        ]
        with m.If(self.issue):
            m.d.sync += self.index.eq(Mux(self.last, 0, self.index + 1))
            in_burst = Const(0, chip.burst_bits)
            m.d.sync += to_column.eq(timing.ccd - 1)
            m.d.comb += self.address.eq(Cat(in_burst, self.index, column[exact_log2(self.columns) :]))
            with m.If(~self.nowhere & ~self.skip):
                m.d.comb += self.command.eq(Mux(self.writes, Command.WRITE, Command.READ))
                open_for = Mux(self.writes, timing.write_to_close, timing.read_to_close)
                with m.If(to_close < open_for):
                    m.d.sync += to_close.eq(open_for - 1)
                with m.If(self.writes):
                    m.d.sync += to_read.eq(timing.write_to_read - 1)

        with m.FSM():
            with m.State("Power up"), m.If(~pause.any()), m.Switch(step):
                for number, one in enumerate(self.steps):
                    with m.Case(number):
                        m.d.comb += [self.bank.eq(one.bank), self.address.eq(one.address)]
                        m.d.sync += [self.released.eq(one.released), self.enabled.eq(one.enabled)]
                        if number == len(self.steps) - 1:
                            m.d.sync += self.running.eq(1)
                            send(one.command, one.after, "Words")
                        else:
                            m.d.sync += step.eq(number + 1)
                            send(one.command, one.after, "Power up")
            with m.State("Words"):
                between = self.index == 0
                hit = self.nowhere | (is_open & (rows[bank] == row))
                able = ~to_column.any() & (self.writes | ~to_read.any())
                with m.If(~between):
                    m.d.comb += self.issue.eq(able)
                with m.Elif(~pause.any()):
                    with m.If(due):
                        m.next = "Close all"
                    with m.Elif(self.wanted & hit):
                        m.d.comb += self.issue.eq(able)
                    with m.Elif(self.wanted):
                        m.d.sync += [target_bank.eq(bank), target_row.eq(row)]
                        m.next = "Open"
                        with m.If(is_open):
                            m.next = "Close"
            with m.State("Close"), m.If(~to_close.any()):
                m.d.comb += self.bank.eq(target_bank)
                m.d.sync += Array(opened)[target_bank].eq(0)
                send(Command.PRECHARGE, timing.rp, "Open")
            with m.State("Open"), m.If(~pause.any() & ~to_open.any()):
                m.d.comb += [self.bank.eq(target_bank), self.address.eq(target_row)]
                m.d.sync += [
                    Array(opened)[target_bank].eq(1),
                    rows[target_bank].eq(target_row),
                    to_open.eq(timing.opening - 1),
                ]
                with m.If(to_close < timing.ras):
                    m.d.sync += to_close.eq(timing.ras - 1)
                send(Command.ACTIVATE, timing.rcd, "Words")
            with m.State("Close all"), m.If(~to_close.any()):
                m.d.comb += self.address.eq(ALL_BANKS)
                m.d.sync += opened.eq(0)
                send(Command.PRECHARGE, timing.rp, "Refresh")
            with m.State("Refresh"), m.If(~pause.any() & ~to_open.any()):
                send(Command.REFRESH, timing.rfc, "Words")
        return m

    def _timer(self, m: Module) -> Signal:
        """Return a bit that is set once in each period, until the refresh."""
        due, left = Signal(), Signal(range(self.period), init=self.period - 1)
        with m.If(self.command == Command.REFRESH):
            m.d.sync += due.eq(0)
        with m.If(self.running):
            m.d.sync += left.eq(Mux(left == 0, self.period - 1, left - 1))
            with m.If(left == 0):
                m.d.sync += due.eq(1)
        return due
