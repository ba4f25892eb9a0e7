"""Stripes between cocotbext-axi's master and a memory behind each port; and where a host puts words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwattn.rtl.axi_stripes import AxiStripes
from hwattn.rtl.verilog import to_verilog
from hwattn.sim.cosim import runner
from hwattn.spec.config import AcceleratorConfig
from hwattn.spec.errors import RefusedError
from hwattn.spec.stripes import PAGE_BYTES, Stripes


def test_bursts_in_parts_at_any_pace(tmp_path: Path) -> None:
    lanes, ports = 32, 4
    config = AcceleratorConfig(lanes=lanes, norm_lanes=1, external_words=2 * PAGE_BYTES // lanes)
    stripes = Stripes(lanes, ports, config.external_words)
    runner.run(
        runner.build(to_verilog(AxiStripes(config, stripes), "stripes"), "stripes"),
        "tb_axi_stripes",
        tmp_path,
        environment={"HWATTN_STRIPES": f"{lanes} {ports} {config.external_words}"},
        python_path=[Path(__file__).parent],
    )


@given(st.sampled_from([(4, 1), (16, 1), (16, 2), (64, 4)]), st.integers(1, 2000), st.data())
def test_every_unit_has_a_place_of_its_own(shape: tuple[int, int], words: int, data: st.DataObject) -> None:
    stripes = Stripes(*shape, words)
    buffer = np.zeros(stripes.bytes, np.uint8)
    units = np.arange(1, words * stripes.lanes // 4 + 1, dtype=np.uint32)
    cut = data.draw(st.integers(0, len(units)))
    stripes.write(buffer, cut, units[cut:])
    stripes.write(buffer, 0, units[:cut])
    for part in range(stripes.ports):
        found = buffer[part * stripes.stripe_bytes :][: words * stripes.part_bytes]
        expected = units.view(np.uint8).reshape(words, stripes.ports, stripes.part_bytes)[:, part]
        assert found.tobytes() == expected.tobytes()
    assert np.count_nonzero(buffer.view(np.uint32)) == len(units)
    assert stripes.stripe_bytes % PAGE_BYTES == 0


def test_a_buffer_begins_at_a_page() -> None:
    stripes = Stripes(64, 4, 1024)
    assert stripes.page(0x4000_3000) == 0x4000_3 * 4
    with pytest.raises(RefusedError, match="a buffer at 0x1800; expected one at a multiple of 4096 bytes"):
        stripes.page(0x1800)
