"""Vivado projects, as far as they can be checked without Vivado: a Tcl interpreter in which every name must exist, and IP-XACT against the Verilog."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring

tkinter = pytest.importorskip("tkinter", reason="this Python has no Tcl")

from vivado_stub import Vivado  # noqa: E402

from hwattn.boards import vivado  # noqa: E402
from hwattn.boards.board import Board, boards, find_board  # noqa: E402
from hwattn.boards.flows import VIVADO  # noqa: E402
from hwattn.boards.ip_xact import SPIRIT  # noqa: E402
from hwattn.boards.vivado_wrapper import WRAPPER, ports  # noqa: E402
from hwattn.boards.xilinx_estimate import count_cells  # noqa: E402
from hwattn.rtl.verilog import to_verilog  # noqa: E402
from hwattn.spec.config import AcceleratorConfig  # noqa: E402

# machines are made for their ports alone
pytestmark = pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")

CONFIG = AcceleratorConfig(
    rows=1,
    lanes=4,
    softmax_lanes=1,
    norm_lanes=1,
    act_words=16,
    weight_words=16,
    program_words=16,
    row_words=4,
)
BOARDS = [board for board in boards().values() if board.flow == VIVADO]


class Ports(wiring.Component):
    """The ports of a machine, and nothing behind them but a register: Verilog of a whole machine takes long to write."""

    def __init__(self, whole: wiring.Component) -> None:
        super().__init__(whole.signature)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += self.status.eq(self.status + 1)
        return m


@pytest.fixture(scope="module")
def cores() -> dict[bool, str]:
    """Verilog with the machine's ports, with a processor and without."""
    named = {True: find_board("zcu102"), False: find_board("arty-a7-100t")}
    return {
        kind: to_verilog(Ports(vivado.top(board, CONFIG, None)), "hwattn") for kind, board in named.items()
    }


def project(board: Board, cores: dict[bool, str], folder: Path) -> Path:
    assert board.vivado is not None
    (folder / vivado.CORE).write_text(cores[bool(board.vivado.processor)])
    vivado.write_project(board, folder)
    return folder


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
@pytest.mark.parametrize("board_files", [True, False])
def test_every_name_in_the_tcl_exists(
    board: Board, board_files: bool, cores: dict[bool, str], tmp_path: Path
) -> None:
    assert board.vivado is not None
    tool = Vivado(project(board, cores, tmp_path), board_files, slack=0.1)
    tool.run(vivado.PROJECT)
    assert (tmp_path / "hwattn.bit").is_file()
    assert tool.properties["part"] == board.vivado.part
    assert ("project.board_part" in tool.properties) == board_files
    assert (
        tool.done.index("validate_bd_design")
        < tool.done.index("launch_runs")
        < tool.done.index("write_bitstream")
    )
    assert (tmp_path / "hwattn.hwh").is_file() == bool(board.vivado.processor)
    tool.run("hwattn.xdc")
    pinned = {name.partition(".")[0].partition("[")[0] for name in tool.properties if "PACKAGE_PIN" in name}
    assert pinned == set(tool.ports), "every pin of the board has its place"
    frequency = [value for name, value in tool.properties.items() if "FREQMHZ" in name or "OUT_FREQ" in name]
    assert [float(value) for value in frequency] == [board.clock_mhz]


@pytest.mark.parametrize("name", ["zcu102", "pynq-z2", "arty-a7-100t"])
def test_a_missed_clock_ends_without_a_bitstream(name: str, cores: dict[bool, str], tmp_path: Path) -> None:
    tool = Vivado(project(find_board(name), cores, tmp_path), True, slack=-0.25)
    with pytest.raises(tkinter.TclError, match=r"is missed by 0.25 ns"):
        tool.run(vivado.PROJECT)
    assert not (tmp_path / "hwattn.bit").exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("processor/pl_clk0", "processor/pl_clk9"),
        ("PSU__USE__IRQ0", "PSU__USE__IRQ7"),
        ("$here/hwattn.v", "$here/absent.v"),
        ("connect_bd_net $clock [get_bd_pins hwattn/clk]\n", ""),
        ("validate_bd_design", "validate_design"),
        ("hwattn/s_axi/reg0", "hwattn/m_axi/reg0"),
    ],
)
def test_the_check_can_fail(old: str, new: str, cores: dict[bool, str], tmp_path: Path) -> None:
    script = project(find_board("zcu102"), cores, tmp_path) / vivado.PROJECT
    text = script.read_text()
    assert old in text
    script.write_text(text.replace(old, new))
    with pytest.raises((tkinter.TclError, AssertionError, KeyError)):
        Vivado(tmp_path, True, slack=0.1).run(vivado.PROJECT)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_the_wrapper_connects_every_port_of_the_machine(
    board: Board, cores: dict[bool, str], tmp_path: Path
) -> None:
    text = (project(board, cores, tmp_path) / WRAPPER).read_text()
    core = (tmp_path / vivado.CORE).read_text()
    header = re.search(r"^module hwattn\((.*?)\);", core, re.MULTILINE | re.DOTALL)
    assert header
    inner = {name.strip() for name in header[1].split(",")}
    assert set(re.findall(r"^    \.(\w+)\(", text, re.MULTILINE)) == inner
    for way, name, bits in ports(board):
        if name == "rst_n":
            continue
        size = f"[{bits - 1}:0] " if bits > 1 else ""
        assert f"  {way} {size}{name};" in core or f"  {way} {size.strip()} {name};" in core


def test_ip_xact_is_the_verilog(cores: dict[bool, str], tmp_path: Path) -> None:
    board = find_board("zcu102")
    root = ET.parse(project(board, cores, tmp_path) / "component.xml").getroot()
    spirit = {"s": SPIRIT}
    listed = {
        port.findtext("s:name", "", spirit): (
            port.findtext("s:wire/s:direction", "", spirit),
            int(port.findtext("s:wire/s:vector/s:left", "0", spirit)) + 1,
        )
        for port in root.iterfind("s:model/s:ports/s:port", spirit)
    }
    assert listed == {name: ({"input": "in", "output": "out"}[way], bits) for way, name, bits in ports(board)}
    mapped = [name.text for name in root.iterfind(".//s:physicalPort/s:name", spirit)]
    assert len(set(mapped)) == len(mapped)
    assert set(mapped) == set(listed) - {"status"}
    for file in root.iterfind(".//s:file/s:name", spirit):
        assert file.text
        assert (tmp_path / file.text).is_file()


def test_the_host_script_and_the_device_tree(cores: dict[bool, str], tmp_path: Path) -> None:
    folder = project(find_board("kv260"), cores, tmp_path)
    ast.parse((folder / "run_pynq.py").read_text())
    tool = Vivado(folder, True, slack=0.1)
    tool.run(vivado.PROJECT)
    assert f"0x{int(tool.properties['address']):08x}" in (folder / "hwattn.dtsi").read_text()


def test_counts_the_cells_of_a_netlist() -> None:
    kinds = ["LUT6"] * 3 + [
        "LUT1",
        "SRL16E",
        "RAM32M16",
        "FDRE",
        "FDSE",
        "DSP48E2",
        "RAMB36E2",
        "RAMB18E2",
        "CARRY8",
    ]
    cells = {f"cell{index}": {"type": kind} for index, kind in enumerate(kinds)}
    counts = count_cells({"modules": {"hwattn": {"cells": cells}}})
    assert counts == {"lut": 5 + 8, "ff": 2, "dsp": 1, "ram": 3}
