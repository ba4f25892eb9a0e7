"""The compiler: a quantized model and a configuration to a program."""

from __future__ import annotations

import numpy as np

from hwattn.compiler.emitter import Emitter
from hwattn.compiler.memory import require
from hwattn.compiler.plan import Plan
from hwattn.compiler.prefetch import Labelled, schedule_fetches
from hwattn.compiler.spilled import IMAGE_PART, SpilledLowering
from hwattn.compiler.task import TaskLowering, image_source, image_words, output_ports
from hwattn.compiler.tokens import synchronize
from hwattn.compiler.verify import verify_program
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.encoding import encode
from hwattn.spec.errors import RefusedError
from hwattn.spec.isa import Instruction
from hwattn.spec.program import ImagePort, Program
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
    emitter = Emitter(config)
    instructions: list[Instruction] = []
    labels: list[str] = []
    entries, outputs, macs, largest_scratch = [], [], [], 0
    plans = [Plan(model, task, config.lanes) for task in range(model.tasks)]
    outside = image_outside(config, plans)
    image_scratch = image_words(plans[0]) if outside else 0
    for plan in plans:
        entries.append(len(instructions))
        start = len(emitter.instructions)
        lowering = lower_task(emitter, plan, outside)
        outputs.extend(output_ports(lowering.context))
        macs.append(lowering.context.macs)
        scratch_words = lowering.scratch_words + image_scratch
        scratch = config.external_words - scratch_words, scratch_words
        largest_scratch = max(largest_scratch, scratch_words)
        emitted = map(
            Labelled, *(each[start:] for each in (emitter.instructions, emitter.labels, emitter.chunks))
        )
        scheduled = schedule_fetches(list(emitted), config, scratch)
        labels.extend(one.label for one in scheduled)
        instructions.extend(synchronize([one.instruction for one in scheduled], config, scratch))
    external = emitter.weights.size + largest_scratch
    if largest_scratch:
        require(config, "external_words", external, f"weights, activations and image are {external} words")
    require(config, "program_words", len(instructions), f"the program has {len(instructions)} instructions")
    _check_widths(instructions, labels)
    program = Program(
        name=model.name,
        config=config,
        instructions=tuple(instructions),
        labels=tuple(labels),
        entries=tuple(entries),
        weights=np.asarray(emitter.weights.contents(config), np.int8),
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
        outputs=tuple(outputs),
        scratch_words=largest_scratch,
        macs=tuple(macs),
    )
    verify_program(program)
    return program


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
