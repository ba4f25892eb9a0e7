"""Verilog text: deterministic, without source paths, each distinct module once."""

import os
import re
import subprocess
import sys

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hwattn.rtl import verilog
from hwattn.spec.errors import RefusedError


class Leaf(wiring.Component):
    """b = a + step, a cycle later."""

    def __init__(self, step: int) -> None:
        super().__init__({"a": In(8), "b": Out(8)})
        self.step = step

    def elaborate(self, platform: object) -> Module:
        m = Module()
        with m.If(self.a[0]):
            m.d.sync += self.b.eq(self.a + self.step)
        return m


class Pair(wiring.Component):
    """Two leaves, one behind the other."""

    a: In(8)
    b: Out(8)

    def __init__(self, steps: tuple[int, int]) -> None:
        super().__init__()
        self.steps = steps

    def elaborate(self, platform: object) -> Module:
        m = Module()
        first, second = (Leaf(step) for step in self.steps)
        m.submodules += [first, second]
        m.d.comb += [first.a.eq(self.a), second.a.eq(first.b), self.b.eq(second.b)]
        return m


class Pairs(wiring.Component):
    """Pairs side by side."""

    def __init__(self, *steps: tuple[int, int]) -> None:
        super().__init__(
            {f"{port}{i}": flow(8) for i in range(len(steps)) for port, flow in (("a", In), ("b", Out))}
        )
        self.steps = steps

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for i, steps in enumerate(self.steps):
            m.submodules[f"pair_{i}"] = pair = Pair(steps)
            m.d.comb += [pair.a.eq(getattr(self, f"a{i}")), getattr(self, f"b{i}").eq(pair.b)]
        return m


def modules(text: str) -> int:
    return sum(line.startswith("module ") for line in text.splitlines())


def test_equal_trees_merge() -> None:
    text = verilog.to_verilog(Pairs((1, 1), (1, 1), (1, 1)), "top")
    assert modules(text) == 3  # top, one pair, one leaf
    assert text.count("\\top.pair_0 ") == 4  # its own name and three instances


def test_different_modules_stay() -> None:
    # leaves 1 and 2; pairs (1, 2) twice, (2, 1) and (1, 1)
    text = verilog.to_verilog(Pairs((1, 2), (2, 1), (1, 2), (1, 1)), "top")
    assert modules(text) == 1 + 3 + 2


def test_merging_twice_changes_nothing() -> None:
    text = verilog.to_verilog(Pairs((1, 2), (1, 2)), "top")
    assert verilog.merge_equal_modules(text) == text


def test_no_source_paths_or_attributes() -> None:
    text = verilog.to_verilog(Pairs((1, 1)), "top")
    assert "(*" not in text
    assert __file__ not in text


def test_same_text_in_every_process() -> None:
    program = (
        "import sys; from importlib.util import spec_from_file_location as s, module_from_spec as m\n"
        f"spec = s('t', {__file__!r}); t = m(spec); spec.loader.exec_module(t)\n"
        "sys.stdout.write(t.verilog.to_verilog(t.Pairs((1, 2), (2, 1)), 'top'))"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2)
    }
    assert len(texts) == 1


def test_plain_elaboratable_with_ports() -> None:
    from amaranth.lib.fifo import SyncFIFO  # a plain Elaboratable

    fifo = SyncFIFO(width=8, depth=3)
    text = verilog.to_verilog(fifo, "fifo", ports=[fifo.w_data, fifo.w_en, fifo.r_data, fifo.r_en])
    assert "module fifo(" in text
    assert isinstance(fifo.w_data, Signal)


@pytest.mark.filterwarnings("ignore:.*never used")
def test_missing_yosys_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RefusedError, match="pip install pyosys"):
        verilog.to_verilog(Leaf(1), "leaf")


class PartlyConstant(wiring.Component):
    """A port of which one part is constant, and the other driven under a condition."""

    p: Out(data.StructLayout({"low": 4, "high": 8}))
    a: In(4)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.p.high.eq(~0)
        with m.If(self.a[0]):
            m.d.comb += self.p.low.eq(self.a)
        return m


def test_constant_parts_are_set_from_the_start() -> None:
    text = verilog.to_verilog(PartlyConstant(), "part")
    assert "initial\n    p[11:4] = 8'hff;" in text
    assert "always @*\n    p[11:4]" not in text


CONTENTS = [*range(1, 700), *[0] * 300, 5, *[0] * 20]


class Table(wiring.Component):
    """A memory with contents, long runs of zeros among them."""

    address: In(10)
    data: Out(12)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(shape=12, depth=len(CONTENTS), init=CONTENTS)
        port = memory.read_port()
        m.d.comb += [port.addr.eq(self.address), self.data.eq(port.data)]
        return m


def test_contents_stand_in_short_blocks_and_zeros_in_loops() -> None:
    text = verilog.to_verilog(Table(), "table")
    blocks = re.findall(r"^  initial begin\n(.*?)^  end\n", text, re.MULTILINE | re.DOTALL)
    assert max(block.count("] = ") for block in blocks) <= 256
    found: dict[int, int] = {}
    for block in blocks:
        for first, stop in re.findall(r"for \(i = (\d+); i < (\d+); i = i \+ 1\)", block):
            found.update(dict.fromkeys(range(int(first), int(stop)), 0))
        found.update(
            {
                int(at): int(value, 10 if base == "d" else 16)
                for at, base, value in re.findall(r"\w\[(\d+)\] = 12'([dh])(\w+);", block)
            }
        )
    assert [found[index] for index in range(len(CONTENTS))] == CONTENTS
    assert text.count("] = ") < 720
