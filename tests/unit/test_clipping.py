"""Ranges from a histogram: percentiles, squared errors and divergences by hand, and optima known from theory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibration import affine
from calibration.clipping import expected_mse, mse_range, percentile_range
from calibration.entropy import entropy_range, kl_divergence
from calibration.histogram import Histogram, StreamingHistogram

DTYPES = st.sampled_from(["int4", "int8", "int16"])
VALUES = hnp.arrays(
    np.float32,
    st.integers(1, 80),
    elements=st.one_of(st.floats(-(2.0**20), 2.0**20, width=32), st.floats(-1, 1, width=32), st.just(0.0)),
)


def bins(*rows: tuple[float, float, int], zeros: int = 0) -> Histogram:
    lower, upper, counts = (np.array(column) for column in zip(*rows, strict=True))
    low, high = float(lower[0]), float(upper[-1])
    if zeros:
        low, high = min(low, 0.0), max(high, 0.0)
    return Histogram(
        lower=lower.astype(np.float64),
        upper=upper.astype(np.float64),
        counts=counts.astype(np.int64),
        zeros=zeros,
        low=low,
        high=high,
    )


def of(x: Any) -> Histogram:
    stream = StreamingHistogram()
    stream.update(np.asarray(x, np.float32).reshape(1, -1))
    return stream.histogram()


def normal_histogram(edge: float = 6.0, n: int = 4000, total: float = 1e12) -> Histogram:
    """The standard normal law itself, not a sample of it."""
    edges = np.linspace(-edge, edge, n + 1)
    below = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in edges])
    counts = np.rint(np.diff(below) * total).astype(np.int64)
    return bins(*zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True))


def clipped_normal_error(end: float, step: float) -> float:
    """Mean squared error of N(0, 1) clipped at +-end and rounded in steps: the law behind ACIQ (Banner et al. 2019)."""
    tail = 0.5 * math.erfc(end / math.sqrt(2))
    density = math.exp(-end * end / 2) / math.sqrt(2 * math.pi)
    return 2 * ((1 + end * end) * tail - end * density) + (1 - 2 * tail) * step * step / 12


# Percentiles


def test_percentiles_by_hand():
    histogram = bins((-2.0, -1.0, 10), (0.0, 1.0, 30), (1.0, 3.0, 60), zeros=900)
    assert percentile_range(histogram, 100.0) == (-2.0, 3.0)
    # 100 values that are not 0; 10 are to be left out, 5 at each end
    assert percentile_range(histogram, 90.0) == (-1.5, pytest.approx(1 + 2 * 55 / 60))
    # 10 at each end: exactly the first bin, so the range begins with the next
    assert percentile_range(histogram, 80.0) == (0.0, pytest.approx(1 + 2 * 50 / 60))
    assert percentile_range(histogram, 20.0) == (1.0, pytest.approx(1 + 2 * 20 / 60))


def test_the_upper_end_leaves_out_a_gap_too():
    histogram = bins((0.0, 1.0, 90), (50.0, 60.0, 10))
    assert percentile_range(histogram, 80.0) == (pytest.approx(10 / 90), 1.0)


def test_percentiles_of_nothing_but_zeros_and_of_one_value():
    assert percentile_range(of([0.0, 0.0]), 99.9) == (0.0, 0.0)
    assert percentile_range(of([3.0]), 50.0) == (3.0, 3.0)


@pytest.mark.parametrize("percent", [0.0, -1.0, 100.1, float("nan")])
def test_a_percentile_out_of_range_is_refused(percent: float):
    with pytest.raises(ValueError, match="has to be in"):
        percentile_range(of([1.0]), percent)


@pytest.mark.parametrize("percent", [99.99, 99.9, 99.0, 50.0])
def test_percentiles_of_a_sample_are_those_of_its_sorted_values(percent: float):
    x = np.random.default_rng(0).standard_t(4, size=200_000).astype(np.float32)
    low, high = percentile_range(of(np.concatenate((x, np.zeros(50_000)))), percent)
    beyond = (100 - percent) / 200
    expected = np.quantile(x, [beyond, 1 - beyond])
    assert [low, high] == pytest.approx(expected, rel=1 / 64)


@given(x=VALUES, percents=st.tuples(st.floats(1, 100), st.floats(1, 100)))
def test_a_larger_share_is_a_wider_range_within_min_max(x: Any, percents: tuple[float, float]):
    histogram = of(x)
    narrow, wide = (percentile_range(histogram, percent) for percent in sorted(percents))
    assert histogram.low <= wide[0] + 0.0 <= histogram.high or not len(histogram.counts)
    if len(histogram.counts):
        assert histogram.low <= wide[0] <= narrow[0] <= narrow[1] <= wide[1] <= histogram.high


# Squared errors


def error(histogram: Histogram, low: float, high: float, dtype: str = "int8", *, symmetric: bool = False) -> float:
    return float(expected_mse(histogram, low, high, dtype=dtype, symmetric=symmetric))


def test_squared_errors_of_single_values_by_hand():
    # scale 1: 3.25 is off by 1/4, 300 by 45, 0 by nothing
    histogram = bins((3.25, 3.25, 2), (300.0, 300.0, 1), zeros=1)
    assert error(histogram, 0.0, 255.0) == (2 * 0.0625 + 45**2) / 4
    # scale 2, zero point -1.5 rounded to -2: -252..258; 3.25 is off by 0.75, 300 by 42
    assert error(histogram, -253.0, 257.0) == (2 * 0.5625 + 42**2) / 4
    # symmetric int4: scale 1, -7..7
    assert error(histogram, -3.0, 7.0, "int4", symmetric=True) == (2 * 0.0625 + 293**2) / 4


def test_squared_errors_within_bins_by_hand():
    # scale 1 everywhere
    assert error(bins((0.0, 1.0, 6)), 0.0, 255.0) == pytest.approx(1 / 12)
    assert error(bins((0.0, 0.5, 6)), 0.0, 255.0) == pytest.approx(1 / 12)
    assert error(bins((0.0, 0.25, 6)), 0.0, 255.0) == pytest.approx(1 / 48)  # the mean of t*t over 0..1/4
    assert error(bins((2.75, 17.25, 6)), 0.0, 255.0) == pytest.approx((14 / 12 + 2 * 0.25**3 / 3) / 14.5)
    assert error(bins((255.0, 258.0, 6)), 0.0, 255.0) == pytest.approx(3.0)  # the mean of t*t over 0..3
    assert error(bins((-4.0, -2.0, 6)), 0.0, 255.0) == pytest.approx(56 / 6)  # the mean of t*t over 2..4
    half = bins((0.0, 1.0, 6), (255.0, 258.0, 2), zeros=4)
    assert error(half, 0.0, 255.0) == pytest.approx((6 / 12 + 2 * 3.0) / 12)


def test_many_ranges_at_once_are_the_single_ones():
    histogram = of(np.random.default_rng(0).normal(size=50_000))
    low, high = -np.linspace(0.1, 5, 200).reshape(2, 100), np.linspace(6, 0.2, 200).reshape(2, 100)
    found = expected_mse(histogram, low, high, dtype="int8", symmetric=False)
    assert found.shape == (2, 100)
    assert found[1, 7] == pytest.approx(error(histogram, low[1, 7], high[1, 7]), rel=1e-12)
    assert found[0, 99] == pytest.approx(error(histogram, low[0, 99], high[0, 99]), rel=1e-12)


@pytest.mark.parametrize("dtype", ["int4", "int8", "int16"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("shape", ["normal", "relu", "silu", "laplace", "outliers", "relu6"])
def test_the_expected_error_is_the_measured_one(shape: str, dtype: Any, symmetric: bool):
    random = np.random.default_rng(0)
    x = random.normal(size=200_000) * 3
    x = {
        "normal": x,
        "relu": np.maximum(x, 0),
        "silu": x / (1 + np.exp(-x)),
        "laplace": random.laplace(size=200_000),
        "outliers": np.where(np.arange(200_000) % 1000, x, x * 200),
        "relu6": np.clip(x, 0, 6),
    }[shape].astype(np.float32)
    histogram = of(x)
    for share in (1.0, 0.6, 0.1):
        low, high = histogram.low * share, histogram.high * share * 0.9
        grid = affine.choose_params(low, high, dtype=dtype, symmetric=symmetric)
        measured = np.mean((x.astype(np.float64) - affine.fake_quantize(x, grid)) ** 2)
        assert error(histogram, low, high, dtype, symmetric=symmetric) == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize(
    ("dtype", "symmetric", "steps", "published"),
    [("int8", True, 254, 3.92), ("int8", False, 255, 3.92), ("int4", True, 14, 2.55), ("int4", False, 15, 2.55)],
)
def test_the_best_clipping_of_a_normal_law(dtype: str, symmetric: bool, steps: int, published: float):
    """Against the closed form, and against ACIQ's table of clipping values, which has 2**bits steps."""
    ends = np.linspace(1.5, 5, 3501)
    errors = [clipped_normal_error(end, 2 * end / steps) for end in ends]
    best = float(ends[int(np.argmin(errors))])
    assert best == pytest.approx(published, rel=0.04)
    histogram = normal_histogram()
    low, high = mse_range(histogram, dtype=dtype, symmetric=symmetric)
    # Half the width: the zero point of an asymmetric grid is an integer, which puts such a grid off the middle.
    assert (high - low) / 2 == pytest.approx(best, rel=0.03)
    assert error(histogram, low, high, dtype, symmetric=symmetric) <= min(errors) * (1.001 if symmetric else 1.03)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", ["two sides", "outliers", "silu", "relu", "few values"])
