"""Contents of the machine's memories as files that the simulated design reads at its start, instead of writes over the host's bus.

Loading a program over the bus takes three cycles for each unit of 32 bits: for a large network as long as running it. The memories whose
contents a bitstream could hold as well get an ``initial`` block that reads the file named by a plusarg, if there is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from hwattn.spec.encoding import encode
from hwattn.spec.program import Program
from hwattn.spec.registers import Region

LOADED = (Region.WEIGHT, Region.PARAM, Region.NORM, Region.PROGRAM)
"""Regions whose contents come from files."""

_PLACES = {
    "weight": ("memory",),
    "post": ("params",),
    "layernorm": ("params_\\d+",),
    "dispatcher": ("program",),
}
"""Memories by the unit that holds them."""

_MODULE = re.compile(
    r"^(?P<head>module \\?\S*machine\.(?P<unit>\w+) ?\(.*?)^endmodule$", re.MULTILINE | re.DOTALL
)
_PATH_BITS = 8 * 4096


def loadable(verilog: str) -> str:
    """Return the Verilog of a machine whose memories read their files at the start."""

    def extend(module: re.Match[str]) -> str:
        names = "|".join(_PLACES.get(module["unit"], ("(?!)",)))
        memories = re.findall(
            rf"^  reg \[\d+:0\] (\\?(?:{names}) *)\[\d+:0\];$", module["head"], re.MULTILINE
        )
        blocks = "".join(
            f'  initial if ($value$plusargs("{module["unit"]}_{memory.strip(chr(92) + " ")}=%s", hwattn_path)) '
            f"$readmemh(hwattn_path, {memory});\n"
            for memory in memories
        )
        declaration = f"  reg [{_PATH_BITS - 1}:0] hwattn_path;\n" if blocks else ""
        return f"{module['head']}{declaration}{blocks}endmodule"

    return _MODULE.sub(extend, verilog)


def write_sdram(program: Program, folder: Path, data_bytes: int) -> list[str]:
    """Write the file of an SDRAM chip that holds a program's weights, a column in each line; return the plusarg that names it."""
    image = program.weights.tobytes()
    columns = (image[place : place + data_bytes] for place in range(0, len(image), data_bytes))
    path = folder / "sdram.hex"
    path.write_text("".join(f"{column[::-1].hex():>0{2 * data_bytes}}\n" for column in columns))
    return [f"+sdram={path}"]


def write_contents(program: Program, folder: Path) -> list[str]:
    """Write the files of a program's memories into a folder; return the plusargs that name them."""
    config = program.config
    weights = (int.from_bytes(word.tobytes(), "little") for word in program.weights)
    norm = [int(entry) & (1 << 48) - 1 for entry in program.norm_params]
    files: dict[str, tuple[int, Iterable[int]]] = {
        "external" if config.external_words else "weight_memory": (8 * config.lanes, weights),
        "post_params": (
            54,
            (
                int(bias) & (1 << 32) - 1 | int(multiplier) << 32 | int(shift) << 48
                for bias, multiplier, shift in program.params
            ),
        ),
    }
    if not config.program_streamed:
        files["dispatcher_program"] = 256, (encode(one) for one in program.instructions)
    for lane in range(config.norm_lanes):
        files[f"layernorm_params_{lane}"] = (48, norm[lane :: config.norm_lanes])
    plusargs = []
    for name, (bits, words) in files.items():
        digits = -(-bits // 4)
        path = folder / f"{name}.hex"
        path.write_text("".join(f"{word:0{digits}x}\n" for word in words))
        plusargs.append(f"+{name}={path}")
    return plusargs
