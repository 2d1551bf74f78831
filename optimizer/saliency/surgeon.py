"""Optimal Brain Surgeon on a network: layer by layer, each against its own outputs on the samples.

The inputs of every layer are those of the network as it is given: what earlier layers lose is not made up for later,
and no layer waits for another. Biases stay as they are; batch-norm statistics are taken anew afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.progress import Progress
from optimizer import masks
from optimizer.base import KerasModel
from optimizer.kernels import Kernel
from optimizer.saliency import obs
from optimizer.saliency.moments import second_moments
from optimizer.saliency.patterns import NOfM
from optimizer.saliency.selection import Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What surgery did to the outputs of the layers.

    Attributes:
        change: mean over layers of their outputs' mean squared change / mean square.
        by_magnitude: the same, had the smallest weights of each layer gone and the others stayed as they are.
        worst: the layer with the largest change, and that change.
    """

    change: float
    by_magnitude: float
    worst: tuple[str, float]


def operate(
    model: KerasModel,
    kernels: Sequence[Kernel],
    selection: Selection,
    sparsity: float,
    x: NDArray[Any],
    *,
    damping: float,
    progress: Progress,
) -> Loss:
    """Prunes kernels in place.

    With a global scope each kernel's share of zeros is set by what its weights would cost one by one, w^2 / [H^-1]_qq,
    relative to the mean square of its outputs; which of its weights go is then decided within it.

    Args:
        model: changed.
        kernels: of it; none of which has a `moments.why_not`.
        selection: with a pattern of n:m, or none.
        sparsity: share of zeros.
        x: samples [N, ...].
        damping: added to the second moments' diagonal, as a share of its mean.
        progress: moves on by samples, then by layers.
    """
    layouts = {kernel.name: selection.layouts[kernel.name] for kernel in kernels}
    by_name = {kernel.name: kernel for kernel in kernels}
    budgets = _budgets(model, kernels, selection, sparsity, x, damping, progress)
    pruned: dict[str, NDArray[Any]] = {}
    changes: dict[str, tuple[float, float]] = {}
    for name, moments in second_moments(model, layouts, x, progress):
        weights = _matrix(by_name[name], selection)
        h = obs.damped(moments, damping)
        with progress.task(f"surgery on {name}"):
            found = obs.prune(weights, h, budgets[name])
        taps = layouts[name].matrices(by_name[name].value()).shape
        pruned[name] = layouts[name].kernel(found.weights.reshape(taps))
        power = obs.error(weights, h)
        changes[name] = (found.error / power, found.magnitude_error / power) if power else (0.0, 0.0)
    for name, values in pruned.items():
        by_name[name].assign(values)
    worst = max(changes, key=lambda name: changes[name][0])
    mean = np.mean(list(changes.values()), axis=0)
    return Loss(change=float(mean[0]), by_magnitude=float(mean[1]), worst=(worst, changes[worst][0]))


def _budgets(
    model: KerasModel,
    kernels: Sequence[Kernel],
    selection: Selection,
    sparsity: float,
    x: NDArray[Any],
    damping: float,
    progress: Progress,
) -> Mapping[str, obs.Budget]:
    if isinstance(selection.pattern, NOfM):
        taps = {k.name: selection.layouts[k.name].matrices(k.value()).shape[0] for k in kernels}
        return {name: obs.Budget(pattern=selection.pattern, taps=count) for name, count in taps.items()}
    sizes = {kernel.name: kernel.value().size for kernel in kernels}
    if selection.scope == "layer":
        return {name: obs.Budget(zeros=size - masks.kept(size, sparsity)) for name, size in sizes.items()}
    scores: dict[str, NDArray[Any]] = {}
    by_name = {kernel.name: kernel for kernel in kernels}
    for name, moments in second_moments(model, {k: selection.layouts[k] for k in by_name}, x, progress):
        weights, h = _matrix(by_name[name], selection), obs.damped(moments, damping)
        power = obs.error(weights, h)
        scores[name] = obs.scores(weights, h) / (power or 1.0)
    chosen = selection.masks(scores, sparsity)
    return {name: obs.Budget(zeros=int(np.count_nonzero(~mask))) for name, mask in chosen.items()}


def _matrix(kernel: Kernel, selection: Selection) -> NDArray[np.float64]:
    """[taps * inputs, outputs]."""
    matrices = selection.layouts[kernel.name].matrices(kernel.value())
    return matrices.reshape(-1, matrices.shape[-1]).astype(np.float64)
