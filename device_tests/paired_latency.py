"""How much longer one artifact takes than another, from windows that they took in turns.

A round is a window of each, one right after the other, so that what the board does meanwhile falls on both. Its ratio
is that of the two windows' percentiles; the ratio of the artifacts and its interval come from the logarithms of all
rounds' ratios (`signed_rank`). Rounds are the unit, not runs: runs of one window hang together, and counting them as
independent is what makes intervals too narrow and gates cry wolf.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from device_tests.latency import percentile_ns
from device_tests.signed_rank import location

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NS_PER_MS = 1e6


@dataclass(frozen=True, slots=True, eq=False)
class Turns:
    """One artifact's timed runs.

    Attributes:
        samples_ns: int64 [n].
        windows: int64 [n], the round that each belongs to.
    """

    samples_ns: NDArray[np.int64]
    windows: NDArray[np.int64]

    def percentiles_ns(self, q: float) -> NDArray[np.float64]:
        """The q-th percentile of every window, float64 [rounds]; NaN where a window has too few runs for it."""
        found = [percentile_ns(self.samples_ns[self.windows == each], q) for each in np.unique(self.windows)]
        return np.array([math.nan if value is None else value for value in found], dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """The second artifact against the first, the reference.

    Attributes:
        percentile: 50 or 95.
        ratio: of the latencies, with its interval `low`..`high`; above 1 the second is slower.
        confidence: of the interval.
        rounds: that it rests on.
        first_ms, second_ms: medians over the windows.
    """

    percentile: float
    ratio: float
    low: float
    high: float
    confidence: float
    rounds: int
    first_ms: float
    second_ms: float

    @property
    def difference_ms(self) -> tuple[float, float, float]:
        """(low, estimate, high): the ratios, of the reference's latency."""
        low, middle, high = ((ratio - 1.0) * self.first_ms for ratio in (self.low, self.ratio, self.high))
        return low, middle, high


def effect(pairs: Sequence[tuple[Turns, Turns]], percentile: float = 50.0, confidence: float = 0.99) -> Effect | None:
    """The second artifact's latency against the first's.

    Args:
        pairs: (first, second) per measurement; of each, window k of one was taken beside window k of the other.
        percentile: of the runs of a window.
        confidence: of the interval.

    Returns:
        None where no window has the runs that the percentile needs (`latency.fewest_samples`).

    Raises:
        ValueError: the two have not as many windows.
    """
    first = np.concatenate([one.percentiles_ns(percentile) for one, _ in pairs])
    second = np.concatenate([other.percentiles_ns(percentile) for _, other in pairs])
    if len(first) != len(second):
        raise ValueError(f"{len(first)} windows against {len(second)}: they were not taken in turns")
    told = np.isfinite(first) & np.isfinite(second)
    if not told.any():
        return None
    first, second = first[told], second[told]
    found = location(np.log(second) - np.log(first), confidence)
    return Effect(
        percentile=percentile,
        ratio=math.exp(found.estimate),
        low=math.exp(found.low),
        high=math.exp(min(found.high, 700.0)) if math.isfinite(found.high) else math.inf,
        confidence=confidence,
        rounds=len(first),
        first_ms=float(np.median(first)) / _NS_PER_MS,
        second_ms=float(np.median(second)) / _NS_PER_MS,
    )
