"""What every lowering needs: the emitter, the task's plan, and where tensors lie."""

from __future__ import annotations

from dataclasses import dataclass, field

from hwattn.compiler.emitter import Emitter
from hwattn.compiler.layout import ceil_div
from hwattn.compiler.operands import Place
from hwattn.compiler.plan import Form, Plan, Span


@dataclass(frozen=True)
class Band:
    """Rows of the image side by side in the activation memory, channel by channel: what is held at once of an image in external memory.

    Parameters
    ----------
    shape : tuple of int
        Channels, height and width of the image.
    rows : int
        Rows of it.
    lanes : int
    """

    shape: tuple[int, int, int]
    rows: int
    lanes: int

    @property
    def _aligned(self) -> bool:
        """Whether every band of every channel starts and ends with a word."""
        _, height, width = self.shape
        return self.rows * width % self.lanes == 0 and height * width % self.lanes == 0

    @property
    def stride(self) -> int:
        """Bytes from one channel to the next; a byte keeps its place within a word."""
        _, height, width = self.shape
        if self._aligned:
            return self.rows * width
        return (ceil_div(self.rows * width, self.lanes) + 1) * self.lanes + height * width % self.lanes

    @property
    def words(self) -> int:
        """Words that a band takes."""
        channels, _, width = self.shape
        last = (channels - 1) * self.stride + self.rows * width
        return last // self.lanes if self._aligned else ceil_div(last + self.lanes - 1, self.lanes)


@dataclass(frozen=True)
class ImagePlace:
    """Where the image lies.

    Parameters
    ----------
    base : int
        Word of the activation memory: of the image, or of a band of it.
    source : int
        Word of external memory, of an image that passes in bands.
    band : Band or None
    """

    base: int
    source: int = 0
    band: Band | None = None


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
    image : ImagePlace
    macs : int
        Multiply-accumulates so far: of the rows that the task's outputs need; padding and second passes do not count.
    """

    emitter: Emitter
    plan: Plan
    places: dict[tuple[str, Form], Place]
    scratch: dict[str, int]
    image: ImagePlace
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
