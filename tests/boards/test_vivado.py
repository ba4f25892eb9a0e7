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
from hwattn.spec.errors import RefusedError  # noqa: E402
from hwattn.spec.external import ExternalMemory  # noqa: E402

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
OUTSIDE = CONFIG.replace(lanes=64, acc_banks=4, row_slots=6, external_words=1 << 10)
"""With external memory, and words that fill four ports."""

BOARDS = [board for board in boards().values() if board.flow == VIVADO]


class Ports(wiring.Component):
    """The ports of a machine, and nothing behind them but a register: Verilog of a whole machine takes long to write."""

    def __init__(self, whole: wiring.Component) -> None:
        super().__init__(whole.signature)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += self.status.eq(self.status + 1)
        return m


Cores = dict[tuple[str, bool], str]


def core(board: Board, config: AcceleratorConfig, cores: Cores) -> str:
    """Verilog with the ports of a board's machine, written once for each kind."""
    assert board.vivado is not None
    kind = (board.vivado.processor, config.external_words != 0)
    if kind not in cores:
        cores[kind] = to_verilog(Ports(vivado.top(board, config, None)), "hwattn")
    return cores[kind]


@pytest.fixture(scope="module")
def cores() -> Cores:
    return {}


def project(board: Board, cores: Cores, folder: Path, config: AcceleratorConfig = CONFIG) -> Path:
    (folder / vivado.CORE).write_text(core(board, config, cores))
    vivado.write_project(board, config, folder)
    return folder


MACHINES = [(board, CONFIG) for board in BOARDS] + [
    (board, OUTSIDE) for board in BOARDS if board.processor_memory
]
machines = pytest.mark.parametrize(
    ("board", "config"),
    MACHINES,
    ids=[f"{board.name}{'-external' * (config is OUTSIDE)}" for board, config in MACHINES],
)


@machines
@pytest.mark.parametrize("board_files", [True, False])
def test_every_name_in_the_tcl_exists(
    board: Board, config: AcceleratorConfig, board_files: bool, cores: Cores, tmp_path: Path
) -> None:
    assert board.vivado is not None
    tool = Vivado(project(board, cores, tmp_path, config), board_files, slack=0.1)
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
    assert len(tool.mapped) == (4 if config is OUTSIDE else 0)


@pytest.mark.parametrize("name", ["zcu102", "pynq-z2", "arty-a7-100t"])
def test_a_missed_clock_ends_without_a_bitstream(name: str, cores: Cores, tmp_path: Path) -> None:
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
        ("CONFIG.PSU__USE__S_AXI_GP5 1 ", ""),
        ("CONFIG.PSU__SAXIGP4__DATA_WIDTH 128", "CONFIG.PSU__SAXIGP4__DATA_WIDTH 512"),
        ("connect_bd_net $clock [get_bd_pins processor/saxihp1_fpd_aclk]\n", ""),
        ("assign_bd_address -target_address_space [get_bd_addr_spaces hwattn/m_axi_0]", "list"),
        ("processor/SAXIGP3/HP1_DDR_LOW", "processor/SAXIGP2/HP0_DDR_LOW"),
        ("get_bd_intf_pins hwattn/m_axi_2", "get_bd_intf_pins hwattn/m_axi_4"),
    ],
)
def test_the_check_can_fail(old: str, new: str, cores: Cores, tmp_path: Path) -> None:
    script = project(find_board("zcu102"), cores, tmp_path, OUTSIDE) / vivado.PROJECT
    text = script.read_text()
    assert old in text
    script.write_text(text.replace(old, new))
    with pytest.raises((tkinter.TclError, AssertionError, KeyError)):
        Vivado(tmp_path, True, slack=0.1).run(vivado.PROJECT)


@machines
def test_the_wrapper_connects_every_port_of_the_machine(
    board: Board, config: AcceleratorConfig, cores: Cores, tmp_path: Path
) -> None:
    text = (project(board, cores, tmp_path, config) / WRAPPER).read_text()
    core = (tmp_path / vivado.CORE).read_text()
    header = re.search(r"^module hwattn\((.*?)\);", core, re.MULTILINE | re.DOTALL)
    assert header
    inner = {name.strip() for name in header[1].split(",")}
    assert set(re.findall(r"^    \.(\w+)\(", text, re.MULTILINE)) == inner
    for way, name, bits in ports(board, config):
        if name == "rst_n":
            continue
        size = f"[{bits - 1}:0] " if bits > 1 else ""
        assert f"  {way} {size}{name};" in core or f"  {way} {size.strip()} {name};" in core


