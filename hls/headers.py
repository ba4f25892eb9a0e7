"""The generated headers: constants, tables and instruction layouts of ``hwattn.spec``, and one machine's configuration, as C++."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from enum import IntEnum
from types import ModuleType

from hwattn.spec import entries, isa, numbers, tables, widths
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.encoding import Field, fields
from hwattn.spec.isa import INSTRUCTIONS, Format, Instruction, Memory, Opcode, Predicated, Stage2
from hwattn.spec.registers import ErrorCause

NAMESPACE = "hwattn"
PER_LINE = 12

CONSTANTS: tuple[ModuleType, ...] = (isa, entries, numbers, tables, widths)
"""Modules whose integer constants the C++ reads."""

ENUMS: tuple[type[IntEnum], ...] = (Opcode, Memory, Format, Stage2, ErrorCause)


def constants_header() -> str:
    """Every integer constant of `CONSTANTS`, and the choices of the instructions' fields, under their Python names."""
    lines = [
        f"constexpr {_type(value)} {name} = {_literal(value)};"
        for module in CONSTANTS
        for name, value in _constants(module)
    ]
    for kind in ENUMS:
        lines += ["", f"namespace {kind.__name__} {{"]
        lines += [f"constexpr int {member.name} = {int(member)};" for member in kind]
        lines += ["}"]
    return _header("CONSTANTS", lines, "hwattn/spec")


def tables_header() -> str:
    """The tables that do not depend on the model: exponential and reciprocal square root."""
    lines = [
        *_array("ap_uint<17>", "EXPONENTIAL", tables.exponential_table()),
        "",
        *_array("ap_uint<16>", "RECIPROCAL_SQUARE_ROOT", tables.reciprocal_square_root_table()),
    ]
    return _header("TABLES", lines, "hwattn/spec/tables.py", ["ap_int.h"])


def isa_header() -> str:
    """One struct for each instruction, built from its encoded bits; the layouts are those of ``hwattn.spec.encoding.fields``."""
    lines = [
        "typedef ap_uint<INSTRUCTION_BITS> Encoded;",
        "",
        "inline int opcode(const Encoded& word) {",
        "    return ap_uint<OPCODE_BITS>(word.range(OPCODE_BITS - 1, 0)).to_int();",
        "}",
    ]
    for kind in INSTRUCTIONS.values():
        lines += ["", *_instruction(kind)]
    return _header("ISA", lines, "hwattn/spec/isa.py", ["ap_int.h", "constants.hpp"])


def expert_queues(config: AcceleratorConfig) -> int:
    """Queues of tokens in C++, which has no arrays without elements: in a machine without a router one that nothing uses."""
    return max(1, config.experts)


def config_header(config: AcceleratorConfig) -> str:
    """The fields of a configuration as ``struct Config``."""
    lines = ["struct Config {"]
    members = config.as_dict() | {"experts": expert_queues(config)}
    lines += [f"    static constexpr int {name} = {value};" for name, value in members.items()]
    lines += ["};"]
    return _header("CONFIG", lines, f"configuration {config.hash:08x}")


def integers(name: str, values: Iterable[int]) -> list[str]:
    """Lines that define an array of ints."""
    return _array("int", name, values, "constexpr")


def header(guard: str, lines: list[str], source: str) -> str:
    """Return a generated header: a guard, the namespace, and where it comes from."""
    return _header(guard, lines, source)


def _constants(module: ModuleType) -> Iterator[tuple[str, int]]:
    """Public upper-case integers that a module defines (not those that it imports), in order of definition."""
    source = inspect.getsource(module)
    for name in re.findall(r"^([A-Z][A-Z0-9_]*)(?:: int)? = ", source, re.MULTILINE):
        value = getattr(module, name)
        if type(value) is int:
            yield name, value


def _instruction(kind: type[Instruction]) -> list[str]:
    layout = fields(kind)
    name = kind.__name__
    lines = [f"#define {NAMESPACE.upper()}_{kind.opcode.name}"]
    predicated = "true" if issubclass(kind, Predicated) else "false"
    lines += [f"struct {name} {{", f"    static constexpr int opcode = Opcode::{kind.opcode.name};"]
    lines += [f"    static constexpr bool predicated = {predicated};"]
    lines += [f"    {_field_type(field)} {field.name};" for field in layout]
    lines += [f"    explicit {name}(const Encoded& word)"]
    parts = [
        f"{field.name}(ap_uint<{field.bits}>(word.range({field.offset + field.bits - 1}, {field.offset})))"
        for field in layout
    ]
    lines += [f"        {':' if index == 0 else ','} {part}" for index, part in enumerate(parts)]
    return [*lines, "    {}", "};"]


def _field_type(field: Field) -> str:
    return f"ap_{'int' if field.signed else 'uint'}<{field.bits}>"


def _type(value: int) -> str:
    return "int" if -(1 << 31) <= value < 1 << 31 else "long long"


def _literal(value: int) -> str:
    return str(value) if _type(value) == "int" else f"{value}LL"


def _array(kind: str, name: str, values: Iterable[int], storage: str = "static const") -> list[str]:
    numbers_ = [str(int(value)) for value in values]
    rows = [numbers_[start : start + PER_LINE] for start in range(0, len(numbers_), PER_LINE)]
    return [
        f"{storage} {kind} {name}[{len(numbers_)}] = {{",
        *(f"    {', '.join(row)}," for row in rows),
        "};",
    ]


def _header(guard: str, lines: list[str], source: str, includes: Iterable[str] = ()) -> str:
    guard = f"{NAMESPACE.upper()}_{guard}_HPP"
    included = [f'#include "{name}"' for name in includes]
    return "\n".join(
        [
            f"// Generated by hwattn from {source}; do not edit.",
            f"#ifndef {guard}",
            f"#define {guard}",
            *included,
            "",
            f"namespace {NAMESPACE} {{",
            *lines,
            f"}}  // namespace {NAMESPACE}",
            "",
            "#endif",
            "",
        ]
    )
