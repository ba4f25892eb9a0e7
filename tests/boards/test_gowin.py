"""The Gowin flow: what the device spends look-up tables on, and one small design all the way to a bitstream."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from amaranth.build import Attrs
from apycula.chipdb import load_chipdb
from echo import Echo

from hwattn.boards.board import find_board
from hwattn.boards.gowin import FAMILY, FLOW
from hwattn.boards.nextpnr import NAME
from hwattn.rtl.system import SerialMachine
from hwattn.spec.config import load_preset

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


def test_the_sdram_is_where_the_die_has_it() -> None:
    assert BOARD.platform is not None
    resource = BOARD.platform().resources["sdram", 0]
    ports = {"clk_en": "O_sdram_cke", "cs": "O_sdram_cs_n", "we": "O_sdram_wen_n", "a": "O_sdram_addr"}
    ports |= {name: f"O_sdram_{name}_n" for name in ("ras", "cas")} | {"dq": "IO_sdram_dq"}
    found = {}
    for pin in resource.ios:
        if not isinstance(pin, Attrs):
            names, port = pin.ios[0].names, ports.get(pin.name, f"O_sdram_{pin.name}")
            indexed = len(names) > 1
            found |= {f"{port}[{at}]" if indexed else port: name for at, name in enumerate(names)}
    database = load_chipdb(files("apycula") / f"{FAMILY}.msgpack.xz")
    assert found == {
        port: f"IO{'L' if column == 0 else 'R'}{row + 1}{side}"
        for port, row, column, side, _ in database.sip_cst["GW2AR-18C"]["QFN88"]
    }


def test_a_small_design_with_sdram_becomes_a_bitstream(tmp_path: Path) -> None:
    machine = Echo(BOARD, BOARD.external(load_preset("sdram")))
    result = FLOW.build(BOARD, cast(SerialMachine, machine), tmp_path, 1, lambda stage: None)
    assert [stage.name for stage in result.stages] == ["yosys", "nextpnr-himbaechel-gowin", "gowin_pack"]
    assert result.fmax_mhz > BOARD.clock_mhz
    assert "optimistic" in result.timing_note
    assert 100 < result.resources["lut"].used < 3000
    bits = (tmp_path / FLOW.bitstream).read_text()
    assert len(bits.splitlines()) > 1000
    assert set(bits.splitlines()[-1]) <= set("01")
