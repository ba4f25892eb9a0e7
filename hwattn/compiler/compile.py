"""The compiler: a quantized model and a configuration to a program."""

from __future__ import annotations

import numpy as np

from hwattn.compiler.emitter import Emitter
from hwattn.compiler.memory import require
from hwattn.compiler.plan import Plan
from hwattn.compiler.prefetch import Labelled, schedule_fetches
from hwattn.compiler.spilled import SpilledLowering
from hwattn.compiler.task import IMAGE, TaskLowering, output_ports
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
    for task in range(model.tasks):
        entries.append(len(instructions))
        start = len(emitter.instructions)
        lowering = lower_task(emitter, Plan(model, task, config.lanes))
        outputs.extend(output_ports(lowering.context))
        macs.append(lowering.context.macs)
        scratch_words = lowering.scratch_words
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
        require(config, "external_words", external, f"weights and activations are {external} words")
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
        image=ImagePort(model.image, 0, model.image_shape, float(model.scales[model.image].flat[0])),
        outputs=tuple(outputs),
        scratch_words=largest_scratch,
        macs=tuple(macs),
    )
    verify_program(program)
    return program


def lower_task(emitter: Emitter, plan: Plan) -> TaskLowering | SpilledLowering:
    """Emit one task, with its activations on chip if they fit, else through external memory if there is one."""
    on_chip = TaskLowering(emitter, plan)
    if on_chip.fits or not emitter.config.external_words:
        on_chip.lower()
        return on_chip
    spilled = SpilledLowering(emitter, plan, on_chip.buffers[IMAGE].words)
    spilled.lower()
    return spilled


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
