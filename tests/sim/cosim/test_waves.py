"""The GTKWave save file names the signals of every unit, and all of them are in the waveform."""

from __future__ import annotations

import re
from pathlib import Path

from test_machine import tiny

from hwattn.sim.cosim.session import simulate
from hwattn.sim.cosim.waves import GROUPS

_VARIABLE = re.compile(r"\$var wire +\d+ \S+ (\S+?)(?: (\[\d+:0\]))? \$end")


def variables(dump: Path) -> set[str]:
    """Paths, with their ranges, of all variables of a VCD file."""
    found, path = set(), []
    with dump.open() as lines:
        for line in lines:
            words = line.split()
            if line.startswith("$enddefinitions"):
                break
            if "$scope" in words:
                path.append(words[2])
            elif "$upscope" in words:
                path.pop()
            elif match := _VARIABLE.search(line):
                found.add(".".join([*path, match[1]]) + (match[2] or ""))
    return found


def test_save_file(tmp_path: Path) -> None:
    program, images = tiny(1)
    result = simulate(program, images, [0], stepped=0, waves=tmp_path / "waves")
    assert result.bit_exact
    assert result.waveform == tmp_path / "waves" / "dump.vcd"
    lines = (tmp_path / "waves" / "hwattn.gtkw").read_text().splitlines()
    for group in GROUPS:
        opened, closed = (number for number, line in enumerate(lines) if line == f"-{group}")
        assert (lines[opened - 1], lines[closed - 1]) == ("@800200", "@1000200")
        assert closed > opened + 8
    shown = [line for line in lines if line[0] not in "@-[*"]
    assert len(shown) == len(set(shown)) > 150
    assert not set(shown) - variables(result.waveform)
    assert any(line.endswith("machine.dispatcher.pc[15:0]") for line in shown)
    assert any(line.endswith("machine.matrix.command__valid") for line in shown)
