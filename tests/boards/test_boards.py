"""Every board's data are consistent; the serial transport over a pseudo-terminal."""

from __future__ import annotations

import contextlib
import os
import re
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from amaranth.build import DiffPairs, Subsignal
from echo import Echo

import hwattn.boards
from hwattn.boards import ecp5
from hwattn.boards.board import BAUD_ERROR, LEAST_DIVISOR, Board, boards, find_board
from hwattn.boards.flows import OPEN_FLOWS, VIVADO, open_flow
from hwattn.boards.pll import VCO_MHZ, ecp5_dividers
from hwattn.boards.serial_transport import SerialTransport
from hwattn.boards.top import BoardTop
from hwattn.rtl.system import SerialMachine
from hwattn.spec.config import load_preset
from hwattn.spec.ddr3 import Ddr3
from hwattn.spec.errors import FailedError, RefusedError


@pytest.fixture(params=boards().values(), ids=boards())
def board(request: pytest.FixtureRequest) -> Board:
    chosen: Board = request.param
    return chosen


def test_each_board_has_a_file_of_its_own(board: Board) -> None:
    folder = Path(hwattn.boards.__path__[0])
    assert (folder / f"{board.name.replace('-', '_')}.py").is_file()
    assert find_board(board.name) is board


def test_the_line_keeps_its_speed(board: Board) -> None:
    assert board.divisor >= LEAST_DIVISOR
    assert abs(board.clock_mhz * 1e6 / board.divisor / board.baud - 1) <= BAUD_ERROR


def test_another_clock_keeps_the_line_or_is_refused() -> None:
    board = find_board("ulx3s-85f")
    assert board.at_clock(50.0).divisor == 50
    for clock, cycles in [(3.0, "3.00"), (4.5, "4.50")]:
        with pytest.raises(RefusedError, match=f"clock of {clock:g} MHz, {cycles} cycles for each bit"):
            board.at_clock(clock)


OPEN = [board for board in boards().values() if board.flow in OPEN_FLOWS]


@pytest.mark.parametrize("board", OPEN, ids=lambda board: board.name)
def test_the_preset_can_fit(board: Board) -> None:
    open_flow(board).check_size(board, load_preset(board.preset))


@pytest.mark.parametrize("board", OPEN, ids=lambda board: board.name)
def test_the_platform_is_the_board(board: Board) -> None:
    assert board.platform is not None
    platform = board.platform()
    assert platform is not board.platform(), "resources can be requested once"
    assert platform.default_clk_frequency == board.oscillator_mhz * 1e6
    if board.flow == "ecp5":
        assert f"{platform.device}-{platform.speed}{platform.package}C" == board.device
        assert ecp5.device_options(board)
    else:
        assert platform.part == board.device
    assert ("uart", 0) in platform.resources
    assert ("led", 0) in platform.resources


WITH_SDRAM = [board for board in OPEN if board.sdram]


@pytest.mark.parametrize("board", WITH_SDRAM, ids=lambda board: board.name)
def test_the_sdram_is_the_boards(board: Board) -> None:
    assert board.platform is not None
    chip = board.sdram
    name = "ddr3" if isinstance(chip, Ddr3) else "sdram"
    pins = {}
    for pin in board.platform().resources[name, 0].ios:
        if isinstance(pin, Subsignal):
            names = pin.ios[0].p.names if isinstance(pin.ios[0], DiffPairs) else pin.ios[0].names
            pins[pin.name] = len(names)
    if isinstance(chip, Ddr3):
        assert pins["a"] >= chip.row_bits
        expected = {"dq": 8 * chip.pin_bytes, "dqs": chip.pin_bytes, "dm": chip.pin_bytes}
    else:
        assert chip is not None
        expected = {"a": chip.row_bits, "dq": 8 * chip.data_bytes}
        expected |= {"dqm": chip.data_bytes} if chip.masked else {}
        assert ("dqm" in pins) == chip.masked
    assert {name: pins[name] for name in expected} == expected
    assert pins["ba"] == chip.bank_bits
    config = load_preset("sdram")
    timing = board.external(config)
    assert timing is not None
    assert timing.refresh_period(max(config.lanes, chip.data_bytes)) > 0
    assert board.external(load_preset("digits")) is None


def test_the_sdram_is_connected_pin_by_pin() -> None:
    board = find_board("ulx3s-85f")
    assert board.platform is not None
    machine = cast(SerialMachine, Echo(board, board.external(load_preset("sdram"))))
    files = board.platform().prepare(BoardTop(machine, board), name="top", do_program=False).files
    sites = re.findall(r'LOCATE COMP "sdram_0__(\w+)__io', str(files["top.lpf"]))
    counts = {name: sites.count(name) for name in sites}
    assert counts == {
        "clk": 1,
        "clk_en": 1,
        "cs": 1,
        "ras": 1,
        "cas": 1,
        "we": 1,
        "ba": 2,
        "a": 13,
        "dqm": 2,
        "dq": 16,
    }
    netlist = str(files["top.il"])
    # each output has its flip-flop, that of the data one for its direction too, and the clock is made by a double-rate one
    assert netlist.count("cell \\IFS1P3DX") == 16
    assert netlist.count("cell \\ODDRX1F") == 1
    assert netlist.count("cell \\OFS1P3DX") >= 22 + 16


