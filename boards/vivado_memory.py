"""The processor's memory behind a machine's AXI4 masters: Tcl of the block design, and the device tree's part."""

from __future__ import annotations

from dataclasses import dataclass

from hwattn.boards.board import Board
from hwattn.spec.config import AcceleratorConfig


@dataclass(frozen=True)
class _Ports:
    """Names of a family's memory ports, by number."""

    use: str
    width: str
    clock: str
    interface: str
    segment: str
    first: int


_FAMILIES = {
    "zynq_ultra_ps_e": _Ports(
        use="PSU__USE__S_AXI_GP{place}",
        width="PSU__SAXIGP{place}__DATA_WIDTH",
        clock="saxihp{port}_fpd_aclk",
        interface="S_AXI_HP{port}_FPD",
        segment="SAXIGP{place}/HP{port}_DDR_LOW",
        first=2,
    ),
    "processing_system7": _Ports(
        use="PCW_USE_S_AXI_HP{port}",
        width="PCW_S_AXI_HP{port}_DATA_WIDTH",
        clock="S_AXI_HP{port}_ACLK",
        interface="S_AXI_HP{port}",
        segment="S_AXI_HP{port}/HP{port}_DDR_LOWOCM",
        first=0,
    ),
}

_TCL = """
set_property -dict [list CONFIG.{use} 1 CONFIG.{width} {bits}] [get_bd_cells processor]
connect_bd_net $clock [get_bd_pins processor/{clock}]
create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect memory_{port}
set_property -dict [list CONFIG.NUM_SI 1 CONFIG.NUM_MI 1] [get_bd_cells memory_{port}]
connect_bd_net $clock [get_bd_pins memory_{port}/aclk]
connect_bd_net [get_bd_pins resets/interconnect_aresetn] [get_bd_pins memory_{port}/aresetn]
connect_bd_intf_net [get_bd_intf_pins hwattn/m_axi_{port}] [get_bd_intf_pins memory_{port}/S00_AXI]
connect_bd_intf_net [get_bd_intf_pins memory_{port}/M00_AXI] [get_bd_intf_pins processor/{interface}]
assign_bd_address -target_address_space [get_bd_addr_spaces hwattn/m_axi_{port}] [get_bd_addr_segs processor/{segment}]
"""

_RESERVED = """/ {{
	reserved-memory {{
		#address-cells = <{cells}>;
		#size-cells = <{cells}>;
		ranges;
		/* external memory of the machine: hwattn run tells it this address */
		hwattn_memory: hwattn@{address:x} {{
			no-map;
			reg = <{reg}>;
		}};
	}};
}};
"""


def memory_ports(board: Board, config: AcceleratorConfig) -> int:
    """Return how many AXI4 masters a machine has on a board: 0 without external memory.

    Raises
    ------
    RefusedError
        The board's memory is too small, or not connected.
    """
    memory = board.processor_memory
    if memory is None or not config.external_words:
        board.external(config)
        return 0
    return memory.stripes(config).ports


def memory_tcl(board: Board, config: AcceleratorConfig) -> str:
    """Return the Tcl that connects every master to a memory port of its own, through an interconnect that fits widths and protocols."""
    memory = board.processor_memory
    if memory is None or board.vivado is None:
        return ""
    family = _FAMILIES[board.vivado.processor]
    texts = []
    for port in range(memory_ports(board, config)):
        names = {
            key: getattr(family, key).format(port=port, place=port + family.first)
            for key in ("use", "width", "clock", "interface", "segment")
        }
        texts.append(_TCL.format(port=port, bits=8 * memory.port_bytes, **names))
    return "".join(texts)


def reserved_memory(board: Board, config: AcceleratorConfig) -> str:
    """Return the device tree's part that keeps the buffer of a machine with external memory free for it."""
    memory = board.processor_memory
    if memory is None or board.vivado is None or not config.external_words:
        return ""
    size = memory.stripes(config).bytes
    wide = board.vivado.processor == "zynq_ultra_ps_e"
    reg = f"0x0 0x{memory.address:x} 0x0 0x{size:x}" if wide else f"0x{memory.address:x} 0x{size:x}"
    return _RESERVED.format(cells=2 if wide else 1, address=memory.address, reg=reg)
