"""The texts of a Vivado project: Tcl with block design, constraints, the PYNQ host script and the device tree."""

from __future__ import annotations

from hwattn.boards.board import Board, VivadoTarget
from hwattn.boards.vivado_memory import memory_tcl, reserved_memory
from hwattn.boards.vivado_wrapper import BUS, MODULE, WRAPPER
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.registers import AXI_BYTES

CONSTRAINTS = "hwattn.xdc"
DESIGN = "system"
BASE = {"zynq_ultra_ps_e": 0xA000_0000, "processing_system7": 0x43C0_0000}
"""Where the registers lie in the processor's address space: the first usual place of each family."""

_HEAD = """# Written by hwattn build for {title} ({part}). Run: vivado -mode batch -source project.tcl
# It ends with an error, and writes no bitstream, when the clock is missed.
set here [file dirname [file normalize [info script]]]
create_project hwattn $here/vivado -part {part} -force
# board files are used where they are installed; the preset of the processor comes with them
if {{[llength [get_board_parts -quiet {board_part}]] > 0}} {{
  set_property board_part {board_part} [current_project]
}}
add_files -norecurse [list $here/{core} $here/{wrapper}]
add_files -fileset constrs_1 -norecurse $here/{constraints}
update_compile_order -fileset sources_1

create_bd_design {design}
set machine [create_bd_cell -type module -reference {module} hwattn]
"""

_TAIL = """
validate_bd_design
save_bd_design
make_wrapper -files [get_files {design}.bd] -top
add_files -norecurse [glob $here/vivado/hwattn.gen/sources_1/bd/{design}/hdl/{design}_wrapper.v]
set_property top {design}_wrapper [current_fileset]
update_compile_order -fileset sources_1

launch_runs synth_1 -jobs 2
wait_on_run synth_1
launch_runs impl_1 -to_step route_design -jobs 2
wait_on_run impl_1
open_run impl_1
report_utilization -hierarchical -file $here/utilization.rpt
report_timing_summary -file $here/timing.rpt
set slack [get_property SLACK [lindex [get_timing_paths -max_paths 1 -nworst 1 -setup] 0]]
if {{$slack < 0}} {{
  error "the clock of {clock:g} MHz is missed by [expr {{-$slack}}] ns: see timing.rpt, and build with fewer rows or a lower --clock"
}}
write_bitstream -force $here/hwattn.bit
{products}"""

_MPSOC = """
create_bd_cell -type ip -vlnv xilinx.com:ip:zynq_ultra_ps_e processor
if {{[get_property board_part [current_project]] ne ""}} {{
  apply_bd_automation -rule xilinx.com:bd_rule:zynq_ultra_ps_e -config {{apply_board_preset 1}} [get_bd_cells processor]
}}
set_property -dict [list \\
  CONFIG.PSU__USE__M_AXI_GP0 1 \\
  CONFIG.PSU__USE__M_AXI_GP1 0 \\
  CONFIG.PSU__USE__M_AXI_GP2 0 \\
  CONFIG.PSU__USE__IRQ0 1 \\
  CONFIG.PSU__FPGA_PL0_ENABLE 1 \\
  CONFIG.PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ {clock:g} \\
] [get_bd_cells processor]
set clock [get_bd_pins processor/pl_clk0]
set reset [get_bd_pins processor/pl_resetn0]
set bus [get_bd_intf_pins processor/M_AXI_HPM0_FPD]
connect_bd_net $clock [get_bd_pins processor/maxihpm0_fpd_aclk]
connect_bd_net [get_bd_pins hwattn/interrupt] [get_bd_pins processor/pl_ps_irq0]
"""