@pytest.mark.parametrize(("name", "addresses", "selects"), [("orangecrab-85f", 16, 1), ("ecpix5-85f", 15, 0)])
def test_the_ddr3_is_connected_pin_by_pin(name: str, addresses: int, selects: int) -> None:
    board = find_board(name)
    assert board.platform is not None
    machine = cast(SerialMachine, Echo(board, board.external(load_preset("sdram"))))
    files = board.platform().prepare(BoardTop(machine, board), name="top", do_program=False).files
    constraints = str(files["top.lpf"])
    sites = re.findall(r'LOCATE COMP "ddr3_0__(\w+)__(?:io|p)', constraints)
    counts = {signal: sites.count(signal) for signal in sites}
    expected = {"clk": 1, "clk_en": 1, "ras": 1, "cas": 1, "we": 1, "odt": 1, "ba": 3, "a": addresses}
    expected |= {"dq": 16, "dqs": 2, "dm": 2} | ({"rst": 1, "cs": 1} if selects else {})
    assert counts == expected
    assert len(set(re.findall(r'SITE "(\w+)"', constraints))) == constraints.count("SITE"), "no pin twice"
    netlist = str(files["top.il"])
    # all outputs are late alike, and the PLL makes the second clock
    assert netlist.count("cell \\ODDRX1F") == sum(expected.values())
    assert netlist.count("cell \\IDDRX1F") == 16
    assert re.findall(r'CLKO[PS]_DIV"? (\d+)', netlist) == ["24", "6"]
    assert f"{4e6 * board.clock_mhz}" in constraints


def test_every_board_has_a_flow(board: Board) -> None:
    assert (board.flow in OPEN_FLOWS) == (board.platform is not None)
    assert (board.flow == VIVADO) == (board.vivado is not None)


@pytest.mark.parametrize(
    ("oscillator", "clock"), [(25.0, 50.0), (25.0, 75.0), (48.0, 24.0), (100.0, 25.0), (25.0, 62.5)]
)
def test_the_pll_makes_the_clock_within_its_limits(oscillator: float, clock: float) -> None:
    found = ecp5_dividers(oscillator, clock)
    assert oscillator / found.reference * found.feedback == clock
    assert VCO_MHZ[0] <= clock * found.post <= VCO_MHZ[1]


def test_the_pll_makes_a_faster_clock_too() -> None:
    for oscillator, clock in ((48.0, 24.0), (100.0, 25.0), (48.0, 36.0)):
        found = ecp5_dividers(oscillator, clock, 4)
        assert found.post % 4 == 0
        assert VCO_MHZ[0] <= clock * found.post <= VCO_MHZ[1]


def test_a_clock_that_the_pll_cannot_make_is_refused() -> None:
    with pytest.raises(RefusedError, match="a clock of 33.3333 MHz from an oscillator of 25 MHz"):
        ecp5_dividers(25.0, 33.3333)


def test_an_unknown_board_is_refused() -> None:
    with pytest.raises(RefusedError, match="no board icebreaker; expected one of .*ulx3s-85f.*hwattn boards"):
        find_board("icebreaker")


def test_a_missing_port_is_refused() -> None:
    with pytest.raises(RefusedError, match="the serial port /dev/no-such-port cannot be opened"):
        SerialTransport("/dev/no-such-port", 1_000_000)


@pytest.fixture
def line() -> Iterator[tuple[int, str]]:
    """A pseudo-terminal: the machine's end, and the name of the host's port."""
    machine, host = os.openpty()
    tty.setraw(host)
    yield machine, os.ttyname(host)
    for end in (machine, host):
        with contextlib.suppress(OSError):
            os.close(end)


def test_bytes_go_both_ways(line: tuple[int, str]) -> None:
    machine, port = line
    with SerialTransport(port, 115_200) as transport:
        os.write(machine, b"old")
        while transport._port.in_waiting < 3:
            time.sleep(0.01)
        transport.send(bytes(range(256)))
        assert os.read(machine, 1000) == bytes(range(256))
        os.write(machine, b"answer")
        assert transport.receive(6) == b"answer"


def test_a_silent_line_gives_what_has_come(line: tuple[int, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwattn.boards.serial_transport.ANSWER_SECONDS", 0.05)
    machine, port = line
    with SerialTransport(port, 115_200) as transport:
        os.write(machine, b"an")
        assert transport.receive(6) == b"an"


def test_a_pulled_cable_is_a_sentence(line: tuple[int, str]) -> None:
    machine, port = line
    with SerialTransport(port, 115_200) as transport:
        os.close(machine)
        with pytest.raises(FailedError, match=f"the serial port {port} failed"):
            transport.send(b"a")
