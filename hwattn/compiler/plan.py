"""What one task needs: rows of every tensor, form of every tensor, order of the steps, and how long buffers live."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from hwattn.compiler.layout import RowLayout
from hwattn.spec.errors import RefusedError
from hwattn.spec.graph import Add, Node, Rows
from hwattn.spec.quantized import (
    QuantizedAttention,
    QuantizedLayerNorm,
    QuantizedLinear,
    QuantizedMixture,
    QuantizedModel,
    QuantizedPatchEmbed,
)

Span = tuple[int, int]
"""Tokens start to stop - 1."""


class Form(Enum):
    """How a tensor lies in the activation memory."""

    ROWS = "int8, a token after the other"
    COLUMNS = "int8, a feature after the other (V^T)"
    WIDE = "16 bits in two digits, a token after the other"
    INT16 = "int16, a token after the other"


@dataclass(frozen=True)
class Step:
    """One emission: linear layers that share their operand, or a single node.

    `nodes` are computed; `target` is the Add whose residual stream receives the result, or None.
    """

    nodes: tuple[Node, ...]
    target: Add | None = None


@dataclass
class Plan:
    """The needs of one task.

    Parameters
    ----------
    model : QuantizedModel
    task : int
    lanes : int

    Attributes
    ----------
    rows : dict of str to int
        Tokens of every tensor.
    features : dict of str to int
        Features of every tensor.
    needed : dict of str to Span
        Tokens that the task's outputs depend on; a tensor that is not needed is absent.
    forms : dict of str to set of Form
        Forms in which a tensor is needed.
    groups : dict of str to int
        Features after which a tensor is padded to whole words.
    residual : set of str
        Tensors of the residual stream.
    steps : list of Step
    sixteen : set of str
        Results of attentions and linear layers that are stored in 16 bits for the layers that read them.
    """

    model: QuantizedModel
    task: int
    lanes: int
    rows: dict[str, int] = field(default_factory=dict)
    features: dict[str, int] = field(default_factory=dict)
    needed: dict[str, Span] = field(default_factory=dict)
    forms: dict[str, set[Form]] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    residual: set[str] = field(default_factory=set)
    steps: list[Step] = field(default_factory=list)
    sixteen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.sixteen = self.model.sixteen_bits()
        for name in sorted(self.sixteen):
            if not isinstance(self.model.by_name.get(name), QuantizedLinear | QuantizedAttention):
                raise RefusedError(
                    f"a layer that reads 16 bits of {name}, which is an embedding or the image",
                    "a LayerNorm, an attention or a linear layer there",
                    "let the layer read 8 bits",
                )
        self._shapes()
        self._demands()
        self._find_forms()
        self._schedule()

    def layout(self, name: str) -> RowLayout:
        """Return the layout of a tensor's int8 rows."""
        features = self.features[name]
        return RowLayout(features, self.groups.get(name, features), self.lanes)

    def scale(self, name: str) -> float:
        """Return the one scale of a tensor.

        Raises
        ------
        RefusedError
            If it has several.
        """
        scale = self.model.scales[name]
        if scale.size != 1:
            raise RefusedError(
                f"tensor {name} with {scale.size} scales",
                "one scale for a tensor that is no operand of attention",
                "quantize the model again",
            )
        return float(scale.flat[0])

    def stored_scale(self, name: str) -> float:
        """Return the real value of one integer of a tensor as its producer writes it for other layers."""
        return self.scale(name) / (256 if name in self.sixteen else 1)

    def operand_form(self, name: str, bits: int) -> Form:
        """Return the form in which a layer reads so many bits of a tensor."""
        if bits == 8:
            return Form.ROWS
        return Form.INT16 if self.source(name) in self.sixteen else Form.WIDE

    def stride(self, name: str, form: Form) -> int:
        """Words from one token of a tensor to the next, in every form but COLUMNS."""
        words = self.layout(name).words
        return words if form is Form.ROWS else 2 * words

    def root(self, name: str) -> tuple[str, int]:
        """Follow Rows to the tensor that is stored, and return its name and the first token."""
        node, first = self.model.by_name[name], 0
        while isinstance(node, Rows):
            first += node.start
            node = self.model.by_name[node.inputs[0]]
        return node.name, first

    def source(self, name: str) -> str:
        """Name of the stored tensor behind a tensor."""
        return self.root(name)[0] if name in self.model.by_name else name

    def consumers(self, name: str) -> list[Node]:
        """Needed nodes that read a stored tensor, through Rows or directly."""
        return [
            node
            for node in self.model.nodes
            if node.name in self.needed
            and not isinstance(node, Rows)
            and any(self.source(one) == name for one in node.inputs)
        ]

    def outputs(self) -> list[tuple[int, str]]:
        """Index and stored tensor of each of the task's outputs."""
        return [
            (index, self.source(output.tensor))
            for index, output in enumerate(self.model.outputs)
            if output.task in (None, self.task)
        ]

    def branch(self, add: Add) -> str:
        """Name of the operand of an Add that is not the residual stream."""
        branches = [name for name in add.inputs if self.source(name) not in self.residual]
        if len(branches) != 1:
            raise RefusedError(
                f"{add.name}: the sum of {' and '.join(add.inputs)}",
                "the residual stream plus the result of a linear layer or a mixture of experts",
                "only residual additions of a pre-norm transformer can be mapped",
            )
        return branches[0]

    def _shapes(self) -> None:
        for node in self.model.nodes:
            first = node.inputs[0]
            rows, features = self.rows.get(first, 0), self.features.get(first, 0)
            match node:
                case QuantizedPatchEmbed():
                    rows, features = node.init.shape
                case QuantizedLinear():
                    features = node.matrix.weight.shape[0]
                case QuantizedAttention():
                    features = self.features[node.inputs[2]]
                case QuantizedMixture():
                    features = node.experts[0].fc2.weight.shape[0]
                case Rows():
                    rows = node.stop - node.start
                case QuantizedLayerNorm() | Add():
                    pass
                case _:
                    raise RefusedError(
                        f"{node.name}: a node of kind {type(node).__name__}",
                        "a node of a quantized transformer encoder",
                        "quantize the model with this version of hwattn",
                    )
            self.rows[node.name], self.features[node.name] = rows, features
        for node in self.model.nodes:
            if isinstance(node, Add) or (isinstance(node, QuantizedPatchEmbed) and not self._in_bytes(node)):
                self.residual.add(node.name)
        for node in self.model.nodes:
            self.residual.update(self._begun(node))

    def _in_bytes(self, node: QuantizedPatchEmbed) -> bool:
        """An embedding that only linear layers read, so that it is no residual stream."""
        readers = [other for other in self.model.nodes if node.name in other.inputs]
        outputs = {output.tensor for output in self.model.outputs}
        return (
            bool(readers)
            and node.name not in outputs
            and all(isinstance(reader, QuantizedLinear) for reader in readers)
        )

    def _begun(self, node: Node) -> set[str]:
        """Linear layers whose results begin a residual stream: what `node` normalizes, or adds to first."""
        sources = [self.source(name) for name in node.inputs]
        makers = [self.model.by_name.get(name) for name in sources]
        if isinstance(node, Add) and self.residual.isdisjoint(sources):
            makers = makers[:1]
        elif not isinstance(node, QuantizedLayerNorm):
            return set()
        return {maker.name for maker in makers if isinstance(maker, QuantizedLinear)}

    def _demand(self, name: str, span: Span) -> None:
        if name in self.needed:
            old = self.needed[name]
            span = min(old[0], span[0]), max(old[1], span[1])
        self.needed[name] = span

    def _demands(self) -> None:
        for output in self.model.outputs:
            if output.task in (None, self.task):
                self._demand(output.tensor, (0, self.rows[output.tensor]))
        for node in reversed(self.model.nodes):
            if node.name not in self.needed:
                continue
            start, stop = self.needed[node.name]
            if isinstance(node, Rows):
                self._demand(node.inputs[0], (node.start + start, node.start + stop))
            elif isinstance(node, QuantizedAttention):
                self._demand(node.inputs[0], (start, stop))
                for name in node.inputs[1:]:
                    self._demand(name, (0, self.rows[name]))
            elif not isinstance(node, QuantizedPatchEmbed):
                for name in node.inputs:
                    self._demand(name, (start, stop))

    def _need_form(self, name: str, form: Form, group: int | None = None) -> None:
        stored, first = self.root(name)
        if form is Form.COLUMNS and first:
            raise RefusedError(
                f"{name}: the value of an attention starts at token {first} of another tensor",
                "a value tensor of its own",
                "compute the value from the tokens that attention sees",
            )
        self.forms.setdefault(stored, set()).add(form)
        if group is not None and self.groups.setdefault(stored, group) != group:
            raise RefusedError(
                f"tensor {stored}, cut into heads of {self.groups[stored]} and of {group} features",
                "one number of heads for a tensor",
                "give each attention its own query, key and value",
            )

    def _find_forms(self) -> None:
        for node in self.model.nodes:
            if node.name not in self.needed:
                continue
            if isinstance(node, QuantizedAttention):
                head_dim = self.features[node.name] // node.heads
                for name, form in zip(node.inputs, (Form.ROWS, Form.ROWS, Form.COLUMNS), strict=True):
                    self._need_form(name, form, self.features[name] // node.heads)
                self.groups[node.name] = head_dim
            elif isinstance(node, QuantizedLayerNorm):
                self._need_form(node.name, Form.ROWS)
            elif isinstance(node, QuantizedLinear):
                self._need_form(node.inputs[0], self.operand_form(node.inputs[0], node.input_bits))
                if node.name in self.residual:
                    self._need_form(node.name, Form.INT16)
            elif isinstance(node, QuantizedMixture):
                self._need_form(node.inputs[0], self.operand_form(node.inputs[0], node.input_bits))
                self._need_form(node.inputs[0], Form.WIDE)
        for _, name in self.outputs():
            self._need_form(name, Form.INT16)

    def _fused(self) -> dict[str, Add]:
        """Branches that are added to the residual stream, and where."""
        fused: dict[str, Add] = {}
        for node in self.model.nodes:
            if isinstance(node, Add) and node.name in self.needed:
                name = self.branch(node)
                branch = self.model.by_name[name]
                readers = self.consumers(name)
                is_output = any(name == tensor for _, tensor in self.outputs())
                if not isinstance(branch, QuantizedLinear | QuantizedMixture) or is_output:
                    raise RefusedError(
                        f"{node.name}: {name} is added to the residual stream",
                        "the result of a linear layer or a mixture of experts that nothing else reads",
                        "only residual additions of a pre-norm transformer can be mapped",
                    )
                if len(readers) != 1:
                    raise RefusedError(
                        f"{name} is read by {', '.join(reader.name for reader in readers)}",
                        f"{node.name} as its only reader",
                        "only residual additions of a pre-norm transformer can be mapped",
                    )
                fused[name] = node
        return fused

    def _schedule(self) -> None:
        fused = self._fused()
        done: set[str] = set()
        for node in self.model.nodes:
            if node.name not in self.needed or node.name in fused or node.name in done:
                continue
            if isinstance(node, Rows):
                continue
            if isinstance(node, Add):
                self.steps.append(Step((self.model.by_name[self.branch(node)],), node))
            elif isinstance(node, QuantizedMixture):
                raise RefusedError(
                    f"{node.name}: a mixture of experts whose result is not added to the residual stream",
                    "a residual addition right after it",
                    "only pre-norm transformers can be mapped",
                )
            elif isinstance(node, QuantizedLinear):
                group = self._siblings(node, lambda other: other.name not in fused)
                done.update(one.name for one in group)
                self.steps.append(Step(group))
            else:
                self.steps.append(Step((node,)))

    def _siblings(self, node: QuantizedLinear, free: Callable[[Node], bool]) -> tuple[Node, ...]:
        """Linear layers over the same rows of the same operand: keys first, since attention waits for all of them."""

        def rank(other: Node) -> int:
            readers = self.consumers(other.name)
            places = [
                reader.inputs.index(other.name)
                for reader in readers
                if isinstance(reader, QuantizedAttention) and other.name in reader.inputs
            ]
            return {1: 0, 0: 1}.get(min(places), 2) if places else 3

        group = [
            other
            for other in self.model.nodes
            if isinstance(other, QuantizedLinear)
            and other.inputs == node.inputs
            and other.input_bits == node.input_bits
            and self.needed.get(other.name) == self.needed[node.name]
            and free(other)
        ]
        return tuple(sorted(group, key=rank))
