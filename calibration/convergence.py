"""How many calibration samples were enough: a figure against the number of samples it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

FIRST = 8
"""Samples at the first point of a curve."""

Ranges: TypeAlias = "Mapping[str, tuple[float, float]]"
"""(low, high) of each tensor by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Convergence:
    """A figure at growing numbers of samples, and from where on it stays.

    Attributes:
        what: the figure, with its unit: "output SQNR (dB)".
        samples: numbers of samples, ascending.
        values: the figure at each.
        tolerance: how far from the last value still counts as the same, in units of the figure.
        enough: the fewest samples from which on every value is within `tolerance` of the last one. None where only the
            last one itself is: then the curve does not show that more samples would change nothing.
    """

    what: str
    samples: tuple[int, ...]
    values: tuple[float, ...]
    tolerance: float
    enough: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeConvergence:
    """How far the ranges of all tensors are from their final ones.

    Attributes:
        median: of the tensors' distances, against the number of samples.
        percentile_95: 95 of 100 tensors are at most this far off.
        farthest: name of the tensor that is farthest off at the last but one number of samples; empty where all
            distances are 0 there, or there is one number only.
    """

    median: Convergence
    percentile_95: Convergence
    farthest: str


def sample_counts(total: int, *, first: int = FIRST) -> tuple[int, ...]:
    """Where to take the points of a curve: `first`, doubled until `total`, which is always the last.

    Args:
        total: samples there are, at least 1.
        first: samples of the first point.

    Raises:
        ValueError: fewer than 1.
    """
    if total < 1 or first < 1:
        raise ValueError(f"A curve of {total} samples from {first} on: both have to be at least 1")
    counts = []
    while first < total:
        counts.append(first)
        first *= 2
    return (*counts, total)


def convergence(what: str, samples: Sequence[int], values: Sequence[float], *, tolerance: float) -> Convergence:
    """Finds from where on a figure stays.

    Args:
        what: name and unit of the figure.
        samples: numbers of samples, strictly ascending, at least one.
        values: the figure at each; finite.
        tolerance: in units of the figure, at least 0; the last value is the reference.

    Raises:
        ValueError: lengths that differ, no point, samples not ascending, a value that is not finite, a negative
            tolerance.
    """
    if len(samples) != len(values) or not samples:
        raise ValueError(f"A curve needs as many values as numbers of samples: {len(values)} and {len(samples)}")
    figures = np.asarray(values, np.float64)
    if (np.diff(samples) <= 0).any() or not np.isfinite(figures).all() or not tolerance >= 0.0:
        raise ValueError("A curve needs ascending numbers of samples, finite values and a tolerance of at least 0")
    outside = np.flatnonzero(np.abs(figures - figures[-1]) > tolerance)
    from_here = int(outside[-1]) + 1 if len(outside) else 0
    return Convergence(
        what=what,
        samples=tuple(int(count) for count in samples),
        values=tuple(float(value) for value in figures),
        tolerance=tolerance,
        enough=int(samples[from_here]) if from_here < len(samples) - 1 else None,
    )


def range_distance(low: float, high: float, final: tuple[float, float]) -> float:
    """How far a range is from the final one: the larger shift of its two ends over the final width.

    Both are widened to include 0 first, as `affine.choose_params` does, so 0.01 means that the scale is off by at most
    2 %.

    Args:
        low: of the range.
        high: of the range.
        final: (low, high) of the final one: the reference.

    Returns:
        At least 0; 1 where the final range is 0 alone and this one is not.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    last_low, last_high = min(final[0], 0.0), max(final[1], 0.0)
    shift, width = max(abs(low - last_low), abs(high - last_high)), last_high - last_low
    if width == 0.0:
        return 0.0 if shift == 0.0 else 1.0
    return shift / width


def range_convergence(snapshots: Mapping[int, Ranges], *, tolerance: float = 0.05) -> RangeConvergence:
    """How many samples it took until the ranges were what they are with all of them.

    Args:
        snapshots: by number of samples: the ranges of all tensors as an observer has them then; the same tensors each
            time, at least one. The largest number is the reference.
        tolerance: of the distance, as a share of the final width.

    Returns:
        Median and 95th percentile over the tensors, each as a curve.

    Raises:
        ValueError: no snapshot, no tensor, or tensors that differ.
    """
    samples = sorted(snapshots)
    if not samples or not snapshots[samples[-1]]:
        raise ValueError("Convergence of ranges needs at least one snapshot of at least one tensor")
    final = snapshots[samples[-1]]
    names = list(final)
    for count in samples:
        if snapshots[count].keys() != final.keys():
            odd = min(snapshots[count].keys() ^ final.keys())
            raise ValueError(f"The ranges at {count} and at {samples[-1]} samples are not of the same tensors: {odd}")
    distances: NDArray[np.float64] = np.array(
        [[range_distance(*snapshots[count][name], final[name]) for name in names] for count in samples]
    )
    last_but_one = distances[max(len(samples) - 2, 0)]
    return RangeConvergence(
        median=convergence(
            "median distance from the final range", samples, np.median(distances, axis=1).tolist(), tolerance=tolerance
        ),
        percentile_95=convergence(
            "95th percentile of the distances from the final ranges",
            samples,
            np.percentile(distances, 95, axis=1).tolist(),
            tolerance=tolerance,
        ),
        farthest=names[int(np.argmax(last_but_one))] if last_but_one.any() else "",
    )
