"""Few distinct values are found behind factors of channels, and nothing else is taken for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from optimizer.ptq import shared_values


def clustered(channels: int, weights: int, values: int, *, zeros: float = 0.0, seed: int = 0) -> NDArray[np.float32]:
    """[channels, weights] of so many values besides zero."""
    random = np.random.default_rng(seed)
    book = random.normal(size=values).astype(np.float32)
    kernel = book[random.integers(0, values, size=(channels, weights))]
    return np.where(random.random(kernel.shape) < zeros, np.float32(0), kernel)


def folded(kernel: NDArray[np.float32], seed: int = 1) -> NDArray[np.float32]:
    """With a factor for each channel, some negative, as a batch normalization has."""
    random = np.random.default_rng(seed)
    gains = random.uniform(0.05, 3, size=len(kernel)) * random.choice([1, 1, 1, -1], size=len(kernel))
    return kernel * gains.astype(np.float32)[:, None]


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (np.tile(np.arange(1, 65), 4), True),
        (np.tile(np.arange(1, 67), 4), False),
        (np.arange(64), False),
        (np.zeros(100), False),
        (np.random.default_rng(0).normal(size=500), False),
        (np.where(np.random.default_rng(0).random(500) < 0.9, 0, np.random.default_rng(1).normal(size=500)), False),
    ],
)
def test_shared_values_are_told_from_small_kernels(kernel: Any, expected: bool):
    found = shared_values.factors(np.asarray(kernel, np.float64)[None])
    assert (found is not None) is expected
    assert found is None or found.tolist() == [1.0]


@given(
    shape=st.sampled_from([(16, 27), (32, 9), (48, 16), (10, 48), (64, 144)]),
    values=st.sampled_from([4, 8, 16]),
    zeros=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 10_000),
)
def test_factors_are_found_again(shape: tuple[int, int], values: int, zeros: float, seed: int):
    """Also where no channel holds all values: 9 weights of 16 values. With half of those zero, too few are shared."""
    assume(values < 16 or zeros == 0 or shape[1] > 9)
    plain = clustered(*shape, values, zeros=zeros, seed=seed)
    kernel = folded(plain, seed)
    found = shared_values.factors(kernel.astype(np.float64))
    assert found is not None
    units = np.abs(kernel / found[:, None])
    distinct = np.unique(units[units > 0])
    apart = int((np.diff(distinct) > 1e-5 * distinct[1:]).sum()) + 1
    assert apart <= len(np.unique(plain[plain != 0]))


@given(channels=st.integers(2, 64), values=st.sampled_from([3, 16]), seed=st.integers(0, 10_000))
def test_without_factors_all_are_exactly_one(channels: int, values: int, seed: int):
    kernel = clustered(channels, 36, values, seed=seed)
    found = shared_values.factors(kernel.astype(np.float64))
    assert found is not None
    assert found.tolist() == [1.0] * channels


@pytest.mark.parametrize("shape", [(32, 9), (512, 9), (64, 64), (32, 16), (2, 3), (256, 27), (16, 2)])
@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.8])
def test_trained_and_pruned_kernels_are_not_taken_for_clustered_ones(shape: tuple[int, int], zeros: float):
    for seed in range(5):
        random = np.random.default_rng(seed)
        kernel = random.normal(size=shape).astype(np.float32)
        kernel[random.random(shape) < zeros] = 0
        assert shared_values.factors(kernel.astype(np.float64)) is None


@given(st.lists(st.floats(-127, 127), min_size=1, max_size=20), st.integers(0, 1000))
def test_what_float32_parted_is_rounded_together(values: list[float], seed: int):
    units = np.array([[value] * 8 for value in values])
    noisy = units * (1 + np.random.default_rng(seed).uniform(-1e-7, 1e-7, size=units.shape))
    merged = shared_values.merged(noisy)
    np.testing.assert_allclose(merged, units, atol=1e-3 * len(values))
    rounded = np.rint(merged)
    assert (rounded == rounded[:, :1]).all()


def test_a_channel_of_one_value_has_the_finest_steps_of_its_sign():
    """Which of the values it was cannot be known."""
    plain = np.resize(np.array([1.0, -2.0, 0.5, -0.25], np.float32), (8, 50))
    plain[3:5] = np.where(np.arange(50) % 3, 0, np.array([[0.001], [-0.001]]))
    kernel = plain * np.arange(1, 9, dtype=np.float32)[:, None] / 3
    found = shared_values.factors(kernel.astype(np.float64))
    assert found is not None
    units = kernel / found[:, None] / np.abs(kernel[0] / found[0]).max() * 2
    assert set(np.round(units[3], 5)) == {0, 1}
    assert set(np.round(units[4], 5)) == {0, -2}


def test_of_two_signs_that_explain_a_channel_the_positive_one_is_taken():
    values = np.array([1.0, -1.0, 3.0, -3.0])
    kernel = np.resize(values, (4, 40)) * np.array([1, 0.3, 2.7, 0.01], np.float32)[:, None]
    found = shared_values.factors(kernel)
    assert found is not None
    np.testing.assert_allclose(found / found[0], [1, 0.3, 2.7, 0.01], rtol=1e-6)


def test_a_value_on_a_half_is_rounded_one_way():
    units = np.array([[2.5 + 1e-6, -2.5 + 1e-6], [2.5 - 1e-6, 1.0]])
    assert np.rint(units).tolist() == [[3, -2], [2, 1]]
    assert np.abs(np.rint(shared_values.merged(units))).tolist() == [[2, 2], [2, 1]]
