"""Observers: they see an activation batch by batch, in memory that does not grow, and say which range to quantize.

Several methods of one tensor share one pass and one histogram in `RangeObserver`, which is what a plan is made with;
the single observers are for one method, and for ranges per channel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.clipping import expected_mse, mse_range, percentile_range
from calibration.entropy import entropy_range
from calibration.histogram import COARSE, FINE, Histogram, StreamingHistogram
from edgesmith.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from calibration.affine import Dtype

MOVING_AVERAGE = 0.9
"""What each batch leaves of the weight of those before it: about the last ten batches count."""
PERCENTILES = (99.9, 99.99, 99.999)
DEFAULT_PERCENT = 99.99
METHODS = ("minmax", "moving-average", *(f"percentile-{percent}" for percent in PERCENTILES), "entropy", "mse")
"""What a `RangeObserver` is asked for."""


class Observer(ABC):
    """Sees batches of one activation, then tells a range.

    Args:
        tensor: its name, for messages.
        axis: of the channels, each of which gets a range of its own; None: one range for the tensor.
    """

    def __init__(self, tensor: str, *, axis: int | None = None) -> None:
        self.tensor = tensor
        self.axis = axis

    def update(self, batch: NDArray[Any]) -> None:
        """Sees one more batch; an empty one changes nothing.

        Args:
            batch: float (looked at as float32), any shape; with an axis, always as many channels.

        Raises:
            DataError: NaN or infinity, or another number of channels than before.
        """
        values = _checked(batch, self.axis, self.tensor)
        if values.size:
            self.see(values)

    def range(self) -> tuple[float, float]:
        """(low, high) of the tensor, in its units, within the values seen; not widened to 0.

        Raises:
            DataError: nothing was seen.
            ValueError: it observes channels; see `ranges`.
        """
        if self.axis is not None:
            raise ValueError(f"{self.tensor} is observed per channel: ask for `ranges`")
        low, high = self.ranges()
        return float(low[0]), float(high[0])

    @abstractmethod
    def ranges(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(low, high) of every channel: float64 [channels], [1] where the tensor is observed as one.

        Raises:
            DataError: nothing was seen.
        """

    @abstractmethod
    def see(self, values: NDArray[np.float32]) -> None:
        """Takes finite values [channels, n], n >= 1."""

    def _refuse_other_channels(self, before: int, now: int) -> None:
        if before != now:
            raise DataError(f"The activation {self.tensor} had {before} channels along axis {self.axis}, now {now}.")


