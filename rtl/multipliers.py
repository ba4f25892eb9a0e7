"""How a target multiplies: one product per multiplier block, or two."""

from __future__ import annotations

from enum import StrEnum

from hwattn.spec.config import AcceleratorConfig


class MultiplierStyle(StrEnum):
    """What the matrix unit makes of a multiplier block. Programs, results and cycles are the same with both.

    ``SINGLE``: one product per block: 9 x 8 bits, signed, which every FPGA's blocks hold. ``PACKED``: two resident rows share a
    block of at least 27 x 8 bits, signed (DSP48E2 of UltraScale and UltraScale+, DSP58 of Versal).
    """

    SINGLE = "single"
    PACKED = "packed"

    def columns(self, config: AcceleratorConfig) -> int:
        """Columns of multiplier blocks that serve the resident rows."""
        return config.rows if self is MultiplierStyle.SINGLE else -(-config.rows // 2)

    def blocks(self, config: AcceleratorConfig) -> int:
        """Multiplier blocks of the matrix unit."""
        return self.columns(config) * config.lanes
