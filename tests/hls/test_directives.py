"""Every directive in the C++ against those that Vitis HLS 2022.2 knows (UG1399, "HLS Pragmas"), and against the code around it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import hwattn.hls

ROOM = Path(hwattn.hls.__path__[0])
SOURCES = sorted([*ROOM.glob("include/*.hpp"), *ROOM.glob("top/*pp"), *ROOM.glob("capi/*.cpp")])

DIRECTIVES = {
    "AGGREGATE": {"variable", "compact"},
    "ALIAS": {"ports", "distance", "offset"},
    "ALLOCATION": {"instances", "limit", "operation", "function"},
    "ARRAY_PARTITION": {"variable", "type", "factor", "dim", "off"},
    "ARRAY_RESHAPE": {"variable", "type", "factor", "object", "dim", "off"},
    "BIND_OP": {"variable", "op", "impl", "latency"},
    "BIND_STORAGE": {"variable", "type", "impl", "latency"},
    "CACHE": {"port", "lines", "depth"},
    "DATAFLOW": {"disable_start_propagation"},
    "DEPENDENCE": {"variable", "class", "type", "direction", "distance", "dependent", "true", "false"},
    "DISAGGREGATE": {"variable"},
    "EXPRESSION_BALANCE": {"off"},
    "FUNCTION_INSTANTIATE": {"variable"},
    "INLINE": {"recursive", "off"},
    "INTERFACE": {
        "mode", "port", "bundle", "register", "register_mode", "depth", "offset", "latency", "clock", "name", "storage_type",
        "num_read_outstanding", "num_write_outstanding", "max_read_burst_length", "max_write_burst_length", "max_widen_bitwidth",
    },
    "LATENCY": {"min", "max"},
    "LOOP_FLATTEN": {"off"},
    "LOOP_MERGE": {"force"},
    "LOOP_TRIPCOUNT": {"min", "max", "avg"},
    "OCCURRENCE": {"cycle", "off"},
    "PERFORMANCE": {"target_ti", "unit"},
    "PIPELINE": {"II", "off", "rewind", "style"},
    "PROTOCOL": {"mode"},
    "RESET": {"variable", "off"},
    "STABLE": {"variable"},
    "STREAM": {"variable", "type", "depth", "off"},
    "TOP": {"name"},
    "UNROLL": {"factor", "skip_exit_check", "off"},
}  # fmt: skip
"""Options of each directive."""

VALUES = {
    ("ARRAY_PARTITION", "type"): {"cyclic", "block", "complete"},
    ("INTERFACE", "mode"): {"m_axi", "s_axilite", "axis", "ap_none", "ap_ctrl_hs", "ap_ctrl_chain"},
    ("INTERFACE", "offset"): {"slave", "direct", "off"},
}


def directives(path):
    """Line number, name and options of each, and the code of its function."""
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        if found := re.match(r"\s*#pragma\s+(\w+)\s*(\w*)\s*(.*)", line):
            before = "\n".join(lines[max(0, number - 40) : number])
            yield number + 1, *found.groups(), before


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_directives_exist(path):
    for number, kind, name, options, before in directives(path):
        where = f"{path.name}:{number}"
        assert kind == "HLS", where
        assert name in DIRECTIVES, f"{where}: no directive {name}"
        for option in options.split():
            key, equals, value = option.partition("=")
            assert key in DIRECTIVES[name], f"{where}: {name} has no option {key}"
            allowed = VALUES.get((name, key))
            assert allowed is None or value in allowed, f"{where}: {option}"
            if key in ("variable", "port") and value != "return":
                root = value.split(".")[0]
                assert re.search(rf"\b{root}\b", before), f"{where}: no {root} before it"
            assert bool(equals) or key in ("off", "recursive", "rewind"), f"{where}: {option}"


def test_they_are_used():
    used = {name for path in SOURCES for _, _, name, _, _ in directives(path)}
    assert {"PIPELINE", "UNROLL", "ARRAY_PARTITION", "DATAFLOW", "STREAM", "INTERFACE"} <= used


def without_comments(text):
    return re.sub(r"//.*", "", text)


def functions(code):
    """Name and body of every function that is defined."""
    for found in re.finditer(r"\b(\w+)\([^;{}]*\)\s*(?:const\s*)?\{", code):
        depth, end = 1, found.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(code[end], 0)
            end += 1
        if found[1] not in ("if", "for", "while", "switch"):
            yield found[1], code[found.end() : end]


@pytest.mark.parametrize("path", sorted(ROOM.glob("include/*.hpp")), ids=lambda path: path.name)
def test_the_library_suits_synthesis(path):
    """No floating point, no dynamic memory, no recursion, no exceptions, no system calls in what is synthesized."""
    code = without_comments(path.read_text())
    for word in (
        "float",
        "double",
        "new",
        "delete",
        "malloc",
        "free",
        "throw",
        "std::vector",
        "std::string",
        "virtual",
        "printf",
    ):
        assert not re.search(rf"(?<![\w:]){re.escape(word)}\b", code), f"{path.name}: {word}"
    for name, body in functions(code):
        assert not re.search(rf"(?<![\w.>:])\b{name}\(", body), f"{path.name}: {name} calls itself"