_ZYNQ7 = """
create_bd_cell -type ip -vlnv xilinx.com:ip:processing_system7 processor
if {{[get_property board_part [current_project]] ne ""}} {{
  apply_bd_automation -rule xilinx.com:bd_rule:processing_system7 -config {{make_external "FIXED_IO, DDR" apply_board_preset "1" Master "Disable" Slave "Disable"}} [get_bd_cells processor]
}} else {{
  make_bd_intf_pins_external [get_bd_intf_pins processor/DDR] [get_bd_intf_pins processor/FIXED_IO]
}}
set_property -dict [list \\
  CONFIG.PCW_USE_M_AXI_GP0 1 \\
  CONFIG.PCW_USE_FABRIC_INTERRUPT 1 \\
  CONFIG.PCW_IRQ_F2P_INTR 1 \\
  CONFIG.PCW_EN_CLK0_PORT 1 \\
  CONFIG.PCW_FPGA0_PERIPHERAL_FREQMHZ {clock:g} \\
] [get_bd_cells processor]
set clock [get_bd_pins processor/FCLK_CLK0]
set reset [get_bd_pins processor/FCLK_RESET0_N]
set bus [get_bd_intf_pins processor/M_AXI_GP0]
connect_bd_net $clock [get_bd_pins processor/M_AXI_GP0_ACLK]
connect_bd_net [get_bd_pins hwattn/interrupt] [get_bd_pins processor/IRQ_F2P]
"""

_PROCESSOR = """
create_bd_cell -type ip -vlnv xilinx.com:ip:proc_sys_reset resets
connect_bd_net $clock [get_bd_pins resets/slowest_sync_clk]
connect_bd_net $reset [get_bd_pins resets/ext_reset_in]
create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect interconnect
set_property -dict [list CONFIG.NUM_SI 1 CONFIG.NUM_MI 1] [get_bd_cells interconnect]
connect_bd_net $clock [get_bd_pins interconnect/aclk]
connect_bd_net [get_bd_pins resets/interconnect_aresetn] [get_bd_pins interconnect/aresetn]
connect_bd_net $clock [get_bd_pins hwattn/clk]
connect_bd_net [get_bd_pins resets/peripheral_aresetn] [get_bd_pins hwattn/rst_n]
connect_bd_intf_net $bus [get_bd_intf_pins interconnect/S00_AXI]
connect_bd_intf_net [get_bd_intf_pins interconnect/M00_AXI] [get_bd_intf_pins hwattn/{bus}]
assign_bd_address -offset 0x{base:08X} -range {size} [get_bd_addr_segs hwattn/{bus}/reg0]
"""

_PINS = """
create_bd_port -dir I -type clk -freq_hz {oscillator} oscillator
create_bd_port -dir I -type rst reset_n
set_property CONFIG.POLARITY ACTIVE_LOW [get_bd_ports reset_n]
create_bd_port -dir I rx
create_bd_port -dir O tx
create_bd_port -dir O -from 3 -to 0 status
create_bd_cell -type ip -vlnv xilinx.com:ip:clk_wiz clocks
set_property -dict [list \\
  CONFIG.PRIM_IN_FREQ {oscillator_mhz:.3f} \\
  CONFIG.CLKOUT1_REQUESTED_OUT_FREQ {clock:.3f} \\
  CONFIG.USE_RESET false \\
] [get_bd_cells clocks]
create_bd_cell -type ip -vlnv xilinx.com:ip:proc_sys_reset resets
connect_bd_net [get_bd_ports oscillator] [get_bd_pins clocks/clk_in1]
connect_bd_net [get_bd_pins clocks/clk_out1] [get_bd_pins resets/slowest_sync_clk]
connect_bd_net [get_bd_pins clocks/locked] [get_bd_pins resets/dcm_locked]
connect_bd_net [get_bd_ports reset_n] [get_bd_pins resets/ext_reset_in]
connect_bd_net [get_bd_pins clocks/clk_out1] [get_bd_pins hwattn/clk]
connect_bd_net [get_bd_pins resets/peripheral_aresetn] [get_bd_pins hwattn/rst_n]
connect_bd_net [get_bd_ports rx] [get_bd_pins hwattn/rx]
connect_bd_net [get_bd_pins hwattn/tx] [get_bd_ports tx]
connect_bd_net [get_bd_pins hwattn/status] [get_bd_ports status]
"""

_HANDOFF = """file copy -force $here/vivado/hwattn.gen/sources_1/bd/{design}/hw_handoff/{design}.hwh $here/hwattn.hwh
write_hw_platform -fixed -include_bit -force -file $here/hwattn.xsa
"""


def _target(board: Board) -> VivadoTarget:
    assert board.vivado is not None
    return board.vivado


