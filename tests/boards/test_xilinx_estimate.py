"""The estimate for AMD's families, by Yosys itself."""

from pathlib import Path

import pytest
from amaranth.hdl import Assert, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwattn.boards.board import find_board
from hwattn.boards.flow import BuildResult
from hwattn.boards.xilinx_estimate import NETLIST, estimate
from hwattn.rtl.verilog import LINT_HEADER, to_verilog


class Product(wiring.Component):
    """A registered product, and an assertion as the machine has them."""

    a: In(18)
    b: In(18)
    p: Out(36)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += [self.p.eq(self.a.as_signed() * self.b.as_signed()), Assert(self.a != 3)]
        return m


@pytest.mark.parametrize("name", ["zcu102", "arty-a7-100t"])
def test_the_machines_verilog_is_read_and_counted(name: str, tmp_path: Path) -> None:
    (tmp_path / "core.v").write_text(LINT_HEADER + to_verilog(Product(), "hwattn"))
    result, stages = BuildResult(), []
    estimate(find_board(name), tmp_path, "core.v", result, stages.append)
    assert stages == ["estimate of resources"]
    assert [stage.name for stage in result.stages] == ["yosys"]
    used = {resource: usage.used for resource, usage in result.resources.items()}
    # the assertion leaves nothing; Yosys keeps the product's register outside the block, or in it
    assert (used["dsp"], used["lut"], used["ram"]) == (1, 0, 0) and used["ff"] <= 36
    assert not (tmp_path / NETLIST).exists()
