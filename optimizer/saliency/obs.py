"""Optimal Brain Surgeon for one layer: weights become zero, and those that stay make up for them.

Hassibi & Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon", NIPS 1992: zeroing weight q
costs at least w_q^2 / [H^-1]_qq (equation 5; here without the half, for the error is a sum of squares) when all others
move by -w_q / [H^-1]_qq times column q of H^-1. With a layer's own output error as the loss, H is the second moment of
its inputs, the same for every output (Dong, Chen & Pan, "Learning to prune deep neural networks via layer-wise Optimal
Brain Surgeon", arXiv:1705.07565, section 3.2).

Which weights go is decided in one of two ways, by how much work it is:

- one after the other, the inverse brought up to date after each (Frantar, Singh & Alistarh, "Optimal Brain
  Compression", arXiv:2208.11580, algorithm 1, with the global step over outputs of section 4);
- in one sweep over the inputs, only later ones making up for earlier ones (Frantar & Alistarh, "SparseGPT",
  arXiv:2301.00774, algorithm 1).

Then the weights that stay are those of least squares. Neither way is the best of all sets, so the set that magnitudes
choose is tried too and taken where its error, after the same repair, is lower.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.masks import Mask
from optimizer.saliency.patterns import NOfM

Array = NDArray[np.float64]

_ONE_BY_ONE_WORK = 5e9
"""Outputs * inputs^3 up to which weights go one by one: some ten seconds on a core."""
_REFIT_WORK = 3e12
"""Outputs * inputs^3 up to which what stays is solved for anew."""
_VALUES_AT_ONCE = 1 << 23
"""Of inverses, one per output, that are brought up to date together: 64 MiB."""
_SWEEP = 128
"""Inputs whose weights are weighed together in a sweep, as in SparseGPT."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Budget:
    """How many weights of a layer go.

    Attributes:
        zeros: in all, over its outputs; ignored with a pattern.
        pattern: so many of every few input channels instead.
        taps: matrices along the inputs, each with channels of its own.
    """

    zeros: int = 0
    pattern: NOfM | None = None
    taps: int = 1

    def groups(self, inputs: int) -> list[tuple[int, int]]:
        """(first, behind the last) input of each group of the pattern."""
        if self.pattern is None:
            return []
        channels, m = inputs // self.taps, self.pattern.m
        starts = [(tap * channels, c) for tap in range(self.taps) for c in range(0, channels, m)]
        return [(first + c, first + min(c + m, channels)) for first, c in starts]

    def magnitudes(self, weights: Array) -> Mask:
        """The mask that magnitudes alone choose."""
        if self.pattern is not None:
            return self.pattern.keep(weights.reshape(self.taps, -1, weights.shape[1])).reshape(weights.shape)
        order = np.argsort(np.abs(weights).ravel(), kind="stable")
        mask = np.ones(weights.size, np.bool_)
        mask[order[: self.zeros]] = False
        return mask.reshape(weights.shape)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pruned:
    """A layer after surgery.

    Attributes:
        weights: [inputs, outputs], float64.
        error: mean squared change of the outputs, summed over them.
        magnitude_error: what zeroing the smallest magnitudes and leaving the others would have done.
    """

    weights: Array
    error: float
    magnitude_error: float


def damped(moments: Array, share: float) -> Array:
    """H with `share` of its mean diagonal added to the diagonal, so that it has an inverse.

    An input that is always zero gets next to nothing: its weights are free, and go first.
    """
    own = np.diag(moments)
    added = share * float(np.mean(own)) or 1.0
    return np.asarray(moments + np.diag(np.where(own > 0, added, 1e-6 * added)))


def prune(weights: Array, h: Array, budget: Budget) -> Pruned:
    """Zeroes weights of a layer and moves the others. A weight that is zero stays zero.

    Args:
        weights: [inputs, outputs], an input being a tap and a channel.
        h: second moments of the inputs, positive definite.
        budget: how many.
    """
    work = weights.shape[1] * float(len(h)) ** 3
    if work <= _ONE_BY_ONE_WORK:
        mask, swept = one_by_one(weights, h, budget), None
    else:
        mask, swept = sweep(weights, h, budget)
    simple = budget.magnitudes(weights) & (weights != 0)
    candidates = [weights * simple]
    if work <= _REFIT_WORK:
        candidates += [refit(weights, h, mask), refit(weights, h, simple)]
    elif swept is not None:
        candidates.append(swept)
    errors = [error(each - weights, h) for each in candidates]
    best = int(np.argmin(errors))
    return Pruned(weights=candidates[best], error=errors[best], magnitude_error=errors[0])


def error(change: Array, h: Array) -> float:
    """trace(change^T H change)."""
    return float(np.einsum("io,io->", change, h @ change))


def scores(weights: Array, h: Array) -> Array:
    """w_q^2 / [H^-1]_qq of every weight: what zeroing it alone costs."""
    return np.asarray(np.square(weights) / np.diag(np.linalg.inv(h))[:, None])


def refit(weights: Array, h: Array, mask: Mask) -> Array:
    """The weights within `mask` that change the outputs least: H_SS w_S = (H w)_S for every output.

    It is the OBS update for all zeros of an output at once.
    """
    wanted = h @ weights
    found = np.zeros_like(weights)
    for output in range(weights.shape[1]):
        stays = np.flatnonzero(mask[:, output])
        if len(stays) == len(h):
            found[:, output] = weights[:, output]
        elif len(stays):
            found[stays, output] = np.linalg.solve(h[np.ix_(stays, stays)], wanted[stays, output])
    return found


