"""The binomial law against exact fractions and textbook tables."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.binomial import cdf, order_statistic_ranks, paired_difference, tail, wilson


def exact_cdf(n: int, p: Fraction, k: int) -> Fraction:
    return sum((math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1)), Fraction(0))


@given(n=st.integers(0, 30), percent=st.integers(1, 99))
def test_cdf_is_exact(n: int, percent: int):
    p = Fraction(percent, 100)
    below = cdf(n, float(p))
    assert len(below) == n + 1
    assert below[-1] == 1.0
    for k in range(n + 1):
        assert below[k] == pytest.approx(float(exact_cdf(n, p, k)), abs=1e-12)


def test_cdf_stays_exact_for_many_trials():
    assert cdf(100_000, 0.5)[49_999] == pytest.approx(0.5 - 0.5 * 0.002523126, abs=1e-7)


@pytest.mark.parametrize(("n", "p"), [(-1, 0.5), (3, 0.0), (3, 1.0)])
def test_cdf_refuses_what_is_not_defined(n: int, p: float):
    with pytest.raises(ValueError, match="not defined here"):
        cdf(n, p)


def test_tail_by_hand():
    assert tail(0, 3, 0.5) == 1.0
    assert tail(3, 3, 0.5) == pytest.approx(1 / 8)
    assert tail(2, 3, 0.5) == pytest.approx(1 / 2)
    assert tail(4, 3, 0.5) == 0.0


def test_wilson_by_hand():
    # 8 of 10, z = 1.96: Newcombe 1998 gives 0.4902 .. 0.9433.
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=5e-5)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=5e-5)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=5e-5)


@given(n=st.integers(1, 100_000), share=st.floats(0, 1))
def test_wilson_encloses_the_share_and_mirrors(n: int, share: float):
    good = round(share * n)
    low, high = wilson(good, n)
    assert 0.0 <= low <= good / n <= high <= 1.0
    assert wilson(n - good, n) == pytest.approx((1 - high, 1 - low), abs=1e-9)


@pytest.mark.parametrize(("good", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_what_is_no_proportion(good: int, n: int):
    with pytest.raises(ValueError, match="is no proportion"):
        wilson(good, n)


def test_paired_difference_by_hand():
    # b = 12, c = 2, n = 40: p12 = 13/42, p21 = 3/42, difference 10/42,
    # half width 1.95996 * sqrt((16/42 - (10/42)^2) / 42) = 0.17222.
    low, high = paired_difference(12, 2, 40)
    assert (low, high) == pytest.approx((10 / 42 - 0.172221, 10 / 42 + 0.172221), abs=1e-5)


def test_paired_difference_of_equal_answers_still_has_a_width():
    low, high = paired_difference(0, 0, 1000)
    assert low == pytest.approx(-high)
    assert 0.0 < high < 0.004


@given(n=st.integers(1, 20_000), data=st.data())
def test_paired_difference_encloses_the_point_and_mirrors(n: int, data: st.DataObject):
    first = data.draw(st.integers(0, n))
    second = data.draw(st.integers(0, n - first))
    low, high = paired_difference(first, second, n)
    assert -1.0 <= low <= (first - second) / n <= high <= 1.0
    assert paired_difference(second, first, n) == pytest.approx((-high, -low))


def test_paired_difference_refuses_counts_that_do_not_fit():
    with pytest.raises(ValueError, match=r"3 \+ 3 discordant answers do not fit into 5"):
        paired_difference(3, 3, 5)


def test_ranks_of_the_textbook():
    # Median of 20: the 6th and 15th (Conover, table of the sign test); of 6, the extremes; of 5, nothing at 95 %.
    assert order_statistic_ranks(20, 0.5) == (6, 15)
    assert order_statistic_ranks(6, 0.5) == (1, 6)
    assert order_statistic_ranks(5, 0.5) == (None, None)
    # 0.95^72 = 0.0249 is the first to spare less than 2.5 % for the upper end of p95.
    assert order_statistic_ranks(71, 0.95)[1] is None
    assert order_statistic_ranks(72, 0.95)[1] == 72


@given(n=st.integers(1, 120), percent=st.integers(1, 99))
def test_ranks_cover_as_promised_and_are_tight(n: int, percent: int):
    low, high = order_statistic_ranks(n, percent / 100)
    p, spare = Fraction(percent, 100), Fraction(25, 1000)
    slack = Fraction(1, 10**9)
    if low is not None:
        assert exact_cdf(n, p, low - 1) <= spare + slack
        assert exact_cdf(n, p, low) > spare - slack
    if high is not None:
        assert 1 - exact_cdf(n, p, high - 1) <= spare + slack
        assert high == 1 or 1 - exact_cdf(n, p, high - 2) > spare - slack
    if low is not None and high is not None:
        assert low <= high
