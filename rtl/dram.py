"""The controller for a chip of external memory, by its kind."""

from __future__ import annotations

from hwattn.rtl.ddr3 import Ddr3Controller
from hwattn.rtl.sdram import SdramController
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.ddr3 import Ddr3Timing
from hwattn.spec.dram import DramTiming
from hwattn.spec.sdram import SdramTiming


def dram_controller(config: AcceleratorConfig, timing: DramTiming) -> SdramController | Ddr3Controller:
    """Return the controller of a chip: members `axi`, and `pins` of the chip's kind."""
    if isinstance(timing, Ddr3Timing):
        return Ddr3Controller(config, timing)
    assert isinstance(timing, SdramTiming), timing
    return SdramController(config, timing)
