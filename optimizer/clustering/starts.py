"""Where centroids start: what `tfmot.clustering.keras.CentroidInitialization` offers, and the optimum.

Linear, random and density-based starts are those of TF-MOT 0.8.1 (`clustering_centroids.py`). Where zeros are kept, it
gives one centroid to zero and shares the others out to negative and positive weights by their number.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from optimizer.clustering import kmeans1d
from optimizer.clustering.kmeans1d import Float, Points

Init = Literal["optimal", "linear", "random", "density", "kmeans++"]

_GRID = 30
_GAP = 0.01


def centroids(points: Points, clusters: int, init: Init, draw: np.random.Generator, *, zeros: bool) -> Float:
    """Centroids of local or least error, ascending.

    Args:
        points: the weights; without zeros where `zeros`.
        clusters: most centroids.
        init: `optimal` needs no start; the others are carried to convergence by Lloyd's iteration.
        draw: for `random` and `kmeans++`.
        zeros: zero has a cluster of its own besides these, so signs are started apart, as TF-MOT does.
    """
    if clusters >= len(points.values) or init == "optimal":
        return kmeans1d.optimal(points, clusters)
    return kmeans1d.lloyd(points, start(points, clusters, init, draw, zeros=zeros))


def start(points: Points, clusters: int, init: Init, draw: np.random.Generator, *, zeros: bool) -> Float:
    """The start alone; arguments as for `centroids`."""
    if not zeros:
        return _interval(points, clusters, init, draw, gap=_GAP)
    sides = [points.values < 0, points.values > 0]
    share = float(points.counts[sides[0]].sum() / points.counts.sum())
    negative = round(clusters * share)
    found = []
    for side, own in zip(sides, (negative, clusters - negative), strict=True):
        if own and side.any():
            part = Points(points.values[side], points.counts[side])
            gap = min(_GAP, float(np.abs(part.values).min()) / 2)
            found.append(_interval(part, own, init, draw, gap=gap))
    return np.concatenate(found)


def _interval(points: Points, clusters: int, init: Init, draw: np.random.Generator, *, gap: float) -> Float:
    low, high = float(points.values[0]), float(points.values[-1])
    if init == "linear":
        return np.linspace(low, high, clusters)
    if init == "random":
        return draw.uniform(low, high, clusters)
    if init == "density":
        return _density(points, clusters, low - gap, high + gap)
    return _plus_plus(points, clusters, draw)


def _density(points: Points, clusters: int, low: float, high: float) -> Float:
    """The points of a grid at which the cumulative distribution first exceeds evenly spaced shares.

    TF-MOT means to interpolate between grid points and does not: its slope is cut off at a width of 0.001 with the
    wrong sign, which leaves the upper one.
    """
    grid = np.linspace(low, high, _GRID)
    below = np.concatenate([[0.0], np.cumsum(points.counts)])
    reached = below[np.searchsorted(points.values, grid, side="right")] / below[-1]
    places = np.searchsorted(reached, np.linspace(_GAP, 1, clusters), side="right")
    return grid[np.minimum(places, _GRID - 1)]


def _plus_plus(points: Points, clusters: int, draw: np.random.Generator) -> Float:
    """Each next centroid a point, drawn by its squared distance to the nearest so far (Arthur & Vassilvitskii 2007)."""
    found = [float(draw.choice(points.values, p=points.counts / points.counts.sum()))]
    apart = (points.values - found[0]) ** 2
    while len(found) < clusters and apart.any():
        chances = points.counts * apart
        found.append(float(draw.choice(points.values, p=chances / chances.sum())))
        apart = np.minimum(apart, (points.values - found[-1]) ** 2)
    return np.array(found)
