"""Learned rounding: never worse than nearest, neighbours only, zeros stay."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from calibration.rounding import cost, learned, nearest


def _problem(seed: int, groups: int, rows: int, size: int, spread: float) -> tuple[NDArray[Any], ...]:
    random = np.random.default_rng(seed)
    units = random.normal(scale=spread, size=(groups, rows, size))
    units[random.random(units.shape) < 0.3] = 0.0
    mix = random.normal(size=(groups, size, size))
    inputs = random.normal(size=(groups, 4 * size, size)) @ mix
    moments = np.swapaxes(inputs, -1, -2) @ inputs / (4 * size)
    return units, moments, random.normal(scale=0.3, size=units.shape)


@given(
    seed=st.integers(0, 10_000),
    groups=st.integers(1, 3),
    rows=st.integers(1, 4),
    size=st.integers(1, 12),
    spread=st.floats(0.1, 60.0),
    drifted=st.booleans(),
)
def test_no_row_is_worse_than_nearest_and_only_neighbours_are_taken(
    seed: int, groups: int, rows: int, size: int, spread: float, drifted: bool
):
    units, moments, drift = _problem(seed, groups, rows, size, spread)
    drift = drift if drifted else np.zeros_like(drift)
    q = learned(units, moments, 127, drift)
    plain = nearest(units, 127)
    assert (cost(q - units, moments, drift) <= cost(plain - units, moments, drift)).all()
    inside = np.abs(units) <= 127
    assert (np.abs(q - units)[inside] < 1.0).all()
    assert (q[units == 0.0] == 0).all()
    assert np.abs(q.astype(int)).max() <= 127


def test_correlated_inputs_get_opposite_roundings():
    # Both inputs are always equal, so only the sum of the weights counts: 0.4 + 0.4 = 0.8 is best kept by 1 + 0.
    units = np.array([[[0.4, 0.4]]])
    moments = np.array([[[1.0, 1.0], [1.0, 1.0]]])
    assert nearest(units, 127).sum() == 0
    assert learned(units, moments, 127).sum() == 1


def test_uncorrelated_inputs_are_rounded_to_nearest():
    units = np.random.default_rng(0).normal(scale=30, size=(1, 5, 7))
    moments = np.diag(np.arange(1.0, 8.0))[None]
    assert (learned(units, moments, 127) == nearest(units, 127)).all()


def test_drift_of_the_inputs_is_made_up_for():
    # y = 0.4 x, and the quantized network's input is always half a unit short of what it was: x' = x - 0.5 with x = 1.
    # r = E[(w x' - w x) x'] = -0.4 * 0.5 * 0.5 = -0.1; q = 1 gives 0.5, q = 0 gives 0, the target is 0.4.
    units, moments = np.array([[[0.4]]]), np.array([[[0.25]]])
    assert learned(units, moments, 127).item() == 0
    assert learned(units, moments, 127, np.array([[[-0.1]]])).item() == 1


@pytest.mark.parametrize("seed", range(10))
def test_small_problems_are_close_to_the_best_of_all_roundings(seed: int):
    units, moments, drift = _problem(seed, 1, 1, 8, 5.0)
    choices = [sorted({int(np.floor(u)), int(np.ceil(u))}) for u in units[0, 0]]
    every = np.array(list(itertools.product(*choices)), dtype=float)[None]
    best = cost(every - units, moments, np.broadcast_to(drift, every.shape)).min()
    plain = cost(nearest(units, 127) - units, moments, drift).item()
    found = cost(learned(units, moments, 127, drift) - units, moments, drift).item()
    # At least nine tenths of what could be gained over nearest.
    assert found - best <= 0.1 * (plain - best) + 1e-9


def test_halves_go_to_even_and_the_limit_holds():
    assert nearest(np.array([0.5, 1.5, -0.5, 300.0, -300.0]), 127).tolist() == [0, 2, 0, 127, -127]
    assert nearest(np.array([9.0, -9.0]), 7).tolist() == [7, -7]