def project(board: Board, config: AcceleratorConfig, core: str) -> str:
    """Return the Tcl that makes the project around the Verilog file `core`, builds it, and checks its clock."""
    target = _target(board)
    values = {
        "title": board.title,
        "part": target.part,
        "board_part": target.board_part,
        "core": core,
        "wrapper": WRAPPER,
        "constraints": CONSTRAINTS,
        "design": DESIGN,
        "module": MODULE,
        "clock": board.clock_mhz,
        "bus": BUS,
        "size": AXI_BYTES,
        "oscillator": round(board.oscillator_mhz * 1e6),
        "oscillator_mhz": board.oscillator_mhz,
    }
    if target.processor:
        around = {"zynq_ultra_ps_e": _MPSOC, "processing_system7": _ZYNQ7}[target.processor] + _PROCESSOR
        values |= {"base": BASE[target.processor], "products": _HANDOFF.format(design=DESIGN)}
    else:
        around = _PINS
        values["products"] = ""
    memory = memory_tcl(board, config)
    return (_HEAD + around).format(**values) + memory + _TAIL.format(**values)


def constraints(board: Board) -> str:
    """Return the constraints: pins where there is no processor, whose own constraints come with its block."""
    lines = [
        f"# Written by hwattn build for {board.title}; clocks are constrained by the blocks that make them."
    ]
    for port, (pin, standard) in _target(board).pins.items():
        lines.append(
            f"set_property -dict {{ PACKAGE_PIN {pin} IOSTANDARD {standard} }} [get_ports {{ {port} }}]"
        )
    if _target(board).pins:
        lines += [f"set_false_path -{way} [get_ports {{ {port} }}]" for way, port in _ASYNCHRONOUS]
    return "\n".join([*lines, ""])


_ASYNCHRONOUS = (("from", "rx"), ("from", "reset_n"), ("to", "tx"), ("to", "status[*]"))
"""Pins without a clock: they are synchronized inside, or slow."""

PYNQ_SCRIPT = '''"""Run the golden vectors of this folder on the board, under PYNQ: python3 run_pynq.py (as root, beside hwattn.bit and hwattn.hwh)."""

import json
from pathlib import Path

import numpy as np
import pynq
from hwattn.boards.driver import Driver
from hwattn.boards.external_buffer import ExternalBuffer
from hwattn.boards.mapped_bus import MappedBus
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.program_file import load_program
from hwattn.spec.stripes import Stripes

HERE = Path(__file__).resolve().parent


def main() -> None:
    settings = json.loads((HERE / "driver.json").read_text())
    overlay = pynq.Overlay(str(HERE / "hwattn.bit"))
    window = overlay.ip_dict["hwattn"]
    registers = pynq.MMIO(window["phys_addr"], window["addr_range"])
    buffer = None
    if settings["external"]:
        stripes = Stripes(**settings["external"]["stripes"])
        memory = pynq.allocate(stripes.bytes, np.uint8, cacheable=False)
        buffer = ExternalBuffer(stripes, memory.device_address, memory)
    driver = Driver(MappedBus(registers.array), AcceleratorConfig(**settings["config"]), buffer)
    program = load_program(HERE / "program.hwp")
    driver.load(program)
    golden = np.load(HERE / "golden.npz")
    wrong = 0
    for task in range(len(program.entries)):
        for number, image in enumerate(golden[program.image.name]):
            for name, integers in driver.run(program, image, task).integers.items():
                wrong += not np.array_equal(integers, golden[name][number])
    print("every result is the model's" if not wrong else f"{wrong} results differ from the model's")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
'''


def device_tree(board: Board, config: AcceleratorConfig) -> str:
    """Return a device-tree fragment that makes the registers a UIO device (``hwattn run --device /dev/uio0``).

    Of machines with external memory it also keeps the kernel away from their buffer.
    """
    base = BASE[_target(board).processor]
    wide = _target(board).processor == "zynq_ultra_ps_e"
    reg = f"<0x0 0x{base:08x} 0x0 0x{AXI_BYTES:x}>" if wide else f"<0x{base:08x} 0x{AXI_BYTES:x}>"
    bus, controller, interrupt = ("&amba_pl", "&gic", "<0 89 4>") if wide else ("&amba", "&intc", "<0 29 4>")
    return f"""/* Written by hwattn build for {board.title}. Boot with uio_pdrv_genirq.of_id=generic-uio. */
{reserved_memory(board, config)}{bus} {{
	hwattn@{base:x} {{
		compatible = "generic-uio";
		reg = {reg};
		interrupt-parent = <{controller}>;
		interrupts = {interrupt};
	}};
}};
"""
