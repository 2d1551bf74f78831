"""Observers by hand, their promises as properties, and a stream of a million values in bounded memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibration import affine, observers
from calibration.clipping import mse_range
from calibration.observers import (
    EntropyObserver,
    MinMaxObserver,
    MovingAverageObserver,
    MseObserver,
    Observer,
    PercentileObserver,
    RangeObserver,
)
from edgesmith.errors import DataError

VALUES = hnp.arrays(
    np.float32,
    st.integers(1, 60),
    elements=st.one_of(st.floats(-(2.0**30), 2.0**30, width=32), st.floats(-2, 2, width=32), st.just(0.0)),
)
PER_CHANNEL = [MinMaxObserver, MovingAverageObserver, PercentileObserver, MseObserver]
ALL = [*PER_CHANNEL, EntropyObserver]


def fed(observer: Any, *batches: Any) -> Any:
    for batch in batches:
        observer.update(np.asarray(batch, np.float32))
    return observer


def test_min_max_by_hand():
    assert fed(MinMaxObserver("t"), [[1, 2], [3, 4]], [[-1, 0.5]], [[2]]).range() == (-1.0, 4.0)
    low, high = fed(MinMaxObserver("t", axis=1), [[1, 2], [3, 4]], [[-1, 9]]).ranges()
    assert (low.tolist(), high.tolist()) == ([-1, 2], [3, 9])


def test_the_moving_average_by_hand():
    one = MovingAverageObserver("t", factor=0.5)
    assert fed(one, [0, 8]).range() == (0.0, 8.0)
    # weights 1/2 and 1 over 3/2
    assert fed(one, [-3, 2]).range() == (-2.0, 4.0)
    # weights 1/4, 1/2 and 1 over 7/4
    assert fed(one, [0, 4]).range() == (pytest.approx(-6 / 7), 4.0)
    low, high = fed(MovingAverageObserver("t", axis=0, factor=0.5), [[0, 8], [1, 1]], [[-3, 2], [1, 4]]).ranges()
    assert (low.tolist(), high.tolist()) == ([-2, 1], [4, 3])


def test_the_first_of_many_batches_weighs_no_more_than_its_share():
    observer = fed(MovingAverageObserver("t"), [0, 1000], *([[0, 1]] * 10))
    first_of_eleven = 0.9**10 * (1 - 0.9) / (1 - 0.9**11)
    assert observer.range()[1] == pytest.approx(1 + 999 * first_of_eleven)


@pytest.mark.parametrize("factor", [-0.1, 1.0, float("nan")])
def test_a_factor_out_of_range_is_refused(factor: float):
    with pytest.raises(ValueError, match="of a moving average"):
        MovingAverageObserver("t", factor=factor)


def test_percentiles_leave_zeros_out():
    values = np.concatenate((np.zeros(10_000), np.arange(1, 1001) / 1000)).astype(np.float32)
    assert fed(PercentileObserver("t", 90.0), values).range()[1] == pytest.approx(0.95, rel=0.002)
    low, high = fed(PercentileObserver("t", 100.0), values).range()
    assert 0.0 <= low <= 0.001
    assert high == 1.0


def test_every_method_of_one_pass_is_the_single_observers_range():
    random = np.random.default_rng(0)
    batches = [random.laplace(size=(16, 4, 4, 8)) * (1 + index) for index in range(5)]
    shared = fed(RangeObserver("t"), *batches)
    for symmetric in (False, True):
        found = shared.candidates(symmetric=symmetric)
        assert tuple(found) == observers.METHODS
        single: dict[str, Observer] = {
            "minmax": MinMaxObserver("t"),
            "moving-average": MovingAverageObserver("t"),
            "percentile-99.9": PercentileObserver("t", 99.9),
            "percentile-99.99": PercentileObserver("t"),
            "percentile-99.999": PercentileObserver("t", 99.999),
            "entropy": EntropyObserver("t", symmetric=symmetric),
            "mse": MseObserver("t", symmetric=symmetric),
        }
        assert found == {name: fed(observer, *batches).range() for name, observer in single.items()}
    assert len(set(found.values())) >= 6  # they are different methods
    assert shared.range("percentile") == found["percentile-99.99"]
    assert shared.range("percentile-50") == fed(PercentileObserver("t", 50.0), *batches).range()
    assert shared.candidates(methods=("mse",), dtype="int4") == {"mse": shared.range("mse", dtype="int4")}


@pytest.mark.parametrize("method", ["median", "percentiles", ""])
def test_other_methods_are_refused(method: str):
    with pytest.raises(ValueError, match="There is no method"):
        fed(RangeObserver("t"), [1.0]).range(method)


def test_without_counts_the_ends_are_the_same_and_the_rest_is_refused():
    batches = np.random.default_rng(0).normal(size=(5, 300))
    shared, counted = fed(RangeObserver("t", counted=False), *batches), fed(RangeObserver("t"), *batches)
    for method in ("minmax", "moving-average"):
        assert shared.range(method) == counted.range(method)
    with pytest.raises(ValueError, match="values of t were not counted"):
        shared.range("mse")


def test_the_expected_error_is_that_of_the_affine_grid():
    x = np.random.default_rng(0).normal(size=(4, 20_000)).astype(np.float32)
    shared = fed(RangeObserver("t"), *x)
    for low, high in shared.candidates().values():
        grid = affine.choose_params(low, high, dtype="int8", symmetric=False)
        measured = np.mean((x - affine.fake_quantize(x, grid)).astype(np.float64) ** 2)
        assert shared.expected_mse(low, high) == pytest.approx(measured, rel=0.02)
    assert shared.expected_mse(-1, 1, "int4", symmetric=True) > shared.expected_mse(-3, 3, "int4", symmetric=True)


@pytest.mark.parametrize("kind", PER_CHANNEL)
def test_channels_have_the_ranges_they_have_alone(kind: Any):
    random = np.random.default_rng(0)
    scales = np.array([1e-3, 1.0, 0.0, 700.0])
    batches = [random.normal(size=(8, 4, 50)) * scales[:, None] for _ in range(4)]
    low, high = fed(kind("t", axis=1), *batches).ranges()
    assert low.shape == high.shape == (4,)
    for channel in range(4):
        alone = fed(kind("t", axis=0), *(batch[None, :, channel] for batch in batches)).ranges()
        assert (low[channel], high[channel]) == (alone[0][0], alone[1][0])
    assert (high[[0, 1, 3]] > scales[[0, 1, 3]]).all()
    assert high[2] == 0.0


def test_mse_per_channel_is_nearly_as_good_as_with_fine_bins():
    random = np.random.default_rng(0)
    x = random.laplace(size=(20_000, 3)).astype(np.float32)
    coarse = fed(MseObserver("t", axis=1), *np.split(x, 4)).ranges()
    for channel in range(3):
        shared = fed(RangeObserver("t"), x[:, channel])
        best = shared.expected_mse(*mse_range(shared.histogram(), dtype="int8", symmetric=False))
        assert shared.expected_mse(coarse[0][channel], coarse[1][channel]) <= best * 1.01


@pytest.mark.parametrize("kind", [*ALL, RangeObserver])
@pytest.mark.parametrize(
    ("value", "called"), [(float("nan"), "NaN"), (float("inf"), "an infinite value"), (float("-inf"), "an infinite")]
)
def test_what_is_not_finite_is_refused_by_name(kind: Any, value: float, called: str):
    observer = fed(kind("block_3/add"), [1.0, 2.0])
    with pytest.raises(DataError, match=f"activation block_3/add holds {called}"):
        observer.update(np.array([[0.0, value]], np.float32))
    # and what was seen before still stands
    assert (observer.range("minmax") if kind is RangeObserver else observer.range())[1] == 2.0


def test_a_value_beyond_float32_is_infinite():
    with pytest.raises(DataError, match="infinite"):
        MinMaxObserver("t").update(np.array([1e300]))


@pytest.mark.parametrize("kind", [*ALL, RangeObserver])
def test_nothing_seen_is_said(kind: Any):
    observer = fed(kind("t"), np.zeros((0, 3)))
    with pytest.raises(DataError, match="No value of the activation t was seen"):
        observer.candidates() if kind is RangeObserver else observer.range()


@pytest.mark.parametrize("kind", PER_CHANNEL)
def test_other_channels_than_before_are_refused(kind: Any):
    observer = fed(kind("t", axis=1), np.ones((2, 3)))
    with pytest.raises(DataError, match="had 3 channels along axis 1, now 4"):
        observer.update(np.ones((2, 4)))
    with pytest.raises(ValueError, match="observed per channel"):
        observer.range()


@settings(max_examples=40)
@given(x=VALUES, cuts=st.lists(st.integers(1, 59), max_size=4), seed=st.integers(0, 99))
def test_chunks_and_order_change_nothing_but_the_moving_average(x: Any, cuts: list[int], seed: int):
    methods = tuple(method for method in observers.METHODS if method != "moving-average")
    whole = fed(RangeObserver("t"), x).candidates(methods=methods)
    chunks = np.split(x, sorted(cut for cut in cuts if cut < len(x)))
    assert fed(RangeObserver("t"), *chunks).candidates(methods=methods) == whole
    assert fed(RangeObserver("t"), np.random.default_rng(seed).permutation(x)).candidates(methods=methods) == whole


@settings(max_examples=40)
@given(batches=st.lists(VALUES, min_size=1, max_size=4), symmetric=st.booleans())
def test_every_range_lies_within_min_max_and_its_grid_holds_zero(batches: list[Any], symmetric: bool):
    shared = fed(RangeObserver("t"), *batches)
    least, most = min(batch.min() for batch in batches), max(batch.max() for batch in batches)
    for low, high in shared.candidates(symmetric=symmetric).values():
        assert low <= high
        if np.any(np.concatenate(batches)):
            assert least <= low
            assert high <= most
        grid = affine.choose_params(low, high, dtype="int8", symmetric=symmetric)
        ends = affine.range_of(grid)
        assert ends[0] <= 0.0 <= ends[1]
        assert affine.fake_quantize(np.zeros(1, np.float32), grid)[0] == 0.0


@given(batches=st.lists(VALUES, min_size=1, max_size=4), symmetric=st.booleans())
def test_mse_is_never_worse_than_min_max(batches: list[Any], symmetric: bool):
    shared = fed(RangeObserver("t"), *batches)
    best, widest = shared.range("mse", symmetric=symmetric), shared.range("minmax")
    assert shared.expected_mse(*best, symmetric=symmetric) <= shared.expected_mse(*widest, symmetric=symmetric)


def test_a_million_values_take_no_more_memory_than_a_few():
    def peak(batches: int) -> int:
        random = np.random.default_rng(0)
        shared, channels = RangeObserver("t"), MseObserver("t", axis=1)
        tracemalloc.start()
        for index in range(batches):
            batch = random.standard_normal(size=(625, 16), dtype=np.float32)
            batch *= 1 + index
            shared.update(batch)
            channels.update(batch)
        assert shared.histogram().total == batches * 10_000
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(2)  # tables that all histograms share
    few, million = peak(10), peak(100)
    assert million <= few * 1.1
    assert million < 3_000_000
