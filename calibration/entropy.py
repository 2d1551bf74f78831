"""Where to clip so that the distribution of the integers tells most about that of the values: KL divergence.

Migacz 2017, "8-bit inference with TensorRT" (GTC, S7310), slides "Entropy calibration - pseudocode", as in Apache
MXNet's `contrib/quantization.py` `_get_optimal_threshold` and ONNX Runtime's `get_entropy_threshold`: of each range
that could be clipped to, the reference P is the histogram within it with everything beyond added to its end bins; the
candidate Q is the histogram within it *without* that, summed over each integer's bins and spread evenly over those of
them that are not empty; the range with the smallest KL(P || Q) wins.

What is different, because theirs is right for symmetric int8 only:

* which bins share an integer is decided by the affine grid of that very range, not by dividing the bins by 128 (the
  division is seldom even; theirs puts the rest into the last integer);
* asymmetric ranges: both ends are searched, in turn, each with the other held. One threshold for both signs would
  give SiLU's or GELU's short negative side no more care than an outlier;
* where P has values and Q has none (an end bin that only outliers fill) the divergence is infinite, which refuses the
  range; they add 0.0001 to empty bins, whose weight depends on the number of bins.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from calibration import affine

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from calibration.histogram import Histogram

BINS = 2048
"""Equal bins from 0 to the power of two above the largest magnitude (Migacz: 2,048 up to the largest magnitude)."""
_TRIED = 128
_ROUNDS = 2


def entropy_range(histogram: Histogram, *, dtype: str, symmetric: bool, bins: int = BINS) -> tuple[float, float]:
    """The range with the smallest KL divergence between values and integers.

    As published, no range of fewer bins than integers is tried, so outliers of more than about 8 times (asymmetric) or
    16 times (symmetric) the rest are beyond it, as are int16 grids, which have more integers than there are bins: then
    the range is min-max.

    Args:
        histogram: of the tensor; exact zeros do not count.
        dtype: "int4", "int8" or "int16".
        symmetric: as of `affine.choose_params`; then both ends are one threshold.
        bins: equal bins per sign.

    Returns:
        (low, high), within the values seen.
    """
    counts, below_zero, width = _equal_bins(histogram, bins)
    if len(counts) == 0:
        return histogram.low, histogram.high
    above_zero = len(counts) - below_zero
    least, most = affine.limits(dtype, symmetric=symmetric)

    def divergence(left: int, right: int) -> float:
        return kl_divergence(counts, below_zero, left, right, dtype=dtype, symmetric=symmetric)

    left, right = below_zero, above_zero
    if symmetric:
        ends = _ladder(most + 1, max(left, right))
        end = _least(ends, lambda end: divergence(min(end, below_zero), min(end, above_zero)))
        left, right = min(end, below_zero), min(end, above_zero)
    else:
        for _ in range(_ROUNDS):
            ends = _ladder(most - least - left, above_zero)
            right = _least(ends, functools.partial(divergence, left))
            ends = _ladder(most - least - right, below_zero)
            left = _least(ends, functools.partial(_turned, divergence, right))
    return max(-left * width, histogram.low), min(right * width, histogram.high)


def kl_divergence(
    counts: NDArray[np.int64], below_zero: int, left: int, right: int, *, dtype: str, symmetric: bool
) -> float:
    """KL(P || Q) in nats of clipping to `left` bins below zero and `right` bins above it; see the module.

    Args:
        counts: int64 [n] of equal bins; zero is the edge before bin `below_zero`.
        below_zero: bins of negative values.
        left: of them kept, 0..below_zero.
        right: bins of positive values kept, 0..n - below_zero.
        dtype: of the integers.
        symmetric: as of `affine.choose_params`.

    Returns:
        At least 0; infinite where an end bin holds nothing but what was clipped, or nothing is left.
    """
    kept = counts[below_zero - left : below_zero + right].astype(np.float64)
    inside = kept.sum()
    if inside == 0:
        return math.inf
    reference = kept.copy()
    reference[0] += counts[: below_zero - left].sum()
    reference[-1] += counts[below_zero + right :].sum()
    filled = np.flatnonzero(reference)
    # In units of one bin: which integer holds the middle of each bin.
    scale, zero_point = affine.grids(-left, right, dtype=dtype, symmetric=symmetric)
    least, most = affine.limits(dtype, symmetric=symmetric)
    steps = np.rint((filled - left + 0.5) / float(scale)) + int(zero_point)
    integer = np.clip(steps, least, most).astype(np.intp) - least
    spread = np.bincount(integer, weights=kept[filled]) / np.maximum(np.bincount(integer), 1)
    candidate = spread[integer] / inside
    share = reference[filled] / reference.sum()
    if (candidate == 0).any():
        return math.inf
    return max(0.0, float(np.sum(share * np.log(share / candidate))))


def _equal_bins(histogram: Histogram, bins: int) -> tuple[NDArray[np.int64], int, float]:
    """Counts of equal bins, how many of them lie below zero, and their width.

    The width is a power of two divided by `bins`: bins of a streaming histogram lie in exactly one of them.
    """
    if len(histogram.counts) == 0:
        return np.zeros(0, np.int64), 0, 1.0
    width = 2.0 ** math.frexp(max(-histogram.low, histogram.high))[1] / bins
    middle = np.floor((histogram.lower + histogram.upper) / 2.0 / width).astype(np.int64)
    below_zero = max(0, -int(middle[0]))
    above_zero = max(0, int(middle[-1]) + 1)
    counts = np.bincount(middle + below_zero, weights=histogram.counts, minlength=below_zero + above_zero)
    return counts.astype(np.int64), below_zero, width


def _least(ends: Sequence[int], cost: Callable[[int], float]) -> int:
    """The end of least cost; the widest among equals."""
    return min(ends, key=cost)


def _turned(divergence: Callable[[int, int], float], right: int, left: int) -> float:
    return divergence(left, right)


def _ladder(least: int, reach: int) -> list[int]:
    """Numbers of bins to try, `reach` first, then fewer down to `least`; about 128 of them.

    Among equals the first is taken, which is the widest.
    """
    least = max(least, 1)
    if reach <= least:
        return [reach]
    return list(range(reach, least - 1, -max(1, (reach - least) // _TRIED)))
