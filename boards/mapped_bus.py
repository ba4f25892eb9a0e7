"""A machine's bus mapped into memory: the AXI4-Lite port of a Zynq, through UIO or PYNQ."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from hwattn.spec.errors import RefusedError
from hwattn.spec.link import UNIT_BYTES
from hwattn.spec.registers import AXI_ADDRESS, AXI_BYTES, AXI_CSR_BYTES, AXI_DATA, REGION_SHIFT, Region


class Window(Protocol):
    """32-bit words by index: a mapped UIO device, or ``pynq.MMIO(base, AXI_BYTES).array``."""

    def __getitem__(self, index: int) -> int: ...

    def __setitem__(self, index: int, value: int) -> None: ...


class MappedBus:
    """Reads and writes units through the window of ``rtl.axi_lite``.

    Parameters
    ----------
    window : Window
        `AXI_BYTES` long.

    Notes
    -----
    Registers lie in the window. Other units are reached through two of its words, the address and the data, after which the address
    counts up.
    """

    def __init__(self, window: Window) -> None:
        self._window = window

    def write(self, target: int, units: Sequence[int]) -> None:
        """Write consecutive units from address `target` on."""
        if self._direct(target, len(units)):
            for index, unit in enumerate(units):
                self._window[target + index] = int(unit)
            return
        self._window[AXI_ADDRESS // UNIT_BYTES] = target
        for unit in units:
            self._window[AXI_DATA // UNIT_BYTES] = int(unit)

    def read(self, source: int, count: int) -> list[int]:
        """Read consecutive units from address `source` on."""
        if self._direct(source, count):
            return [int(self._window[source + index]) for index in range(count)]
        self._window[AXI_ADDRESS // UNIT_BYTES] = source
        return [int(self._window[AXI_DATA // UNIT_BYTES]) for _ in range(count)]

    @staticmethod
    def _direct(first: int, count: int) -> bool:
        """Whether units are registers that lie in the window."""
        return first >> REGION_SHIFT == Region.CSR and (first + count) * UNIT_BYTES <= AXI_CSR_BYTES


@contextmanager
def open_uio(path: Path) -> Iterator[MappedBus]:
    """Open the bus behind a UIO device such as ``/dev/uio0``, for as long as the context lasts.

    Raises
    ------
    RefusedError
        It cannot be opened or mapped.
    """
    try:
        with path.open("r+b", buffering=0) as file:
            mapped = mmap.mmap(file.fileno(), AXI_BYTES)
    except (OSError, ValueError) as error:
        raise RefusedError(
            f"{path} cannot be mapped ({error})",
            "a UIO device of the machine",
            "check the device tree, the name of the device and your rights to it",
        ) from error
    # whole words: bytes would be accesses of one byte each, which the machine refuses
    with mapped, memoryview(mapped) as whole, whole.cast("I") as words:
        yield MappedBus(words)
