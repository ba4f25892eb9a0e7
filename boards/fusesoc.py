"""A FuseSoC core file (CAPI2) for the Verilog of a build."""

from __future__ import annotations

from hwattn.spec.registers import VERSION

CORE_FILE = "hwattn.core"


def core_file(verilog: str, toplevel: str, config_hash: int) -> str:
    """Return the core file.

    Parameters
    ----------
    verilog : str
        Name of the file beside it that holds the machine.
    toplevel : str
        Its top module.
    config_hash : int
        Of the machine's configuration; it tells cores of different configurations apart.
    """
    return f"""CAPI=2:
name: hwattn:accelerators:hwattn_{config_hash:08x}:{VERSION}.0.0
description: Accelerator for vision transformers and mixtures of experts, written by hwattn

filesets:
  rtl:
    files:
      - {verilog}
    file_type: verilogSource

targets:
  default: &default
    filesets: [rtl]
    toplevel: {toplevel}
  lint:
    <<: *default
    description: Verilator's lint
    default_tool: verilator
    tools:
      verilator:
        mode: lint-only
"""
