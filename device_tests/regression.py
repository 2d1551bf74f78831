"""PASS, REGRESSION, IMPROVEMENT or INCONCLUSIVE: whether an artifact became slower than its reference.

* A change that is smaller than the tolerance, in percent or in milliseconds, is none: PASS.
* REGRESSION only where the whole interval lies beyond the tolerance, in percent and in milliseconds, and a second
  measurement with fresh processes says so again.
* An interval across the limit is no verdict. More rounds are taken, a bounded number of times; every look at them takes
  its share of the error (Bonferroni), so that looking often does not find what is not there.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass

from device_tests.paired_latency import Effect, Turns, effect
from edgesmith.types import MeasureProtocol, Tolerance

PROTOCOL = MeasureProtocol(min_runs=24 * 6, min_seconds=24 * 0.05, windows=24, warmup_max_seconds=5.0)
"""Of one look: many short windows, since rounds are what counts. 50 ms are long against a scheduler's slice, and short
against what a neighbour does. A window has at least the six runs that tell a median."""


class Change(enum.StrEnum):
    """What became of the latency."""

    PASS = "PASS"  # noqa: S105 - a verdict
    REGRESSION = "REGRESSION"
    IMPROVEMENT = "IMPROVEMENT"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A verdict with what decided it.

    Attributes:
        first: what the first measurements said; None where none of their windows had enough runs.
        again: what those that were to confirm a regression said; None where there was nothing to confirm.
        looks: measurements taken, both times together.
        why: one sentence with the numbers.
    """

    change: Change
    first: Effect | None
    again: Effect | None
    looks: int
    why: str


Measure = Callable[[], tuple[Turns, Turns]]
"""Measures (reference, candidate) in turns, each in a process that has just been started."""


def compare(measure: Measure, tolerance: Tolerance, percentile: float = 50.0) -> Compared:
    """Measures until it can be told whether the candidate became slower.

    Args:
        measure: called at most `2 * tolerance.looks` times.
        tolerance: see there.
        percentile: of the latency.
    """
    change, first, looks = _looked(measure, tolerance, percentile)
    if change is not Change.REGRESSION:
        return Compared(change=change, first=first, again=None, looks=looks, why=_why(change, first, tolerance))
    confirmed, again, more = _looked(measure, tolerance, percentile)
    if confirmed is not Change.REGRESSION:
        change = Change.INCONCLUSIVE
    told = _why(Change.REGRESSION, first, tolerance)
    told = f"{told} Measured again: {_why(confirmed, again, tolerance)}"
    return Compared(change=change, first=first, again=again, looks=looks + more, why=told)


def decide(found: Effect, tolerance: Tolerance) -> Change:
    """What one interval says."""
    share = tolerance.percent / 100
    low_ms, _, high_ms = found.difference_ms
    if found.low > 1 + share and low_ms > tolerance.ms:
        return Change.REGRESSION
    if found.high < 1 - share and -high_ms > tolerance.ms:
        return Change.IMPROVEMENT
    slower = found.high > 1 + share and high_ms > tolerance.ms
    return Change.INCONCLUSIVE if slower else Change.PASS


def _looked(measure: Measure, tolerance: Tolerance, percentile: float) -> tuple[Change, Effect | None, int]:
    pairs: list[tuple[Turns, Turns]] = []
    found: Effect | None = None
    for _ in range(tolerance.looks):
        pairs.append(measure())
        found = effect(pairs, percentile, tolerance.confidence_of_a_look)
        if found is not None and (change := decide(found, tolerance)) is not Change.INCONCLUSIVE:
            return change, found, len(pairs)
    return Change.INCONCLUSIVE, found, len(pairs)


def _why(change: Change, found: Effect | None, tolerance: Tolerance) -> str:
    if found is None:
        return "No window had enough runs for the percentile."
    low, middle, high = ((ratio - 1) * 100 for ratio in (found.low, found.ratio, found.high))
    shown = f"{low:+.1f} to {'?' if math.isinf(high) else f'{high:+.1f}'}"
    limit = f"{tolerance.percent:g} %" + (f" and {tolerance.ms:g} ms" if tolerance.ms else "")
    verdict = {
        Change.PASS: f"no slower than the tolerance of {limit}",
        Change.REGRESSION: f"slower by more than {limit}",
        Change.IMPROVEMENT: f"faster by more than {limit}",
        Change.INCONCLUSIVE: f"the tolerance of {limit} lies inside the interval",
    }[change]
    return (
        f"p{found.percentile:g} changed by {middle:+.1f} % ({shown} % at {found.confidence:.4g} confidence, "
        f"{found.rounds} rounds; {found.first_ms:.4g} ms -> {found.second_ms:.4g} ms): {verdict}."
    )