@pytest.mark.parametrize("config", [CONFIG, OUTSIDE], ids=["on-chip", "external"])
def test_ip_xact_is_the_verilog(config: AcceleratorConfig, cores: Cores, tmp_path: Path) -> None:
    board = find_board("zcu102")
    root = ET.parse(project(board, cores, tmp_path, config) / "component.xml").getroot()
    spirit = {"s": SPIRIT}
    listed = {
        port.findtext("s:name", "", spirit): (
            port.findtext("s:wire/s:direction", "", spirit),
            int(port.findtext("s:wire/s:vector/s:left", "0", spirit)) + 1,
        )
        for port in root.iterfind("s:model/s:ports/s:port", spirit)
    }
    assert listed == {
        name: ({"input": "in", "output": "out"}[way], bits) for way, name, bits in ports(board, config)
    }
    mapped = [name.text for name in root.iterfind(".//s:physicalPort/s:name", spirit)]
    assert len(set(mapped)) == len(mapped)
    assert set(mapped) == set(listed) - {"status"}
    spaces = [name.text for name in root.iterfind(".//s:addressSpace/s:name", spirit)]
    assert spaces == [f"m_axi_{number}" for number in range(4 if config is OUTSIDE else 0)]
    referred = [
        space.get(f"{{{SPIRIT}}}addressSpaceRef") for space in root.iterfind(".//s:addressSpaceRef", spirit)
    ]
    assert referred == spaces
    for file in root.iterfind(".//s:file/s:name", spirit):
        assert file.text
        assert (tmp_path / file.text).is_file()


def test_the_host_script_and_the_device_tree(cores: Cores, tmp_path: Path) -> None:
    folder = project(find_board("kv260"), cores, tmp_path)
    ast.parse((folder / "run_pynq.py").read_text())
    tool = Vivado(folder, True, slack=0.1)
    tool.run(vivado.PROJECT)
    assert f"0x{int(tool.properties['address']):08x}" in (folder / "hwattn.dtsi").read_text()


@pytest.mark.parametrize("name", ["zcu102", "pynq-z2"])
def test_the_device_tree_keeps_the_buffer_free(name: str, cores: Cores, tmp_path: Path) -> None:
    board = find_board(name)
    assert board.processor_memory is not None
    text = (project(board, cores, tmp_path, OUTSIDE) / "hwattn.dtsi").read_text()
    size = board.processor_memory.stripes(OUTSIDE).bytes
    reserved = re.search(r"no-map;\s+reg = <([^>]*)>", text)
    assert reserved
    cells = [int(cell, 0) for cell in reserved[1].split()]
    assert [cell for cell in cells if cell] == [board.processor_memory.address, size]
    assert f"#address-cells = <{len(cells) // 2}>" in text
    assert "reserved-memory" not in (project(board, cores, tmp_path) / "hwattn.dtsi").read_text()


@pytest.mark.parametrize(
    ("name", "lanes", "ports", "speed"),
    [
        ("zcu102", 64, 4, ExternalMemory(30, 1, 1)),
        ("zcu102", 16, 1, ExternalMemory(30, 1, 1)),
        ("pynq-z2", 4, 1, ExternalMemory(20, 1, 1)),
        ("pynq-z2", 32, 4, ExternalMemory(20, 1, 1)),
        # eight ninths of 2.1 GB/s at 50 MHz are 37.3 bytes per cycle, but a part of 16 bytes takes a port two cycles
        ("pynq-z2", 64, 4, ExternalMemory(20, 1, 2)),
    ],
)
def test_memory_is_as_fast_as_its_ports(name: str, lanes: int, ports: int, speed: ExternalMemory) -> None:
    board, config = find_board(name), OUTSIDE.replace(lanes=lanes)
    assert board.external_memory(config) == speed
    assert board.processor_memory is not None
    assert board.processor_memory.stripes(config).ports == ports
    assert board.external_memory(CONFIG) is None


def test_memory_is_no_faster_than_the_dram() -> None:
    """At 300 MHz four ports of 128 bits would bring all of DDR4-2400: 8 words in 9 cycles, 57 bytes per cycle."""
    assert find_board("zcu102").at_clock(300.0).external_memory(OUTSIDE) == ExternalMemory(90, 8, 9)


def test_memory_that_is_too_small_or_not_there_is_refused() -> None:
    with pytest.raises(
        RefusedError, match="external_words=4194304 of 64 bytes; expected up to 2097152: 128 MiB"
    ):
        find_board("pynq-z2").external_memory(OUTSIDE.replace(external_words=1 << 22))
    with pytest.raises(RefusedError, match="the external memory of arty-a7-100t .* is not connected"):
        vivado.top(find_board("arty-a7-100t"), OUTSIDE, None)


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
