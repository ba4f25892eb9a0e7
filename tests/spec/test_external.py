"""Parameters of external memory: read from text, checked."""

import pytest

from hwattn.spec.errors import RefusedError
from hwattn.spec.external import ExternalMemory


def test_parse() -> None:
    assert ExternalMemory.parse("") == ExternalMemory()
    memory = ExternalMemory.parse("latency=100,beats=8,cycles=9")
    assert memory == ExternalMemory(latency=100, beats=8, cycles=9)
    assert memory.bytes_per_cycle(64) == pytest.approx(56.9, abs=0.05)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("speed=3", "'speed=3' of the external memory; expected latency=N, beats=N, cycles=N, stall=N"),
        ("latency=fast", "'latency=fast' of the external memory"),
        ("latency=0", "latency=0 of the external memory; expected 1 to 65535"),
        ("beats=3,cycles=2", "beats=3 of the external memory; expected 1 to 2"),
        ("stall=256", "stall=256 of the external memory; expected 0 to 255"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(RefusedError) as raised:
        ExternalMemory.parse(text)
    assert message in str(raised.value)
