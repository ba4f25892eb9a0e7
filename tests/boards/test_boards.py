"""Every board's data are consistent; the serial transport over a pseudo-terminal."""

from __future__ import annotations

import contextlib
import os
import time
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

import hwattn.boards
from hwattn.boards import ecp5
from hwattn.boards.board import Board, boards, find_board
from hwattn.boards.serial_transport import SerialTransport
from hwattn.boards.top import LEDS
from hwattn.spec.config import load_preset
from hwattn.spec.errors import FailedError, RefusedError


@pytest.fixture(params=boards().values(), ids=boards())
def board(request: pytest.FixtureRequest) -> Board:
    chosen: Board = request.param
    return chosen


def test_each_board_has_a_file_of_its_own(board: Board) -> None:
    folder = Path(hwattn.boards.__path__[0])
    assert (folder / f"{board.name.replace('-', '_')}.py").is_file()
    assert find_board(board.name) is board


def test_the_line_runs_at_a_whole_number_of_cycles_per_bit(board: Board) -> None:
    assert board.divisor >= 4
    assert board.divisor * board.baud == board.clock_mhz * 1e6


def test_the_preset_can_fit(board: Board) -> None:
    ecp5.check_size(board, load_preset(board.preset))


def test_the_platform_is_the_board(board: Board) -> None:
    platform = board.platform()
    assert platform is not board.platform(), "resources can be requested once"
    assert platform.default_clk_frequency == board.clock_mhz * 1e6
    device = f"{platform.device}-{platform.speed}{platform.package}C"
    assert device == board.device
    assert ("uart", 0) in platform.resources
    assert all(("led", number) in platform.resources for number in range(LEDS))
    assert ecp5._device(board)


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
