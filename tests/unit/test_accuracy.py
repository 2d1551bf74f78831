"""Task metrics by hand, their edges and their refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from device_tests.accuracy import (
    METRICS,
    accuracy_drop_pp,
    agreement,
    class_indices,
    dequantize,
    drop_interval_pp,
    evaluate,
    top1_correct,
)
from edgesmith.errors import ConfigError, DataError, ModelError
from edgesmith.types import Accuracy

Array = NDArray[Any]
scores8 = hnp.arrays(np.float32, (8, 7), elements=st.integers(-3, 3).map(float))
labels8 = hnp.arrays(np.int64, 8, elements=st.integers(0, 6))


def test_the_metrics_there_are():
    assert list(METRICS) == ["top1", "top5", "mae", "agreement"]


def test_top1_by_hand():
    outputs = (np.array([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5], [0.3, 0.7]], np.float32),)
    found = evaluate("top1", outputs, np.array([1, 1, 0, 1]))
    # The third is a tie: the first class wins, as in numpy.argmax.
    assert (found.metric, found.value, found.n, found.higher_is_better) == ("top1", 0.75, 4, True)
    assert (found.low, found.high) == pytest.approx((0.3006, 0.9544), abs=5e-5)


def test_unit_axes_are_dropped():
    scores = np.eye(4, dtype=np.float32)
    for shape in ((4, 1, 1, 4), (4, 4, 1, 1), (4, 1, 4)):
        assert evaluate("top1", (scores.reshape(shape),), np.arange(4)).value == 1.0


def test_one_sigmoid_output_is_cut_at_a_half():
    outputs = (np.array([[0.49], [0.5], [1.004], [-0.004]], np.float32),)
    assert top1_correct(outputs, np.array([0, 1, 1, 0])).tolist() == [True] * 4


def test_one_logit_output_is_cut_at_zero():
    outputs = (np.array([[0.3], [-0.2], [4.0], [-3.0]], np.float32),)
    assert top1_correct(outputs, np.array([1, 0, 1, 0])).tolist() == [True] * 4
    # By itself 0.3 reads as a probability; beside its original it is read as that is.
    assert class_indices(np.array([[0.3]]), like=np.array([[5.0]])).tolist() == [1]
    assert class_indices(np.array([[0.3]])).tolist() == [0]


def test_top5_by_hand():
    scores = np.array([[6, 5, 4, 3, 2, 1], [6, 5, 4, 3, 2, 1], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]], np.float32)
    # Ties count in order of index: with six equal scores the sixth class is not among five.
    assert evaluate("top5", (scores,), np.array([4, 5, 4, 5])).value == 0.5


@given(scores=scores8, y=labels8)
def test_top5_is_top_k_of_a_stable_sort(scores: Array, y: Array):
    order = np.argsort(-scores, axis=1, kind="stable")
    assert evaluate("top5", (scores,), y).value == np.mean([y[i] in order[i, :5] for i in range(8)])
    assert evaluate("top1", (scores,), y).value == np.mean(order[:, 0] == y)


def test_mae_by_hand():
    found = evaluate("mae", (np.array([[1.0], [2.0], [4.0]], np.float32),), np.array([1.5, 2.0, 3.0], np.float32))
    assert found.value == pytest.approx(0.5)
    assert found.higher_is_better is False
    assert 0.0 <= found.low <= 0.5 <= found.high <= 1.0
    again = evaluate("mae", (np.array([[1.0], [2.0], [4.0]], np.float32),), np.array([1.5, 2.0, 3.0], np.float32))
    assert (again.low, again.high) == (found.low, found.high)


def test_mae_interval_is_that_of_a_mean():
    error = np.random.default_rng(3).random(2000)
    found = evaluate("mae", (error[:, None],), np.zeros(2000, np.float32))
    half = 1.96 * error.std() / np.sqrt(2000)
    assert found.high - found.value == pytest.approx(half, rel=0.1)
    assert found.value - found.low == pytest.approx(half, rel=0.1)


def test_agreement_by_hand():
    mine = (np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0], [0.0, 1.0]]),)
    reference = (np.array([[9.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]),)
    assert agreement(mine, reference) == 0.75
    found = evaluate("agreement", mine, None, reference_outputs=reference)
    assert (found.metric, found.value, found.n) == ("agreement", 0.75, 4)


def test_agreement_is_none_for_what_is_no_class_score():
    assert agreement((np.ones((4, 8, 8, 2)),), (np.ones((4, 8, 8, 2)),)) is None
    assert agreement((np.full((4, 1), 3.0),), (np.full((4, 1), 3.0),)) is None
    assert agreement((np.full((4, 1), 0.7),), (np.full((4, 1), 0.6),)) == 1.0


@given(scores=scores8)
def test_a_model_agrees_with_itself(scores: Array):
    assert agreement((scores,), (scores.copy(),)) == 1.0


def test_dequantize_by_hand():
    raw = np.array([[-128, 0, 127]], np.int8)
    real, plain = dequantize((raw, np.array([[1.5]], np.float16)), ((1 / 256, -128), None))
    assert real.tolist() == [[0.0, 0.5, 0.99609375]]
    assert real.dtype == plain.dtype == np.float32
    (unsigned,) = dequantize((np.array([0, 255], np.uint8),), ((0.5, 10),))
    assert unsigned.tolist() == [-5.0, 122.5]


@given(q=hnp.arrays(np.int8, 20), scale=st.floats(1e-6, 10), zero=st.integers(-128, 127))
def test_dequantize_keeps_order_and_zero(q: Array, scale: float, zero: int):
    (real,) = dequantize((q,), ((scale, zero),))
    assert np.array_equal(real == 0, q == zero)
    assert np.array_equal(np.argsort(real, kind="stable"), np.argsort(q, kind="stable"))


def test_dequantize_wants_one_entry_per_output():
    with pytest.raises(ValueError, match="shorter"):
        dequantize((np.ones(1), np.ones(1)), (None,))


def figure(value: float, better: bool = True):
    return Accuracy(metric="m", value=value, low=None, high=None, n=100, higher_is_better=better)


def test_drop_in_percentage_points():
    assert accuracy_drop_pp(figure(0.91), figure(0.90)) == 1.0
    assert accuracy_drop_pp(figure(0.90), figure(0.91)) == -1.0
    assert accuracy_drop_pp(figure(0.5, better=False), figure(0.75, better=False)) == 25.0


def test_drop_interval_is_paired():
    n = 1000
    before = np.arange(n) < 900
    after = before.copy()
    after[:5] = False
    low, high = drop_interval_pp(before, after)
    assert low < 0.5 < high
    # Five answers changed: a width under 1.2 pp. Two separate intervals of 90 % on 1,000 samples are 3.7 pp wide.
    assert high - low < 1.2
    with pytest.raises(ValueError, match="not the same samples"):
        drop_interval_pp(before, after[:10])


def test_own_metric(tmp_path: Path):
    (tmp_path / "my_metric.py").write_text(
        "def recall(outputs, y):\n"
        "    return (outputs.argmax(-1)[y == 1] == 1).mean()\n"
        "def worst(outputs, y):\n"
        "    return abs(outputs[1] - y[:, None]).max()\n"
        "worst.higher_is_better = False\n"
        "def broken(outputs, y):\n"
        "    return outputs['probs']\n"
        "def nan(outputs, y):\n"
        "    return float('nan')\n"
    )
    outputs = (np.array([[0.1, 0.9], [0.8, 0.2]]),)
    found = evaluate("my_metric:recall", outputs, np.array([1, 1]), root=tmp_path)
    assert (found.value, found.low, found.n, found.higher_is_better) == (0.5, None, 2, True)
    two = (*outputs, np.array([[0.0], [1.0]]))
    found = evaluate("my_metric:worst", two, np.array([1.0, 1.0]), root=tmp_path)
    assert (found.value, found.higher_is_better) == (1.0, False)
    with pytest.raises(DataError, match=r"my_metric:broken raised IndexError: .*my_metric\.py:7 in broken"):
        evaluate("my_metric:broken", outputs, np.array([1, 1]), root=tmp_path)
    with pytest.raises(DataError, match=r"task\.metric my_metric:nan returned nan"):
        evaluate("my_metric:nan", outputs, np.array([1, 1]), root=tmp_path)


SCORES = (np.array([[0.1, 0.9], [0.8, 0.2]]),)


@pytest.mark.parametrize(
    ("metric", "outputs", "y", "error", "says"),
    [
        ("top2", SCORES, np.array([0, 1]), ConfigError, r"'top2' is not known\.\nKnown: top1, top5, mae, agreement"),
        ("top1", SCORES, None, DataError, r"top1 needs labels, .*\nGive y, or use `metric: agreement`"),
        ("top1", (), np.array([0]), ModelError, "no outputs to compute accuracy from"),
        ("top1", (np.zeros((0, 2)),), np.array([], np.int64), ModelError, "no outputs to compute accuracy from"),
        (
            "top1",
            (np.array([[np.nan, 1.0], [np.inf, np.nan], [0.0, 1.0]]),),
            np.array([0, 1, 1]),
            ModelError,
            "3 values of output 0 are NaN or infinite, in 2 of 3 samples",
        ),
        ("top1", (np.ones((2, 4, 4, 3)),), np.array([0, 1]), ModelError, r"shape \[2, 4, 4, 3\], which is not one row"),
        ("top1", SCORES, np.array([0, 1, 1]), DataError, r"labels are int64 of shape \[3\]; 2 outputs need 2 class"),
        ("top1", SCORES, np.array([0.0, 1.0]), DataError, "labels are float64"),
        ("top5", SCORES, np.array([0, 1]), DataError, r"top5 says nothing for outputs of shape \[2, 2\]"),
        ("top5", (np.ones((1, 6)),), np.array([6]), DataError, "Labels run from 6 to 6; the model has 6 classes"),
        ("mae", SCORES, np.array([0.0, 1.0]), DataError, r"the output is \[2, 2\], y is \[2\]"),
        ("agreement", SCORES, None, ModelError, "needs the original model's outputs"),
    ],
)
def test_refusals(metric: str, outputs: tuple[Array, ...], y: Array | None, error: type[Exception], says: str):
    with pytest.raises(error, match=says):
        evaluate(metric, outputs, y)


def test_agreement_of_other_shapes_is_refused():
    with pytest.raises(ModelError, match=r"The outputs have the shape \[2, 2\], the original model's \[2, 3\]"):
        agreement(SCORES, (np.ones((2, 3)),))
