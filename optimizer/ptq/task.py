"""What the task loses by quantization, on samples that are neither for calibration nor for the final judgement."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.sensitivity import Drop, pack, paired_drop
from device_tests import accuracy
from edgesmith.types import Accuracy

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ONE_BY_ONE = ("top5",)
"""Proportions whose per-sample answers are had by asking for one sample at a time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A metric, and how the float network does on it.

    Attributes:
        metric: as in `device_tests.accuracy.evaluate`: top1, top5, agreement, mae, or package.module:function.
        reference: outputs of the float network on the samples, one array [N, ...] per output.
        y: labels or targets [N, ...]; None for agreement.
        root: the config's folder, where a metric of the user's own is found.
    """

    metric: str
    reference: tuple[NDArray[Any], ...]
    y: NDArray[Any] | None = None
    root: Path | None = None

    @property
    def name(self) -> str:
        """For a reader."""
        return {"top1": "top-1", "top5": "top-5"}.get(self.metric, self.metric)

    @property
    def count(self) -> int:
        """Samples."""
        return len(self.reference[0])

    def lost(self, outputs: tuple[NDArray[Any], ...]) -> tuple[Drop, str]:
        """What a network loses against the float one, asked the same samples.

        Args:
            outputs: float, one array [N, ...] per output.

        Returns:
            The drop, with its 95 % interval where each sample is right or wrong; and which samples are right
            (`calibration.sensitivity.pack`), empty where the metric cannot say.

        Raises:
            ConfigError, DataError, ModelError: as `device_tests.accuracy.evaluate`.
        """
        correct = self.correct(outputs)
        if correct is not None and self._float_correct is not None:
            return paired_drop(self._float_correct, correct), pack(correct)
        pp = accuracy.accuracy_drop_pp(self._float_accuracy, self._evaluate(outputs))
        return Drop(pp=pp, low=None, high=None, n=self.count), ""

    def correct(self, outputs: tuple[NDArray[Any], ...]) -> NDArray[np.bool_] | None:
        """Which samples are right, bool [N]; None where the metric has no right or wrong."""
        if self.metric == "top1" and self.y is not None:
            return accuracy.top1_correct(outputs, self.y)
        if self.metric == "agreement":
            self._evaluate(outputs)  # says what is wrong with outputs that cannot be compared
            like = self.reference[0]
            found = accuracy.class_indices(outputs[0], like=like) == accuracy.class_indices(like)
            return np.asarray(found, dtype=np.bool_)
        if self.metric in _ONE_BY_ONE and self.y is not None:
            y = self.y
            each = (
                accuracy.evaluate(self.metric, [output[i : i + 1] for output in outputs], y[i : i + 1]).value
                for i in range(len(outputs[0]))
            )
            return np.fromiter(each, dtype=np.float64) > 0.5
        return None

    @functools.cached_property
    def _float_correct(self) -> NDArray[np.bool_] | None:
        return self.correct(self.reference)

    @functools.cached_property
    def _float_accuracy(self) -> Accuracy:
        return self._evaluate(self.reference)

    def _evaluate(self, outputs: tuple[NDArray[Any], ...]) -> Accuracy:
        return accuracy.evaluate(self.metric, outputs, self.y, reference_outputs=self.reference, root=self.root)
