"""Task metrics, from the outputs a board really gave.

Class scores are the model's first output, [N, C] (axes of 1 are dropped, so [N, 1, 1, C] is the same). The class is the
arg-max; of equal scores the first wins, as `numpy.argmax` has it, and int8 outputs have many. One score per sample
([N, 1]) is a yes-no model: class 1 from 0.5 up, or from 0 up where any score lies clearly outside 0..1 (logits).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration import binomial, user_code
from edgesmith.errors import ConfigError, DataError, ModelError
from edgesmith.types import Accuracy

if TYPE_CHECKING:
    from numpy.typing import NDArray

Outputs = Sequence["NDArray[Any]"]

_LOGIT_MARGIN = 0.05
"""Quantization may push a sigmoid this far out of 0..1; beyond it the scores are logits."""
_RESAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One built-in task metric.

    Attributes:
        compute: (outputs, y, reference outputs) -> Accuracy; y or the reference may be None where not needed.
        needs_labels: False where the original model's outputs stand in for them.
    """

    compute: Callable[[Outputs, NDArray[Any] | None, Outputs | None], Accuracy]
    higher_is_better: bool = True
    needs_labels: bool = True


def evaluate(
    metric: str,
    outputs: Outputs,
    y: NDArray[Any] | None,
    *,
    reference_outputs: Outputs | None = None,
    root: Path | None = None,
) -> Accuracy:
    """Computes a task metric with its 95 % interval.

    top1, top5 and agreement are proportions (Wilson score interval); mae is resampled over the samples (percentile
    bootstrap, 2,000 draws, fixed seed). A function of the user's, `package.module:function(outputs, y) -> float`, gets
    the array of a model with one output, a tuple of arrays else; it has no interval, and counts as higher-is-better
    unless it has an attribute `higher_is_better = False`.

    Args:
        metric: a key of `METRICS`, or `package.module:function`.
        outputs: float arrays [N, ...], one per model output, dequantized (`dequantize`).
        y: labels or targets [N, ...]; None where there are none.
        reference_outputs: of the original model, for agreement.
        root: the config's folder, where the user's module is found.

    Raises:
        ConfigError: no such metric.
        DataError: no labels, labels that do not fit the metric, or an error in the user's function.
        ModelError: NaN or infinite outputs, or outputs that the metric cannot read.
    """
    _check_outputs(outputs)
    if built_in := METRICS.get(metric):
        if built_in.needs_labels and y is None:
            raise DataError(
                f"task.metric {metric} needs labels, and the evaluation set has none.",
                next_step="Give y, or use `metric: agreement`, which compares with the original model.",
            )
        return built_in.compute(outputs, y, reference_outputs)
    if not user_code.is_reference(metric):
        raise ConfigError(
            f"task.metric '{metric}' is not known.",
            next_step=f"Known: {', '.join(METRICS)}, or package.module:function.",
        )
    function = user_code.load_function(metric, root)
    with user_code.blaming(metric, root):
        value = float(function(outputs[0] if len(outputs) == 1 else tuple(outputs), y))
    if not np.isfinite(value):
        raise DataError(f"task.metric {metric} returned {value}.", next_step="It must return a finite number.")
    better = bool(getattr(function, "higher_is_better", True))
    return Accuracy(metric=metric, value=value, low=None, high=None, n=len(outputs[0]), higher_is_better=better)


def dequantize(outputs: Outputs, quantization: Sequence[tuple[float, int] | None]) -> tuple[NDArray[np.float32], ...]:
    """Gives scale * (q - zero_point) for every output that has the pair; others are only made float32.

    Args:
        outputs: raw arrays of the runtime, int8 or uint8 where quantized.
        quantization: (scale, zero_point) or None, one per output.

    Raises:
        ValueError: not one entry per output.
    """
    return tuple(
        output.astype(np.float32)
        if pair is None
        else ((output.astype(np.int32) - pair[1]) * np.float64(pair[0])).astype(np.float32)
        for output, pair in zip(outputs, quantization, strict=True)
    )


