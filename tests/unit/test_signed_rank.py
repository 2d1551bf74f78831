"""The interval of paired differences, against figures worked out by hand and against what it promises."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_tests.signed_rank import location

finite = st.floats(-1e3, 1e3, allow_nan=False)
samples = st.lists(finite, min_size=1, max_size=30).map(np.array)


def test_three_differences_by_hand() -> None:
    """Their means with one another are 1, 1.5, 2, 3.5, 4 and 6; P(W <= 0) = 1/8 and P(W <= 1) = 2/8."""
    found = location(np.array([2.0, 6.0, 1.0]), 0.75)
    assert (found.estimate, found.low, found.high) == (2.75, 1.0, 6.0)
    found = location(np.array([2.0, 6.0, 1.0]), 0.5)
    assert (found.low, found.high) == (1.5, 4.0)
    found = location(np.array([2.0, 6.0, 1.0]), 0.9)
    assert (found.low, found.high) == (-math.inf, math.inf)


def test_the_law_of_the_rank_sum_is_that_of_all_signs() -> None:
    """An interval misses zero as often as the confidence allows, over all 2^8 ways to sign eight differences."""
    sizes = np.array([0.3, 1.1, 1.9, 2.4, 4.2, 5.0, 7.7, 9.1])
    for confidence in (0.5, 0.8, 0.9, 0.95, 0.99):
        missed = 0
        for signs in itertools.product((-1, 1), repeat=len(sizes)):
            found = location(sizes * np.array(signs), confidence)
            missed += not found.low <= 0.0 <= found.high
        assert missed / 2 ** len(sizes) <= 1 - confidence + 1e-12
        wider = 1 - confidence - 2 / 2 ** len(sizes) * 14  # the law's steps near the middle are at most 14/256 high
        assert missed / 2 ** len(sizes) >= wider


@given(samples, finite, st.sampled_from((0.5, 0.9, 0.99)))
def test_it_moves_and_turns_with_the_differences(values: np.ndarray, shift: float, confidence: float) -> None:
    here, there = location(values, confidence), location(values + shift, confidence)
    turned = location(-values, confidence)
    for one, other in ((here.estimate, there.estimate), (here.low, there.low), (here.high, there.high)):
        assert other == pytest.approx(one + shift, abs=1e-6)
    assert (turned.low, turned.high) == pytest.approx((-here.high, -here.low))
    assert here.low <= here.estimate <= here.high


def test_a_burst_weighs_no_more_than_a_round() -> None:
    calm = np.linspace(-0.01, 0.01, 40)
    burst = calm.copy()
    burst[-1] = 50.0
    assert location(burst, 0.99).high < 0.02


def test_many_pairs_by_the_normal_law_meet_the_exact_one() -> None:
    draw = np.random.default_rng(0).normal(size=201)
    exact, normal = location(draw[:200], 0.99), location(draw, 0.99)
    assert normal.high - normal.low == pytest.approx(exact.high - exact.low, rel=0.1)


@pytest.mark.parametrize(
    ("values", "confidence"), [([], 0.9), ([1.0, math.nan], 0.9), ([1.0, math.inf], 0.9), ([1.0], 1.0)]
)
def test_what_has_no_interval_is_refused(values: list[float], confidence: float) -> None:
    with pytest.raises(ValueError, match="there is no interval"):
        location(np.array(values), confidence)
