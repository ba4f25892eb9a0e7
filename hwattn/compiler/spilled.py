"""A task whose activations do not fit on chip: they live in external memory, and pass block by block.

Every step fetches a block of tokens into the activation memory, computes it there as if it were the whole, and stores the result; two sets of
buffers alternate, so that the next block is fetched while this one is computed. Attention fetches keys and values block by block into the
weight buffer, as if they were weights. The memory on chip does not depend on the number of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hwattn.compiler.emitter import Emitter
from hwattn.compiler.layout import ceil_div
from hwattn.compiler.lowering.attention import lower_attention
from hwattn.compiler.lowering.context import Context, ImagePlace
from hwattn.compiler.lowering.embedding import lower_patch_embed
from hwattn.compiler.lowering.linear import lower_linears
from hwattn.compiler.lowering.norm import lower_layer_norm
from hwattn.compiler.memory import Buffer, pack_buffers, require
from hwattn.compiler.operands import Place
from hwattn.compiler.plan import Form, Plan, Span, Step
from hwattn.compiler.task import image_bands, image_source, image_words
from hwattn.spec.errors import RefusedError
from hwattn.spec.isa import Fetch, Halt, Memory, Store
from hwattn.spec.quantized import (
    QuantizedAttention,
    QuantizedLayerNorm,
    QuantizedLinear,
    QuantizedMixture,
    QuantizedPatchEmbed,
)

SETS = 2
"""Sets of buffers that alternate."""

IMAGE_PART = 4
"""A band of the image takes one in so many words of the activation memory at most, if one is so low."""

Tensor = tuple[str, Form]


@dataclass(frozen=True)
class Traffic:
    """What a step reads and writes for a block of its tokens.

    Parameters
    ----------
    reads : dict of Tensor to int
        Tensors to fetch, and which of their tokens is token 0 of the step.
    writes : list of Tensor
        Tensors to store; one that is read too is updated in place.
    renamed : dict of Tensor to Tensor
        Results that take the buffer of an operand: the sum of a residual addition.
    """

    reads: dict[Tensor, int]
    writes: list[Tensor]
    renamed: dict[Tensor, Tensor]


class SpilledLowering:
    """Lowers one task through external memory.

    Parameters
    ----------
    emitter : Emitter
    plan : Plan
    outside : bool
        The image lies in external memory, in the last words, and passes in bands; else it stays at the start of the activation memory.
    """

    def __init__(self, emitter: Emitter, plan: Plan, outside: bool = False) -> None:
        self.emitter, self.plan, self.lanes = emitter, plan, emitter.config.lanes
        self.image = self._image() if outside else ImagePlace(0)
        for step in plan.steps:
            if isinstance(step.nodes[0], QuantizedMixture):
                name = step.nodes[0].name
                raise RefusedError(
                    f"{name}: a mixture of experts over {plan.rows[name]} tokens whose activations do not fit on chip",
                    "all tokens of a mixture in the activation memory",
                    "raise act_words, or make the image smaller",
                )
        self.traffic = [self._traffic(step) for step in plan.steps]
        self.kept = {(name, Form.INT16) for _, name in plan.outputs()}
        base = self.image.band.words if self.image.band else image_words(plan)
        places: dict[Tensor, Place] = {}
        for name, form in sorted(self.kept, key=lambda tensor: tensor[0]):
            start, stop = plan.needed[name]
            places[name, form] = Place(base, self._stride((name, form)), start)
            base += (stop - start) * self._stride((name, form))
        self.room = emitter.config.act_total_words - base
        if self.room <= 0:
            require(
                emitter.config,
                "act_words",
                ceil_div(base + 1, emitter.config.act_banks),
                "image and outputs stay on chip",
            )
        self.base = base
        self.homes = self._homes()
        self.context = Context(emitter, plan, places, {}, self.image)

    @property
    def scratch_words(self) -> int:
        """External words that the task writes: the last ones before the image."""
        return self._scratch_words

    def lower(self) -> int:
        """Emit the task; return its multiply-accumulates."""
        for step, traffic in zip(self.plan.steps, self.traffic, strict=True):
            self.emitter.label = step.nodes[0].name
            self._lower_step(step, traffic)
        self.emitter.label = "end"
        self.emitter.emit(Halt())
        return self.context.macs

    def _image(self) -> ImagePlace:
        """Give a band of the image its place: the highest that takes no more than a part of the activation memory."""
        bands = image_bands(self.plan)
        room = self.emitter.config.act_total_words // IMAGE_PART
        band = next((band for band in bands if band.words <= room), bands[-1])
        return ImagePlace(0, image_source(self.emitter.config, self.plan), band)

    def _traffic(self, step: Step) -> Traffic:
        """Find what a step reads and writes."""
        node, plan = step.nodes[0], self.plan
        form = Form.INT16 if isinstance(node, QuantizedLayerNorm) else Form.ROWS
        if isinstance(node, QuantizedLinear):
            form = plan.operand_form(node.inputs[0], node.input_bits)
        inputs = [] if isinstance(node, QuantizedPatchEmbed) else [(node.inputs[0], form)]
        reads = {}
        for name, wanted in inputs:
            stored, first = plan.root(name)
            reads[stored, wanted] = first
        if step.target:
            operand = next(name for name in step.target.inputs if name != plan.branch(step.target))
            stored, first = plan.root(operand)
            reads[stored, Form.INT16] = first
            target = step.target.name, Form.INT16
            return Traffic(reads, [target], {target: (stored, Form.INT16)})
        if isinstance(node, QuantizedPatchEmbed):
            return Traffic(reads, [(node.name, Form.INT16)], {})
        writes = [
            (one.name, each)
            for one in step.nodes
            for each in sorted(plan.forms[one.name], key=lambda one: one.name)
        ]
        return Traffic(reads, writes, {})

    def _stride(self, tensor: Tensor) -> int:
        """Words from one token (feature, in COLUMNS) of a tensor to the next, in external memory."""
        name, form = tensor
        if form is Form.COLUMNS:
            return ceil_div(self.plan.rows[name], self.lanes)
        return self.plan.stride(name, form)

    def _words(self, tensor: Tensor, tokens: int) -> int:
        """Words of so many tokens of a tensor in a buffer."""
        name, form = tensor
        if form is Form.COLUMNS:
            return ceil_div(tokens, self.lanes) * self.plan.features[name]
        return tokens * self._stride(tensor)

    def _homes(self) -> dict[Tensor, Place]:
        """Give every tensor that a step stores its place in external memory, for as long as some step needs it."""
        buffers: dict[Tensor, Buffer] = {}
        for index, (step, traffic) in enumerate(zip(self.plan.steps, self.traffic, strict=True)):
            for tensor in [*traffic.reads, *self._streamed(step)]:
                if tensor not in self.kept:
                    buffers[tensor].last = index
            for tensor in traffic.writes:
                if tensor not in self.kept:
                    start, stop = self.plan.needed[tensor[0]]
                    buffers[tensor] = Buffer(tensor[0], self._words(tensor, stop - start), index, index)
        placed = list(buffers.values())
        self._scratch_words = pack_buffers(placed, 0)
        end = self.image.source if self.image.band else self.emitter.config.external_words
        start = end - self._scratch_words
        return {
            tensor: Place(start + buffer.base, self._stride(tensor), self.plan.needed[tensor[0]][0])
            for tensor, buffer in buffers.items()
        }

    def _streamed(self, step: Step) -> list[Tensor]:
        """Keys and values of an attention."""
        node = step.nodes[0]
        if not isinstance(node, QuantizedAttention):
            return []
        return [
            (self.plan.root(node.inputs[1])[0], Form.ROWS),
            (self.plan.root(node.inputs[2])[0], Form.COLUMNS),
        ]

    def _blocks(self, step: Step, traffic: Traffic) -> list[Span]:
        """Cut a step's tokens into blocks of whole words of V^T that fit beside each other."""
        start, stop = self.plan.needed[step.target.name if step.target else step.nodes[0].name]
        tensors = {*traffic.reads, *traffic.writes} - set(traffic.renamed)
        per_word = SETS * sum(self._words(tensor, self.lanes) for tensor in tensors)
        words = self.room // per_word
        if not words:
            banks = self.emitter.config.act_banks
            require(
                self.emitter.config,
                "act_words",
                ceil_div(self.base + per_word, banks),
                f"{step.nodes[0].name} works on {self.lanes} tokens at once",
            )
        size = words * self.lanes
        return [(first, min(first + size, stop)) for first in range(start, stop, size)]

    def _lower_step(self, step: Step, traffic: Traffic) -> None:
        blocks = self._blocks(step, traffic)
        largest = max(stop - start for start, stop in blocks)
        tensors = [
            tensor
            for tensor in {**traffic.reads, **dict.fromkeys(traffic.writes)}
            if tensor not in traffic.renamed
        ]
        for name, form in self._streamed(step):
            home = self.homes[name, form]
            self.context.external[name] = home.base, home.stride
        for number, (start, stop) in enumerate(blocks):
            base = self.base + number % SETS * (self.room // SETS)
            for tensor in tensors:
                if tensor not in self.kept:
                    self.context.places[tensor] = self._buffer(
                        tensor, base, start + traffic.reads.get(tensor, 0), largest
                    )
                    base += self._words(tensor, largest)
            for result, operand in traffic.renamed.items():
                place = self.context.places[operand]
                self.context.places[result] = replace(place, origin=start)
            for tensor, first in traffic.reads.items():
                self._move(tensor, (start + first, stop + first), fetch=True)
            self.context.block = start, stop
            self._compute(step)
            self.context.block = None
            for tensor in traffic.writes:
                if tensor not in self.kept:
                    self._move(tensor, (start, stop), fetch=False)

    def _buffer(self, tensor: Tensor, base: int, origin: int, tokens: int) -> Place:
        stride = ceil_div(tokens, self.lanes) if tensor[1] is Form.COLUMNS else self._stride(tensor)
        return Place(base, stride, origin)

    def _compute(self, step: Step) -> None:
        node = step.nodes[0]
        match node:
            case QuantizedPatchEmbed():
                lower_patch_embed(self.context, node)
            case QuantizedLayerNorm():
                lower_layer_norm(self.context, node)
            case QuantizedAttention():
                lower_attention(self.context, node)
            case QuantizedLinear():
                linears = tuple(one for one in step.nodes if isinstance(one, QuantizedLinear))
                lower_linears(self.context, linears, step.target)

    def _move(self, tensor: Tensor, span: Span, fetch: bool) -> None:
        """Emit the Fetch or Store of a block of tokens."""
        home, buffer = self.homes[tensor], self.context.places[tensor]
        start, stop = span
        if tensor[1] is Form.COLUMNS:
            outside, inside = home.base + (start - home.origin) // self.lanes, buffer.base
            words, runs = ceil_div(stop - start, self.lanes), self.plan.features[tensor[0]]
        else:
            outside, inside = home.address(start), buffer.address(start)
            words, runs = home.stride, stop - start
        if fetch:
            self.emitter.emit(
                Fetch(
                    memory=Memory.ACT,
                    source=outside,
                    target=inside,
                    words=words,
                    runs=runs,
                    source_stride=home.stride,
                    target_stride=buffer.stride,
                )
            )
        else:
            self.emitter.emit(
                Store(
                    source=inside,
                    target=outside,
                    words=words,
                    runs=runs,
                    source_stride=buffer.stride,
                    target_stride=home.stride,
                )
            )
