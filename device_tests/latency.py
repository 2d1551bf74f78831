"""From raw nanoseconds to percentiles with intervals.

A percentile is a sample that was taken, never a value between two: the smallest sample with at least q percent of all
samples at or below it (the inverse of the empirical distribution, nearest rank; Hyndman and Fan 1996, type 1). It is
told only where at least two samples are expected beyond it, so p90 needs 20 samples, p95 40, p99 200; and p50 needs 6,
the fewest that give its interval.

Intervals are distribution-free order statistics (`calibration.binomial.order_statistic_ranks`). They take the runs as
independent: they cover the scatter from run to run, and drift of the board between windows is for the validity checks
of the measurement.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from calibration.binomial import order_statistic_ranks
from edgesmith.result import LatencyRecord

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NS_PER_MS = 1e6
_FEWEST = 6
_BEYOND = 2
"""Samples expected beyond a percentile before it is told."""


def fewest_samples(q: float) -> int:
    """Samples that the q-th percentile needs to be told: 6 for 50, 20 for 90, 40 for 95, 200 for 99."""
    share = _share(q)
    return max(_FEWEST, math.ceil(_BEYOND / min(share, 1 - share)))


def unsupported_reason(n: int, q: float) -> str | None:
    """Why n samples do not support the q-th percentile; None where they do."""
    need = fewest_samples(q)
    return None if n >= need else f"p{q:g} needs {need} samples, there are {n}"


def percentile_ns(samples: NDArray[np.int64], q: float) -> int | None:
    """The q-th percentile by nearest rank.

    Args:
        samples: int64 [n], nanoseconds, any order.
        q: percent, 0 < q < 100.

    Returns:
        One of the samples; None where n does not support it (`unsupported_reason` says why).

    Raises:
        ValueError: q out of range, or samples not a vector.
    """
    _check(samples)
    n = len(samples)
    if unsupported_reason(n, q):
        return None
    return int(np.partition(samples, rank := math.ceil(_share(q) * n) - 1)[rank])


def interval_ns(samples: NDArray[np.int64], q: float) -> tuple[int | None, int | None]:
    """95 % interval of the q-th percentile from two order statistics.

    Args:
        samples: int64 [n], nanoseconds, any order.
        q: percent, 0 < q < 100.

    Returns:
        (low, high), each one of the samples; an end is None where n is too small to give it (the upper end of p95
        needs 72 samples).

    Raises:
        ValueError: q out of range, or samples not a vector.
    """
    _check(samples)
    if len(samples) == 0:
        return None, None
    low, high = order_statistic_ranks(len(samples), float(_share(q)))
    ordered = np.sort(samples)
    return (None if low is None else int(ordered[low - 1])), (None if high is None else int(ordered[high - 1]))


def summarise(samples_ns: NDArray[np.int64], *, samples_path: str | None = None) -> LatencyRecord:
    """The latency record of a result.

    Args:
        samples_ns: int64 [n], one per timed run.
        samples_path: where the raw samples lie, relative to the run folder.

    Returns:
        Milliseconds; a percentile that n does not support is None with its reason.

    Raises:
        ValueError: samples not a vector.
    """
    _check(samples_ns)
    n = len(samples_ns)
    p50_low, p50_high = interval_ns(samples_ns, 50) if n >= fewest_samples(50) else (None, None)
    p95_low, p95_high = interval_ns(samples_ns, 95) if n >= fewest_samples(95) else (None, None)
    reason = unsupported_reason(n, 95)
    if reason is None and p95_high is None:
        reason = f"the upper end of p95's interval needs 72 samples, there are {n}"
    return LatencyRecord(
        p50=_ms(percentile_ns(samples_ns, 50)),
        p90=_ms(percentile_ns(samples_ns, 90)),
        p95=_ms(percentile_ns(samples_ns, 95)),
        p99=_ms(percentile_ns(samples_ns, 99)),
        n=n,
        p50_low=_ms(p50_low),
        p50_high=_ms(p50_high),
        p95_low=_ms(p95_low),
        p95_high=_ms(p95_high),
        p95_high_reason=reason,
        mean=float(np.mean(samples_ns)) / _NS_PER_MS if n else None,
        p50_reason=unsupported_reason(n, 50),
        p90_reason=unsupported_reason(n, 90),
        p95_reason=unsupported_reason(n, 95),
        p99_reason=unsupported_reason(n, 99),
        samples_path=samples_path,
    )


def _share(q: float) -> Fraction:
    """Q percent as an exact fraction: 0.07 * 100 in floats is 7.000000000000001, one rank too high."""
    share = Fraction(str(q)) / 100
    if not 0 < share < 1:
        raise ValueError(f"a percentile lies between 0 and 100, not at {q}")
    return share


def _check(samples: NDArray[np.int64]) -> None:
    if samples.ndim != 1:
        raise ValueError(f"latency samples are a vector, not an array of shape {samples.shape}")


def _ms(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / _NS_PER_MS
