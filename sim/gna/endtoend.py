"""From the speedup of attention to the speedup of a whole workload (Amdahl's law)."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

from hwattn.spec.errors import RefusedError


def end_to_end_speedup(attention_share: float, speedup: float, dense_steps: int = 0, steps: int = 1) -> float:
    """Speedup of a diffusion workload when part of its steps use sparse attention.

    Parameters
    ----------
    attention_share : float
        Share of end-to-end time that is spent in the replaced attention, 0 to 1.
    speedup : float
        Speedup of that attention.
    dense_steps, steps : int
        Diffusion steps that keep dense attention, and all steps.

    Returns
    -------
    float
        ``1 / (1 - p + p / speedup)`` with ``p = attention_share * (steps - dense_steps) / steps``.

    Raises
    ------
    RefusedError
        A share outside 0..1, a speedup that is not positive, or more dense steps than steps.
    """
    if not 0 <= attention_share <= 1:
        raise RefusedError(
            f"attention share {attention_share}", "a number from 0 to 1", "give the share, not percent"
        )
    if not speedup > 0:
        raise RefusedError(f"speedup {speedup}", "a positive number", "correct the speedup")
    if steps < 1 or not 0 <= dense_steps <= steps:
        raise RefusedError(
            f"{dense_steps} dense steps of {steps}",
            "0 to all of at least one step",
            "correct the number of steps",
        )
    share = attention_share * (steps - dense_steps) / steps
    return 1.0 / (1.0 - share + share / speedup)


def round_half_up(value: float, digits: int) -> float:
    """Decimal rounding as in printed tables: 1.745 to two digits is 1.75."""
    return float(Decimal(repr(value)).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_HALF_UP))
