"""Magnitude pruning while a Keras 3 model trains: what TF-MOT's `prune_low_magnitude` does to a Keras 2 model.

TF-MOT's wrapper acts in the forward pass of a training step: count the step, renew the masks if the schedule says so,
multiply, then run the layer. The optimizer updates masked weights too, so that between two steps a weight may come
back and compete at the next renewal. The callback here acts at the same places, on the begin of a batch; a test holds
its masks and weights to TF-MOT's after every step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.frameworks import import_keras
from optimizer import masks
from optimizer.kernels import Kernel
from optimizer.saliency.selection import Selection
from optimizer.schedules import Schedule

_EACH = Selection(layouts={})
"""Weight by weight, in each kernel by itself."""


class MagnitudePruner:
    """Masks of some kernels, and the step they have come to.

    A weight that is exactly zero when this is made stays zero: an earlier step of the recipe pruned it. (A kernel that
    is zero throughout is a fresh initialisation and is left alone.)

    Attributes:
        step: training steps begun so far; the first is 1.
        masks: by kernel name, True where the weight stays; all True before the first renewal.
        sparsity: asked for at the last renewal.
    """

    def __init__(self, kernels: Sequence[Kernel], schedule: Schedule, selection: Selection = _EACH) -> None:
        """Takes the zeros there are.

        Args:
            kernels: to prune.
            schedule: when, and how much.
            selection: which of their weights.
        """
        self._kernels = tuple(kernels)
        self._schedule = schedule
        self._selection = selection
        self.step = 0
        self.sparsity = 0.0
        self._held: dict[str, masks.Mask] = {}
        for kernel in self._kernels:
            alive = kernel.value() != 0
            self._held[kernel.name] = alive if alive.any() else np.ones_like(alive)
        self.masks = dict(self._held)

    def begin_step(self) -> None:
        """Counts one training step, renews the masks if it is their turn, and applies them."""
        self.step += 1
        renew, sparsity = self._schedule(self.step)
        if renew:
            self.sparsity = sparsity
            # Weights held at zero must not compete, though the optimizer has just moved them.
            scores = {kernel.name: np.abs(kernel.value() * self._held[kernel.name]) for kernel in self._kernels}
            for name, mask in self._selection.masks(scores, sparsity, ties=True).items():
                self.masks[name] = mask & self._held[name]
        self.apply()

    def apply(self) -> None:
        """Multiplies every kernel by its mask."""
        for kernel in self._kernels:
            mask = self.masks[kernel.name]
            if not mask.all():
                kernel.assign(kernel.value() * mask)

    def callback(self) -> Any:
        """A `keras.callbacks.Callback` for `fit` that prunes as training goes."""
        base: Any = import_keras().callbacks.Callback
        pruner = self

        class Pruning(base):  # type: ignore[misc]  # keras has no types
            def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
                del batch, logs
                pruner.begin_step()

            def on_test_begin(self, logs: Any = None) -> None:
                del logs
                pruner.apply()

            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                del epoch, logs
                pruner.apply()

        return Pruning()

    def state(self) -> dict[str, NDArray[Any]]:
        """All of it as arrays, for a checkpoint."""
        state: dict[str, NDArray[Any]] = {
            "step": np.array(self.step, np.int64),
            "sparsity": np.array(self.sparsity, np.float64),
        }
        # By position: the name of an unnamed layer depends on how many were made before it in the process.
        for i, kernel in enumerate(self._kernels):
            state[f"mask/{i}"] = self.masks[kernel.name]
            state[f"held/{i}"] = self._held[kernel.name]
        return state

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Goes back to what `state` gave."""
        self.step = int(state["step"])
        self.sparsity = float(state["sparsity"])
        self.masks = {kernel.name: state[f"mask/{i}"] for i, kernel in enumerate(self._kernels)}
        self._held = {kernel.name: state[f"held/{i}"] for i, kernel in enumerate(self._kernels)}


def holding(kernels: Sequence[Kernel]) -> MagnitudePruner:
    """Keeps the zeros that are there through a training, and makes none."""
    return MagnitudePruner(kernels, lambda _: (False, 0.0))


def settle(kernels: Sequence[Kernel], sparsity: float, selection: Selection = _EACH) -> None:
    """Brings kernels to the full count of zeros, all of them +0.0.

    After training this changes a weight only where magnitudes tied at the threshold (TF-MOT keeps all that tie). A
    weight of -0.0, which multiplying by a mask leaves, becomes +0.0: its sign bit would cost space after gzip.
    """
    chosen = selection.settled({kernel.name: kernel.value() for kernel in kernels}, sparsity)
    for kernel in kernels:
        weights = kernel.value()
        keep = chosen[kernel.name] & (weights != 0)
        kernel.assign(np.where(keep, weights, np.zeros((), weights.dtype)))