def top1_correct(outputs: Outputs, y: NDArray[Any]) -> NDArray[np.bool_]:
    """Which samples are classified right; bool [N], the raw material of paired comparisons.

    Raises:
        DataError: labels that are not one class index per sample.
        ModelError: outputs that are not class scores, or not finite.
    """
    _check_outputs(outputs)
    classes = class_indices(outputs[0])
    return np.asarray(classes == _class_labels(y, len(classes)), dtype=np.bool_)


def class_indices(output: NDArray[Any], like: NDArray[Any] | None = None) -> NDArray[np.int64]:
    """The class each sample is put into.

    Args:
        output: class scores [N, C], or [N, 1] of a yes-no model.
        like: another output that decides whether [N, 1] holds logits, so that two models are read the same way.

    Raises:
        ModelError: not class scores.
    """
    scores = _scores(output)
    if scores is None:
        raise ModelError(
            f"The model's first output has the shape {_shape(output)}, which is not one row of class scores per "
            "sample: top1, top5 and agreement cannot read it.",
            next_step="Use `metric: mae`, or package.module:function of your own.",
        )
    if scores.shape[1] > 1:
        indices: NDArray[np.int64] = np.argmax(scores, axis=1).astype(np.int64, copy=False)
        return indices
    threshold = 0.5 if _is_probability(scores if like is None else like) else 0.0
    return (scores[:, 0] >= threshold).astype(np.int64)


def agreement(outputs: Outputs, reference: Outputs) -> float | None:
    """Fraction of samples put into the same class as by the original model, from the first output.

    Args:
        outputs: of the model in question, float arrays [N, ...].
        reference: of the original model, on the same samples.

    Returns:
        0..1; None where the first output is no class scores: more than one axis per sample, or one number per sample
        that is no probability (it may be a regression).

    Raises:
        ModelError: shapes differ, no samples, or values that are not finite.
    """
    _check_outputs(outputs)
    _check_outputs(reference)
    same = _same_class(outputs[0], reference[0], strict=False)
    return None if same is None else float(same.mean())


def accuracy_drop_pp(float_accuracy: Accuracy, accuracy: Accuracy) -> float:
    """How much worse than the float model: 100 * the difference, + is worse; percentage points of a proportion.

    Rounded at the ninth place: 0.91 - 0.90 is 0.010000000000000009 in floats, and must not break a budget of 1.0.
    """
    drop = float_accuracy.value - accuracy.value
    return round(100.0 * (drop if accuracy.higher_is_better else -drop), 9)


def drop_interval_pp(float_correct: NDArray[np.bool_], correct: NDArray[np.bool_]) -> tuple[float, float]:
    """95 % interval of the top-1 drop in percentage points, both models asked the same samples.

    Args:
        float_correct: bool [N], of the float model (`top1_correct`).
        correct: bool [N], of the compressed model, in the same order.

    Raises:
        ValueError: lengths differ, or no samples.
    """
    if float_correct.shape != correct.shape:
        raise ValueError(f"not the same samples: {float_correct.shape} and {correct.shape}")
    only_float = int(np.count_nonzero(float_correct & ~correct))
    only_this = int(np.count_nonzero(correct & ~float_correct))
    low, high = binomial.paired_difference(only_float, only_this, len(correct))
    return 100.0 * low, 100.0 * high


def _top1(outputs: Outputs, y: NDArray[Any] | None, reference: Outputs | None) -> Accuracy:
    del reference
    return _proportion("top1", top1_correct(outputs, np.asarray(y)))


def _top5(outputs: Outputs, y: NDArray[Any] | None, reference: Outputs | None) -> Accuracy:
    del reference
    scores = _scores(outputs[0])
    if scores is None or scores.shape[1] <= 5:
        raise DataError(
            f"task.metric top5 says nothing for outputs of shape {_shape(outputs[0])}: it needs more than 5 classes.",
            next_step="Use `metric: top1`.",
        )
    wanted = _class_labels(np.asarray(y), len(scores))
    if wanted.size and (wanted.min() < 0 or wanted.max() >= scores.shape[1]):
        raise DataError(f"Labels run from {wanted.min()} to {wanted.max()}; the model has {scores.shape[1]} classes.")
    mine = np.take_along_axis(scores, wanted[:, None], axis=1)
    earlier = np.arange(scores.shape[1])[None, :] < wanted[:, None]
    ahead = np.count_nonzero((scores > mine) | ((scores == mine) & earlier), axis=1)
    return _proportion("top5", ahead < 5)