def test_no_pair_of_ends_is_clearly_better(name: str, symmetric: bool):
    random = np.random.default_rng(4)
    x = random.normal(size=20_000)
    x = {
        "two sides": np.where(x > 0, x, x * 0.1 - (random.random(20_000) > 0.999) * 3),
        "outliers": np.where(np.arange(20_000) % 5000, x, x * 30),
        "silu": 4 * x / (1 + np.exp(-4 * x)),
        "relu": np.maximum(random.standard_t(3, size=20_000), 0),
        "few values": random.integers(-3, 9, size=20_000) / 7,
    }[name]
    histogram = of(x)
    found = mse_range(histogram, dtype="int4", symmetric=symmetric)
    shares = np.linspace(0.02, 1, 50)
    lows, highs = (grid.ravel() for grid in np.meshgrid(histogram.low * shares, histogram.high * shares))
    everywhere = expected_mse(histogram, lows, highs, dtype="int4", symmetric=symmetric).min()
    assert error(histogram, *found, "int4", symmetric=symmetric) <= everywhere * 1.02


@given(x=VALUES, dtype=DTYPES, symmetric=st.booleans())
def test_the_best_range_is_never_worse_than_min_max(x: Any, dtype: str, symmetric: bool):
    histogram = of(x)
    low, high = mse_range(histogram, dtype=dtype, symmetric=symmetric)
    assert histogram.low <= low <= high <= histogram.high
    found = error(histogram, low, high, dtype, symmetric=symmetric)
    assert found <= error(histogram, histogram.low, histogram.high, dtype, symmetric=symmetric)


