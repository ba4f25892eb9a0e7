"""A GTKWave save file for the machine's waveform: handshakes and states in named groups."""

from __future__ import annotations

import re
from pathlib import Path

GROUPS = {
    "Host": ("machine.host",),
    "Dispatcher": (
        "machine.dispatcher",
        "machine.dispatcher.queue_load",
        "machine.dispatcher.queue_matrix",
        "machine.dispatcher.queue_post",
        "machine.dispatcher.queue_norm",
    ),
    "Load": ("machine.loader",),
    "Matrix": ("machine.matrix",),
    "Post": ("machine.post",),
    "Softmax": ("machine.softmax",),
    "LayerNorm": ("machine.layernorm",),
    "Router": ("machine.router",),
    "Memories": ("machine.act", "machine.weight"),
}
"""Groups of the save file, and the instances below the top whose signals are in them."""

# wires of a submodule that Amaranth had to rename (`done$31`) are shown there
_SHOWN = re.compile(
    r"\w+__(?:valid|ready)|fsm_state|\w*busy|\w*done(?:_\d+)?|active|running|paused|error|cause|start|step|single_step|pc|"
    r"head|occupied|working|waiting|ready_from|taken|left|idle|skipped|tokens_\w+"
)
_MODULE = re.compile(
    r"^module (?:\\(?P<escaped>\S+) |(?P<name>\w+))\(.*?^endmodule$", re.MULTILINE | re.DOTALL
)
_INSTANCE = re.compile(r"^  (?:\\(?P<escaped>\S+) |(?P<name>\w+)) +\\?(?P<instance>\S+) +\($", re.MULTILINE)
_SIGNAL = re.compile(r"^  (?:wire|reg) (?:\[(?P<high>\d+):0\] )?\\?(?P<name>\S+?) ?(?:=.*)?;$", re.MULTILINE)


def save_gtkwave(verilog: str, top: str, path: Path) -> None:
    """Write a save file that shows every unit's handshakes and states.

    Parameters
    ----------
    verilog : str
        The design as `hwattn.rtl.verilog` writes it.
    top : str
        Name of its top module, with which paths in the waveform begin.
    path : Path
        The ``.gtkw`` file; GTKWave opens it with the waveform that is named beside it.
    """
    bodies = {match["escaped"] or match["name"]: match[0] for match in _MODULE.finditer(verilog)}
    lines = [f"[*] handshakes and states of {top}, by unit", "@28"]
    for group, instances in GROUPS.items():
        # flags: 0x800000 and 0x1000000 open and close a group, 0x200 marks a comment; 0x28 is binary, 0x22 hexadecimal
        lines += ["@800200", f"-{group}"]
        for instance in instances:
            for name, high in _signals(bodies[_module_at(bodies, top, instance)]):
                suffix = f"[{high}:0]" if high else ""
                lines += ["@22" if high else "@28", f"{top}.{instance}.{name}{suffix}"]
        lines += ["@1000200", f"-{group}"]
    path.write_text("\n".join(lines) + "\n")


def _module_at(bodies: dict[str, str], top: str, instance: str) -> str:
    """Return the name of the module that stands at a path of instances below the top."""
    module = top
    for part in instance.split("."):
        below = {
            match["instance"]: match["escaped"] or match["name"]
            for match in _INSTANCE.finditer(bodies[module])
        }
        module = below[part]
    return module


def _signals(body: str) -> list[tuple[str, int]]:
    """Return name and upper bit of a module's signals that are worth showing, sorted."""
    found = {match["name"]: int(match["high"] or 0) for match in _SIGNAL.finditer(body)}
    return sorted((name, high) for name, high in found.items() if _SHOWN.fullmatch(name))
