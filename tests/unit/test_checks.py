"""What is wrong with samples, said before any work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from calibration.checks import check_overlap, check_samples, range_hint
from calibration.samples import Role, digest
from edgesmith.errors import DataError
from edgesmith.types import SampleSet, TensorSpec

Array = NDArray[Any]
SPEC = TensorSpec(name="features", shape=(None, 3), dtype="float32")


def sample_set(
    n: int = 300, role: Role = "evaluation", x: Array | None = None, y: Array | str | None = "cycle", **fields: Any
):
    if x is None:
        x = np.random.default_rng(0).random((n, 3), dtype=np.float32)
    if isinstance(y, str):
        y = np.arange(len(x)) % 4
    return SampleSet(role=role, x=x, y=y, sha256=digest(x, y), source="test.npz", **fields)


def changed(index: Any, value: float):
    x = sample_set().x.copy()
    x[index] = value
    return x


def test_good_sets_have_no_findings():
    for role in ("train", "calibration", "evaluation"):
        assert check_samples(sample_set(role=role), (SPEC,), n_classes=4) == ()
    assert check_samples(sample_set(y=None), (SPEC,), n_classes=4) == ()
    assert check_samples(sample_set(y=np.ones((300, 2), np.float32)), (SPEC,), n_classes=None) == ()


@pytest.mark.parametrize(
    ("samples", "n_classes", "says"),
    [
        (sample_set(0), 4, r"data\.evaluation \(test\.npz\): the set is empty"),
        (
            sample_set(x=np.zeros((300, 4), np.float32)),
            4,
            r"the samples are x: float32\[N, 4\], the model takes features: float32\[\?, 3\]\.\nPrepare them",
        ),
        (sample_set(x=np.zeros((300, 3, 1), np.float32)), 4, r"x: float32\[N, 3, 1\], the model takes"),
        (sample_set(x=np.zeros((300, 3))), 4, r"x: float64\[N, 3\], the model takes .* the dtypes differ"),
        (sample_set(x=changed((7, 1), np.nan)), 4, "1 values of x are NaN or infinite; the first is in sample 7"),
        (sample_set(x=changed((slice(3, 5), 0), -np.inf)), 4, "2 values of x are NaN .* in sample 3"),
        (sample_set(y=np.array([1.0] * 299 + [np.nan], np.float32)), None, "1 values of y are NaN .* sample 299"),
        (sample_set(y=np.zeros(299, np.int64)), 4, "300 samples but 299 labels"),
        (
            sample_set(),
            3,
            r"75 labels are outside 0\.\.2, the 3 classes of the model; the first is 3 at sample 3\.\nNumber",
        ),
        (sample_set(y=np.arange(300) % 4 - 1), 4, r"75 labels are outside 0\.\.3, .* is -1 at sample 0"),
        (
            sample_set(y=np.zeros(300, np.float32)),
            4,
            r"labels y are float32 of shape \(300,\); a classifier with 4 classes needs whole numbers",
        ),
        (sample_set(9), 4, r"accuracy on 9 samples mean nothing; 10 are the least\.\nGive 200 or more"),
        (sample_set(9, role="calibration"), 4, r"ranges from 9 samples mean nothing; .*\nGive 100 or more"),
    ],
)  # fmt: skip
def test_refusals(samples: SampleSet, n_classes: int | None, says: str):
    with pytest.raises(DataError, match=says):
        check_samples(samples, (SPEC,), n_classes=n_classes)


@pytest.mark.parametrize(
    ("samples", "code", "says"),
    [
        (sample_set(199), "few_evaluation_samples", "only 199 samples: accuracy on so few are rough"),
        (sample_set(99, role="calibration"), "few_calibration_samples", "only 99 samples: ranges from so few"),
        (sample_set(x=np.ones((300, 3), np.float32)), "identical_samples", "all 300 samples are identical"),
        (
            sample_set(role="calibration", y=np.arange(300) % 2 * 2),
            "classes_missing_from_calibration",
            "2 of 4 classes never occur: 1, 3.",
        ),
        (sample_set(synthetic=True, y=None), "synthetic_data", "made-up noise, allowed by --allow-synthetic"),
    ],
)  # fmt: skip
def test_warnings(samples: SampleSet, code: str, says: str):
    (finding,) = check_samples(samples, (SPEC,), n_classes=4)
    assert (finding.severity, finding.code) == ("warning", code)
    assert says in finding.text
    assert finding.next_step


def test_a_small_training_set_is_the_users_choice():
    assert check_samples(sample_set(5, role="train"), (SPEC,), n_classes=4) == ()


def test_whole_numbers_are_checked_too():
    spec = TensorSpec(name="pixels", shape=(None, 3), dtype="uint8")
    x = np.random.default_rng(0).integers(0, 255, (300, 3), dtype=np.uint8)
    assert check_samples(sample_set(x=x), (spec,), n_classes=4) == ()


@pytest.mark.parametrize("role", ["calibration", "train"])
def test_overlap_is_refused(role: Role):
    evaluation = sample_set()
    x = np.random.default_rng(1).random((50, 3), dtype=np.float32)
    mine = sample_set(role=role, x=x)
    check_overlap(mine, evaluation)
    x[20], x[10], x[11] = evaluation.x[5], evaluation.x[250], evaluation.x[250]
    with pytest.raises(DataError) as caught:
        check_overlap(mine, evaluation)
    assert caught.value.what == (
        f"2 of the 300 evaluation samples also occur in the {role} set: {role}[20] = evaluation[5], "
        f"{role}[10] = evaluation[250]. Accuracy on them would flatter the model."
    )
    assert caught.value.next_step == f"Take them out of data.{role} (or out of data.evaluation)."


def test_overlap_shows_the_first_five():
    evaluation = sample_set()
    with pytest.raises(DataError, match=r"300 of the 300 .* train\[4\] = evaluation\[4\], \.\.\."):
        check_overlap(replace(evaluation, role="train"), evaluation)


def test_range_hint_names_the_range_and_the_order():
    x = np.array([[0, 255, 31]], np.float32).repeat(300, axis=0)
    finding = range_hint(sample_set(x=x), 0.26, 4)
    assert finding is not None
    assert (finding.severity, finding.code) == ("warning", "float_accuracy_at_chance")
    assert finding.text == (
        "The float model itself scores 26.0% on 300 samples; guessing gives 25.0%. The data are probably not prepared "
        "as in training: x runs from 0 to 255. Many models want 0..1 (scale: 0.00392157) or -1..1 (scale: 0.00784314, "
        "offset: -1)."
    )
    assert "the order of y, which runs from 0 to 3" in finding.next_step


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [(0.0, 1.0, "Rescaling layer want 0..255 (scale: 255)"), (-1.0, 1.0, "scale: 0.5, offset: 0.5 brings -1..1 there")],
)
def test_range_hint_for_other_ranges(low: float, high: float, says: str):
    x = np.array([[low, high, 0.5]], np.float32).repeat(300, axis=0)
    finding = range_hint(sample_set(x=x), 0.2, 4)
    assert says in finding.text


def test_range_hint_names_the_class_folders():
    names = ("0", "1", "10", "2", "3")
    finding = range_hint(sample_set(class_names=names), 0.1, 5)
    assert "the class folders sorted as text (0 = 0, 1 = 1, 2 = 10, 3 = 2, ...)" in finding.next_step


def test_range_hint_knows_chance():
    samples = sample_set(1000)
    # Binomial(1000, 0.25): 282 right answers or more come with a chance of 1.1 %, 283 with 0.9 %.
    assert range_hint(samples, 0.282, 4) is not None
    assert range_hint(samples, 0.283, 4) is None
    # Naming the commonest class of an uneven set is guessing too.
    uneven = sample_set(1000, y=(np.arange(1000) % 10 == 0).astype(np.int64))
    assert range_hint(uneven, 0.9, 2) is not None
    assert range_hint(uneven, 0.95, 2) is None


def test_range_hint_where_there_is_nothing_to_say():
    assert range_hint(sample_set(), 0.0, None) is None
    assert range_hint(sample_set(y=None), 0.0, 4) is None
    assert range_hint(sample_set(y=np.zeros(300, np.int64)), 1.0, 2) is None
