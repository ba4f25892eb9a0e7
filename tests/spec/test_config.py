"""Where a program is streamed from external memory: what a configuration must have, and what follows from it."""

import pytest

from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.errors import RefusedError

STREAMED = {"program_streamed": 1, "external_words": 1 << 12}


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"program_streamed": 1}, "external_words=0"),
        ({**STREAMED, "program_streamed": 2}, "program_streamed=2"),
        ({**STREAMED, "program_words": 3}, "program_words=3"),
    ],
)
def test_streaming_needs_external_memory_and_room(fields: dict[str, int], found: str) -> None:
    with pytest.raises(RefusedError, match=found):
        AcceleratorConfig(**fields)


@pytest.mark.parametrize(
    ("lanes", "words", "burst", "capacity"), [(4, 4, 2, 512), (16, 37, 16, 2048), (64, 512, 16, 8192)]
)
def test_bursts_and_capacity(lanes: int, words: int, burst: int, capacity: int) -> None:
    config = AcceleratorConfig(**STREAMED, lanes=lanes, program_words=words)
    assert (config.program_burst, config.program_capacity) == (burst, capacity)
    assert AcceleratorConfig(lanes=lanes, program_words=words).program_capacity == words
    # instructions have 16-bit numbers
    assert config.replace(external_words=1 << 24).program_capacity == 1 << 16
