"""Stripes: external memory whose words are cut into parts, each behind a port of its own; where the parts lie, and what a host writes there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwattn.spec.errors import RefusedError

PAGE_BYTES = 4096
"""Register EXTERNAL_PAGE counts pages of so many bytes; a burst crosses no boundary of one."""

UNIT_BYTES = 4


@dataclass(frozen=True)
class Stripes:
    """How the words of external memory lie in a buffer.

    Part p of word w, ``lanes / ports`` bytes, lies in stripe p, ``w * lanes / ports`` bytes from its start. Stripes follow one another.
    With one port the words simply follow one another.

    Parameters
    ----------
    lanes : int
        Bytes of a word.
    ports : int
        Parts of a word, 1, 2 or 4; a part has at least 4 bytes.
    words : int
        Of external memory.
    """

    lanes: int
    ports: int
    words: int

    @property
    def part_bytes(self) -> int:
        """Bytes of a word that one port moves."""
        return self.lanes // self.ports

    @property
    def stripe_bytes(self) -> int:
        """Bytes from one stripe to the next: whole pages."""
        return -(-self.words * self.part_bytes // PAGE_BYTES) * PAGE_BYTES

    @property
    def bytes(self) -> int:
        """Bytes of the whole buffer."""
        return self.ports * self.stripe_bytes

    def page(self, address: int) -> int:
        """Return EXTERNAL_PAGE for a buffer at a byte address.

        A machine's byte addresses are cut into as many parts as its words: what it asks for at address A lies in the first stripe at
        ``A / ports``.

        Raises
        ------
        RefusedError
            The buffer does not begin at a page.
        """
        if address % PAGE_BYTES:
            raise RefusedError(
                f"a buffer at 0x{address:x}",
                f"one at a multiple of {PAGE_BYTES} bytes",
                "give it the address of a whole page",
            )
        return address * self.ports // PAGE_BYTES

    def write(self, buffer: NDArray[np.uint8], first: int, units: NDArray[np.uint32]) -> None:
        """Write consecutive units of 32 bits of external memory, from unit `first` on, where they lie in a buffer.

        Parameters
        ----------
        buffer : ndarray of uint8, shape (bytes,)
        first : int
        units : ndarray of uint32, shape (n,)
        """
        in_part = self.part_bytes // UNIT_BYTES
        whole = buffer[: self.bytes].view("<u4").reshape(self.ports, -1)
        numbers = first + np.arange(len(units))
        words, rest = np.divmod(numbers, self.lanes // UNIT_BYTES)
        whole[rest // in_part, words * in_part + rest % in_part] = units
