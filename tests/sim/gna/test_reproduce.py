"""The published tables: every FLOP-wise figure, and every simulated one but three documented ones."""

from __future__ import annotations

import pytest

from hwattn.sim.gna.endtoend import end_to_end_speedup, round_half_up
from hwattn.sim.gna.reproduce import reproduce
from hwattn.spec.errors import RefusedError

ROWS = reproduce()


def test_figures_to_the_printed_digit() -> None:
    assert len(ROWS) == 48
    assert sum(row.flopwise_agrees for row in ROWS) == 48
    assert sum(row.simulated_agrees for row in ROWS) == 45


def test_exactly_the_exceptions_carry_a_note_and_are_close() -> None:
    for row in ROWS:
        assert bool(row.note) == (not row.simulated_agrees)
        assert abs(row.simulated - row.published_simulated) <= 0.032


def test_amdahl_limits() -> None:
    assert end_to_end_speedup(0.5, 1.0) == 1.0
    assert end_to_end_speedup(1.0, 7.0) == pytest.approx(7.0)
    assert end_to_end_speedup(0.6, 4.0, dense_steps=10, steps=10) == 1.0
    assert end_to_end_speedup(0.5, 2.0) == pytest.approx(1 / 0.75)
    assert round_half_up(1.745, 2) == 1.75


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ((1.5, 2.0), "attention share 1.5"),
        ((0.5, 0.0), "speedup 0.0"),
        ((0.5, 2.0, 3, 2), "3 dense steps of 2"),
    ],
)
def test_refusals(arguments: tuple[float, ...], found: str) -> None:
    with pytest.raises(RefusedError, match=found):
        end_to_end_speedup(*arguments)  # type: ignore[arg-type]
