"""What every lowering needs: the emitter, the task's plan, and where tensors lie."""

from __future__ import annotations

from dataclasses import dataclass, field

from hwattn.compiler.emitter import Emitter, Place
from hwattn.compiler.plan import Form, Plan, Span


@dataclass
class Context:
    """State of the lowering of one task.

    Parameters
    ----------
    emitter : Emitter
    plan : Plan
    places : dict
        Place of each stored tensor in each of its forms.
    scratch : dict of str to int
        Base address of each mixture's hidden activations.
    image : int
        Word address of the image.
    macs : int
        Multiply-accumulates so far: of the rows that the task's outputs need; padding and second passes do not count.
    """

    emitter: Emitter
    plan: Plan
    places: dict[tuple[str, Form], Place]
    scratch: dict[str, int]
    image: int
    macs: int = field(default=0)
    block: Span | None = None
    """Tokens to compute now, where a layer is computed block by block."""
    external: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Where keys and values lie in external memory, if they do: first word and stride, from token 0 or feature 0 on."""

    def span(self, name: str) -> Span:
        """Return the tokens of a tensor that are to be computed."""
        return self.block or self.plan.needed[name]

    def place(self, name: str, form: Form) -> Place:
        """Return where a tensor lies, seen through Rows."""
        stored, first = self.plan.root(name)
        place = self.places[stored, form]
        return Place(place.base, place.stride, place.origin - first)
