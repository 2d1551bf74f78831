"""Verdicts on a change of latency, from windows that are written down here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from device_tests.paired_latency import Effect, Turns, effect
from device_tests.regression import Change, Tolerance, compare, decide

ROUNDS = 24
RUNS = 8


def turns(ms: float, noise: np.ndarray) -> Turns:
    """Windows whose every run takes `ms` times that round's noise."""
    per_window = np.repeat(np.round(ms * 1e6 * noise).astype(np.int64), RUNS)
    return Turns(per_window, np.repeat(np.arange(ROUNDS), RUNS))


def measured(factor: float, seed: int, *, jitter: float = 0.01, shared: float = 0.3) -> tuple[Turns, Turns]:
    """A noise that both share, as a neighbour's, and a little of their own."""
    draw = np.random.default_rng(seed)
    both = np.exp(draw.normal(0, shared, ROUNDS))
    own = [np.exp(draw.normal(0, jitter, ROUNDS)) for _ in range(2)]
    return turns(1.0, both * own[0]), turns(factor, both * own[1])


def source(*factors: float, jitter: float = 0.01) -> tuple[Callable[[], tuple[Turns, Turns]], list[int]]:
    """A board that measures these factors one after the other, the last again and again."""
    calls: list[int] = []

    def measure() -> tuple[Turns, Turns]:
        calls.append(len(calls))
        return measured(factors[min(calls[-1], len(factors) - 1)], calls[-1], jitter=jitter)

    return measure, calls


def test_the_ratio_is_that_of_the_rounds_whatever_falls_on_both() -> None:
    found = effect([measured(1.07, 3)])
    assert found is not None
    assert found.low < 1.07 < found.high
    assert found.high - found.low < 0.03
    assert found.rounds == ROUNDS
    low, middle, high = found.difference_ms
    assert low < middle < high
    assert middle == pytest.approx((found.ratio - 1) * found.first_ms)


def test_a_percentile_that_no_window_supports_is_none() -> None:
    assert effect([measured(1.0, 0)], percentile=95.0) is None


def test_windows_that_have_no_partner_are_a_defect() -> None:
    one, other = measured(1.0, 0)
    short = Turns(other.samples_ns[:RUNS], other.windows[:RUNS])
    with pytest.raises(ValueError, match="not taken in turns"):
        effect([(one, short)])


@pytest.mark.parametrize(
    ("factor", "change", "calls"),
    [
        (1.0, Change.PASS, 1),
        (1.06, Change.REGRESSION, 2),
        (0.9, Change.IMPROVEMENT, 1),
    ],
)
def test_clear_cases_need_one_look_and_a_regression_a_second(factor: float, change: Change, calls: int) -> None:
    measure, counted = source(factor)
    found = compare(measure, Tolerance())
    assert (found.change, len(counted), found.looks) == (change, calls, calls)
    assert (found.again is not None) == (change is Change.REGRESSION)


def test_a_regression_that_is_not_seen_again_is_none() -> None:
    measure, _ = source(1.2, 1.0)
    found = compare(measure, Tolerance())
    assert found.change is Change.INCONCLUSIVE
    assert "Measured again" in found.why
    assert "no slower" in found.why


def test_a_limit_inside_the_interval_is_looked_at_so_often_and_no_more() -> None:
    measure, counted = source(1.025, jitter=0.05)
    found = compare(measure, Tolerance(looks=3))
    assert found.change is Change.INCONCLUSIVE
    assert len(counted) == 3
    assert found.first is not None
    assert found.first.rounds == 3 * ROUNDS
    assert "lies inside the interval" in found.why


def test_noise_beyond_measure_is_never_a_verdict() -> None:
    measure, counted = source(1.0, jitter=1.0)
    assert compare(measure, Tolerance()).change is Change.INCONCLUSIVE
    assert len(counted) == Tolerance().looks


def test_too_few_runs_for_the_percentile_say_so() -> None:
    measure, _ = source(1.0)
    found = compare(measure, Tolerance(looks=2), percentile=95.0)
    assert found.change is Change.INCONCLUSIVE
    assert found.first is None
    assert "enough runs" in found.why


def known(low: float, high: float, first_ms: float = 10.0) -> Effect:
    middle = (low + high) / 2
    return Effect(
        percentile=50.0,
        ratio=middle,
        low=low,
        high=high,
        confidence=0.99,
        rounds=24,
        first_ms=first_ms,
        second_ms=middle * first_ms,
    )


@pytest.mark.parametrize(
    ("low", "high", "ms", "change"),
    [
        (1.03, 1.08, 0.0, Change.REGRESSION),
        (1.02, 1.08, 0.0, Change.INCONCLUSIVE),
        (1.03, 1.08, 0.5, Change.INCONCLUSIVE),  # 0.3 ms at the least
        (1.06, 1.08, 0.5, Change.REGRESSION),
        (1.03, 1.08, 0.9, Change.PASS),  # 0.8 ms at the most
        (0.99, 1.02, 0.0, Change.PASS),
        (0.90, 0.97, 0.0, Change.IMPROVEMENT),
        (0.90, 0.97, 0.5, Change.PASS),  # 0.3 ms faster at the least
        (0.90, 1.20, 0.0, Change.INCONCLUSIVE),
    ],
)
def test_a_change_counts_in_percent_and_in_milliseconds(low: float, high: float, ms: float, change: Change) -> None:
    assert decide(known(low, high), Tolerance(percent=2.5, ms=ms)) is change
