"""How many samples were enough: curves by hand, and the promises that hold for all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.convergence import convergence, range_convergence, range_distance, sample_counts
from calibration.observers import RangeObserver

CURVES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("total", "expected"),
    [(1, (1,)), (8, (8,)), (9, (8, 9)), (100, (8, 16, 32, 64, 100)), (128, (8, 16, 32, 64, 128))],
)
def test_sample_counts_by_hand(total: int, expected: tuple[int, ...]):
    assert sample_counts(total) == expected


def test_sample_counts_from_another_first_and_none_of_nothing():
    assert sample_counts(20, first=3) == (3, 6, 12, 20)
    with pytest.raises(ValueError, match="at least 1"):
        sample_counts(0)
    with pytest.raises(ValueError, match="at least 1"):
        sample_counts(5, first=0)


@pytest.mark.parametrize(
    ("values", "enough"),
    [
        ([1.0, 5.0, 9.6, 9.9, 10.0], 32),
        ([10.0, 10.1, 9.9, 10.0, 10.0], 8),
        ([10.0, 2.0, 10.0, 10.0, 10.0], 32),  # what came back does not count as there
        ([1.0, 2.0, 3.0, 9.4, 10.0], None),  # only the last one: nothing is shown
        ([9.5, 10.5, 9.5, 10.5, 10.0], 8),  # at the tolerance is within it
    ],
)
def test_enough_by_hand(values: list[float], enough: int | None):
    curve = convergence("output SQNR (dB)", (8, 16, 32, 64, 128), values, tolerance=0.5)
    assert curve.enough == enough
    assert curve.samples == (8, 16, 32, 64, 128)
    assert curve.values == tuple(values)
    assert (curve.what, curve.tolerance) == ("output SQNR (dB)", 0.5)


def test_one_point_shows_nothing():
    assert convergence("x", [8], [1.0], tolerance=1.0).enough is None


@given(values=CURVES, tolerance=st.floats(0, 1e6))
def test_everything_from_enough_on_is_within_the_tolerance(values: list[float], tolerance: float):
    samples = sample_counts(8 * 2 ** (len(values) - 1))
    curve = convergence("x", samples, values, tolerance=tolerance)
    within = [abs(value - values[-1]) <= tolerance for value in values]
    if curve.enough is None:
        assert len(values) == 1 or not within[-2]
    else:
        start = samples.index(curve.enough)
        assert all(within[start:])
        assert start == 0 or not within[start - 1]


@given(values=CURVES, tolerances=st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)))
def test_a_wider_tolerance_never_asks_for_more(values: list[float], tolerances: tuple[float, float]):
    samples = sample_counts(8 * 2 ** (len(values) - 1))
    strict, loose = (convergence("x", samples, values, tolerance=t).enough for t in sorted(tolerances))
    assert strict is None or (loose is not None and loose <= strict)


@pytest.mark.parametrize(
    ("samples", "values", "tolerance"),
    [
        ([], [], 1.0),
        ([8, 16], [1.0], 1.0),
        ([8, 8], [1.0, 1.0], 1.0),
        ([16, 8], [1.0, 1.0], 1.0),
        ([8, 16], [1.0, float("nan")], 1.0),
        ([8, 16], [1.0, 1.0], -1.0),
        ([8, 16], [1.0, 1.0], float("nan")),
    ],
)
def test_no_curve_is_refused(samples: list[int], values: list[float], tolerance: float):
    with pytest.raises(ValueError, match="A curve needs"):
        convergence("x", samples, values, tolerance=tolerance)


@pytest.mark.parametrize(
    ("low", "high", "final", "expected"),
    [
        (-1.0, 3.0, (-1.0, 3.0), 0.0),
        (-1.0, 2.0, (-1.0, 3.0), 0.25),
        (-2.0, 2.5, (-1.0, 3.0), 0.25),
        (1.0, 3.0, (2.0, 4.0), 0.25),  # 0..3 and 0..4
        (0.0, 0.0, (0.0, 0.0), 0.0),
        (0.0, 5.0, (0.0, 0.0), 1.0),
        (0.0, 0.0, (0.0, 5.0), 1.0),
    ],
)
def test_distances_by_hand(low: float, high: float, final: tuple[float, float], expected: float):
    assert range_distance(low, high, final) == expected


def test_convergence_of_ranges_by_hand():
    final = {"a": (0.0, 10.0), "b": (-1.0, 1.0), "c": (0.0, 4.0)}
    found = range_convergence(
        {
            32: final,
            8: {"a": (0.0, 5.0), "b": (-1.0, 0.8), "c": (0.0, 4.0)},  # 0.5, 0.1, 0
            16: {"a": (0.0, 10.0), "b": (-1.0, 0.96), "c": (0.0, 4.0)},  # 0, 0.02, 0
        }
    )
    assert found.median.samples == found.percentile_95.samples == (8, 16, 32)
    assert found.median.values == (pytest.approx(0.1), 0.0, 0.0)
    # between the second and the third of three: 0.1 + 0.9 * 0.4, 0 + 0.9 * 0.02
    assert found.percentile_95.values == (pytest.approx(0.46), pytest.approx(0.018), 0.0)
    assert found.median.enough == found.percentile_95.enough == 16
    assert found.farthest == "b"
    assert range_convergence({8: final, 16: final}).farthest == ""
    assert range_convergence({8: final}).median.enough is None


def test_ranges_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="at least one snapshot"):
        range_convergence({})
    with pytest.raises(ValueError, match="at least one tensor"):
        range_convergence({8: {}})
    with pytest.raises(ValueError, match="not of the same tensors: b"):
        range_convergence({8: {"a": (0.0, 1.0), "b": (0.0, 1.0)}, 16: {"a": (0.0, 1.0)}})


@pytest.mark.parametrize("method", ["minmax", "percentile-99.9"])
def test_ranges_of_a_stream_converge(method: str):
    """Min-max ranges of nested samples only grow, so their distances only fall."""
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, size=(256, 3, 50)) * np.array([1, 20, 0.1])[:, None]
    shared = {name: RangeObserver(name) for name in "abc"}
    snapshots, seen = {}, 0
    for count in sample_counts(256):
        for index, observer in enumerate(shared.values()):
            observer.update(x[seen:count, index])
        snapshots[count], seen = {name: observer.range(method) for name, observer in shared.items()}, count
    found = range_convergence(snapshots)
    assert found.percentile_95.values[-1] == 0.0
    assert found.percentile_95.enough in {8, 16, 32}
    assert found.median.values[0] <= found.percentile_95.values[0]
    if method == "minmax":
        assert list(found.median.values) == sorted(found.median.values, reverse=True)
