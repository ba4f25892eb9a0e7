"""Vivado's Tcl commands, as far as projects of hwattn use them: each checks that what it names exists, and notes what it did.

The tables of blocks hold the ports and parameters that AMD documents for them (PG201, PG082, PG164, PG247, PG065; memory ports: UG1085, UG585); what is not in them is
an error here, though Vivado may know it.
"""

from __future__ import annotations

import copy
import re
import tkinter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

NAME = "hwattn_top"


@dataclass
class Block:
    """Pins, interfaces and parameters of a kind of block; `needed` must be connected in the end."""

    pins: set[str]
    interfaces: set[str] = field(default_factory=set)
    parameters: set[str] = field(default_factory=set)
    needed: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class MemoryPort:
    """A memory port of a processor: there once its parameter `use` is set, and then to be connected and mapped; with the widths that exist."""

    use: str
    width: str
    clock: str
    interface: str
    segment: str
    widths: tuple[int, ...]


MEMORY_PORTS = {
    "zynq_ultra_ps_e": [
        MemoryPort(
            f"PSU__USE__S_AXI_GP{number + 2}",
            f"PSU__SAXIGP{number + 2}__DATA_WIDTH",
            f"saxihp{number}_fpd_aclk",
            f"S_AXI_HP{number}_FPD",
            f"SAXIGP{number + 2}/HP{number}_DDR_LOW",
            (32, 64, 128),
        )
        for number in range(4)
    ],
    "processing_system7": [
        MemoryPort(
            f"PCW_USE_S_AXI_HP{number}",
            f"PCW_S_AXI_HP{number}_DATA_WIDTH",
            f"S_AXI_HP{number}_ACLK",
            f"S_AXI_HP{number}",
            f"S_AXI_HP{number}/HP{number}_DDR_LOWOCM",
            (32, 64),
        )
        for number in range(4)
    ],
}

BLOCKS = {
    "zynq_ultra_ps_e": Block(
        {"pl_clk0", "pl_resetn0", "maxihpm0_fpd_aclk", "pl_ps_irq0"},
        {"M_AXI_HPM0_FPD"},
        {
            "PSU__USE__M_AXI_GP0",
            "PSU__USE__M_AXI_GP1",
            "PSU__USE__M_AXI_GP2",
            "PSU__USE__IRQ0",
            "PSU__FPGA_PL0_ENABLE",
            "PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ",
        },
        {"maxihpm0_fpd_aclk"},
    ),
    "processing_system7": Block(
        {"FCLK_CLK0", "FCLK_RESET0_N", "M_AXI_GP0_ACLK", "IRQ_F2P"},
        {"M_AXI_GP0", "DDR", "FIXED_IO"},
        {
            "PCW_USE_M_AXI_GP0",
            "PCW_USE_FABRIC_INTERRUPT",
            "PCW_IRQ_F2P_INTR",
            "PCW_EN_CLK0_PORT",
            "PCW_FPGA0_PERIPHERAL_FREQMHZ",
        },
        {"M_AXI_GP0_ACLK", "DDR", "FIXED_IO"},
    ),
    "proc_sys_reset": Block(
        {"slowest_sync_clk", "ext_reset_in", "dcm_locked", "interconnect_aresetn", "peripheral_aresetn"},
        needed={"slowest_sync_clk", "ext_reset_in"},
    ),
    "smartconnect": Block(
        {"aclk", "aresetn"},
        {"S00_AXI", "M00_AXI"},
        {"NUM_SI", "NUM_MI"},
        {"aclk", "aresetn", "S00_AXI", "M00_AXI"},
    ),
    "clk_wiz": Block(
        {"clk_in1", "clk_out1", "locked"},
        parameters={"PRIM_IN_FREQ", "CLKOUT1_REQUESTED_OUT_FREQ", "USE_RESET"},
        needed={"clk_in1"},
    ),
}


def module_block(text: str) -> Block:
    """Return what Vivado sees of the wrapper's Verilog."""
    header = text[text.index(f"module {NAME} (") : text.index(");\n")]
    ports = re.findall(r"(input|output) wire (?:\[\d+:0\] )?(\w+)", header)
    interfaces = set(re.findall(r"aximm:1\.0 (\w+) ", header))
    clocked = re.search(r"ASSOCIATED_BUSIF ([\w:]+)", header)
    assert set(clocked[1].split(":") if clocked else []) == interfaces, "every bus has its clock"
    pins = {name for _, name in ports if not any(name.startswith(f"{bus}_") for bus in interfaces)}
    inputs = {name for way, name in ports if way == "input" and name in pins}
    return Block(pins, interfaces, needed=inputs | interfaces)


