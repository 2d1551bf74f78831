"""What is kept of one tensor while samples go by: sums, extremes and counts, never the values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from targets.artifact_tensors import Grid

_FLAT = 1e-6
"""A channel that moves by less than this, relative to its tensor's largest value, is constant."""

Array = NDArray[Any]


class TensorSums:
    """A float tensor against the artifact's.

    Attributes:
        grid: integers that hold the artifact's; None where it is float.
        saturated: see `optimizer.per_layer.TensorRow`.
        values: seen so far.
    """

    def __init__(self, channel_axis: int | None, grid: Grid | None) -> None:
        self.grid = grid
        self.saturated = self.values = 0
        self._axis = channel_axis
        self._signal: list[float] = []
        self._noise: list[float] = []
        self._own_signal = self._own_noise = 0.0
        self._has_own = False
        self._float = self._artifact = (np.inf, -np.inf)
        self._channels: _Channels | None = None

    def add(self, reference: Array, found: Array, expected: Array | None) -> None:
        """Takes some samples.

        Args:
            reference: the float model's, [n, ...].
            found: the artifact's, of the same shape.
            expected: what the float layer makes of the artifact's own inputs; None where that is not known.
        """
        n = len(reference)
        wide, given = reference.astype(np.float64), found.astype(np.float64)
        self._signal.extend(np.square(wide).reshape(n, -1).sum(axis=1).tolist())
        self._noise.extend(np.square(wide - given).reshape(n, -1).sum(axis=1).tolist())
        if expected is not None:
            self._has_own = True
            self._own_signal += float(np.square(expected, dtype=np.float64).sum())
            self._own_noise += float(np.square(expected.astype(np.float64) - given).sum())
        self._float = _wider(self._float, wide)
        self._artifact = _wider(self._artifact, given)
        self.values += reference.size
        if self.grid is not None:
            half = self.grid.scale / 2
            above = (given > self.grid.high - half) & (wide > self.grid.high + half)
            below = (given < self.grid.low + half) & (wide < self.grid.low - half)
            self.saturated += int(np.count_nonzero(above | below))
        if self._axis is not None:
            self._channels = self._channels or _Channels(reference.shape[self._axis])
            self._channels.add(_by_channel(wide, self._axis), _by_channel(given, self._axis))

    @property
    def sqnr_db(self) -> float:
        """Over all samples."""
        return decibels(sum(self._signal), sum(self._noise))

    @property
    def own_sqnr_db(self) -> float | None:
        """Against `expected`."""
        return decibels(self._own_signal, self._own_noise) if self._has_own else None

    @property
    def rescaled_sqnr_db(self) -> float:
        """SQNR after each channel of the float tensor was multiplied by the positive factor that fits best."""
        return -np.inf if self._channels is None else self._channels.rescaled_sqnr_db()

    @property
    def float_range(self) -> tuple[float, float]:
        """Smallest and largest."""
        return self._float

    @property
    def artifact_range(self) -> tuple[float, float]:
        """Smallest and largest."""
        return self._artifact

    @property
    def channels(self) -> int | None:
        """How many; None where the axis is not known."""
        return None if self._channels is None else self._channels.count

    @property
    def dead_channels(self) -> int | None:
        """Constant in the artifact, and not in the float model; None where that cannot be told."""
        peak = max(abs(end) for end in self._float)
        return None if self._channels is None else self._channels.dead(_FLAT * peak)

    def worst_sample(self) -> int:
        """Index of the sample with the lowest SQNR."""
        each = [decibels(signal, noise) for signal, noise in zip(self._signal, self._noise, strict=True)]
        return each.index(min(each))


class _Channels:
    def __init__(self, count: int) -> None:
        self.count = count
        self._low = np.full((2, count), np.inf)
        self._high = np.full((2, count), -np.inf)
        self._ff, self._fa, self._aa = np.zeros((3, count))

    def add(self, reference: Array, found: Array) -> None:
        """Both [C, values]."""
        for row, values in enumerate((reference, found)):
            self._low[row] = np.minimum(self._low[row], values.min(axis=1))
            self._high[row] = np.maximum(self._high[row], values.max(axis=1))
        self._ff += np.square(reference).sum(axis=1)
        self._fa += (reference * found).sum(axis=1)
        self._aa += np.square(found).sum(axis=1)

    def dead(self, flat: float) -> int:
        reference, found = self._high - self._low
        return int(np.count_nonzero((found == 0.0) & (reference > flat)))

    def rescaled_sqnr_db(self) -> float:
        """The factor of least squares of a channel is <f, a> / <f, f>; what it leaves is <a, a> - <f, a>^2 / <f, f>."""
        if not (np.isfinite(self._aa).all() and np.all(self._fa >= 0.0)):
            return -np.inf
        explained = np.divide(np.square(self._fa), self._ff, out=np.zeros(self.count), where=self._ff > 0.0)
        return decibels(float(explained.sum()), max(0.0, float((self._aa - explained).sum())))


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise); inf without noise, -inf where the noise is not finite or there is no signal."""
    if noise == 0.0:
        return float("inf")
    if signal == 0.0 or not np.isfinite(noise):
        return float("-inf")
    return float(10.0 * np.log10(signal / noise))


def _wider(ends: tuple[float, float], values: Array) -> tuple[float, float]:
    return min(ends[0], float(values.min())), max(ends[1], float(values.max()))


def _by_channel(values: Array, axis: int) -> Array:
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
