"""A histogram of a stream whose range nobody knows beforehand: one pass, fixed memory, counts that are exact.

The bins lie on a grid that depends on nothing but the largest magnitude seen, 2**(E-1) <= max |x| < 2**E. The octave
below 2**E has `top_bins` bins, each octave below it half as many but never fewer than `least_bins`; what lies below
2**(E-octaves) shares one bin; positive and negative values have bins of their own. When a larger value comes, E grows
and bins are merged in pairs: every bin of the new grid is a union of whole bins of the old one. So counts depend on
neither the order of the values nor on the chunks they came in.

Halving per octave (rather than equal bins) is for outliers: with one value 1,000 times the bulk, 4,096 equal bins
leave four for the bulk; here it still has 64 per octave.

Exact zeros are counted apart. ReLU and padding make tensors of mostly zeros, every affine grid holds 0 exactly, and so
they say nothing about where to clip: percentiles and KL are over what is not zero (NVIDIA's pytorch-quantization, to
the same end, overwrites the bin at zero with its neighbour), while mean squared errors are over all values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MANTISSA_BITS = 23
_MAGNITUDE = np.uint32(0x7FFF_FFFF)
_NEGATIVE_ZERO = np.uint32(0x8000_0000)
_BLOCK = 1 << 17
"""Values that are binned at once: bounds the temporary arrays, and keeps them within the processor's cache."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Histogram:
    """What a tensor's values were: counts per bin, and the exact ends.

    Within a bin values are taken as spread evenly.

    Attributes:
        lower: float64 [n], ascending: lower ends of the bins that hold something.
        upper: float64 [n]: upper ends; bins do not overlap. The outermost are cut at `low` and `high`, so a bin may
            have no width.
        counts: int64 [n], each > 0; exact zeros are not in them.
        zeros: exact zeros.
        low: smallest value, zeros included.
        high: largest.
    """

    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    counts: NDArray[np.int64]
    zeros: int
    low: float
    high: float

    @property
    def total(self) -> int:
        """How many values, zeros included."""
        return int(self.counts.sum()) + self.zeros


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """How finely magnitudes are told apart.

    Attributes:
        top_bins: in the highest octave; a power of two.
        least_bins: in any octave; a power of two, at most `top_bins`.
        octaves: that have bins of their own.
    """

    top_bins: int = 1024
    least_bins: int = 64
    octaves: int = 16

    @property
    def per_octave(self) -> tuple[int, ...]:
        """Bins of each octave, from the lowest to the highest."""
        return tuple(max(self.top_bins >> depth, self.least_bins) for depth in reversed(range(self.octaves)))

    @property
    def bins(self) -> int:
        """Of one sign: all octaves, and the one below them."""
        return 1 + sum(self.per_octave)


FINE = Grid()
"""2,689 bins of each sign, 43 kB a tensor; the largest values are told apart to 1/2048 of the power of two above."""
COARSE = Grid(top_bins=256, least_bins=16, octaves=12)
"""609 bins of each sign, 10 kB a channel."""


