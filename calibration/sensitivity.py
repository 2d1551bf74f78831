"""Which layers hurt when they are quantized: the records, their order, and how sure each figure is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration import binomial

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """How much worse than the reference a network does on the task, on the same samples.

    Attributes:
        pp: percentage points of a proportion, 100 times the difference of another metric; above 0 is worse.
        low, high: 95 % interval; None where the metric has no right or wrong for each sample.
        n: samples.
    """

    pp: float
    low: float | None
    high: float | None
    n: int

    @property
    def is_sure(self) -> bool:
        """Whether the interval excludes that nothing was lost."""
        return self.low is not None and self.low > 0.0

    def of(self, metric: str) -> str:
        """As in `1.8 pp of top-1 (95 % 1.1 to 2.6)`."""
        digits = 1 if max(abs(end) for end in (self.pp, self.low or 0.0, self.high or 0.0)) >= 1.0 else 2
        lost = f"{self.pp:.{digits}f} pp of {metric}"
        if self.low is None or self.high is None:
            return lost
        return f"{lost} (95 % {self.low:.{digits}f} to {self.high:.{digits}f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSensitivity:
    """What quantizing one of the user's layers costs.

    Attributes:
        layer: its name.
        kinds: ONNX op types of its ops that compute, in order, once each: ("Conv",), ("MatMul", "Add").
        alone_db: SQNR of the network's outputs where only this layer is quantized; inf: the layer changes nothing. Of
            several outputs, each with its own noise over signal, the mean counts.
        rest_db: SQNR where everything else is quantized and this layer alone is float; None where not measured.
        tensor_db: SQNR of the layer's own output where only this layer is quantized: the noise it makes, before what
            follows hides or magnifies it. None where not measured.
        drop: task metric lost where only this layer is quantized; None where not measured (only the worst are).
    """

    layer: str
    kinds: tuple[str, ...]
    alone_db: float
    rest_db: float | None = None
    tensor_db: float | None = None
    drop: Drop | None = None


class Sqnr:
    """Signal to quantization noise ratio of arrays that come piece by piece: 10 log10(sum r^2 / sum (r - o)^2) dB.

    Sums are float64. inf where the pieces are equal, -inf where the reference is all zeros and the other is not.
    """

    def __init__(self) -> None:
        self._signal = 0.0
        self._noise = 0.0

    def add(self, reference: NDArray[Any], other: NDArray[Any]) -> None:
        """Takes in a piece: the reference and the other, of one shape.

        Raises:
            ValueError: the shapes differ, or a value is NaN or infinite.
        """
        if reference.shape != other.shape:
            raise ValueError(f"{other.shape} cannot be compared with {reference.shape}")
        right = np.asarray(reference, dtype=np.float64).ravel()
        noise = right - other.ravel()
        self._signal += float(right @ right)
        self._noise += float(noise @ noise)
        if not math.isfinite(self._signal + self._noise):
            raise ValueError("values that are NaN or infinite have no SQNR")

    @property
    def noise(self) -> float:
        """Noise power over signal power of all pieces so far; 0 where they are equal, inf where the signal is 0."""
        if self._noise == 0.0:
            return 0.0
        return self._noise / self._signal if self._signal > 0.0 else math.inf

    @property
    def db(self) -> float:
        """Of all pieces so far."""
        return decibels(self.noise)


def decibels(noise: float) -> float:
    """-10 log10 of noise power over signal power: inf where there is none, -inf where there is nothing else."""
    return math.inf if noise == 0.0 else -10.0 * math.log10(noise)


def paired_drop(reference: NDArray[np.bool_], correct: NDArray[np.bool_]) -> Drop:
    """How many points fewer samples are right than with the reference, and the 95 % interval of that.

    The interval is that of two proportions of the same samples, `binomial.paired_difference` (Bonett and Price 2012).

    Args:
        reference: bool [N], which samples the reference gets right.
        correct: bool [N], the network in question, same samples, same order.

    Raises:
        ValueError: not one axis, lengths differ, or no samples.
    """
    if reference.shape != correct.shape or reference.ndim != 1:
        raise ValueError(f"not the same samples: {reference.shape} and {correct.shape}")
    n = len(reference)
    only_reference = int(np.count_nonzero(reference & ~correct))
    only_this = int(np.count_nonzero(correct & ~reference))
    low, high = binomial.paired_difference(only_reference, only_this, n)
    # 100 * (a - b) / n of whole numbers: no rounding error can break a budget of exactly that size.
    return Drop(pp=100.0 * (only_reference - only_this) / n, low=100.0 * low, high=100.0 * high, n=n)


def rank_by_sqnr(layers: Iterable[LayerSensitivity]) -> tuple[LayerSensitivity, ...]:
    """The plain ranking: lowest `alone_db` first; of equals, the earlier given first."""
    return tuple(sorted(layers, key=lambda layer: layer.alone_db))


def rank(layers: Iterable[LayerSensitivity]) -> tuple[LayerSensitivity, ...]:
    """Most sensitive first: where the task metric was measured, by what is lost of it; SQNR decides between equals.

    A layer without a measured drop takes the place that its SQNR gives it: the metric is measured for the layers of
    lowest SQNR, so the others come after those that lose something, and among those that lose nothing.
    """
    return tuple(sorted(layers, key=lambda layer: (-_loss(layer), layer.alone_db)))


def _loss(layer: LayerSensitivity) -> float:
    # A gain is chance: it must not put a layer of low SQNR behind one whose metric nobody measured.
    return 0.0 if layer.drop is None else max(0.0, layer.drop.pp)


def noise_shares(layers: Iterable[LayerSensitivity]) -> Mapping[str, float]:
    """Each layer's part of the outputs' noise, if the layers' noises just add up.

    The noise power of a layer is 10^(-alone_db / 10) of the signal's; small uncorrelated errors add in power (Lin,
    Talathi and Annapureddy 2016, "Fixed point quantization of deep convolutional networks", section 3).

    Returns:
        layer -> 0..1, adding up to 1; all 0 where no layer makes noise.
    """
    listed = tuple(layers)
    # Relative to the noisiest, so that neither 1e4 dB nor -1e4 dB overflow.
    worst = min((layer.alone_db for layer in listed), default=math.inf)
    if math.isinf(worst):
        noisy = sum(layer.alone_db == worst < 0 for layer in listed)
        return {layer.layer: 1.0 / noisy if noisy and layer.alone_db == worst else 0.0 for layer in listed}
    power = {layer.layer: 10.0 ** ((worst - layer.alone_db) / 10.0) for layer in listed}
    total = sum(power.values())
    return {name: value / total for name, value in power.items()}


def pack(correct: NDArray[np.bool_]) -> str:
    """Which samples are right, as a short text for a journal: hex of the bits, first sample in the highest bit."""
    return np.packbits(correct).tobytes().hex()


def unpack(packed: str, n: int) -> NDArray[np.bool_]:
    """What `pack` was given.

    Args:
        packed: the text.
        n: samples.

    Raises:
        ValueError: no such text, or too short.
    """
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(packed), dtype=np.uint8))
    if len(bits) < n:
        raise ValueError(f"{len(bits)} bits are too few for {n} samples")
    return bits[:n].astype(np.bool_)
