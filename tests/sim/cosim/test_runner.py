"""The runner on a small design: both simulators, failures, assertions in the RTL, waveforms, the build cache."""

from pathlib import Path

import pytest
from amaranth.hdl import Assert, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwattn.rtl.verilog import to_verilog
from hwattn.sim.cosim import runner
from hwattn.spec.errors import FailedError, RefusedError

SIMULATORS = ["verilator", pytest.param("icarus", marks=pytest.mark.icarus)]


class Stage(wiring.Component):
    """b = a + 1, a cycle later."""

    a: In(8)
    b: Out(8)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += self.b.eq(self.a + 1)
        return m


class Pipeline(wiring.Component):
    """Two stages, and an assertion that the input never has one given value."""

    a: In(8)
    b: Out(8)

    def __init__(self, forbidden: int | None = None) -> None:
        super().__init__()
        self.forbidden = forbidden

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.first = first = Stage()
        m.submodules.second = second = Stage()
        m.d.comb += [first.a.eq(self.a), second.a.eq(first.b), self.b.eq(second.b)]
        if self.forbidden is not None:
            m.d.sync += Assert(self.a != self.forbidden)
        return m


def simulate(built: runner.Build, folder: Path, offset: int = 2, **options: bool) -> runner.RunResult:
    return runner.run(
        built,
        "tb_pipeline",
        folder,
        environment={"OFFSET": str(offset)},
        python_path=[Path(__file__).parent],
        **options,
    )


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_passes(simulator: runner.Simulator, tmp_path: Path) -> None:
    built = runner.build(to_verilog(Pipeline(), "pipeline"), "pipeline", simulator)
    result = simulate(built, tmp_path)
    assert [test.name for test in result.tests] == ["adds_its_depth"]
    assert result.tests[0].simulated_ns == pytest.approx(2590, abs=30)
    assert "adds_its_depth" in result.log.read_text()


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_failure_shows_the_log(simulator: runner.Simulator, tmp_path: Path) -> None:
    built = runner.build(to_verilog(Pipeline(), "pipeline"), "pipeline", simulator)
    with pytest.raises(FailedError, match="adds_its_depth") as raised:
        simulate(built, tmp_path, offset=3)
    assert "AssertionError" in str(raised.value)


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_failed_assertion_in_the_design(simulator: runner.Simulator, tmp_path: Path) -> None:
    built = runner.build(to_verilog(Pipeline(forbidden=7), "pipeline"), "pipeline", simulator)
    with pytest.raises(FailedError):
        simulate(built, tmp_path)


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_waveform(simulator: runner.Simulator, tmp_path: Path) -> None:
    built = runner.build(to_verilog(Pipeline(), "pipeline"), "pipeline", simulator, waves=True)
    waveform = simulate(built, tmp_path, waves=True).waveform
    assert waveform is not None
    assert waveform.stat().st_size > 500


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_refuses_broken_verilog_and_keeps_nothing(simulator: runner.Simulator) -> None:
    broken = "module broken(input clk); assign nothing = ; endmodule\n"
    for _ in range(2):
        with pytest.raises(FailedError, match="does not accept the Verilog of broken"):
            runner.build(broken, "broken", simulator)


def test_missing_test_module_is_a_failure(tmp_path: Path) -> None:
    built = runner.build(to_verilog(Pipeline(), "pipeline"), "pipeline")
    with pytest.raises(FailedError, match="tb_nowhere"):
        runner.run(built, "tb_nowhere", tmp_path)


def test_second_build_is_the_first_one() -> None:
    text = to_verilog(Pipeline(), "pipeline")
    built = runner.build(text, "pipeline")
    made = (built.directory / "pipeline").stat().st_mtime_ns
    assert runner.build(text, "pipeline") == built
    assert (built.directory / "pipeline").stat().st_mtime_ns == made
    assert runner.build(text + "// other\n", "pipeline").directory != built.directory


def test_refuses_a_simulator_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    for simulator in runner.SIMULATORS:
        with pytest.raises(RefusedError, match="hwattn check"):
            runner.build("module m; endmodule", "m", simulator)
