"""How much each channel matters, judged by the weights alone. A small score goes first.

A unit is judged in every layer that makes it (its filter) or holds it with a kernel (its depthwise filter). The norms
of two layers do not compare: those of a wide layer's filters are small, those of a 1x1 layer too. So within each layer
a score becomes a share of the sum over the group's units there, as in LAMP (Lee et al., "Layer-adaptive sparsity for
the magnitude-based pruning", arXiv:2010.07611, equation 5). A unit's score is the mean share over its layers, times the
number of layers that make it: a unit of a residual stream that six layers add to takes six filters with it, and scores
as much as six, where selection over all layers weighs scores against the cost that they save.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.channels.groups import Channels, Group, Part
from optimizer.channels.price import variable
from optimizer.channels.trace import Role

Array = NDArray[np.float64]
Scores = Mapping[int, Array]
"""Index of a group -> one score for each of its units. A group that cannot be judged is missing."""

_KERNELS = frozenset({"kernel", "depthwise_kernel", "pointwise_kernel", "embeddings"})


def l1(channels: Channels) -> Scores:
    """Sum of a filter's absolute weights (Li et al., "Pruning filters for efficient ConvNets", arXiv:1608.08710)."""
    return _by_filters(channels, lambda filters: np.abs(filters).sum(axis=1))


def l2(channels: Channels) -> Scores:
    """Euclidean norm of a filter (He et al., "Soft filter pruning", arXiv:1808.06866, equation 2 with p = 2)."""
    return _by_filters(channels, lambda filters: np.sqrt(np.square(filters).sum(axis=1)))


def geometric_median(channels: Channels) -> Scores:
    """Sum of a filter's distances to the other filters of its layer.

    The filters nearest to the geometric median of all are those the others can stand in for (He et al., "Filter pruning
    via geometric median", arXiv:1811.00250, equations 4 to 6).
    """
    return _by_filters(channels, _distances)


def bn_scale(channels: Channels) -> Scores:
    """Absolute scale in batch normalization (Liu et al., "Network slimming", arXiv:1708.06519), as it is.

    The scales of all layers compare, since what they scale has variance 1. Where several normalizations hold a unit it
    has their sum. A group that no batch normalization with a scale holds has no score.
    """
    found: dict[int, Array] = {}
    for index, group in enumerate(channels.groups):
        scales = [
            np.abs(values(channels, part)).reshape(len(group), -1).mean(axis=1)
            for part in group.parts
            if part.touch.weight == "gamma" and type(channels.layers[part.touch.layer]).__name__ == "BatchNormalization"
        ]
        if scales:
            found[index] = np.sum(scales, axis=0)
    return found


def random(channels: Channels, seed: int) -> Scores:
    """Chance, the control that every criterion has to beat: shares like those of the norms, at random."""
    generator = np.random.default_rng([seed, 4])
    return _by_filters(channels, lambda filters: 0.5 + generator.random(len(filters)))


def values(channels: Channels, part: Part) -> Array:
    """What an axis of a weight holds of a group: [units, so many weights each]."""
    weight = np.asarray(variable(channels.layers[part.touch.layer], part.touch.weight).numpy(), np.float64)
    return taken(weight, part)


def taken(weight: NDArray[Any], part: Part) -> Array:
    """The same, out of an array of the weight's shape."""
    first = np.moveaxis(weight, part.touch.axis, 0)
    return np.asarray(first[part.places].reshape(len(part.places), -1), np.float64)


def _by_filters(channels: Channels, score: Callable[[Array], Array]) -> Scores:
    found: dict[int, Array] = {}
    for index, group in enumerate(channels.groups):
        each = [_shares(score(values(channels, part))) for part in _filters(group)]
        found[index] = len(group.makers) * np.mean(each, axis=0)
    return found


def _filters(group: Group) -> list[Part]:
    """The kernels in which every unit has a slice of its own."""
    return [
        part
        for part in group.parts
        if part.touch.role is not Role.READS and part.touch.weight.rpartition(".")[2] in _KERNELS
    ]


def _shares(scores: Array) -> Array:
    total = scores.sum()
    return scores / total if total > 0 else np.zeros_like(scores)


def _distances(filters: Array) -> Array:
    squares = np.square(filters).sum(axis=1)
    between = squares[:, None] + squares[None, :] - 2.0 * filters @ filters.T
    np.fill_diagonal(between, 0.0)  # rounding would leave some
    total: Array = np.sqrt(np.maximum(between, 0.0)).sum(axis=1)
    return total
