"""What a teacher says to the training samples. It is the same in every epoch, so it is asked once where that fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration import inputs
from edgesmith.frameworks import import_keras, import_tensorflow
from edgesmith.progress import Progress
from optimizer.base import KerasModel
from optimizer.distillation.taps import Tap, listening
from targets.keras_model import one_or_list

MOST_KEPT_BYTES = 256 << 20
_BATCH = 128

Arrays = tuple[NDArray[np.float32], ...]


class Answers:
    """The teacher's outputs, and what its taps hear, by sample.

    The teacher sees the samples as they are: augmentation inside a model is off while it answers.
    """

    def __init__(self, teacher: KerasModel, taps: Sequence[Tap], x: NDArray[Any], most_bytes: int) -> None:
        """Prepares; asks nothing yet.

        Args:
            teacher: is not changed.
            taps: in it.
            x: every sample of the training set.
            most_bytes: answers are kept where all of them together need no more.
        """
        self._x = x
        self._most_bytes = most_bytes
        self._kept: Arrays | None = None

        def ask(batch: Any) -> list[Any]:
            tf = import_tensorflow()
            with listening(taps) as heard:
                given = teacher(batch, training=False)
            outputs = import_keras().tree.flatten(given)
            return [tf.cast(tensor, tf.float32) for tensor in (*outputs, *heard)]

        self._ask = import_tensorflow().function(ask, reduce_retracing=True)

    def keep(self, progress: Progress, label: str) -> bool:
        """Asks for all samples at once, where the answers fit into memory.

        Returns:
            Whether they do; else they are computed for each batch.
        """
        one = self._compute(np.arange(1))
        if sum(array.nbytes for array in one) * len(self._x) > self._most_bytes:
            return False
        kept = tuple(np.empty((len(self._x), *array.shape[1:]), np.float32) for array in one)
        with progress.task(f"{label}: answers of the original model", total=float(len(self._x))) as task:
            for begin in range(0, len(self._x), _BATCH):
                some = np.arange(begin, min(begin + _BATCH, len(self._x)))
                for array, found in zip(kept, self._compute(some), strict=True):
                    array[some] = found
                task.advance(float(len(some)))
        self._kept = kept
        return True

    def of(self, indices: NDArray[np.int64]) -> Arrays:
        """Float32 [len(indices), ...] for each output, then for each tap."""
        if self._kept is not None:
            return tuple(array[indices] for array in self._kept)
        return self._compute(indices)

    def _compute(self, indices: NDArray[np.int64]) -> Arrays:
        batch = one_or_list([import_tensorflow().constant(part) for part in inputs.split(self._x[indices])])
        return tuple(np.asarray(tensor.numpy()) for tensor in self._ask(batch))
