"""One task whose activations fit on chip: gives tensors their places in the activation memory, then lowers step by step.

Where external memory holds the weights, the widest tensors, between the two layers of an MLP, may be made and used up in blocks of tokens.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np

from hwattn.compiler.emitter import Emitter
from hwattn.compiler.layout import ceil_div, int16_words
from hwattn.compiler.lowering.attention import lower_attention
from hwattn.compiler.lowering.context import Band, Context, ImagePlace
from hwattn.compiler.lowering.embedding import lower_patch_embed
from hwattn.compiler.lowering.linear import lower_linears
from hwattn.compiler.lowering.mixture import hidden_words, lower_mixture
from hwattn.compiler.lowering.norm import lower_layer_norm
from hwattn.compiler.memory import Buffer, place_buffers, try_place_buffers
from hwattn.compiler.operands import Place
from hwattn.compiler.plan import Form, Plan, Step
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.errors import RefusedError
from hwattn.spec.graph import Add
from hwattn.spec.isa import Copy, Halt, Memory
from hwattn.spec.program import OutputPort
from hwattn.spec.quantized import (
    QuantizedAttention,
    QuantizedLayerNorm,
    QuantizedLinear,
    QuantizedMixture,
    QuantizedPatchEmbed,
)

IMAGE = "image"
RESIDUAL = "residual"

BLOCKS = (1, 2, 3, 4, 6, 8)
"""Numbers of blocks to try: with more, weights are fetched more often."""


class TaskLowering:
    """Lowers one task: gives tensors their places, then emits step by step.

    Parameters
    ----------
    emitter : Emitter
    plan : Plan
    outside : bool
        The image lies in external memory, in the last words, and passes in bands as high as fit.

    Attributes
    ----------
    fits : bool
        Whether the activation memory holds all that lives at the same time.
    blocks : int
        Blocks of tokens in which the tensors of `passing` are made and used up.
    """

    def __init__(self, emitter: Emitter, plan: Plan, outside: bool = False) -> None:
        self.emitter, self.plan = emitter, plan
        self.lanes = emitter.config.lanes
        self.last_use = self._last_uses()
        self.stream = self._residual_buffers()
        self.passing = self._passing() if emitter.config.external_words else {}
        bands: list[Band | None] = [*image_bands(plan)] if outside else [None]
        for blocks, band in itertools.product(BLOCKS if self.passing else BLOCKS[:1], bands):
            self.blocks = blocks
            self.buffers = {buffer.name: buffer for buffer in self._buffers(band)}
            self.fits = try_place_buffers(list(self.buffers.values()), emitter.config)
            if self.fits:
                break
        source = image_source(emitter.config, plan) if outside else 0
        image = ImagePlace(self.buffers[IMAGE].base, source, band)
        self.context = Context(emitter, plan, self._places(), self._scratch(), image)

    def lower(self) -> int:
        """Emit the task; return its multiply-accumulates.

        Raises
        ------
        RefusedError
            The activation memory is too small; names the value of `act_words` that serves.
        """
        if not self.fits:
            place_buffers(list(self.buffers.values()), self.emitter.config)
        steps = iter(self.plan.steps)
        for step in steps:
            if self.blocks > 1 and step.nodes[0].name in self.passing:
                self._lower_blocks(step, next(steps))
            else:
                self._lower_step(step)
        self.emitter.label = "end"
        self.emitter.emit(Halt())
        return self.context.macs

    @property
    def scratch_words(self) -> int:
        """External words that the task writes."""
        return 0

    def _passing(self) -> dict[str, Form]:
        """Find the tensors that one layer makes and the next one alone reads, to add its result in place; and their form."""
        found = {}
        for step, following in itertools.pairwise(self.plan.steps):
            name = step.nodes[0].name
            forms = self.plan.forms.get(name, set())
            if (
                len(step.nodes) == len(following.nodes) == len(forms) == 1
                and step.target is None
                and following.target is not None
                and all(isinstance(one.nodes[0], QuantizedLinear) for one in (step, following))
                and self.plan.source(following.nodes[0].inputs[0]) == name
                and self.last_use[name] == self.plan.steps.index(following)
                and self.plan.needed[name] == self.plan.needed[following.nodes[0].name]
                and name not in self.plan.residual
                and self._in_place(following.target)
            ):
                found[name] = next(iter(forms))
        return found

    def _in_place(self, add: Add) -> bool:
        """Whether the result of an Add takes the buffer of its operand."""
        return self.stream[add.name][0] == self.stream[self.plan.root(self._operand(add))[0]][0]

    def _lower_blocks(self, step: Step, following: Step) -> None:
        """Lower two layers block by block of their tokens."""
        name = step.nodes[0].name
        key = name, self.passing[name]
        start, stop = self.plan.needed[name]
        size = self._passing_rows(name)
        for first in range(start, stop, size):
            self.context.block = first, min(first + size, stop)
            self.context.places[key] = replace(self.context.places[key], origin=first)
            self._lower_step(step)
            self._lower_step(following)
        self.context.block = None

    def _passing_rows(self, name: str) -> int:
        """Tokens of a block: whole tiles."""
        start, stop = self.plan.needed[name]
        rows = self.emitter.config.rows
        return ceil_div(ceil_div(stop - start, self.blocks), rows) * rows

    def _lower_step(self, step: Step) -> None:
        self.emitter.label = step.target.name if step.target else step.nodes[0].name
        if step.target:
            self._copy_residual(step.target)
            self.emitter.label = step.nodes[0].name
        node = step.nodes[0]
        match node:
            case QuantizedPatchEmbed():
                lower_patch_embed(self.context, node)
            case QuantizedLayerNorm():
                lower_layer_norm(self.context, node)
            case QuantizedLinear():
                linears = tuple(one for one in step.nodes if isinstance(one, QuantizedLinear))
                lower_linears(self.context, linears, step.target)
            case QuantizedAttention():
                lower_attention(self.context, node)
            case QuantizedMixture() if step.target:
                lower_mixture(self.context, node, step.target)

    def _operand(self, add: Add) -> str:
        """The residual stream's tensor that an Add reads."""
        branch = self.plan.branch(add)
        return next(name for name in add.inputs if name != branch)

    def _last_uses(self) -> dict[str, int]:
        """Last step that reads each stored tensor; outputs are needed to the end."""
        last: dict[str, int] = {}
        for index, step in enumerate(self.plan.steps):
            names = [name for node in step.nodes for name in node.inputs]
            if step.target:
                names.append(self._operand(step.target))
            for name in names:
                last[self.plan.source(name)] = index
        for _, name in self.plan.outputs():
            last[name] = len(self.plan.steps)
        return last

    def _residual_buffers(self) -> dict[str, tuple[str, int]]:
        """Buffer of each tensor of the residual stream, and the token of the buffer that is its token 0.

        An addition happens in place unless its operand is still needed afterwards.
        """
        stream: dict[str, tuple[str, int]] = {}
        for index, step in enumerate(self.plan.steps):
            for node in step.nodes if step.target is None else ():
                if node.name in self.plan.residual:
                    stream[node.name] = f"{RESIDUAL}:{node.name}", 0
            if step.target:
                stored, first = self.plan.root(self._operand(step.target))
                buffer, offset = stream[stored]
                if self.last_use[stored] > index:
                    stream[step.target.name] = f"{RESIDUAL}:{step.target.name}", 0
                else:
                    stream[step.target.name] = buffer, offset + first
        return stream

    def _copy_residual(self, add: Add) -> None:
        """Copy the operand of an Add that cannot happen in place."""
        operand = self._operand(add)
        if self._in_place(add):
            return
        start, stop = self.plan.needed[add.name]
        source = self.context.place(operand, Form.INT16)
        target = self.context.place(add.name, Form.INT16)
        self.emitter.label = add.name
        self.emitter.emit(
            Copy(
                memory=Memory.ACT,
                source=source.address(start),
                target=target.address(start),
                words=(stop - start) * target.stride,
            )
        )

    def _form_words(self, name: str, form: Form) -> tuple[int, int]:
        """Stride and number of words of a tensor that is not part of the residual stream."""
        start, stop = self.plan.needed[name]
        if form is Form.COLUMNS:
            stride = ceil_div(stop - start, self.lanes)
            return stride, stride * self.plan.features[name]
        stride = self.plan.stride(name, form)
        rows = stop - start
        if name in self.passing and self.blocks > 1:
            rows = min(rows, self._passing_rows(name))
        return stride, stride * rows

    def _stored(self) -> list[tuple[int, str, Form]]:
        """Step, name and form of every tensor that has a buffer of its own."""
        found = []
        for index, step in enumerate(self.plan.steps):
            if step.target:
                continue
            for node in step.nodes:
                if node.name in self.plan.residual:
                    continue
                forms = self.plan.forms[node.name]
                allowed = _forms_of(node)
                if not forms <= allowed or (Form.INT16 in forms and len(forms) > 1):
                    raise RefusedError(
                        f"{node.name} is needed as {' and as '.join(sorted(form.value for form in forms))}",
                        f"{' or '.join(sorted(form.value for form in allowed))}, as int16 alone",
                        "take outputs from linear layers that nothing else reads, and let all readers of a tensor read 16 bits",
                    )
                found += [(index, node.name, form) for form in sorted(forms, key=lambda one: one.name)]
        return found

    def _buffers(self, band: Band | None) -> list[Buffer]:
        buffers = [self._image_buffer(band)]
        for index, step in enumerate(self.plan.steps):
            for made in [step.target.name] if step.target else [node.name for node in step.nodes]:
                if made not in self.stream:
                    continue
                name, _ = self.stream[made]
                if all(buffer.name != name for buffer in buffers):
                    words = int16_words(self.plan.features[made], self.lanes) * self.plan.rows[made]
                    last = max(
                        self.last_use.get(one, index) for one, (own, _) in self.stream.items() if own == name
                    )
                    buffers.append(Buffer(name, words, index, last))
            if isinstance(step.nodes[0], QuantizedMixture):
                start, stop = self.plan.needed[step.nodes[0].name]
                words = hidden_words(step.nodes[0], stop - start, self.lanes)
                buffers.append(Buffer(f"hidden:{step.nodes[0].name}", words, index, index))
        residuals = frozenset(name for name, _ in self.stream.values())
        for index, name, form in self._stored():
            _, words = self._form_words(name, form)
            buffers.append(
                Buffer(
                    f"{form.name}:{name}", words, index, self.last_use[name], residuals | self._rivals(name)
                )
            )
        return buffers

    def _image_buffer(self, band: Band | None) -> Buffer:
        """The whole image, which is there from the start and stays, or a band of it, as long as patches are embedded."""
        if band is None:
            return Buffer(IMAGE, image_words(self.plan), -1, len(self.plan.steps))
        embeddings = [
            index
            for index, step in enumerate(self.plan.steps)
            if isinstance(step.nodes[0], QuantizedPatchEmbed)
        ]
        return Buffer(IMAGE, band.words, embeddings[0], embeddings[-1])

    def _rivals(self, name: str) -> frozenset[str]:
        """Keys and values that stream while this query is loaded."""
        rivals = set()
        for node in self.plan.consumers(name):
            if isinstance(node, QuantizedAttention) and self.plan.source(node.inputs[0]) == name:
                rivals.add(f"{Form.ROWS.name}:{self.plan.source(node.inputs[1])}")
                rivals.add(f"{Form.COLUMNS.name}:{self.plan.source(node.inputs[2])}")
        return frozenset(rivals)

    def _places(self) -> dict[tuple[str, Form], Place]:
        places = {}
        for name, (buffer, first) in self.stream.items():
            stride = int16_words(self.plan.features[name], self.lanes)
            places[name, Form.INT16] = Place(self.buffers[buffer].base, stride, -first)
        for _, name, form in self._stored():
            stride, _ = self._form_words(name, form)
            base = self.buffers[f"{form.name}:{name}"].base
            places[name, form] = Place(base, stride, self.plan.needed[name][0])
        return places

    def _scratch(self) -> dict[str, int]:
        return {
            name.removeprefix("hidden:"): buffer.base
            for name, buffer in self.buffers.items()
            if name.startswith("hidden:")
        }


