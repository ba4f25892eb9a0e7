"""The register map as Markdown, C header and JSON, all from ``spec.registers``: its names, numbers and docstrings.

``python -m hwattn.spec.register_map`` in a checkout writes ``docs/registers.md``, ``docs/registers.json`` and
``boards/include/hwattn_registers.h`` again.
"""

from __future__ import annotations

import ast
import inspect
import json
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Any

from hwattn.spec import link, registers

ENUMERATIONS: tuple[type[IntEnum] | type[IntFlag], ...] = (
    registers.Region,
    registers.Register,
    registers.Control,
    registers.Status,
    registers.ErrorCause,
    registers.ActReader,
    registers.ActWriter,
    registers.WeightReader,
)

CONSTANTS = (
    "IDENTIFICATION",
    "VERSION",
    "REGION_SHIFT",
    "AXI_BYTES",
    "AXI_CSR_BYTES",
    "AXI_ADDRESS",
    "AXI_DATA",
)

LINK_CONSTANTS = (
    "REQUEST",
    "ANSWER",
    "COUNT_MAX",
    "HEADER_BYTES",
    "ANSWER_HEADER_BYTES",
    "CRC_BYTES",
    "UNIT_BYTES",
    "SILENCE_BYTES",
)


def document() -> dict[str, Any]:
    """Return the map: constants by name, and for each enumeration its text and its members' name, value and text."""
    texts = _texts()
    return {
        "constants": {
            **{name: int(getattr(registers, name)) for name in CONSTANTS},
            **{f"LINK_{name}": int(getattr(link, name)) for name in LINK_CONSTANTS},
        },
        "units": {region.name: units for region, units in registers.UNITS.items()},
        "counters": {"first": registers.COUNTERS.start, "count": len(registers.COUNTERS)},
        "enumerations": {
            kind.__name__: {
                "text": inspect.cleandoc(kind.__doc__ or ""),
                "members": [
                    {
                        "name": member.name,
                        "value": int(member),
                        "text": texts.get((kind.__name__, str(member.name)), ""),
                    }
                    for member in kind
                ],
            }
            for kind in ENUMERATIONS
        },
    }


def markdown() -> str:
    """Return the map as a page."""
    found = document()
    lines = [
        "# Registers",
        "",
        "Generated from `hwattn/spec/registers.py` (`python -m hwattn.spec.register_map`); do not edit.",
        "",
        *inspect.cleandoc(registers.__doc__ or "").splitlines(),
        "",
        f"An address is `region << {registers.REGION_SHIFT} | unit`. Over AXI4-Lite (`rtl/axi_lite.py`) register n of region CSR lies at "
        f"byte 4 n of a window of {registers.AXI_BYTES} bytes; any other unit is reached by writing its address to byte "
        f"0x{registers.AXI_ADDRESS:x} and reading or writing byte 0x{registers.AXI_DATA:x}, after which the address counts up.",
        "",
    ]
    for name, entry in found["enumerations"].items():
        lines += [f"## {name}", "", entry["text"], "", "| value | name | meaning |", "|---|---|---|"]
        flags = name in (registers.Control.__name__, registers.Status.__name__)
        for member in entry["members"]:
            value = f"0x{member['value']:02x}" if flags else str(member["value"])
            lines.append(f"| {value} | {member['name']} | {' '.join(member['text'].split())} |")
        lines.append("")
    lines += ["## Constants", "", "| name | value |", "|---|---|"]
    lines += [f"| {name} | 0x{value:x} |" for name, value in found["constants"].items()]
    lines += [f"| units of an entry of {name} | {units} |" for name, units in found["units"].items()]
    return "\n".join(lines) + "\n"


def c_header() -> str:
    """Return the map as a C header: ``HWATTN_<ENUMERATION>_<NAME>`` and ``HWATTN_<CONSTANT>``."""
    found = document()
    lines = [
        "/* Generated from hwattn/spec/registers.py (python -m hwattn.spec.register_map); do not edit. */",
        "#ifndef HWATTN_REGISTERS_H",
        "#define HWATTN_REGISTERS_H",
        "",
    ]
    lines += [f"#define HWATTN_{name} 0x{value:x}u" for name, value in found["constants"].items()]
    lines += [
        f"#define HWATTN_COUNTERS_FIRST {found['counters']['first']}u",
        f"#define HWATTN_COUNTERS {found['counters']['count']}u",
    ]
    for name, entry in found["enumerations"].items():
        lines += ["", f"/* {name}: {' '.join(entry['text'].split())} */"]
        for member in entry["members"]:
            text = f" /* {' '.join(member['text'].split())} */" if member["text"] else ""
            lines.append(f"#define HWATTN_{name.upper()}_{member['name']} {member['value']}u{text}")
    return "\n".join([*lines, "", "#endif", ""])


def _texts() -> dict[tuple[str, str], str]:
    """Return the docstring below each member, by class and member; Python itself does not keep them."""
    texts = {}
    for node in ast.parse(inspect.getsource(registers)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for member, below in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(member, ast.Assign)
                and isinstance(member.targets[0], ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                texts[node.name, member.targets[0].id] = inspect.cleandoc(str(below.value.value))
    return texts


def files() -> dict[str, str]:
    """Return the contents of every generated file, by its path in a checkout."""
    return {
        "docs/registers.md": markdown(),
        "docs/registers.json": json.dumps(document(), indent=1) + "\n",
        "boards/include/hwattn_registers.h": c_header(),
    }


if __name__ == "__main__":
    for path, text in files().items():
        (Path(__file__).resolve().parents[2] / path).write_text(text)
