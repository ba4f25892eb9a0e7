"""The search of ``--auto``: which machines are tried, in which order, and memories as large as the model needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from random_models import vit

from hwattn.boards.board import Board, find_board
from hwattn.boards.flow import Attempt, BuildResult, Usage
from hwattn.boards.nextpnr import Nextpnr
from hwattn.boards.search import MISSED_CLOCK_STEP, candidates, next_limit
from hwattn.cli import auto
from hwattn.compiler import compile_model
from hwattn.rtl.system import SerialMachine
from hwattn.sim.model.executor import Executor
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.errors import FailedError, RefusedError

BOARD = find_board("ulx3s-85f")
BASE = AcceleratorConfig()

pytestmark = pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")


@pytest.fixture(scope="module")
def model():
    return vit(0, image=(1, 4, 4), dim=16, heads=2, hidden=16, blocks="m", experts=2, expert_hidden=8, k=1)


class Tools:
    """Tools of a device that holds so many multipliers, and meets its clock with so many."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fits: int, meets: int) -> None:
        self.fits, self.meets = fits, meets
        self.tried: list[int] = []
        tools = self

        def build(
            flow: Nextpnr,
            board: Board,
            machine: SerialMachine,
            folder: Path,
            seed: int,
            progress: object,
            tries: int,
            result: BuildResult,
        ) -> BuildResult:
            return tools.build(machine.config.multipliers, result)

        monkeypatch.setattr(Nextpnr, "build", build)

    def build(self, multipliers: int, result: BuildResult) -> BuildResult:
        self.tried.append(multipliers)
        result.resources["lut"] = Usage(multipliers * 100, self.fits * 100)
        if multipliers > self.fits:
            raise FailedError("too large", "a design that fits", "lower rows")
        result.attempts.append(Attempt(1, "", 20.0 if multipliers > self.meets else 30.0, {"clk": 30.0}, []))
        if multipliers > self.meets:
            raise FailedError("too slow", "a design that meets its clock", "lower rows")
        return result


def test_the_largest_array_comes_first() -> None:
    shapes = candidates(BOARD)
    products = [rows * lanes for rows, lanes in shapes]
    assert products == sorted(products, reverse=True)
    assert products[0] == BOARD.resources.dsp == 156
    assert shapes[0] == (39, 4)
    assert shapes.index((8, 16)) < shapes.index((32, 4)), "of equal arrays the squarest"


def test_ends_with_the_first_machine_that_fits_and_is_fast_enough(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model
) -> None:
    tools = Tools(monkeypatch, fits=100, meets=60)
    said: list[str] = []
    found = auto.search(BOARD, model, BASE, tmp_path, 1, 2, said.append)
    assert tools.tried[0] == 156
    assert tools.tried == sorted(tools.tried, reverse=True)
    assert len(tools.tried) <= 5, "it takes large steps"
    assert 60 * MISSED_CLOCK_STEP < found.config.multipliers <= 60
    assert [trial.outcome for trial in found.trials][-1] == "fits and meets its clock"
    assert {"too large", "too slow"} <= {trial.outcome for trial in found.trials}
    assert found.program is not None
    assert found.program.config == found.config


def test_says_what_stood_in_the_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model) -> None:
    Tools(monkeypatch, fits=3, meets=3)
    with pytest.raises(
        FailedError, match="no machine fits ulx3s-85f; the smallest that was tried has .*too large"
    ):
        auto.search(BOARD, model, BASE, tmp_path, 1, 2, lambda text: None)


def test_an_empty_machine_keeps_its_memories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Tools(monkeypatch, fits=200, meets=200)
    found = auto.search(BOARD, None, BASE, tmp_path, 1, 1, lambda text: None)
    assert found.program is None
    assert found.config.weight_words == BASE.weight_words


def test_memories_are_as_large_as_the_model_needs(model) -> None:
    config, program = auto.fitted(model, BASE.replace(rows=4, lanes=8))
    assert config.weight_words == len(program.weights)
    assert config.program_words == len(program.instructions)
    with pytest.raises(RefusedError, match="act_words"):
        compile_model(model, config.replace(act_words=config.act_words // 2))
    image = np.zeros((1, *model.image_shape), np.float32)
    roomy = compile_model(model, config.replace(**auto.ROOMY))
    assert len(program.instructions) == len(roomy.instructions), "no work was cut into more pieces"
    for task in range(len(program.entries)):
        small, large = Executor(program).run(image, task).integers, Executor(roomy).run(image, task).integers
        assert all(np.array_equal(small[name], large[name]) for name in large)


@pytest.mark.parametrize(
    ("used", "attempts", "expected"), [(200, 0, 47), (100, 0, 75), (50, 1, 75), (101, 0, 94)]
)
def test_the_next_machine_is_smaller_by_what_was_missing(used: int, attempts: int, expected: int) -> None:
    result = BuildResult({"lut": Usage(used, 100)})
    result.attempts = [Attempt(1, "", 20.0, {}, [])] * attempts
    assert next_limit(100, result) == expected
