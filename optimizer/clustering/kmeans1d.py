"""k-means on a line, where the optimum can be computed.

Sorted, each cluster is a run of neighbours, so the best cut into k runs is found by dynamic programming (Wang & Song,
"Ckmeans.1d.dp: Optimal k-means Clustering in One Dimension by Dynamic Programming", The R Journal 3/2, 2011). The best
last cut never moves left as points are added (the cost is a Monge array), so each of the k rows costs n log n by divide
and conquer. The rows are filled a level of the recursion at a time, which keeps all of it in numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Index = NDArray[np.int64]

EXACT = 16_384
"""Up to so many distinct values the optimum is exact; more are put into as many bins for the start of Lloyd."""

_MOST_ROUNDS = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Distinct values on a line, and how often each occurs.

    Attributes:
        values: [N] ascending.
        counts: [N] above 0.
    """

    values: Float
    counts: Float

    @classmethod
    def of(cls, weights: NDArray[Any]) -> Points:
        """The points of any array."""
        values, counts = np.unique(np.asarray(weights, np.float64), return_counts=True)
        return cls(values, counts.astype(np.float64))

    def binned(self, bins: int) -> Points:
        """At most so many points: each the mean of the values in one of as many equal intervals."""
        if len(self.values) <= bins:
            return self
        low, high = self.values[0], self.values[-1]
        place = np.minimum(((self.values - low) / (high - low) * bins).astype(np.int64), bins - 1)
        counts = np.bincount(place, self.counts, bins).astype(np.float64)
        sums = np.bincount(place, self.counts * self.values, bins)
        used = counts > 0
        return Points(sums[used] / counts[used], counts[used])


def optimal(points: Points, clusters: int) -> Float:
    """Centroids of least squared error: exact up to `EXACT` distinct values, else Lloyd from the optimum of bins.

    Args:
        points: at least one.
        clusters: at least 1.

    Returns:
        Ascending centroids; fewer than `clusters` where there are fewer distinct values.
    """
    if clusters >= len(points.values):
        return points.values.copy()
    coarse = points.binned(EXACT)
    cuts = _cuts(coarse, clusters)
    sums = np.add.reduceat(coarse.counts * coarse.values, cuts[:-1])
    centroids = sums / np.add.reduceat(coarse.counts, cuts[:-1])
    return centroids if coarse is points else lloyd(points, centroids)


def lloyd(points: Points, centroids: Float) -> Float:
    """Lloyd's iteration until nothing moves: nearest centroid, then the mean of its points.

    On sorted points with running sums, a round costs k log n.

    Args:
        points: at least one.
        centroids: to start from, any order.

    Returns:
        Ascending centroids; those that no point is nearest to are dropped.
    """
    running = _Running.of(points)
    found = np.unique(centroids)
    edges: Index = np.zeros(0, np.int64)
    for _ in range(_MOST_ROUNDS):
        edges = np.concatenate([[0], _edges(points.values, found), [len(points.values)]])
        counts = np.diff(running.count[edges])
        means = np.diff(running.first[edges]) / np.where(counts > 0, counts, 1) + running.origin
        moved = np.where(counts > 0, means, found)
        if np.array_equal(moved, found):
            break
        found = np.sort(moved)
    return found[np.diff(edges) > 0]


def nearest(values: NDArray[Any], centroids: Float) -> Index:
    """Index of the nearest centroid for each value; of two as near, the lower.

    Args:
        values: any shape.
        centroids: ascending.
    """
    halves = (centroids[:-1] + centroids[1:]) / 2
    return np.searchsorted(halves, np.asarray(values, np.float64), side="left").astype(np.int64)


def error(points: Points, centroids: Float) -> float:
    """Sum of squared distances to the nearest centroid."""
    apart = points.values - centroids[nearest(points.values, centroids)]
    return float((points.counts * apart**2).sum())


def _edges(values: Float, centroids: Float) -> Index:
    """Where each next cluster begins among sorted values."""
    halves = (centroids[:-1] + centroids[1:]) / 2
    return np.searchsorted(values, halves, side="right").astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class _Running:
    """Sums over the first i points, [N + 1] each; of values less `origin`, so that little is lost in differences."""

    origin: float
    count: Float
    first: Float
    second: Float

    @classmethod
    def of(cls, points: Points) -> _Running:
        origin = float(np.average(points.values, weights=points.counts))
        centred = points.values - origin
        terms = (points.counts, points.counts * centred, points.counts * centred**2)
        count, first, second = (np.concatenate([[0.0], np.cumsum(term)]) for term in terms)
        return cls(origin, count, first, second)

    def cost(self, start: Index, end: Index) -> Float:
        """Squared error of the points start..end-1 around their mean."""
        first = self.first[end] - self.first[start]
        cost = self.second[end] - self.second[start] - first * first / (self.count[end] - self.count[start])
        return np.maximum(cost, 0.0)


def _cuts(points: Points, clusters: int) -> Index:
    """Borders [clusters + 1] of the best runs, from 0 to the number of points."""
    size = len(points.values)
    running = _Running.of(points)
    best = np.full(size + 1, np.inf)
    best[1:] = running.cost(np.zeros(size, np.int64), np.arange(1, size + 1))
    starts = np.zeros((clusters + 1, size + 1), np.int32)
    for run in range(2, clusters + 1):
        best, starts[run] = _row(running, best, run, size)
    cuts = [size]
    for run in range(clusters, 1, -1):
        cuts.append(int(starts[run][cuts[-1]]))
    return np.array([0, *cuts[:0:-1], size], np.int64)


def _row(running: _Running, before: Float, run: int, size: int) -> tuple[Float, NDArray[np.int32]]:
    """Least costs of the first i points in `run` runs, and where the last run begins, for every i.

    Columns at odd multiples of a stride lie between two that are known from twice the stride, and so do their cuts.
    """
    best = np.full(size + 1, np.inf)
    start = np.zeros(size + 1, np.int32)
    first, columns = run - 1, size - run + 1  # fewer points than runs cannot be cut
    stride = 1 << (columns.bit_length() - 1)
    while stride:
        column = np.arange(stride, columns + 1, 2 * stride)
        ends = first + column
        low = np.where(column > stride, start[ends - stride], first)
        known = column + stride <= columns
        high = np.minimum(np.where(known, start[np.where(known, ends + stride, 0)], size - 1), ends - 1)
        best[ends], start[ends] = _least(running, before, ends, low, high)
        stride //= 2
    return best, start


def _least(running: _Running, before: Float, ends: Index, low: Index, high: Index) -> tuple[Float, Index]:
    """For each end, the least cost over the last run's beginnings low..high, and the first beginning that has it."""
    lengths = high - low + 1
    firsts = np.cumsum(lengths) - lengths
    starts = np.arange(int(lengths.sum())) - np.repeat(firsts - low, lengths)
    costs = before[starts] + running.cost(starts, np.repeat(ends, lengths))
    least = np.minimum.reduceat(costs, firsts)
    hits = np.flatnonzero(costs == np.repeat(least, lengths))
    return least, starts[hits[np.searchsorted(hits, firsts)]]
