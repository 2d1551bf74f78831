"""Where to clip: ranges chosen from a histogram by percentile and by expected squared error.

All ranges returned here lie within the smallest and the largest value seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from calibration import affine

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from calibration.histogram import Histogram

_PER_OCTAVE = 8
_OCTAVES = 12
_BEST_KEPT = 12
_FINEST = 1.0 / 256
_MOVES = 100
"""A bound that a search with these steps does not reach, for the day when rounding keeps it from ending."""
_AT_ONCE = 1 << 18
"""Bins times ranges that are computed at once: a few MB of temporary arrays."""


def percentile_range(histogram: Histogram, percent: float) -> tuple[float, float]:
    """The range that holds `percent` of the values that are not zero, half of the rest beyond either end.

    The halving is that of ONNX Runtime's `HistogramCollector.compute_percentile`; theirs ends on bin edges, this one
    interpolates within a bin, and leaves exact zeros out of the count (see `histogram`).

    Args:
        histogram: of the tensor.
        percent: 0 < percent <= 100; 100 is min-max.

    Returns:
        (low, high); (0, 0) where all values are zero.

    Raises:
        ValueError: percent out of range.
    """
    if not 0.0 < percent <= 100.0:
        raise ValueError(f"Percentile {percent}: it has to be in 0..100")
    below = np.concatenate(([0], np.cumsum(histogram.counts)))
    held = int(below[-1])
    if held == 0:
        return 0.0, 0.0
    beyond = held * ((100.0 - percent) / 200.0)

    def value_at(rank: float, side: Literal["left", "right"]) -> float:
        # Between two bins with a gap the inner end is taken: the range is the narrowest that holds its share.
        index = int(np.searchsorted(below, rank, side=side)) - 1
        index = min(max(index, 0), len(histogram.counts) - 1)
        share = (rank - below[index]) / histogram.counts[index]
        return float(histogram.lower[index] + share * (histogram.upper[index] - histogram.lower[index]))

    low, high = value_at(beyond, "right"), value_at(held - beyond, "left")
    return max(low, histogram.low), min(max(low, high), histogram.high)


def expected_mse(
    histogram: Histogram, low: ArrayLike, high: ArrayLike, *, dtype: str, symmetric: bool
) -> NDArray[np.float64]:
    """Mean squared error of quantizing the values counted, by the grids `affine.choose_params` makes of ranges.

    The grid's own rounding of scale and zero point is in it, as is saturation. The integral over each bin is exact for
    values spread evenly in it: with u = x / scale, the squared error e(u)**2 = (u - n)**2, n = clip(round(u)), has the
    antiderivative n / 12 + (u - n)**3 / 3, because each full step adds 1/12.

    Args:
        histogram: of the tensor.
        low: lower ends, any shape.
        high: upper ends, same shape.
        dtype: "int4", "int8" or "int16".
        symmetric: as of `affine.choose_params`.

    Returns:
        float64 in the shape of `low`, in squared units of the tensor; over all values, zeros (without error) included.

    Raises:
        ValueError: a range that is none.
    """
    scales, zero_points = affine.grids(low, high, dtype=dtype, symmetric=symmetric)
    least, most = affine.limits(dtype, symmetric=symmetric)
    errors = np.zeros(scales.size)
    at_once = max(1, _AT_ONCE // max(1, len(histogram.counts)))
    for start in range(0, scales.size, at_once):
        part = slice(start, start + at_once)
        scale = scales.ravel()[part].astype(np.float64)[:, None]
        zero_point = zero_points.ravel()[part][:, None]
        errors[part] = _squared_errors(histogram, scale, least - zero_point, most - zero_point)
    return (errors / max(1, histogram.total)).reshape(scales.shape)


def mse_range(histogram: Histogram, *, dtype: str, symmetric: bool) -> tuple[float, float]:
    """The range with the smallest expected squared error; both ends move independently.

    The trade between clipping and resolution of Banner et al. 2019, "Post training 4-bit quantization of convolutional
    networks" (ACIQ), on the counts themselves instead of a fitted Gauss or Laplace law: first on a grid of
    ratios of 2**(1/8) per end, with the step's noise taken as scale**2 / 12; then the best of those and min-max by
    `expected_mse`; then a pattern search around the winner down to ratios of 2**(1/256).

    Args:
        histogram: of the tensor.
        dtype: "int4", "int8" or "int16".
        symmetric: as of `affine.choose_params`; then the range is one threshold for both signs.

    Returns:
        (low, high); its `expected_mse` is never above that of min-max.
    """
    farthest = (min(histogram.low, 0.0), max(histogram.high, 0.0))
    if symmetric:
        farthest = (-max(-farthest[0], farthest[1]), max(-farthest[0], farthest[1]))
    if farthest == (0.0, 0.0):
        return histogram.low, histogram.high

    def errors(ranges: NDArray[np.float64]) -> NDArray[np.float64]:
        return expected_mse(histogram, ranges[:, 0], ranges[:, 1], dtype=dtype, symmetric=symmetric)

    tried = _coarse_candidates(histogram, farthest, dtype, symmetric=symmetric)
    found = errors(tried)
    best, error = tried[int(np.argmin(found))], float(found.min())
    step = 1.0 / (2 * _PER_OCTAVE)
    moves = np.array([(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a == b or not symmetric) and (a or b)])
    for _ in range(_MOVES):
        tried = np.clip(best * np.exp2(moves * step), farthest[0], farthest[1])
        found = errors(tried)
        if found.min() < error:
            best, error = tried[int(np.argmin(found))], float(found.min())
        elif step > _FINEST:
            step /= 2.0
        else:
            break
    return max(float(best[0]), histogram.low), min(float(best[1]), histogram.high)


def _squared_errors(
    histogram: Histogram, scale: NDArray[np.float64], least: NDArray[np.int64], most: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Sum over all values; `least` and `most` are integers less the zero point. All [ranges, 1]; gives [ranges]."""

    def integral(ends: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        steps = ends / scale
        nearest = np.clip(np.rint(steps), least, most)
        off = steps - nearest
        return nearest / 12.0 + off * off * off / 3.0, off

    lower, off = integral(histogram.lower)
    upper, _ = integral(histogram.upper)
    width = (histogram.upper - histogram.lower) / scale
    # A bin of (nearly) no width is one value; there the difference of integrals would be rounding only.
    point = width < 1e-6
    mean = np.where(point, off**2, (upper - lower) / np.where(point, 1.0, width))
    errors: NDArray[np.float64] = (np.maximum(mean, 0.0) @ histogram.counts.astype(np.float64)) * scale[:, 0] ** 2
    return errors


def _coarse_candidates(
    histogram: Histogram, farthest: tuple[float, float], dtype: str, *, symmetric: bool
) -> NDArray[np.float64]:
    """[n, 2]: min-max first, then the ranges that are best if each step's noise is scale**2 / 12."""
    ladder = np.exp2(-np.arange(_PER_OCTAVE * _OCTAVES + 1) / _PER_OCTAVE)
    lows = farthest[0] * (ladder if farthest[0] < 0 else np.ones(1))
    highs = farthest[1] * (ladder if farthest[1] > 0 else np.ones(1))
    above = _clipped(histogram.lower, histogram.upper, histogram.counts, highs)
    below = _clipped(-histogram.upper, -histogram.lower, histogram.counts, -lows)
    held = int(histogram.counts.sum())
    least, most = affine.limits(dtype, symmetric=symmetric)
    if symmetric:
        noise = (highs / most) ** 2 / 12.0
        order = np.argsort(above + below + held * noise, kind="stable")[:_BEST_KEPT]
        chosen = np.stack((lows[order], highs[order]), axis=1)
    else:
        noise = ((highs[None, :] - lows[:, None]) / (most - least)) ** 2 / 12.0
        total = below[:, None] + above[None, :] + held * noise
        first, second = np.unravel_index(np.argsort(total, axis=None, kind="stable")[:_BEST_KEPT], total.shape)
        chosen = np.stack((lows[first], highs[second]), axis=1)
    return np.concatenate((np.array([farthest]), chosen))


def _clipped(
    lower: NDArray[np.float64], upper: NDArray[np.float64], counts: NDArray[np.int64], ends: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sum of (x - end)**2 over the values beyond each end: [ends]."""
    width = upper - lower
    point = width <= 0.0
    weight = counts / (3.0 * np.where(point, 1.0, width))
    far, near = np.maximum(upper - ends[:, None], 0.0), np.maximum(lower - ends[:, None], 0.0)
    spread = (far * far * far - near * near * near) @ np.where(point, 0.0, weight)
    clipped: NDArray[np.float64] = spread + (far * far) @ np.where(point, counts, 0).astype(np.float64)
    return clipped
