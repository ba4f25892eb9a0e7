"""The compiler: a quantized model and a configuration to a program."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwattn.compiler.emitter import Emitter
from hwattn.compiler.layout import ceil_div
from hwattn.compiler.memory import require
from hwattn.compiler.plan import Plan
from hwattn.compiler.prefetch import Labelled, schedule_fetches
from hwattn.compiler.spilled import IMAGE_PART, SpilledLowering
from hwattn.compiler.task import TaskLowering, image_source, image_words, output_ports
from hwattn.compiler.tokens import synchronize
from hwattn.compiler.verify import verify_program
from hwattn.spec.config import INSTRUCTION_BYTES, AcceleratorConfig
from hwattn.spec.encoding import encode, encode_instructions
from hwattn.spec.errors import RefusedError
from hwattn.spec.isa import Fetch, Instruction
from hwattn.spec.program import ImagePort, OutputPort, Program
from hwattn.spec.quantized import QuantizedLinear, QuantizedMixture, QuantizedModel


def compile_model(model: QuantizedModel, config: AcceleratorConfig) -> Program:
    """Compile a model for a machine.

    Parameters
    ----------
    model : QuantizedModel
    config : AcceleratorConfig

    Returns
    -------
    Program
        Proven by `verify_program`. All tasks share weights and parameters; only gates and heads are their own.

    Raises
    ------
    RefusedError
        If the model cannot be mapped, or does not fit: names the field of the configuration to raise, and by how much.
    """
    plans = [Plan(model, task, config.lanes) for task in range(model.tasks)]
    outside = image_outside(config, plans)
    emitter, tasks = _lower(plans, Emitter(config), outside)
    if emitter.overflowing:
        emitter, tasks = _lower(plans, Emitter(config, emitter.overflowing), outside)
    instructions: list[Instruction] = []
    labels: list[str] = []
    entries = []
    for task in tasks:
        entries.append(len(instructions))
        scratch = config.external_words - task.scratch_words, task.scratch_words
        scheduled = schedule_fetches(task.emitted, config, scratch)
        labels.extend(one.label for one in scheduled)
        instructions.extend(synchronize([one.instruction for one in scheduled], config, scratch))
    largest_scratch = max(task.scratch_words for task in tasks)
    weights = np.asarray(emitter.weights.contents(config), np.int8)
    program_words = 0
    if config.program_streamed:
        program_words = ceil_div(len(instructions) * INSTRUCTION_BYTES, config.lanes)
    external = len(weights) + program_words + largest_scratch
    if program_words + largest_scratch:
        require(
            config,
            "external_words",
            external,
            f"weights, activations, image and program are {external} words",
        )
    if config.program_streamed:
        instructions, weights = _streamed(instructions, weights, config)
    else:
        require(
            config, "program_words", len(instructions), f"the program has {len(instructions)} instructions"
        )
    _check_widths(instructions, labels)
    program = Program(
        name=model.name,
        config=config,
        instructions=tuple(instructions),
        labels=tuple(labels),
        entries=tuple(entries),
        weights=weights,
        params=np.asarray(emitter.params.contents(config), np.int64),
        norm_params=np.asarray(emitter.norm_params.contents(config), np.int64),
        activation=_activation(model),
        image=ImagePort(
            model.image,
            image_source(config, plans[0]) * config.lanes if outside else 0,
            model.image_shape,
            float(model.scales[model.image].flat[0]),
            outside,
        ),
        outputs=tuple(port for task in tasks for port in task.outputs),
        scratch_words=largest_scratch,
        macs=tuple(task.macs for task in tasks),
    )
    verify_program(program)
    return program


@dataclass(frozen=True)
class _Task:
    """What a task's lowering gives: its instructions before they are scheduled, its outputs, its external words that change, its work."""

    emitted: list[Labelled]
    outputs: list[OutputPort]
    scratch_words: int
    macs: int


def _lower(plans: list[Plan], emitter: Emitter, outside: bool) -> tuple[Emitter, list[_Task]]:
    """Emit all tasks."""
    tasks = []
    image_scratch = image_words(plans[0]) if outside else 0
    for plan in plans:
        start = len(emitter.instructions)
        lowering = lower_task(emitter, plan, outside)
        emitted = map(
            Labelled, *(each[start:] for each in (emitter.instructions, emitter.labels, emitter.chunks))
        )
        tasks.append(
            _Task(
                list(emitted),
                output_ports(lowering.context),
                lowering.scratch_words + image_scratch,
                lowering.context.macs,
            )
        )
    return emitter, tasks


def _streamed(
    instructions: list[Instruction], weights: NDArray[np.int8], config: AcceleratorConfig
) -> tuple[list[Instruction], NDArray[np.int8]]:
    """Put a program in front of the weights in external memory; return it, with the weights' new places, and all contents."""
    if len(instructions) > config.program_capacity:
        raise RefusedError(
            f"a program of {len(instructions)} instructions",
            f"{config.program_capacity} at most, whose numbers the machine can count",
            "take more rows or a larger weight_words, so that the program is shorter",
        )
    size = ceil_div(len(instructions) * INSTRUCTION_BYTES, config.lanes)
    moved = [
        replace(one, source=one.source + size)
        if isinstance(one, Fetch) and one.source < len(weights)
        else one
        for one in instructions
    ]
    _check_widths(moved, ["the program"] * len(moved))
    program = np.zeros((size, config.lanes), np.int8)
    encoded = encode_instructions(moved).reshape(-1).view(np.int8)
    program.reshape(-1)[: len(encoded)] = encoded
    return moved, np.concatenate((program, weights))


def image_outside(config: AcceleratorConfig, plans: list[Plan]) -> bool:
    """Whether the image goes into external memory: where a task fits on chip only without it, or on chip it would take the room of blocks."""
    if not config.external_words:
        return False
    crowded = [plan for plan in plans if not TaskLowering(Emitter(config), plan).fits]
    if crowded and image_words(crowded[0]) > config.act_total_words // IMAGE_PART:
        return True
    return any(TaskLowering(Emitter(config), plan, outside=True).fits for plan in crowded)


def lower_task(emitter: Emitter, plan: Plan, outside: bool = False) -> TaskLowering | SpilledLowering:
    """Emit one task, with its activations on chip if they fit, else through external memory if there is one."""
    on_chip = TaskLowering(emitter, plan, outside)
    lowering = (
        on_chip
        if on_chip.fits or not emitter.config.external_words
        else SpilledLowering(emitter, plan, outside)
    )
    lowering.lower()
    return lowering


def _activation(model: QuantizedModel) -> str:
    """Name of the one activation table; ReLU where there is none."""
    names = {node.activation for node in model.nodes if isinstance(node, QuantizedMixture)}
    names |= {
        node.activation for node in model.nodes if isinstance(node, QuantizedLinear) and node.activation
    }
    if len(names) > 1:
        raise RefusedError(
            f"the activations {', '.join(sorted(names))} in one model",
            "one activation: the machine holds one table",
            "use the same activation in all layers",
        )
    return names.pop() if names else "relu"


def _check_widths(instructions: list[Instruction], labels: list[str]) -> None:
    for instruction, label in zip(instructions, labels, strict=True):
        try:
            encode(instruction)
        except ValueError as error:
            raise RefusedError(
                f"{label}: {error}",
                "a layer whose sizes and addresses fit the fields of an instruction",
                "make the layer or the image smaller",
            ) from error
