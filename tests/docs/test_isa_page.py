"""docs/isa.md names every instruction and every field, with its bits."""

from pathlib import Path

import pytest

from hwattn.spec.encoding import fields
from hwattn.spec.isa import INSTRUCTIONS

PAGE = (Path(__file__).parents[2] / "docs" / "isa.md").read_text()


@pytest.mark.parametrize("kind", INSTRUCTIONS.values(), ids=lambda kind: kind.__name__)
def test_fields(kind) -> None:
    heading = f"### {kind.__name__.upper()} (code {int(kind.opcode)}, queue {kind.queue.name})"
    assert heading in PAGE
    section = PAGE.split(heading)[1].split("\n### ")[0].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    wanted = [
        f"| `{field.name}` | {field.offset + field.bits - 1}:{field.offset}{' signed' if field.signed else ''} |"
        for field in fields(kind)
        if field.name not in ("pop", "push")
    ]
    assert rows == wanted
