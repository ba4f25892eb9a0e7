"""docs/registers.md, docs/registers.json and the C header are what spec/register_map.py makes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hwattn.spec.register_map import document, files
from hwattn.spec.registers import COUNTERS, Register

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", files())
def test_the_file_is_the_generators(path: str) -> None:
    assert (ROOT / path).read_text() == files()[path], "run: python -m hwattn.spec.register_map"


def test_every_register_has_its_number_and_its_text() -> None:
    header = files()["boards/include/hwattn_registers.h"]
    for register in Register:
        assert re.search(rf"^#define HWATTN_REGISTER_{register.name} {int(register)}u", header, re.MULTILINE)
    texts = {entry["name"]: entry["text"] for entry in document()["enumerations"]["Register"]["members"]}
    assert texts["ENTRY"] == "Instruction at which a start begins."
    assert document()["counters"] == {"first": COUNTERS.start, "count": len(COUNTERS)}
