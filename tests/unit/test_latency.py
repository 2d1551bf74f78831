"""Percentiles: one definition, told only where the count supports them."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from device_tests.latency import fewest_samples, interval_ns, percentile_ns, summarise, unsupported_reason

Array = NDArray[Any]
nanoseconds = st.lists(st.integers(1, 10**10), min_size=1, max_size=300).map(lambda v: np.array(v, dtype=np.int64))


def test_nearest_rank_by_hand():
    samples = np.arange(100, 0, -1) * 10
    assert percentile_ns(samples, 50) == 500
    assert percentile_ns(samples, 90) == 900
    assert percentile_ns(samples, 95) == 950
    # 0.07 * 100 is 7.000000000000001 in floats; the 7th percentile is the 7th sample all the same.
    assert percentile_ns(samples, 7) == 70
    assert percentile_ns(np.array([4, 1, 3, 2, 6, 5]), 50) == 3


@pytest.mark.parametrize(("q", "fewest"), [(50, 6), (90, 20), (95, 40), (99, 200), (99.9, 2000), (5, 40)])
def test_support_rule(q: float, fewest: int):
    assert fewest_samples(q) == fewest
    samples = np.arange(fewest)
    assert percentile_ns(samples, q) is not None
    assert percentile_ns(samples[1:], q) is None
    assert unsupported_reason(fewest, q) is None
    assert unsupported_reason(fewest - 1, q) == f"p{q:g} needs {fewest} samples, there are {fewest - 1}"


@given(samples=nanoseconds, q=st.integers(1, 99))
def test_percentile_is_the_smallest_sample_with_q_percent_at_or_below(samples: Array, q: int):
    value = percentile_ns(samples, q)
    if value is None:
        assert len(samples) < fewest_samples(q)
        return
    need = Fraction(q, 100) * len(samples)
    assert value in samples
    assert np.count_nonzero(samples <= value) >= need
    assert np.count_nonzero(samples < value) < need


@given(samples=nanoseconds, q=st.sampled_from([50, 90, 95, 99]), seed=st.integers(0, 5))
def test_interval_encloses_the_percentile_whatever_the_order(samples: Array, q: int, seed: int):
    low, high = interval_ns(samples, q)
    shuffled = np.random.default_rng(seed).permutation(samples)
    assert interval_ns(shuffled, q) == (low, high)
    value = percentile_ns(samples, q)
    if value is not None:
        assert low is None or low <= value
        assert high is None or high >= value
        assert percentile_ns(shuffled, q) == value


@given(samples=st.lists(st.integers(1, 10**10), min_size=200, max_size=220))
def test_percentiles_rise(samples: Array):
    record = summarise(np.array(samples, dtype=np.int64))
    assert record.p50 <= record.p90 <= record.p95 <= record.p99


def test_interval_covers_the_true_percentile_as_often_as_it_says():
    rng = np.random.default_rng(0)
    true_p95 = math.log(20)
    hits = 0
    for _ in range(400):
        low, high = interval_ns((rng.exponential(size=200) * 1e6).astype(np.int64), 95)
        hits += low <= true_p95 * 1e6 <= high
    assert hits >= 0.95 * 400 - 10


def test_summary_in_milliseconds():
    record = summarise(np.arange(1, 201) * 1_000_000, samples_path="samples/local.npy")
    assert (record.p50, record.p90, record.p95, record.p99) == (100.0, 180.0, 190.0, 198.0)
    assert record.n == 200
    assert record.mean == 100.5
    # Bin(200, .5): ranks 86 and 115. Bin(200, .95): P(X <= 183) = .0238, P(X <= 195) = .9736, P(X <= 196) = .9910.
    assert (record.p50_low, record.p50_high) == (86.0, 115.0)
    assert (record.p95_low, record.p95_high) == (184.0, 197.0)
    assert record.samples_path == "samples/local.npy"
    assert record.p50_reason is record.p90_reason is record.p95_reason is record.p99_reason is None


def test_summary_of_few_samples_says_what_is_missing():
    record = summarise(np.arange(1, 51) * 1_000_000)
    assert record.p95 == 48.0
    assert record.p95_high is None
    assert record.p95_high_reason == "the upper end of p95's interval needs 72 samples, there are 50"
    assert record.p99 is None
    assert record.p99_reason == "p99 needs 200 samples, there are 50"


def test_summary_of_nothing():
    record = summarise(np.array([], dtype=np.int64))
    assert (record.n, record.p50, record.mean, record.p50_low) == (0, None, None, None)
    assert record.p50_reason == "p50 needs 6 samples, there are 0"
    assert interval_ns(np.array([], dtype=np.int64), 50) == (None, None)


@pytest.mark.parametrize("q", [0, 100, -5])
def test_percentile_out_of_range_is_refused(q: float):
    with pytest.raises(ValueError, match="between 0 and 100"):
        percentile_ns(np.arange(10), q)


def test_a_matrix_of_samples_is_refused():
    with pytest.raises(ValueError, match=r"a vector, not an array of shape \(2, 3\)"):
        summarise(np.zeros((2, 3), dtype=np.int64))
