"""A machine's bus mapped into memory: the AXI4-Lite port of a Zynq, through UIO or PYNQ."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from hwattn.spec.errors import RefusedError
from hwattn.spec.registers import AXI_ADDRESS, AXI_BYTES, AXI_CSR_BYTES, AXI_DATA, REGION_SHIFT, Region

UNIT = struct.Struct("<I")


class MappedBus:
    """Reads and writes units through the window of ``rtl.axi_lite``.

    Parameters
    ----------
    memory : memoryview or mmap
        The window, `AXI_BYTES` long: of a UIO device (:func:`open_uio`), or ``pynq.MMIO(base, AXI_BYTES).array`` as bytes.

    Notes
    -----
    Registers lie in the window. Other units are reached through two of its words, the address and the data, after which the address
    counts up.
    """

    def __init__(self, memory: memoryview | mmap.mmap) -> None:
        # 32-bit accesses: bytes would become four writes of one byte each, which the machine refuses
        self._memory = memory
        self._words = memoryview(memory).cast("B").cast("I")

    def write(self, target: int, units: Sequence[int]) -> None:
        """Write consecutive units from address `target` on."""
        if self._direct(target, len(units)):
            for index, unit in enumerate(units):
                self._words[target + index] = int(unit)
            return
        self._words[AXI_ADDRESS // UNIT.size] = target
        for unit in units:
            self._words[AXI_DATA // UNIT.size] = int(unit)

    def read(self, source: int, count: int) -> list[int]:
        """Read consecutive units from address `source` on."""
        if self._direct(source, count):
            return [self._words[source + index] for index in range(count)]
        self._words[AXI_ADDRESS // UNIT.size] = source
        return [self._words[AXI_DATA // UNIT.size] for _ in range(count)]

    @staticmethod
    def _direct(first: int, count: int) -> bool:
        """Whether units are registers that lie in the window."""
        return first >> REGION_SHIFT == Region.CSR and (first + count) * UNIT.size <= AXI_CSR_BYTES

    def close(self) -> None:
        """Give the window back."""
        self._words.release()
        if isinstance(self._memory, mmap.mmap):
            self._memory.close()

    def __enter__(self) -> MappedBus:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_uio(path: Path) -> MappedBus:
    """Return the bus behind a UIO device such as ``/dev/uio0``, or a file that stands for one.

    Raises
    ------
    RefusedError
        It cannot be opened or mapped.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_SYNC)
        try:
            return MappedBus(mmap.mmap(descriptor, AXI_BYTES))
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise RefusedError(
            f"{path} cannot be mapped ({error})",
            "a UIO device of the machine",
            "check the device tree, the name of the device and your rights to it",
        ) from error
