"""The testbench on a machine into whose weight memory one bit is written wrong; run inside the simulator."""

from collections.abc import Iterable

from hwattn.sim.cosim import testbench
from hwattn.sim.cosim.bus import HostBus
from hwattn.sim.cosim.testbench import program_equals_model  # noqa: F401  cocotb finds it here
from hwattn.spec.registers import Region

TOP_BIT = 7


class WrongBit(HostBus):
    """Inverts the sign of the first weight."""

    async def write_units(self, region: Region, first: int, units: Iterable[int]) -> None:
        values = list(units)
        if region == Region.WEIGHT and first == 0:
            values[0] ^= 1 << TOP_BIT
        await super().write_units(region, first, values)


testbench.HostBus = WrongBit  # type: ignore[misc]
