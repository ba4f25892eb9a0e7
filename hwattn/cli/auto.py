"""The search of ``hwattn build --auto``: the machine with the most multipliers that fits, meets its clock, and holds the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hwattn.boards.board import Board
from hwattn.boards.flow import BuildResult
from hwattn.boards.flows import open_flow
from hwattn.boards.search import Shape, candidates, machine, next_limit
from hwattn.compiler import compile_model
from hwattn.rtl.system import SerialMachine
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.errors import FailedError, RefusedError
from hwattn.spec.program import Program
from hwattn.spec.quantized import QuantizedAttention, QuantizedLinear, QuantizedModel

ROOMY = {
    "weight_words": 1 << 18,
    "param_words": 1 << 16,
    "norm_words": 1 << 14,
    "program_words": 1 << 15,
    "act_words": 1 << 14,
    "acc_columns": 1 << 10,
    "row_words": 1 << 8,
}
"""Sizes of memories that a model is first compiled for, to see how much it needs."""


@dataclass(frozen=True)
class Trial:
    """One machine of the search, and what came of it."""

    rows: int
    lanes: int
    outcome: str


@dataclass(frozen=True)
class Found:
    """What the search ended with."""

    config: AcceleratorConfig
    program: Program | None
    result: BuildResult
    trials: list[Trial]


def search(
    board: Board,
    model: QuantizedModel | None,
    base: AcceleratorConfig,
    folder: Path,
    seed: int,
    tries: int,
    say: Callable[[str], None],
) -> Found:
    """Build machines, from the largest on, until one ends in a bitstream in `folder`.

    Parameters
    ----------
    board : Board
    model : QuantizedModel or None
        None for a machine with empty memories, of the sizes in `base`.
    base : AcceleratorConfig
        For every field that neither the array nor the model decides.
    folder : Path
    seed, tries : int
        Of place and route, for each machine.
    say : callable
        Told each machine and stage.

    Raises
    ------
    FailedError
        No machine fits.
    """
    flow = open_flow(board)
    limit = board.resources.dsp
    trials: list[Trial] = []
    for rows, lanes in candidates(board):
        if rows * lanes > limit:
            continue
        result = BuildResult()
        try:
            config = machine(base, rows, lanes, model_shape(model))
            program = None
            if model is not None:
                config, program = fitted(model, config)
            flow.check_size(board, config)
            say(f"{rows} rows, {lanes} lanes")
            hardware = SerialMachine(config, board.divisor, program, board.multiplier_style)
            result = flow.build(board, hardware, folder, seed, say, tries, result)
        except FailedError as error:
            trials.append(Trial(rows, lanes, error.found))
            say(error.found)
            if result.resources:
                limit = next_limit(rows * lanes, result)
            continue
        trials.append(Trial(rows, lanes, "fits and meets its clock"))
        return Found(config, program, result, trials)
    last = trials[-1]
    raise FailedError(
        f"no machine fits {board.name}; the smallest that was tried has {last.rows} rows and {last.lanes} lanes: {last.outcome}",
        "one that does",
        "take a larger board, a smaller model, or --empty",
    )


def model_shape(model: QuantizedModel | None) -> Shape:
    """Return what the search needs to know of a model; without one, of a small vision transformer."""
    if model is None:
        return Shape(dim=64, head_dim=32)
    dims = [node.matrix.weight.shape[1] for node in model.nodes if isinstance(node, QuantizedLinear)]
    heads = [node.heads for node in model.nodes if isinstance(node, QuantizedAttention)]
    return Shape(min(dims), max(1, min(dims) // max(heads, default=1)))


def fitted(model: QuantizedModel, config: AcceleratorConfig) -> tuple[AcceleratorConfig, Program]:
    """Return the configuration with memories as large as the model needs, and its program.

    Memories are not made so small that the work must be cut into more pieces than roomy ones need.
    """
    roomy = config.replace(**ROOMY)
    length = len(compile_model(model, roomy).instructions)
    shrunk = roomy
    for name in ("acc_columns", "row_words", "act_words"):
        shrunk = _shrunk(model, shrunk, name, length)
    program = compile_model(model, shrunk)
    shrunk = shrunk.replace(
        weight_words=len(program.weights),
        param_words=len(program.params),
        norm_words=len(program.norm_params),
        program_words=len(program.instructions),
    )
    return shrunk, compile_model(model, shrunk)


def _shrunk(model: QuantizedModel, config: AcceleratorConfig, name: str, length: int) -> AcceleratorConfig:
    """Return the configuration with the smallest power of two of a field for which the program is no longer than `length`."""
    while (size := getattr(config, name)) > 1:
        smaller = config.replace(**{name: size // 2})
        try:
            if len(compile_model(model, smaller).instructions) > length:
                break
        except RefusedError:
            break
        config = smaller
    return config