def test_values_on_a_grid_keep_it():
    """Pixels: 0, 1/255, ..., 1 are exact with min-max, and any other range would spoil them."""
    x = np.random.default_rng(0).integers(0, 256, size=20_000) / 255
    assert mse_range(of(x), dtype="int8", symmetric=False) == (0.0, 1.0)


@pytest.mark.parametrize("value", [0.0, 3.0, -3.0])
def test_constants(value: float):
    for symmetric in (False, True):
        assert mse_range(of([value] * 5), dtype="int8", symmetric=symmetric) == (value, value)
        assert entropy_range(of([value] * 5), dtype="int8", symmetric=symmetric) == (value, value)


# Divergence


def thirty(**counts: int) -> Any:
    """30 bins from zero on: int4 has a scale of 2 bins, bin 0 is integer 0, bins 1 and 2 are 1, ..., bin 29 is 15."""
    found = np.zeros(31, np.int64)
    for name, count in counts.items():
        found[int(name[1:])] = count
    return found


def divergence(counts: Any, right: int = 30) -> float:
    return kl_divergence(counts, 0, 0, right, dtype="int4", symmetric=False)


def test_divergence_by_hand():
    # P = 3/8, 1/8, 4/8; bins 1 and 2 share an integer: Q = 2/8, 2/8, 4/8
    assert divergence(thirty(b1=3, b2=1, b29=4)) == pytest.approx(3 / 8 * math.log(1.5) + 1 / 8 * math.log(0.5))
    # an empty bin gets no share: Q = P
    assert divergence(thirty(b1=4, b29=4)) == 0.0
    # bins 2 and 3 are of different integers
    assert divergence(thirty(b2=3, b3=1, b29=4)) == 0.0


