"""The streaming histogram: exact counts, whatever the chunks, the order and the range."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibration.histogram import COARSE, FINE, Grid, Histogram, StreamingHistogram

TINY_GRID = Grid(top_bins=4, least_bins=2, octaves=3)
"""Below 2**E: bins of 1/8 from 1/2 on, of 1/8 from 1/4 on, of 1/16 from 1/8 on, and one below 1/8; times 2**E."""
WIDE = hnp.arrays(
    np.float32,
    st.integers(1, 60),
    elements=st.one_of(
        st.floats(width=32, allow_nan=False, allow_infinity=False),
        st.floats(-8, 8, width=32),
        st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0**-126, 2.0**-149, -(2.0**127)]),
    ),
)


def counted(*chunks: Any, grid: Grid = FINE) -> Histogram:
    stream = StreamingHistogram(grid=grid)
    for chunk in chunks:
        stream.update(np.asarray(chunk, np.float32).reshape(1, -1))
    return stream.histogram()


def same(one: Histogram, other: Histogram) -> bool:
    return (
        np.array_equal(one.lower, other.lower)
        and np.array_equal(one.upper, other.upper)
        and np.array_equal(one.counts, other.counts)
        and (one.zeros, one.low, one.high) == (other.zeros, other.low, other.high)
    )


def test_bins_by_hand():
    assert TINY_GRID.per_octave == (2, 2, 4)
    assert TINY_GRID.bins == 9
    found = counted([0.0, -0.0, 0.01, 0.1, 0.125, 0.26, 0.5, 0.6, 0.74, 0.9, -0.3], grid=TINY_GRID)
    assert found.zeros == 2
    assert found.lower.tolist() == [-0.30000001192092896, 0.0, 0.125, 0.25, 0.5, 0.625, 0.875]
    assert found.upper.tolist() == [-0.25, 0.125, 0.1875, 0.375, 0.625, 0.75, 0.8999999761581421]
    assert found.counts.tolist() == [1, 2, 1, 1, 2, 1, 1]
    assert found.total == 11


def test_a_larger_value_merges_bins_in_pairs():
    found = counted([0.01, 0.1, 0.125, 0.26, 0.5, 0.6, 0.74, 0.9, -0.3], [1.5], grid=TINY_GRID)
    # all edges twice as far out: below 1/4, then 1/8 wide from 1/4, 1/4 wide from 1/2, 1/4 wide from 1
    assert found.lower.tolist() == [-0.30000001192092896, 0.0, 0.25, 0.5, 0.75, 1.5]
    assert found.upper.tolist() == [-0.25, 0.25, 0.375, 0.75, 1.0, 1.5]
    assert found.counts.tolist() == [1, 3, 1, 3, 1, 1]
    beyond = counted([0.01, 0.1, -0.3], [1000.0], grid=TINY_GRID)
    assert beyond.lower.tolist() == [-0.30000001192092896, 0.0, 896.0]
    assert beyond.counts.tolist() == [1, 2, 1]


def test_nothing_and_zeros_only():
    with pytest.raises(ValueError, match="No value was counted"):
        StreamingHistogram().histogram()
    zeros = counted([0.0, -0.0, 0.0])
    assert (zeros.zeros, zeros.total, len(zeros.counts), zeros.low, zeros.high) == (3, 3, 0, 0.0, 0.0)


@given(
    x=WIDE, cuts=st.lists(st.integers(1, 59), max_size=5), seed=st.integers(0, 99), grid=st.sampled_from([FINE, COARSE])
)
def test_neither_chunks_nor_order_matter(x: Any, cuts: list[int], seed: int, grid: Grid):
    whole = counted(x, grid=grid)
    chunks = [part for part in np.split(x, sorted(cut for cut in cuts if cut < len(x))) if len(part)]
    assert same(counted(*chunks, grid=grid), whole)
    assert same(counted(np.random.default_rng(seed).permutation(x), grid=grid), whole)


@given(x=WIDE)
def test_every_value_is_in_its_bin(x: Any):
    found = counted(x)
    assert found.total == len(x)
    assert found.zeros == np.count_nonzero(x == 0)
    assert (found.low, found.high) == (x.min(), x.max())
    assert (found.lower <= found.upper).all()
    assert (found.upper[:-1] <= found.lower[1:]).all()
    real = np.sort(x[x != 0].astype(np.float64))
    inside = np.split(real, np.cumsum(found.counts)[:-1]) if len(real) else []
    for values, lower, upper in zip(inside, found.lower, found.upper, strict=True):
        assert lower <= values.min()
        assert values.max() <= upper


def test_bins_are_fine_where_an_outlier_is_far_away():
    random = np.random.default_rng(0)
    bulk = random.normal(size=20_000).astype(np.float32)
    found = counted(bulk, [1000.0])
    magnitude = np.maximum(np.abs(found.lower), np.abs(found.upper))
    width = found.upper - found.lower
    assert (width <= np.maximum(magnitude / 64, 1024 / 2**16)).all()
    assert np.count_nonzero(np.abs(found.upper) < 4) > 300


def test_channels_are_counted_apart():
    random = np.random.default_rng(1)
    x = (random.normal(size=(5, 3000)) * np.array([1e-6, 1, 300, 0, 1e20])[:, None]).astype(np.float32)
    stream = StreamingHistogram(5, COARSE)
    for part in np.split(x, [1, 700, 2999], axis=1):
        stream.update(part)
    for channel in range(5):
        assert same(stream.histogram(channel), counted(x[channel], grid=COARSE))


def test_blocks_larger_than_the_buffer_are_counted_whole():
    x = np.random.default_rng(2).normal(size=300_001).astype(np.float32)
    assert same(counted(x), counted(*np.split(x, [7, 150_000])))


def test_a_million_values_take_no_more_memory_than_a_few():
    def peak(chunks: int) -> int:
        random = np.random.default_rng(0)
        stream = StreamingHistogram()
        chunk = np.empty((1, 10_000), np.float32)
        tracemalloc.start()
        for index in range(chunks):
            chunk[0] = random.normal(size=10_000) * (1 + index)  # the range grows all the time
            stream.update(chunk)
        assert stream.histogram().total == chunks * 10_000
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(2)  # tables that all histograms share
    few, million = peak(3), peak(100)
    assert million <= few * 1.05 + 4096
    assert million < 2_000_000
