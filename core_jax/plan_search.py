"""The largest batch that fits on a slice, found with few compilations."""

import dataclasses
from collections.abc import Callable

from core_jax.plan import Plan

CLOSENESS = 1.06  # a next guess that is nearer to what fits than this is not worth a compilation
ATTEMPTS = 7  # compilations at most
MARGIN = 0.97  # share of the memory that a guess aims at
LEAP = 8  # times the largest size that is known to fit


@dataclasses.dataclass(frozen=True)
class Largest:
    """The largest batch found for one way to compute it."""

    rows: int | None  # of each replica; None where not even one row fits
    plan: Plan  # of so many rows; of one row where that does not fit
    too_many: int | None  # the fewest rows that were found not to fit


def largest_that_fits(plan_rows: Callable[[int], Plan], start: int) -> Largest:
    """Searches by compiling: memory is taken to grow evenly with the rows, and every answer is compiled.

    Args:
      plan_rows: plans a step of so many rows a replica.
      start: the first number of rows to try, 1 or more.
    Returns:
      What fits. A fifth more does not, unless ATTEMPTS ran out first.
    """
    plans: dict[int, Plan] = {}
    rows: int | None = start
    while rows is not None and len(plans) < ATTEMPTS:
        plans[rows] = plan_rows(rows)
        rows = _next_rows(plans)
    fitting = [rows for rows, plan in plans.items() if plan.fits]
    failing = [rows for rows, plan in plans.items() if not plan.fits]
    best = max(fitting, default=None)
    return Largest(best, plans[min(failing) if best is None else best], min(failing, default=None))


def _next_rows(plans: dict[int, Plan]) -> int | None:
    low = max((rows for rows, plan in plans.items() if plan.fits), default=0)
    high = min((rows for rows, plan in plans.items() if not plan.fits), default=None)
    if not low:
        return None if high is None or high == 1 else max(high // 4, 1)
    guess = _extrapolate({rows: plan for rows, plan in plans.items() if plan.fits})
    guess = min(guess, LEAP * low)
    if high is not None:
        guess = guess if low < guess < high else (low + high) // 2
    guess = _round_down(guess)
    return guess if guess > low * CLOSENESS or (guess > low and high is not None and high > low * CLOSENESS) else None


def _extrapolate(fitting: dict[int, Plan]) -> int:
    """The rows at which the memory is full, on a line through the two largest plans, or through one and its inputs."""
    (rows, plan), *rest = sorted(fitting.items(), reverse=True)
    other_rows, other = (rest[0][0], rest[0][1].peak_bytes) if rest else (0, plan.arguments_bytes)
    if plan.peak_bytes is None or other is None or plan.peak_bytes <= other:
        return LEAP * rows
    growth = (plan.peak_bytes - other) / (rows - other_rows)
    return rows + int((plan.hbm_limit_bytes * MARGIN - plan.peak_bytes) / growth)


def _round_down(rows: int) -> int:
    """To four binary digits: people like round batches."""
    step = 1 << max(rows.bit_length() - 4, 0)
    return rows - rows % step