class StreamingHistogram:
    """Counts values as they come, for each channel by itself."""

    def __init__(self, channels: int = 1, grid: Grid = FINE) -> None:
        self._grid = grid
        self._counts = np.zeros((channels, 2, grid.bins), np.int64)  # [channel, sign, bin by magnitude]
        self._zeros = np.zeros(channels, np.int64)
        # Below this exponent the lowest octaves would be subnormal, where float32 has no octaves any more.
        self._exponent = np.full(channels, grid.octaves - 125, np.int64)
        self._low = np.full(channels, np.inf, np.float32)
        self._high = np.full(channels, -np.inf, np.float32)
        self._shift = _MANTISSA_BITS - (grid.top_bins.bit_length() - 1)
        self._bin_of = _bin_of_position(grid)
        self._merged = _first_merged(grid)
        self._edges = _magnitudes(grid)

    def update(self, values: NDArray[np.float32]) -> None:
        """Counts more values.

        Args:
            values: float32 [channels, n], n >= 1, finite (the caller has looked).
        """
        low, high = values.min(axis=1), values.max(axis=1)
        self._low, self._high = np.minimum(self._low, low), np.maximum(self._high, high)
        self._make_room(np.maximum(-low, high))
        step = max(1, _BLOCK // len(values))
        for start in range(0, values.shape[1], step):
            self._count(np.ascontiguousarray(values[:, start : start + step]))

    def histogram(self, channel: int = 0) -> Histogram:
        """What was counted so far.

        Args:
            channel: 0..channels - 1.

        Raises:
            ValueError: nothing was counted.
        """
        low, high = float(self._low[channel]) + 0.0, float(self._high[channel]) + 0.0  # -0.0 becomes 0.0
        if low > high:
            raise ValueError("No value was counted")
        edges = np.ldexp(self._edges, int(self._exponent[channel]))
        positive, negative = self._counts[channel]
        counts = np.concatenate((negative[::-1], positive))
        lower = np.concatenate((-edges[:0:-1], edges[:-1]))
        upper = np.concatenate((-edges[-2::-1], edges[1:]))
        held = counts > 0
        return Histogram(
            lower=np.maximum(lower[held], low),
            upper=np.minimum(upper[held], high),
            counts=counts[held],
            zeros=int(self._zeros[channel]),
            low=low,
            high=high,
        )

    def _make_room(self, peaks: NDArray[np.float32]) -> None:
        """Merges bins until the grid of each channel reaches its largest magnitude."""
        needed = np.frexp(peaks)[1].astype(np.int64)  # peak < 2**needed; 0 for 0, which needs none
        steps = np.where(peaks > 0, needed - self._exponent, 0)
        self._exponent += np.maximum(steps, 0)
        # After as many merges as there are octaves everything is in the lowest bin, and stays there.
        for done in range(min(int(steps.max()), self._grid.octaves)):
            grows = steps > done
            merged = np.add.reduceat(self._counts[grows], self._merged, axis=-1)
            self._counts[grows] = 0
            self._counts[grows, :, : merged.shape[-1]] = merged

    def _count(self, values: NDArray[np.float32]) -> None:
        """Counts a block [channels, n].

        The bits of a positive float32 read as an integer are ordered as the value is, its exponent above its mantissa:
        shifted right they number bins of equal width within each octave, exactly and without arithmetic.
        """
        channels, bins = len(values), self._grid.bins
        bits = values.view(np.uint32)
        zeros, negative_zeros = (bits == 0).sum(axis=1), (bits == _NEGATIVE_ZERO).sum(axis=1)
        position = ((bits & _MAGNITUDE) >> np.uint32(self._shift)).astype(np.int32)
        lowest = (self._exponent - self._grid.octaves + 127) << (_MANTISSA_BITS - self._shift)
        position -= lowest.astype(np.int32)[:, None] - 1
        np.maximum(position, 0, out=position)
        bin_index = self._bin_of[position]
        bin_index += np.multiply(bits >> np.uint32(31), bins, dtype=np.intp)
        if channels > 1:
            bin_index += np.arange(channels)[:, None] * (2 * bins)
        counts = np.bincount(bin_index.ravel(), minlength=channels * 2 * bins)
        self._counts += counts.reshape(self._counts.shape)
        self._counts[:, 0, 0] -= zeros
        self._counts[:, 1, 0] -= negative_zeros
        self._zeros += zeros + negative_zeros


@cache  # one table for all tensors
def _bin_of_position(grid: Grid) -> NDArray[np.intp]:
    """Bin of each position, where 0 is below all octaves and every octave has `top_bins` positions."""
    table, first = [np.zeros(1, np.intp)], 1
    for bins in grid.per_octave:
        table.append(first + np.arange(grid.top_bins) // (grid.top_bins // bins))
        first += bins
    return np.concatenate(table)


@cache  # one table for all tensors
def _first_merged(grid: Grid) -> NDArray[np.intp]:
    """Where each bin of the grid one octave up begins in this one; its highest octave is new and not among them."""
    per_octave = grid.per_octave
    starts = [0]  # the lowest octave joins the bin below all octaves
    first = 1 + per_octave[0]
    for above, below in zip(per_octave[1:], per_octave[:-1], strict=True):
        starts += range(first, first + above, above // below)
        first += above
    return np.array(starts, np.intp)


@cache  # one table for all tensors
def _magnitudes(grid: Grid) -> NDArray[np.float64]:
    """Edges of the bins where the highest octave ends at 1: [bins + 1], from 0 to 1."""
    edges: list[NDArray[Any]] = [np.zeros(1)]
    for depth, bins in enumerate(grid.per_octave):
        start = 2.0 ** (depth - grid.octaves)
        edges.append(start + start * np.arange(bins) / bins)
    edges.append(np.ones(1))
    return np.concatenate(edges)
