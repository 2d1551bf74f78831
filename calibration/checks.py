"""What can be wrong with samples, found before any work is done on them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration import arrays, binomial, inputs
from calibration.samples import chosen
from edgesmith.errors import DataError
from edgesmith.types import Finding, SampleSet, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FEWEST = 10
"""Below this no range and no accuracy means anything."""
_ENOUGH = {"calibration": 100, "evaluation": 200, "train": 0}
_CHANCE_LEVEL = 0.01


def check_samples(samples: SampleSet, specs: Sequence[TensorSpec], *, n_classes: int | None) -> tuple[Finding, ...]:
    """Checks a set against the model it is for.

    Args:
        samples: the set.
        specs: the model's inputs.
        n_classes: classes the model tells apart (2 for one sigmoid output); None where it is no classifier.

    Returns:
        Warnings: few samples, identical samples, classes that calibration never sees, synthetic data.

    Raises:
        DataError: empty, wrong shape or dtype, NaN or infinity, labels that do not fit, fewer than 10 samples.
    """
    where = f"data.{samples.role} ({samples.source})"
    if len(samples) == 0:
        raise DataError(f"{where}: the set is empty.")
    columns = inputs.split(samples.x)
    if len(columns) != len(specs):
        raise DataError(f"{where}: samples for {len(columns)} inputs; the model takes {', '.join(map(str, specs))}.")
    for x, spec in zip(columns, specs, strict=True):
        name = "x" if len(specs) == 1 else spec.name
        _check_form(x, spec, name, where)
        _check_finite(x, name, where)
    if samples.y is not None:
        _check_labels(samples, samples.y, n_classes, where)
    return (*_count_findings(samples, where), *_content_findings(samples, n_classes, where))


def check_overlap(first: SampleSet, evaluation: SampleSet) -> None:
    """Refuses a calibration or training set that shares samples with the evaluation set.

    Samples are compared by the SHA-256 of their bytes as the model gets them; labels do not count.

    Args:
        first: the calibration or training set.
        evaluation: the set accuracy is told on.

    Raises:
        DataError: how many are shared, and where the first of them are.
    """
    known = {key: index for index, key in reversed(list(enumerate(_sample_keys(first.x))))}
    shared = [(known[key], index) for index, key in enumerate(_sample_keys(evaluation.x)) if key in known]
    if not shared:
        return
    shown = ", ".join(f"{first.role}[{a}] = {evaluation.role}[{b}]" for a, b in shared[:5])
    more = ", ..." if len(shared) > 5 else ""
    raise DataError(
        f"{len(shared):,} of the {len(evaluation):,} evaluation samples also occur in the {first.role} set: "
        f"{shown}{more}. Accuracy on them would flatter the model.",
        next_step=f"Take them out of data.{first.role} (or out of data.{evaluation.role}).",
    )


def without_shared(samples: SampleSet, other: SampleSet) -> SampleSet:
    """The samples that do not occur in another set, compared as in `check_overlap`; in their order."""
    known = set(_sample_keys(other.x))
    kept = np.array([i for i, key in enumerate(_sample_keys(samples.x)) if key not in known], np.int64)
    return samples if len(kept) == len(samples) else chosen(samples, kept, f"without those of the {other.role} set")


def range_hint(samples: SampleSet, float_accuracy: float, n_classes: int | None) -> Finding | None:
    """Says what may be wrong with the data when the *float* model is no better than guessing on it.

    Guessing means always naming the commonest class. The model is "no better" when guessing does at least as well
    with a chance of more than 1 % (exact binomial tail).

    Args:
        samples: the evaluation set.
        float_accuracy: top-1 of the float model on it, 0..1.
        n_classes: None where the model is no classifier.

    Returns:
        A warning that names the range of x and the order of the labels, or None.
    """
    if n_classes is None or n_classes < 2 or samples.y is None:
        return None
    n = len(samples)
    commonest = int(np.bincount(samples.y).max()) / len(samples) if samples.y.dtype.kind in "iu" else 0.0
    guess = max(1.0 / n_classes, commonest)
    if guess >= 1.0 or binomial.tail(round(float_accuracy * n), n, guess) <= _CHANCE_LEVEL:
        return None
    runs = ", ".join(f"{name} runs from {float(x.min()):g} to {float(x.max()):g}" for name, x in _named(samples.x))
    if samples.class_names:
        shown = ", ".join(f"{i} = {name}" for i, name in enumerate(samples.class_names[:4]))
        order = f"the class folders sorted as text ({shown}{', ...' if len(samples.class_names) > 4 else ''})"
    else:
        order = f"y, which runs from {int(samples.y.min())} to {int(samples.y.max())}"
    usual, prepare = "", "Prepare the inputs"
    if samples.x.dtype.kind == "f":
        usual = f" {_usual(float(samples.x.min()), float(samples.x.max()))}"
        prepare = f"Set `scale` and `offset` of data.{samples.role} (and of the other sets)"
    return Finding(
        severity="warning",
        code="float_accuracy_at_chance",
        text=f"The float model itself scores {float_accuracy:.1%} on {n:,} samples; guessing gives {guess:.1%}. "
        f"The data are probably not prepared as in training: {runs}.{usual}",
        next_step=f"{prepare} as in training, and check that the model's outputs are in the order of {order}.",
    )


def _usual(low: float, high: float) -> str:
    if low >= 0.0 and high > 2.0:
        return "Many models want 0..1 (scale: 0.00392157) or -1..1 (scale: 0.00784314, offset: -1)."
    if low >= 0.0:
        return (
            "Models with their own Rescaling layer want 0..255 (scale: 255); others want -1..1 (scale: 2, offset: -1)."
        )
    return "Many models want 0..1 (scale: 0.5, offset: 0.5 brings -1..1 there) or 0..255 (scale: 127.5, offset: 127.5)."


def _check_form(x: NDArray[Any], spec: TensorSpec, name: str, where: str) -> None:
    have = TensorSpec(name=name, shape=("N", *x.shape[1:]), dtype=str(x.dtype))
    if not arrays.fits(x.shape[1:], spec.shape[1:]):
        raise DataError(
            f"{where}: the samples are {have}, the model takes {spec}.",
            next_step="Prepare them in the shape the model was trained on; an image folder has `resize` and `color`.",
        )
    if str(x.dtype) != spec.dtype:
        raise DataError(f"{where}: the samples are {have}, the model takes {spec}: the dtypes differ.")


def _check_finite(values: NDArray[Any], name: str, where: str) -> None:
    if values.dtype.kind != "f" or values.size == 0:
        return
    # min and max pass NaN and infinity on, and need no array of flags as long as all is well.
    if np.isfinite(values.min()) and np.isfinite(values.max()):
        return
    bad = ~np.isfinite(values)
    first = int(np.flatnonzero(bad.reshape(len(values), -1).any(axis=1))[0])
    raise DataError(
        f"{where}: {int(bad.sum()):,} values of {name} are NaN or infinite; the first is in sample {first}.",
        next_step="Repair or drop those samples.",
    )


def _check_labels(samples: SampleSet, y: NDArray[Any], n_classes: int | None, where: str) -> None:
    if len(y) != len(samples):
        raise DataError(f"{where}: {len(samples):,} samples but {len(y):,} labels.")
    _check_finite(y, "y", where)
    if n_classes is None:
        return
    if y.dtype.kind == "f":
        raise DataError(
            f"{where}: labels y are {y.dtype} of shape {y.shape}; a classifier with {n_classes} classes needs whole "
            "numbers, one per sample.",
            next_step="Save y as int64 class indices, or set `task: {metric: mae}` if this is no classifier.",
        )
    wrong = (y < 0) | (y >= n_classes)
    if wrong.any():
        first = int(np.flatnonzero(wrong.reshape(len(y), -1).any(axis=1))[0])
        raise DataError(
            f"{where}: {int(wrong.sum()):,} labels are outside 0..{n_classes - 1}, the {n_classes} classes of the "
            f"model; the first is {np.ravel(y[first])[0]} at sample {first}.",
            next_step="Number the classes from 0, in the order of the model's outputs.",
        )


def _count_findings(samples: SampleSet, where: str) -> list[Finding]:
    if samples.role == "train":
        return []
    use = "ranges from" if samples.role == "calibration" else "accuracy on"
    enough = _ENOUGH[samples.role]
    if len(samples) < _FEWEST:
        raise DataError(
            f"{where}: {use} {len(samples)} samples mean nothing; {_FEWEST} are the least.",
            next_step=f"Give {enough} or more.",
        )
    if len(samples) >= enough:
        return []
    return [
        Finding(
            severity="warning",
            code=f"few_{samples.role}_samples",
            text=f"{where}: only {len(samples)} samples: {use} so few are rough.",
            next_step=f"Give {enough} or more.",
        )
    ]


def _content_findings(samples: SampleSet, n_classes: int | None, where: str) -> list[Finding]:
    found: list[Finding] = []
    if samples.synthetic:
        found.append(
            Finding(
                severity="warning",
                code="synthetic_data",
                text=f"{where}: made-up noise, allowed by --allow-synthetic: no figure that rests on it says anything "
                "about real inputs.",
                next_step=f"Name real samples under data.{samples.role}.",
            )
        )
    columns = inputs.split(samples.x)
    ends = all(np.array_equal(x[0], x[-1]) for x in columns)  # looked at first: the whole set is rarely needed
    if len(samples) > 1 and ends and all(bool((x == x[:1]).all()) for x in columns):
        found.append(
            Finding(
                severity="warning",
                code="identical_samples",
                text=f"{where}: all {len(samples):,} samples are identical.",
                next_step="Check how they were written.",
            )
        )
    y = samples.y
    if samples.role == "calibration" and n_classes is not None and y is not None:
        missing = np.setdiff1d(np.arange(n_classes), y)
        if len(missing):
            shown = ", ".join(str(c) for c in missing[:10]) + (", ..." if len(missing) > 10 else "")
            found.append(
                Finding(
                    severity="warning",
                    code="classes_missing_from_calibration",
                    text=f"{where}: {len(missing)} of {n_classes} classes never occur: {shown}. Ranges may miss what "
                    "they need.",
                    next_step="Take samples of every class.",
                )
            )
    return found


def _named(x: NDArray[Any]) -> list[tuple[str, NDArray[Any]]]:
    """(name, array) of each input."""
    return list(zip(x.dtype.names or ("x",), inputs.split(x), strict=True))


def _sample_keys(x: NDArray[Any]) -> list[bytes]:
    """A content hash for each sample."""
    if x.size == 0:
        return []
    step = x.nbytes // len(x)
    whole = np.ascontiguousarray(x).reshape(-1).view(np.uint8).data
    return [hashlib.sha256(whole[start : start + step]).digest() for start in range(0, len(whole), step)]
