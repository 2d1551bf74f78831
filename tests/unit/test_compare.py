"""SQNR, cosine and their edges."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from edgesmith.errors import ModelError
from optimizer.compare import compare, first_diverging

Array = NDArray[Any]
vectors = hnp.arrays(np.float64, (4, 3), elements=st.integers(-8000, 8000).map(lambda v: v / 8))


def test_by_hand():
    reference = np.array([[3.0, 4.0], [0.0, 0.0]])
    other = np.array([[3.0, 4.5], [0.0, 0.0]])
    found = compare([reference], [other])
    # signal 25, error 0.25: a ratio of 100 is 20 dB.
    assert found.sqnr_db == pytest.approx(20.0)
    assert found.cosine == pytest.approx((9 + 18) / (5 * math.hypot(3, 4.5)))
    assert found.max_abs == 0.5
    assert found.top1_agreement == 1.0
    assert found.n == 2


def test_outputs_are_taken_together():
    found = compare([np.full((2, 1), 3.0), np.full((2, 1), 4.0)], [np.full((2, 1), 3.0), np.full((2, 1), 4.5)])
    assert found.sqnr_db == pytest.approx(20.0)
    assert found.n == 2


def test_equal_outputs():
    found = compare([np.ones((3, 2), np.float32)], [np.ones((3, 2), np.float32)])
    assert (found.sqnr_db, found.max_abs, found.top1_agreement) == (math.inf, 0.0, 1.0)
    assert found.cosine == pytest.approx(1.0)


def test_both_zero():
    found = compare([np.zeros((3, 2))], [np.zeros((3, 2))])
    assert (found.sqnr_db, found.cosine) == (math.inf, 1.0)


def test_zero_reference():
    found = compare([np.zeros((3, 2))], [np.ones((3, 2))])
    assert (found.sqnr_db, found.cosine, found.max_abs) == (-math.inf, 0.0, 1.0)


def test_zero_other_is_zero_db():
    found = compare([np.ones((3, 2))], [np.zeros((3, 2))])
    assert (found.sqnr_db, found.cosine) == (0.0, 0.0)


@given(r=vectors, o=vectors, factor=st.sampled_from([1e-150, 1e-3, 1.0, 1e3, 1e150]))
def test_scale_changes_nothing(r: Array, o: Array, factor: float):
    r[0, 0] += 1e3 + 1
    plain, scaled = compare([r], [o]), compare([r * factor], [o * factor])
    assert scaled.sqnr_db == pytest.approx(plain.sqnr_db, abs=1e-6)
    assert scaled.cosine == pytest.approx(plain.cosine, abs=1e-9)


@given(r=vectors, o=vectors)
def test_bounds(r: Array, o: Array):
    found = compare([r], [o])
    assert -1.0 <= found.cosine <= 1.0
    assert not math.isnan(found.sqnr_db)
    assert found.max_abs == np.abs(r - o).max()
    assert (found.sqnr_db == math.inf) == np.array_equal(r, o)


@given(r=vectors)
def test_a_mirror_image(r: Array):
    r[0, 0] = 7.0
    found = compare([r], [-r])
    assert found.sqnr_db == pytest.approx(-20 * math.log10(2))
    assert found.cosine == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("reference", "other", "says"),
    [
        ([np.ones((2, 2))], [], "The models have 1 and 0 outputs"),
        ([], [], "There are no outputs to compare."),
        ([np.ones((0, 2))], [np.ones((0, 2))], "There are no outputs to compare."),
        ([np.ones((2, 3))], [np.ones((2, 4))], r"Output 0 is \[2, 3\] in the reference and \[2, 4\] in the other."),
        ([np.ones((2, 2))], [np.full((2, 2), np.nan)], "4 values of output 0 of the other model are NaN or infinite."),
        ([np.full((1, 2), np.inf)], [np.ones((1, 2))], "2 values of output 0 of the reference model are NaN"),
    ],
)
def test_refusals(reference: Any, other: Any, says: str):
    with pytest.raises(ModelError, match=says):
        compare(reference, other)


def test_first_diverging_names_the_first_and_looks_no_further():
    ones = np.ones(4)

    def pairs() -> Iterator[tuple[str, Array, Array]]:
        yield "conv1", ones, ones
        yield "conv2", ones, ones * 1.5
        raise AssertionError

    assert first_diverging(pairs(), min_sqnr_db=20.0) == "conv2"
    assert first_diverging([("conv1", ones, ones), ("conv2", ones, ones * 1.5)], min_sqnr_db=6.0) is None


@pytest.mark.parametrize(
    ("reference", "other"),
    [
        (np.ones(2), np.array([1.0, np.nan])),
        (np.array([1.0, np.nan]), np.ones(2)),
        (np.ones(2), np.array([1.0, np.inf])),
        (np.ones(2), np.ones(3)),
        (np.zeros(2), np.ones(2)),
    ],
)
def test_what_cannot_be_close_diverges(reference: Any, other: Any):
    assert first_diverging([("t", reference, other)], min_sqnr_db=-100.0) == "t"


def test_an_empty_tensor_does_not_diverge():
    assert first_diverging([("shape", np.ones(0), np.ones(0))], min_sqnr_db=30.0) is None