def image_words(plan: Plan) -> int:
    """Words of the image."""
    return ceil_div(int(np.prod(plan.model.image_shape)), plan.lanes)


def image_source(config: AcceleratorConfig, plan: Plan) -> int:
    """First word of an image that lies in external memory: at its end."""
    return config.external_words - image_words(plan)


def image_bands(plan: Plan) -> list[Band]:
    """Bands of whole rows of patches that an image can pass in, the highest first."""
    heights = {node.weight.shape[2] for node in plan.model.nodes if isinstance(node, QuantizedPatchEmbed)}
    unit, height = math.lcm(*heights), plan.model.image_shape[1]
    counts = {ceil_div(ceil_div(height, unit), bands) for bands in range(1, ceil_div(height, unit) + 1)}
    return [Band(plan.model.image_shape, count * unit, plan.lanes) for count in sorted(counts, reverse=True)]


def _forms_of(node: object) -> set[Form]:
    """Forms in which a node can write its result."""
    if isinstance(node, QuantizedLinear):
        return {Form.ROWS, Form.COLUMNS, Form.INT16}
    if isinstance(node, QuantizedLayerNorm):
        return {Form.ROWS, Form.WIDE}
    return {Form.ROWS, Form.INT16}


def output_ports(context: Context) -> list[OutputPort]:
    """Return where the host reads the outputs of a task that has been lowered."""
    plan, ports = context.plan, []
    for index, _ in plan.outputs():
        output = plan.model.outputs[index]
        name = output.tensor
        place = context.place(name, Form.INT16)
        rows, columns = plan.rows[name], plan.features[name]
        if int(np.prod(output.shape)) != rows * columns:
            raise RefusedError(
                f"output {output.name} of shape {output.shape}",
                f"{rows * columns} elements, {rows} tokens of {columns} features",
                "correct the output's shape",
            )
        scale = plan.scale(plan.source(name))
        ports.append(
            OutputPort(
                output.name,
                plan.task,
                place.address(0),
                place.stride,
                rows,
                columns,
                scale,
                output.shape,
            )
        )
    return ports
