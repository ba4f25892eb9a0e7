"""Generated headers: every table, constant and layout comes from the specification, and none is written again in the C++."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from draw import CONFIGS

import hwattn.hls
from hwattn.hls.headers import config_header, constants_header, isa_header, tables_header
from hwattn.spec import isa, numbers, registers, tables, widths
from hwattn.spec.encoding import fields
from hwattn.spec.isa import INSTRUCTIONS

ROOM = Path(hwattn.hls.__path__[0])


def test_constants():
    found = {
        name: int(value.removesuffix("LL"))
        for name, value in re.findall(r"constexpr (?:int|long long) (\w+) = (-?\w+);", constants_header())
    }
    for module in (isa, numbers, tables, widths):
        for name in re.findall(r"^([A-Z][A-Z_0-9]*) = ", Path(module.__file__).read_text(), re.MULTILINE):
            if isinstance(getattr(module, name), int):
                assert found[name] == getattr(module, name), name
    for kind in (isa.Opcode, isa.Memory, isa.Format, isa.Stage2, registers.ErrorCause):
        block = re.search(rf"namespace {kind.__name__} {{(.*?)}}", constants_header(), re.DOTALL).group(1)
        assert dict(re.findall(r"int (\w+) = (\d+);", block)) == {each.name: str(int(each)) for each in kind}


def test_tables():
    numbers_of = re.findall(r"= \{(.*?)\};", tables_header(), re.DOTALL)
    found = [np.array([int(each) for each in re.findall(r"\d+", body)]) for body in numbers_of]
    assert np.array_equal(found[0], tables.exponential_table())
    assert np.array_equal(found[1], tables.reciprocal_square_root_table())


def test_instruction_layouts():
    text = isa_header()
    for kind in INSTRUCTIONS.values():
        block = re.search(rf"struct {kind.__name__} {{(.*?)\n}};", text, re.DOTALL).group(1)
        for field in fields(kind):
            sign = "" if field.signed else "u"
            assert f"ap_{sign}int<{field.bits}> {field.name};" in block
            assert f"word.range({field.offset + field.bits - 1}, {field.offset})" in block


def test_configuration():
    text = config_header(CONFIGS[0])
    for name, value in CONFIGS[0].as_dict().items():
        assert f"static constexpr int {name} = {value};" in text


@pytest.mark.parametrize("path", sorted(ROOM.glob("**/*pp")), ids=lambda path: path.name)
def test_no_table_and_no_constant_is_written_twice(path):
    """The C++ defines no name of the specification, has no table, and no literal that is one of its large constants."""
    code = re.sub(r"//.*", "", path.read_text())
    names = re.findall(r"constexpr [a-z ]+ ([A-Z_0-9]+) = ", constants_header())
    for name in names:
        assert not re.search(rf"\b(constexpr|const|define)\b[^;=\n]*\b{name}\b\s*=", code), name
    assert not re.search(r"\{\s*-?\d+\s*(,\s*-?\d+\s*){7,}", code), "a table"
    large = {
        value
        for module in (isa, numbers, tables, widths)
        for name in names
        if abs(value := getattr(module, name, 0)) > 4096
    }
    for literal in re.findall(r"(?<![\w.])\d+\b", code):
        assert int(literal) not in large, literal
