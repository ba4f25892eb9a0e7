"""ExternalMemory: how fast the memory behind the machine's AXI4 port answers; what simulations and the cycle model assume."""

from __future__ import annotations

from dataclasses import dataclass

from hwattn.spec.errors import RefusedError


@dataclass(frozen=True)
class ExternalMemory:
    """Latency and bandwidth of an external memory, in cycles of the machine's clock.

    Parameters
    ----------
    latency : int
        Cycles from a burst's address to its first word, 1 to 65535.
    beats, cycles : int
        At most `beats` words (of `lanes` bytes) in `cycles` cycles, reads and writes together; 1 to 255, beats at most cycles.
    stall : int
        Chance in 256 that a channel pauses in a cycle, 0 to 255: back-pressure, for tests.

    Examples
    --------
    A 512-bit port with 8 beats in 9 cycles moves 57 bytes per cycle: 17 GB/s at 300 MHz, the DDR4 of a ZCU102.
    """

    latency: int = 64
    beats: int = 1
    cycles: int = 1
    stall: int = 0

    def __post_init__(self) -> None:
        limits = {"latency": (1, 65535), "beats": (1, self.cycles), "cycles": (1, 255), "stall": (0, 255)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= high:
                raise RefusedError(
                    f"{name}={value!r} of the external memory", f"{low} to {high}", f"correct {name}"
                )

    def bytes_per_cycle(self, lanes: int) -> float:
        """Bandwidth in bytes per cycle, for words of `lanes` bytes."""
        return lanes * self.beats / self.cycles

    @classmethod
    def parse(cls, text: str) -> ExternalMemory:
        """Read ``latency=64,beats=8,cycles=9``; what is left out keeps its default.

        Raises
        ------
        RefusedError
            Another name, or no whole number.
        """
        values: dict[str, int] = {}
        for part in filter(None, text.split(",")):
            name, _, value = part.partition("=")
            if name not in cls.__dataclass_fields__ or not value.isdecimal():
                raise RefusedError(
                    f"{part!r} of the external memory",
                    f"{', '.join(f'{field}=N' for field in cls.__dataclass_fields__)}, separated by commas",
                    "write for example latency=64,beats=8,cycles=9",
                )
            values[name] = int(value)
        return cls(**values)