def _mae(outputs: Outputs, y: NDArray[Any] | None, reference: Outputs | None) -> Accuracy:
    del reference
    output, target = outputs[0], np.asarray(y)
    if output.size != target.size or len(output) != len(target):
        raise DataError(
            f"task.metric mae compares output and target one to one: the output is {_shape(output)}, y is "
            f"{_shape(target)}."
        )
    error = np.abs(output.astype(np.float64).reshape(len(output), -1) - target.reshape(len(target), -1))
    per_sample = error.mean(axis=1)
    n = len(per_sample)
    rng = np.random.default_rng(0)
    means = np.array([per_sample[rng.integers(0, n, n)].mean() for _ in range(_RESAMPLES)])
    value = float(per_sample.mean())
    low, high = (float(v) for v in np.quantile(means, (0.025, 0.975)))
    return Accuracy(metric="mae", value=value, low=min(low, value), high=max(high, value), n=n, higher_is_better=False)


def _agreement(outputs: Outputs, y: NDArray[Any] | None, reference: Outputs | None) -> Accuracy:
    del y
    if reference is None:
        raise ModelError("task.metric agreement needs the original model's outputs, and there are none.")
    _check_outputs(reference)
    same = _same_class(outputs[0], reference[0], strict=True)
    return _proportion("agreement", np.asarray(same))


METRICS: Mapping[str, Metric] = {
    "top1": Metric(compute=_top1),
    "top5": Metric(compute=_top5),
    "mae": Metric(compute=_mae, higher_is_better=False),
    "agreement": Metric(compute=_agreement, needs_labels=False),
}


def _proportion(metric: str, hits: NDArray[np.bool_]) -> Accuracy:
    n, good = len(hits), int(np.count_nonzero(hits))
    low, high = binomial.wilson(good, n)
    return Accuracy(metric=metric, value=good / n, low=low, high=high, n=n)


def _same_class(output: NDArray[Any], reference: NDArray[Any], *, strict: bool) -> NDArray[np.bool_] | None:
    if output.shape != reference.shape:
        raise ModelError(
            f"The outputs have the shape {_shape(output)}, the original model's {_shape(reference)}: not the same "
            "model, or not the same samples."
        )
    scores = _scores(reference)
    if not strict and (scores is None or (scores.shape[1] == 1 and not _is_probability(scores))):
        return None
    return np.asarray(class_indices(output, like=reference) == class_indices(reference), dtype=np.bool_)


def _scores(output: NDArray[Any]) -> NDArray[Any] | None:
    """[N, C]; None where a sample has more than one axis that is not 1."""
    if output.ndim == 0 or sum(d != 1 for d in output.shape[1:]) > 1:
        return None
    return output.reshape(len(output), -1)


def _is_probability(values: NDArray[Any]) -> bool:
    return bool(values.min() >= -_LOGIT_MARGIN and values.max() <= 1.0 + _LOGIT_MARGIN)


def _class_labels(y: NDArray[Any], n: int) -> NDArray[Any]:
    if y.shape != (n,) or y.dtype.kind not in "iu":
        raise DataError(
            f"The labels are {y.dtype} of shape {_shape(y)}; {n:,} outputs need {n:,} class indices (int64).",
            next_step="Save y as class indices, or use `metric: mae` or one of your own.",
        )
    return y


def _check_outputs(outputs: Outputs) -> None:
    if not outputs or any(output.ndim == 0 or len(output) == 0 for output in outputs):
        raise ModelError("There are no outputs to compute accuracy from.")
    for index, output in enumerate(outputs):
        if output.dtype.kind != "f" or (np.isfinite(output.min()) and np.isfinite(output.max())):
            continue
        bad = ~np.isfinite(output)
        rows = int(np.count_nonzero(bad.reshape(len(output), -1).any(axis=1)))
        raise ModelError(
            f"{int(bad.sum()):,} values of output {index} are NaN or infinite, in {rows:,} of {len(output):,} samples.",
            next_step="Look at the first such sample: an overflow in float16, or a model that gives NaN itself.",
        )


def _shape(array: NDArray[Any]) -> str:
    return str(list(array.shape))