class Vivado:
    """A Tcl interpreter with the commands of Vivado.

    Parameters
    ----------
    folder : Path
        Where ``project.tcl`` lies.
    board_files : bool
        Whether the board's files are installed.
    slack : float
        Of the slowest path, ns.
    """

    def __init__(self, folder: Path, board_files: bool, slack: float) -> None:
        self.folder, self.board_files, self.slack = folder, board_files, slack
        self.tcl = tkinter.Tcl()
        self.files: set[str] = set()
        self.cells: dict[str, Block] = {}
        self.memory_ports: dict[str, list[MemoryPort]] = {}
        self.mapped: dict[str, str] = {}
        self.ports: dict[str, int] = {}
        self.connected: set[str] = set()
        self.properties: dict[str, str] = {}
        self.done: list[str] = []
        for name in (name for name in dir(self) if name.startswith("tcl_")):
            self.tcl.createcommand(name.removeprefix("tcl_"), self._checked(getattr(self, name)))
        for name in [
            "update_compile_order",
            "save_bd_design",
            "launch_runs",
            "wait_on_run",
            "open_run",
            "report_utilization",
            "report_timing_summary",
            "write_hw_platform",
            "set_false_path",
        ]:
            self.tcl.createcommand(name, self._noted(name))

    def _checked(self, command: Callable[..., str | None]) -> Callable[..., str]:
        def call(*words: str) -> str:
            self.done.append(command.__name__.removeprefix("tcl_"))
            return command(*(str(word) for word in words)) or ""

        return call

    def _noted(self, name: str) -> Callable[..., str]:
        def call(*words: str) -> str:
            self.done.append(name)
            return ""

        return call

    def run(self, file: str) -> None:
        """Run a script of the folder; an error of a command or an unknown command raises TclError."""
        self.tcl.eval(f"source {{{self.folder / file}}}")

    def _list(self, text: str) -> list[str]:
        return [str(word) for word in self.tcl.splitlist(text)]

    def tcl_create_project(self, name: str, folder: str, *options: str) -> None:
        part = options[options.index("-part") + 1]
        assert re.fullmatch(r"xc[a-z0-9]+-?[a-z0-9]+-[0-9a-zA-Z-]+", part), part
        self.properties["part"] = part

    def tcl_get_board_parts(self, *words: str) -> str:
        return words[-1] if self.board_files else ""

    def tcl_current_project(self) -> str:
        return "project"

    def tcl_current_fileset(self) -> str:
        return "sources_1"

    def tcl_add_files(self, *words: str) -> None:
        for name in self._list(words[-1]):
            assert Path(name).is_file(), f"{name} does not exist"
            self.files.add(Path(name).name)

    def tcl_create_bd_design(self, name: str) -> None:
        self.properties["design"] = name

    def tcl_create_bd_cell(self, *words: str) -> str:
        name = words[-1]
        assert name not in self.cells
        if "-reference" in words:
            module = words[words.index("-reference") + 1]
            assert module == NAME
            assert {"hwattn.v", f"{NAME}.v"} <= self.files
            self.cells[name] = module_block((self.folder / f"{NAME}.v").read_text())
        else:
            vendor, library, kind = words[words.index("-vlnv") + 1].split(":")[:3]
            assert (vendor, library) == ("xilinx.com", "ip")
            self.cells[name] = copy.deepcopy(BLOCKS[kind])
            self.memory_ports[name] = MEMORY_PORTS.get(kind, [])
        return name

    def tcl_create_bd_port(self, *words: str) -> str:
        name = words[-1]
        bits = int(words[words.index("-from") + 1]) + 1 if "-from" in words else 1
        assert words[words.index("-dir") + 1] in ("I", "O")
        self.ports[name] = bits
        return name

    def tcl_get_bd_cells(self, name: str) -> str:
        assert name in self.cells, f"no cell {name}"
        return name

    def tcl_get_bd_ports(self, name: str) -> str:
        assert name in self.ports, f"no port {name}"
        return name

    def tcl_get_bd_pins(self, path: str) -> str:
        cell, pin = path.split("/")
        assert pin in self.cells[cell].pins, f"{cell} has no pin {pin}"
        return path

    def tcl_get_bd_intf_pins(self, path: str) -> str:
        cell, pin = path.split("/")
        assert pin in self.cells[cell].interfaces, f"{cell} has no interface {pin}"
        return path

    def tcl_get_bd_addr_segs(self, path: str) -> str:
        cell, segment = path.split("/", 1)
        known = {port.segment for port in self._used(cell)} | {
            f"{bus}/reg0" for bus in self.cells[cell].interfaces if bus.startswith("s_")
        }
        assert segment in known, f"{cell} has no segment {segment}"
        return path

    def tcl_get_bd_addr_spaces(self, path: str) -> str:
        cell, bus = path.split("/")
        assert bus in self.cells[cell].interfaces
        assert bus.startswith("m_"), f"{bus} is no master"
        return path

    def _used(self, cell: str) -> list[MemoryPort]:
        """Memory ports that are switched on."""
        return [
            port for port in self.memory_ports.get(cell, []) if f"{cell}.CONFIG.{port.use}" in self.properties
        ]

    def tcl_set_property(self, *words: str) -> None:
        target, pairs = words[-1], self._list(words[1]) if words[0] == "-dict" else list(words[:2])
        for name, value in zip(pairs[::2], pairs[1::2], strict=True):
            if target in self.cells:
                self._switch_on(target, name.removeprefix("CONFIG."), value)
                assert name.removeprefix("CONFIG.") in self.cells[target].parameters, (
                    f"{target} has no {name}"
                )
            self.properties[f"{target}.{name}"] = value

    def _switch_on(self, cell: str, name: str, value: str) -> None:
        """Give a processor the pins, the interface and the parameters of a memory port."""
        for port in self.memory_ports.get(cell, []):
            block = self.cells[cell]
            if name == port.use:
                assert value == "1"
                block.pins.add(port.clock)
                block.interfaces.add(port.interface)
                block.parameters |= {port.use, port.width}
                block.needed |= {port.clock, port.interface}
            if name == port.width:
                assert int(value) in port.widths

    def tcl_get_property(self, name: str, target: str) -> str:
        if name == "SLACK":
            return str(self.slack)
        return self.properties.get(f"{target}.{name}", "")

    def tcl_get_timing_paths(self, *words: str) -> str:
        assert "write_bitstream" not in self.done, "the clock is checked first"
        return "path"

    def tcl_apply_bd_automation(self, *words: str) -> None:
        rule = words[words.index("-rule") + 1].split(":")[2]
        assert rule in BLOCKS
        assert self.board_files, "the preset comes with the board files"
        if rule == "processing_system7":
            self.connected |= {f"{words[-1]}/DDR", f"{words[-1]}/FIXED_IO"}

    def tcl_make_bd_intf_pins_external(self, *pins: str) -> None:
        self.connected |= set(pins)

    def tcl_connect_bd_net(self, *ends: str) -> None:
        assert len(ends) >= 2
        assert all(ends)
        self.connected |= set(ends)

    def tcl_connect_bd_intf_net(self, first: str, second: str) -> None:
        self.connected |= {first, second}

    def tcl_assign_bd_address(self, *words: str) -> None:
        if "-target_address_space" in words:
            self.mapped[words[words.index("-target_address_space") + 1]] = words[-1]
            return
        offset, size = (int(words[words.index(name) + 1], 0) for name in ("-offset", "-range"))
        assert offset % size == 0
        self.properties["address"] = str(offset)

    def tcl_validate_bd_design(self) -> None:
        for name, block in self.cells.items():
            for pin in block.needed:
                assert f"{name}/{pin}" in self.connected, f"{name}/{pin} is not connected"
        assert set(self.ports) <= self.connected
        masters = {f"hwattn/{bus}" for bus in self.cells["hwattn"].interfaces if bus.startswith("m_")}
        assert set(self.mapped) == masters, "every master sees memory"
        segments = [f"{cell}/{port.segment}" for cell in self.cells for port in self._used(cell)]
        assert sorted(self.mapped.values()) == sorted(segments)

    def tcl_get_files(self, name: str) -> str:
        assert name == f"{self.properties['design']}.bd"
        return name

    def tcl_make_wrapper(self, *words: str) -> None:
        design = self.properties["design"]
        made = self.folder / "vivado" / "hwattn.gen" / "sources_1" / "bd" / design
        for name in (f"hdl/{design}_wrapper.v", f"hw_handoff/{design}.hwh"):
            (made / name).parent.mkdir(parents=True)
            (made / name).write_text("")

    def tcl_get_ports(self, *words: str) -> str:
        (name,) = self._list(words[-1])
        match = re.fullmatch(r"(\w+)(?:\[(\d+|\*)\])?", name)
        assert match, name
        assert match[1] in self.ports, f"no port {name}"
        if match[2] and match[2] != "*":
            assert int(match[2]) < self.ports[match[1]]
        return name

    def tcl_write_bitstream(self, *words: str) -> None:
        Path(words[-1]).write_text("bits")