class MinMaxObserver(Observer):
    """The smallest and the largest value."""

    _low: NDArray[np.float32] | None = None
    _high: NDArray[np.float32] | None = None

    def ranges(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `Observer.ranges`."""
        if self._low is None or self._high is None:
            raise _nothing_seen(self.tensor)
        return self._low.astype(np.float64), self._high.astype(np.float64)

    def see(self, values: NDArray[np.float32]) -> None:
        """See `Observer.see`."""
        low, high = values.min(axis=1), values.max(axis=1)
        if self._low is not None and self._high is not None:
            self._refuse_other_channels(len(self._low), len(low))
            low, high = np.minimum(self._low, low), np.maximum(self._high, high)
        self._low, self._high = low, high


class MovingAverageObserver(Observer):
    """The mean of the batches' own minima and maxima, recent batches counting more.

    Exponential moving average of Jacob et al. 2018, "Quantization and training of neural networks for efficient
    integer-arithmetic-only inference", section 3.1, with the start corrected as in Kingma and Ba 2015 (Adam), section
    3: batch i of n weighs factor**(n - i) divided by the sum of all weights. Without the correction the first batch
    would weigh ten times as much as the second. The result depends on the order and size of the batches.

    Args:
        tensor: its name.
        axis: of the channels; None: one range.
        factor: 0 <= factor < 1; 0 is the last batch alone.
    """

    def __init__(self, tensor: str, *, axis: int | None = None, factor: float = MOVING_AVERAGE) -> None:
        if not 0.0 <= factor < 1.0:
            raise ValueError(f"Factor {factor} of a moving average: it has to be in 0..1, without 1")
        super().__init__(tensor, axis=axis)
        self._factor = factor
        self._weight = 0.0
        self._sums = np.zeros((2, 1))

    def ranges(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `Observer.ranges`."""
        if self._weight == 0.0:
            raise _nothing_seen(self.tensor)
        # Rounded to float32, as the values are: the mean of equal values is then that value again.
        low, high = (self._sums / self._weight).astype(np.float32).astype(np.float64)
        return low, high

    def see(self, values: NDArray[np.float32]) -> None:
        """See `Observer.see`."""
        if self._weight:
            self._refuse_other_channels(self._sums.shape[1], len(values))
        ends = np.stack((values.min(axis=1), values.max(axis=1))).astype(np.float64)
        self._sums = self._factor * self._sums + (1.0 - self._factor) * ends
        self._weight = self._factor * self._weight + (1.0 - self._factor)


class _HistogramObserver(Observer):
    """Counts the values; what the range is, the method says."""

    _counted: StreamingHistogram | None = None
    _channels = 1

    def ranges(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `Observer.ranges`."""
        found = [self._range_of(self.histogram(channel)) for channel in range(self._channels)]
        low, high = np.array(found, np.float64).T
        return low, high

    def histogram(self, channel: int = 0) -> Histogram:
        """The counts so far of a channel (of the tensor, where it is observed as one).

        Raises:
            DataError: nothing was seen.
        """
        if self._counted is None:
            raise _nothing_seen(self.tensor)
        return self._counted.histogram(channel)

    @abstractmethod
    def _range_of(self, histogram: Histogram) -> tuple[float, float]:
        """The method itself."""

    def see(self, values: NDArray[np.float32]) -> None:
        if self._counted is None:
            self._channels = len(values)
            self._counted = StreamingHistogram(len(values), FINE if self.axis is None else COARSE)
        self._refuse_other_channels(self._channels, len(values))
        self._counted.update(values)


class PercentileObserver(_HistogramObserver):
    """The range that holds a share of the values; see `clipping.percentile_range`.

    Args:
        tensor: its name.
        percent: 0 < percent <= 100.
        axis: of the channels; None: one range.
    """

    def __init__(self, tensor: str, percent: float = DEFAULT_PERCENT, *, axis: int | None = None) -> None:
        super().__init__(tensor, axis=axis)
        self._percent = percent

    def _range_of(self, histogram: Histogram) -> tuple[float, float]:
        return percentile_range(histogram, self._percent)


class EntropyObserver(_HistogramObserver):
    """The range of the smallest KL divergence; see `entropy.entropy_range`. Of whole tensors only, as published.

    Args:
        tensor: its name.
        dtype: of the integers.
        symmetric: as of `affine.choose_params`.
    """

    def __init__(self, tensor: str, *, dtype: Dtype = "int8", symmetric: bool = False) -> None:
        super().__init__(tensor)
        self._dtype, self._symmetric = dtype, symmetric

    def _range_of(self, histogram: Histogram) -> tuple[float, float]:
        return entropy_range(histogram, dtype=self._dtype, symmetric=self._symmetric)


class MseObserver(_HistogramObserver):
    """The range of the smallest expected squared error; see `clipping.mse_range`.

    Args:
        tensor: its name.
        axis: of the channels; None: one range.
        dtype: of the integers.
        symmetric: as of `affine.choose_params`.
    """

    def __init__(self, tensor: str, *, axis: int | None = None, dtype: Dtype = "int8", symmetric: bool = False) -> None:
        super().__init__(tensor, axis=axis)
        self._dtype, self._symmetric = dtype, symmetric

    def _range_of(self, histogram: Histogram) -> tuple[float, float]:
        return mse_range(histogram, dtype=self._dtype, symmetric=self._symmetric)


class RangeObserver:
    """Every method's range of one activation, from one pass: 43 kB of counts and a handful of numbers.

    Args:
        tensor: its name, for messages.
        counted: False: only "minmax" and "moving-average" will be asked for, which need no counts and a tenth of the
            time.
    """

    def __init__(self, tensor: str, *, counted: bool = True) -> None:
        self.tensor = tensor
        self._ends = MinMaxObserver(tensor)
        self._average = MovingAverageObserver(tensor)
        self._counted = StreamingHistogram() if counted else None
        self._seen = False

    def update(self, batch: NDArray[Any]) -> None:
        """Sees one more batch; an empty one changes nothing.

        Args:
            batch: float (looked at as float32), any shape.

        Raises:
            DataError: NaN or infinity; names the tensor.
        """
        values = _checked(batch, None, self.tensor)
        if values.size:
            self._ends.see(values)
            self._average.see(values)
            if self._counted is not None:
                self._counted.update(values)
            self._seen = True

    def histogram(self) -> Histogram:
        """The counts so far.

        Raises:
            DataError: nothing was seen.
            ValueError: it was not to count.
        """
        if self._counted is None:
            raise ValueError(f"The values of {self.tensor} were not counted")
        if not self._seen:
            raise _nothing_seen(self.tensor)
        return self._counted.histogram()

    def range(self, method: str, *, dtype: Dtype = "int8", symmetric: bool = False) -> tuple[float, float]:
        """(low, high) by one method, in units of the tensor, within the values seen; not widened to 0.

        Args:
            method: one of `METHODS`; "percentile-" and any other number; "percentile" is 99.99.
            dtype: of the integers; only entropy and mse depend on it.
            symmetric: as of `affine.choose_params`; likewise.

        Raises:
            DataError: nothing was seen.
            ValueError: there is no such method, or it needs counts and there are none.
        """
        if method == "minmax":
            return self._ends.range()
        if method == "moving-average":
            return self._average.range()
        histogram = self.histogram()
        if method == "entropy":
            return entropy_range(histogram, dtype=dtype, symmetric=symmetric)
        if method == "mse":
            return mse_range(histogram, dtype=dtype, symmetric=symmetric)
        if method == "percentile":
            return percentile_range(histogram, DEFAULT_PERCENT)
        if method.startswith("percentile-"):
            return percentile_range(histogram, float(method.removeprefix("percentile-")))
        raise ValueError(f"There is no method {method!r}: {', '.join(METHODS)}")

    def candidates(
        self, *, dtype: Dtype = "int8", symmetric: bool = False, methods: Sequence[str] = METHODS
    ) -> dict[str, tuple[float, float]]:
        """The range of each method, in the order of `methods`; see `range`.

        Raises:
            DataError: nothing was seen.
        """
        return {method: self.range(method, dtype=dtype, symmetric=symmetric) for method in methods}

    def expected_mse(self, low: float, high: float, dtype: Dtype = "int8", *, symmetric: bool = False) -> float:
        """Mean squared error of quantizing what was seen over a range; see `clipping.expected_mse`.

        Raises:
            DataError: nothing was seen.
            ValueError: a range that is none.
        """
        return float(expected_mse(self.histogram(), low, high, dtype=dtype, symmetric=symmetric))


def _checked(batch: NDArray[Any], axis: int | None, tensor: str) -> NDArray[np.float32]:
    """The batch as float32 [channels, n]; refuses what is not finite."""
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is refused as that
        values = np.asarray(batch, np.float32)
    values = values.reshape(1, -1) if axis is None else np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    if values.size == 0:
        return values
    low, high = values.min(), values.max()
    # min and max pass NaN and infinity on: no array of flags is needed.
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(
            f"The activation {tensor} holds {'NaN' if np.isnan(low) else 'an infinite value'}: "
            "no range can be measured.",
            next_step="Run the float model on the calibration samples and look where it first appears; "
            "a division, a logarithm or a sample out of range is the usual cause.",
        )
    return values


def _nothing_seen(tensor: str) -> DataError:
    return DataError(
        f"No value of the activation {tensor} was seen, so it has no range.",
        next_step="Give at least one calibration sample.",
    )
