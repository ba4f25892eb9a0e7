"""Memory of a processor that a machine in its fabric uses as external memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwattn.spec.errors import RefusedError
from hwattn.spec.stripes import Stripes


@dataclass(frozen=True)
class ExternalBuffer:
    """A buffer in the memory of the host's processor.

    Parameters
    ----------
    stripes : Stripes
        How words lie in it.
    address : int
        Its first byte as the machine's ports see it, at a page's beginning.
    memory : ndarray of uint8, optional
        The same bytes as the host sees them, without a cache between: then it writes there itself. None: through the machine.
    """

    stripes: Stripes
    address: int
    memory: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        if self.memory is not None and self.memory.nbytes < self.stripes.bytes:
            raise RefusedError(
                f"a buffer of {self.memory.nbytes:,} bytes",
                f"{self.stripes.bytes:,} bytes for {self.stripes.words:,} words of {self.stripes.lanes} bytes",
                "allocate that many, or build the machine with fewer external_words",
            )

    @property
    def page(self) -> int:
        """Value of register EXTERNAL_PAGE."""
        return self.stripes.page(self.address)
