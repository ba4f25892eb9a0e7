"""The Gowin flow: what the device spends look-up tables on, and one small design all the way to a bitstream."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from echo import Echo

from hwattn.boards.board import find_board
from hwattn.boards.gowin import FLOW
from hwattn.boards.nextpnr import NAME
from hwattn.rtl.system import SerialMachine

BOARD = find_board("tang-nano-20k")


def cell(kind: str, data: int, output: str, result: int) -> dict[str, Any]:
    return {
        "type": kind,
        "port_directions": {"D": "input", output: "output"},
        "connections": {"D": [data], output: [result]},
    }


def test_a_flip_flop_that_nothing_stands_beside_costs_a_look_up_table() -> None:
    cells = {
        "lut": cell("LUT3", 1, "F", 2),
        "adder": cell("ALU", 1, "SUM", 3),
        "beside": cell("DFF", 2, "Q", 4),
        "also of the look-up table": cell("DFFE", 2, "Q", 5),
        "of the adder": cell("DFFR", 3, "Q", 6),
        "of a flip-flop": cell("DFFRE", 4, "Q", 7),
        "of a pin": cell("DFF", 8, "Q", 9),
        "multiplier": cell("MULT9X9", 1, "DOUT", 10),
    }
    counts = FLOW.count_cells({"modules": {NAME: {"cells": cells}}})
    assert counts == {"lut": 1 + 1 + 3, "ff": 5, "dsp": 1, "ram": 0}


def test_a_small_design_becomes_a_bitstream(tmp_path: Path) -> None:
    result = FLOW.build(BOARD, cast(SerialMachine, Echo(BOARD)), tmp_path, 1, lambda stage: None)
    assert [stage.name for stage in result.stages] == ["yosys", "nextpnr-himbaechel-gowin", "gowin_pack"]
    assert result.fmax_mhz > BOARD.clock_mhz
    assert "optimistic" in result.timing_note
    assert 100 < result.resources["lut"].used < 3000
    bits = (tmp_path / FLOW.bitstream).read_text()
    assert len(bits.splitlines()) > 1000
    assert set(bits.splitlines()[-1]) <= set("01")