def one_by_one(weights: Array, h: Array, budget: Budget) -> Mask:
    """Always the weight next that costs least, all others having made up for those before it."""
    inputs, outputs = weights.shape
    inverse: Array = np.asarray(np.linalg.inv(h), np.float64)
    at_once = max(1, _VALUES_AT_ONCE // inputs**2)
    order = np.empty((outputs, inputs), np.int64)
    costs = np.full((outputs, inputs), np.inf)
    for start in range(0, outputs, at_once):
        some = slice(start, start + at_once)
        order[some], costs[some] = _trace(np.ascontiguousarray(weights[:, some].T), inverse, budget)
    if budget.pattern is None:
        # Along one output costs hardly ever fall; where they do, the weight goes with the dearer one before it.
        flat = np.maximum.accumulate(costs, axis=1).ravel()
        gone = np.zeros(flat.size, np.bool_)
        gone[np.argsort(flat, kind="stable")[: budget.zeros]] = True
        gone = gone.reshape(costs.shape) | (costs == -np.inf)
    else:
        gone = costs < np.inf
    mask = np.ones((outputs, inputs), np.bool_)
    rows, places = np.nonzero(gone)
    mask[rows, order[rows, places]] = False
    return np.ascontiguousarray(mask.T)


def _trace(weights: Array, inverse: Array, budget: Budget) -> tuple[NDArray[np.int64], Array]:
    """For each output the inputs in the order they go, and what each costs: -inf what was zero, inf none left.

    Args:
        weights: [outputs, inputs].
        inverse: of H.
        budget: for its pattern.
    """
    outputs, inputs = weights.shape
    order = np.zeros((outputs, inputs), np.int64)
    costs = np.full((outputs, inputs), np.inf)
    left = weights.copy()
    inverses = np.repeat(inverse[None], outputs, axis=0)
    names = np.repeat(np.arange(inputs)[None], outputs, axis=0)
    zero = weights == 0
    gone = np.zeros((outputs, inputs), np.bool_)
    rows = np.arange(outputs)
    group, quota = _quotas(budget, zero)
    for step in range(inputs):
        diagonal = np.einsum("oii->oi", inverses)
        score = np.where(gone, np.inf, np.square(left) / np.where(gone, 1.0, diagonal))
        if group is not None:
            score[np.take_along_axis(quota, group[names], axis=1) <= 0] = np.inf
        score[np.take_along_axis(zero, names, axis=1) & ~gone] = -np.inf
        chosen = np.argmin(score, axis=1)
        costs[:, step] = score[rows, chosen]
        order[:, step] = names[rows, chosen]
        going = costs[:, step] < np.inf
        if not going.any():
            break
        column = inverses[rows, :, chosen]
        scaled = np.where(going, 1.0 / np.where(going, column[rows, chosen], 1.0), 0.0)[:, None] * column
        left -= left[rows, chosen, None] * scaled
        inverses -= column[:, :, None] * scaled[:, None, :]
        gone[rows[going], chosen[going]] = True
        left[gone] = 0.0
        if group is not None:
            quota[rows[going], group[names[rows, chosen][going]]] -= 1
        elif inverses.shape[1] > 16 and 4 * np.count_nonzero(gone[0]) >= inverses.shape[1]:
            # The same number is gone everywhere: go on with the rest alone.
            rest = np.nonzero(~gone)[1].reshape(outputs, -1)
            inverses = inverses[rows[:, None, None], rest[:, :, None], rest[:, None, :]]
            left, names = np.take_along_axis(left, rest, axis=1), np.take_along_axis(names, rest, axis=1)
            gone = np.zeros(left.shape, np.bool_)
    return order, costs


def _quotas(budget: Budget, zero: Mask) -> tuple[NDArray[np.int64] | None, NDArray[np.int64]]:
    """The group of each input, and how many may still go of each, [outputs, groups]."""
    outputs, inputs = zero.shape
    if budget.pattern is None:
        return None, np.zeros((outputs, 0), np.int64)
    groups = budget.groups(inputs)
    group = np.empty(inputs, np.int64)
    for i, (first, last) in enumerate(groups):
        group[first:last] = i
    quota = np.array([max(0, last - first - budget.pattern.n) for first, last in groups], np.int64)
    return group, np.repeat(quota[None], outputs, axis=0)


def sweep(weights: Array, h: Array, budget: Budget) -> tuple[Mask, Array]:
    """Input after input; those still to come make up for those that went.

    Returns:
        The mask, and the weights as the sweep leaves them.
    """
    inputs, outputs = weights.shape
    # The upper Cholesky factor of H^-1: its row j is what the OBS update needs when inputs before j are settled.
    factor = np.linalg.cholesky(np.linalg.inv(h)).T
    left = weights.copy()
    mask = weights != 0
    parts = budget.groups(inputs) or [(i, min(i + _SWEEP, inputs)) for i in range(0, inputs, _SWEEP)]
    removed = 0
    for first, last in parts:
        score = np.square(left[first:last] / np.diag(factor)[first:last, None])
        if budget.pattern is not None:
            stays = budget.pattern.keep((score * mask[first:last])[None])[0]
        else:
            score[~mask[first:last]] = -1.0
            most = round(budget.zeros * last / inputs) - removed
            stays = np.ones(score.shape, np.bool_)
            stays.ravel()[np.argsort(score, axis=None, kind="stable")[: max(most, 0)]] = False
        mask[first:last] &= stays
        removed += int(np.count_nonzero(~mask[first:last]))
        changes = np.zeros((last - first, outputs))
        for j in range(first, last):
            changes[j - first] = np.where(mask[j], 0.0, left[j]) / factor[j, j]
            left[j:last] -= factor[j, j:last, None] * changes[j - first]
        left[last:] -= factor[first:last, last:].T @ changes
    return mask, left * mask