def test_divergence_of_what_is_clipped_by_hand():
    # bin 30 is added to bin 29 of P only: P = .3, .1, .6; Q = 2/8, 2/8, 4/8
    expected = 0.3 * math.log(0.3 / 0.25) + 0.1 * math.log(0.1 / 0.25) + 0.6 * math.log(0.6 / 0.5)
    assert divergence(thirty(b1=3, b2=1, b29=4, b30=2)) == pytest.approx(expected)
    assert divergence(thirty(b1=3, b2=1, b30=2)) == math.inf  # the end bin holds nothing of its own
    assert divergence(thirty(b30=2)) == math.inf


def test_divergence_of_both_signs_by_hand():
    # 7 bins a side, symmetric int4: scale 1 bin; the middle of bin -7 is -6.5, which rounds to -6, as does -5.5
    counts = np.array([3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4])
    found = kl_divergence(counts, 7, 7, 7, dtype="int4", symmetric=True)
    assert found == pytest.approx(3 / 8 * math.log(1.5) + 1 / 8 * math.log(0.5))
    # one bin less on the left: what was in it counts in the end bin of P
    shorter = kl_divergence(counts, 7, 6, 7, dtype="int4", symmetric=True)
    assert shorter == pytest.approx(0.5 * math.log(0.5 / 0.2) + 0.5 * math.log(0.5 / 0.8))


def published_threshold(x: Any) -> float:
    """Migacz's pseudocode as it stands, on |x|, where 128 divides the number of bins."""
    counts, edges = np.histogram(np.abs(x), 2048)
    found = []
    for i in range(128, 2049, 128):
        inside = counts[:i].astype(np.float64)
        reference = inside.copy()
        reference[-1] += counts[i:].sum()
        candidate = np.zeros(i)
        for part in np.split(np.arange(i), 128):
            filled = reference[part] > 0
            candidate[part] = np.where(filled, inside[part].sum() / max(1, filled.sum()), 0)
        p, q = reference / reference.sum(), candidate / candidate.sum()
        held = p > 0
        found.append((float(np.sum(p[held] * np.log(p[held] / np.maximum(q[held], 1e-12)))), edges[i]))
    return float(min(found)[1])


@pytest.mark.parametrize("law", ["normal", "laplace", "outliers"])
def test_the_symmetric_threshold_is_the_published_one(law: str):
    random = np.random.default_rng(0)
    x = {
        "normal": random.normal(size=300_000),
        "laplace": random.laplace(size=300_000),
        "outliers": np.where(np.arange(300_000) % 3000, random.normal(size=300_000), 30),
    }[law].astype(np.float32)
    low, high = entropy_range(of(x), dtype="int8", symmetric=True)
    step = float(np.abs(x).max()) / 16  # of the thresholds that the pseudocode can give with whole bins
    assert max(-low, high) == pytest.approx(published_threshold(x), abs=1.01 * step)


def test_the_short_side_of_silu_is_kept():
    x = np.random.default_rng(0).normal(size=300_000) * 3
    x = x / (1 + np.exp(-x))
    histogram = of(x)
    low, high = entropy_range(histogram, dtype="int8", symmetric=False)
    assert low == histogram.low
    assert high < histogram.high


def test_one_sided_data_in_either_direction():
    x = np.abs(np.random.default_rng(0).laplace(size=100_000))
    low, high = entropy_range(of(x), dtype="int8", symmetric=False)
    mirrored = entropy_range(of(-x), dtype="int8", symmetric=False)
    assert low == x.astype(np.float32).min()
    assert mirrored[0] == pytest.approx(-high, rel=0.05)
    assert mirrored[1] == pytest.approx(-low, rel=1e-6)


def test_equal_bins_are_not_clipped():
    x = np.random.default_rng(0).uniform(-1, 1, size=400_000)
    low, high = entropy_range(of(x), dtype="int8", symmetric=False)
    assert [low, high] == pytest.approx([-1, 1], abs=0.002)


@given(x=VALUES, dtype=DTYPES, symmetric=st.booleans())
def test_entropy_ranges_lie_within_min_max(x: Any, dtype: str, symmetric: bool):
    histogram = of(x)
    low, high = entropy_range(histogram, dtype=dtype, symmetric=symmetric)
    assert histogram.low <= low <= high <= histogram.high
