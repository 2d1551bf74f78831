"""Where paired differences lie: the Hodges-Lehmann estimate and the interval of the signed-rank test.

The test asks of differences only that they are as likely to one side of the middle as to the other. That is so for an
artifact against itself, whatever the noise looks like, and it takes outliers by their rank, so that a burst of other
work weighs no more than any round. Hollander, Wolfe and Chicken 2014, Nonparametric Statistical Methods, sections 3.1
(test), 3.2 (estimate) and 3.3 (interval, due to Tukey).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_EXACT = 200
"""Pairs up to which the law of the rank sum is counted out; beyond, the normal law is as good."""


@dataclass(frozen=True, slots=True)
class Location:
    """The middle of the differences and its interval.

    Attributes:
        estimate: median of all means of two differences, each with itself included.
        low, high: of the interval; -inf and inf where the pairs are too few for that confidence.
    """

    estimate: float
    low: float
    high: float


def location(differences: NDArray[np.float64], confidence: float) -> Location:
    """Estimates where the differences lie.

    Args:
        differences: float64 [n], n at least 1, of independent pairs.
        confidence: 0 < confidence < 1, of the two-sided interval.

    Raises:
        ValueError: no differences, one that is not finite, or a confidence out of range.
    """
    n = len(differences)
    if n == 0 or not np.isfinite(differences).all() or not 0.0 < confidence < 1.0:
        raise ValueError(f"{n} differences, confidence {confidence}: there is no interval")
    first, second = np.triu_indices(n)
    means = np.sort((differences[first] + differences[second]) / 2)
    left_out = _left_out(n, (1.0 - confidence) / 2)
    low, high = (-math.inf, math.inf) if left_out is None else (means[left_out], means[len(means) - 1 - left_out])
    return Location(estimate=float(np.median(means)), low=float(low), high=float(high))


def _left_out(n: int, error: float) -> int | None:
    """How many of the smallest means lie outside: the largest k with P(W < k + 1) <= error; None where there is none.

    The interval from the (k+1)-th smallest mean misses below exactly where the rank sum W of the positive differences
    is at most k.
    """
    if n > _EXACT:
        middle, spread = n * (n + 1) / 4, math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
        return math.floor(middle + NormalDist().inv_cdf(error) * spread)
    within = int(np.searchsorted(_below(n), error, side="right")) - 1
    return None if within < 0 else within


@functools.lru_cache(maxsize=16)
def _below(n: int) -> NDArray[np.float64]:
    """P(W <= k) for k = 0..n(n+1)/2: W sums each of the ranks 1..n with chance one half."""
    chance = np.ones(1)
    for rank in range(1, n + 1):
        longer = np.zeros(len(chance) + rank)
        longer[: len(chance)] += chance / 2
        longer[rank:] += chance / 2
        chance = longer
    return np.cumsum(chance)
