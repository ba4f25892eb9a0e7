"""What every lowering needs: the emitter, the task's plan, and where tensors lie."""

from __future__ import annotations

from dataclasses import dataclass, field

from hwattn.compiler.emitter import Emitter, Place
from hwattn.compiler.plan import Form, Plan


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

    def place(self, name: str, form: Form) -> Place:
        """Return where a tensor lies, seen through Rows."""
        stored, first = self.plan.root(name)
        place = self.places[stored, form]
        return Place(place.base, place.stride, place.origin - first)
