"""The memory of a board's processor, as machines in the fabric reach it: through AXI ports of the processor's block."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.errors import RefusedError
from hwattn.spec.external import ExternalMemory
from hwattn.spec.stripes import Stripes

EFFICIENCY = Fraction(8, 9)
"""Share of a DRAM's peak rate that long bursts get, after refreshes and row changes: an assumption."""

CYCLES_MAX = 255


@dataclass(frozen=True)
class ProcessorMemory:
    """Memory of a processor, and the ports that lead to it.

    Parameters
    ----------
    peak_mb_per_s : float
        Transfers per second times width of the DRAM, in 10**6 bytes per second.
    port_bytes : int
        Width of a port.
    latency_ns : float
        From a port's read address to its first data, through interconnect and controller: an assumption.
    address : int
        Where the buffer lies that the device tree reserves for machines reached through UIO.
    bytes : int
        The largest buffer.
    ports : int
        Ports that there are.
    """

    peak_mb_per_s: float
    port_bytes: int
    latency_ns: float
    address: int
    bytes: int
    ports: int = 4

    def stripes(self, config: AcceleratorConfig) -> Stripes:
        """Return how the machine's words are spread over ports: as many as a word fills, at most all.

        Raises
        ------
        RefusedError
            The machine's external memory is larger than the largest buffer.
        """
        ports = min(self.ports, max(1, config.lanes // self.port_bytes))
        stripes = Stripes(config.lanes, ports, config.external_words)
        if stripes.bytes > self.bytes:
            raise RefusedError(
                f"external_words={config.external_words} of {config.lanes} bytes",
                f"up to {self.bytes // config.lanes}: {self.bytes >> 20} MiB of the processor's memory are for the machine",
                f"take --set external_words={self.bytes // config.lanes}",
            )
        return stripes

    def external_memory(self, config: AcceleratorConfig, clock_mhz: float) -> ExternalMemory:
        """How fast the memory is for a machine at a clock: as fast as its ports, and as the DRAM.

        Raises
        ------
        RefusedError
            As `stripes`.
        """
        stripes = self.stripes(config)
        ports = Fraction(stripes.ports * min(stripes.part_bytes, self.port_bytes), config.lanes)
        dram = EFFICIENCY * Fraction(self.peak_mb_per_s / clock_mhz) / config.lanes
        ratio = min(ports, dram, Fraction(1)).limit_denominator(CYCLES_MAX)
        latency = math.ceil(self.latency_ns * clock_mhz / 1000)
        return ExternalMemory(latency=latency, beats=ratio.numerator, cycles=ratio.denominator)


ZYNQ_ULTRASCALE_DDR4 = ProcessorMemory(
    peak_mb_per_s=19_200.0, port_bytes=16, latency_ns=300.0, address=0x4000_0000, bytes=512 << 20
)
"""DDR4-2400 of 64 bits behind ports of 128: ZCU102, ZCU104, KV260. The buffer lies in the second GiB of the lower two."""
