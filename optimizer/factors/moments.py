"""Second moments of what layers get to see: E[x x'] over output positions, x the inputs of one position."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration import inputs
from edgesmith.progress import Progress
from optimizer.base import KerasModel
from optimizer.factors.maps import Linear
from optimizer.factors.products import Matrix
from targets.keras_model import one_or_list

_BATCH = 32
# A moment of D inputs needs more positions than D to have full rank; neighbours in an image tell little news.
_POSITIONS, _PER_INPUT = 8192, 2


def second_moments(
    model: KerasModel, layers: Sequence[Linear], x: NDArray[Any], *, seed: int, progress: Progress
) -> dict[str, Matrix]:
    """Runs a model over samples and looks at the inputs of some layers.

    Args:
        model: built.
        layers: of that model.
        x: [N, ...], several inputs joined (`calibration.inputs`).
        seed: which positions of each image are looked at.
        progress: told of every batch.

    Returns:
        By path [window * inputs, the same], patches in the order of the flattened kernel.
    """
    batches = np.array_split(np.arange(len(x)), -(-len(x) // _BATCH))
    watched = [_Watch(layer, len(batches), np.random.default_rng([seed, i])) for i, layer in enumerate(layers)]
    with (
        contextlib.ExitStack() as stack,
        progress.task("low_rank: activations", total=float(len(batches))) as task,
    ):
        for watch in watched:
            stack.enter_context(watch.watching())
        for batch in batches:
            model(one_or_list(inputs.split(x[batch])), training=False)
            task.advance()
    return {watch.linear.path: watch.moment() for watch in watched}


@contextlib.contextmanager
def listening(layer: Any, hear: Callable[[NDArray[Any]], None]) -> Iterator[None]:
    """While this lasts, hands what a layer is called with to a function, wherever in a network the layer is."""
    original = layer.call

    def heard(x: Any, *args: Any, **kwargs: Any) -> Any:
        hear(np.asarray(x))
        return original(x, *args, **kwargs)

    layer.call = heard
    try:
        yield
    finally:
        # The attribute of the instance hides the method of the class; without it the method is back.
        del layer.call


class _Watch:
    """Sums over what one layer is called with."""

    def __init__(self, linear: Linear, batches: int, random: np.random.Generator) -> None:
        self.linear = linear
        self._random = random
        self._most = most_rows(linear, batches)
        size = linear.rows
        self._sum = np.zeros((size, size))
        self._count = 0

    def watching(self) -> contextlib.AbstractContextManager[None]:
        """While this lasts, calls of the layer are looked at."""
        return listening(self.linear.layer, self._add)

    def moment(self) -> Matrix:
        return self._sum / max(self._count, 1)

    def _add(self, x: NDArray[Any]) -> None:
        # In float64: rounding must not leave a moment with negative eigenvalues.
        rows = patches(self.linear, x, self._most, self._random).astype(np.float64)
        self._sum += rows.T @ rows
        self._count += len(rows)


def most_rows(linear: Linear, batches: int) -> int:
    """Positions of a layer that are looked at in each of so many batches, at every call."""
    return -(-max(_POSITIONS, _PER_INPUT * linear.rows) // (batches * max(len(linear.calls), 1)))


def patches(linear: Linear, x: NDArray[Any], most: int, random: np.random.Generator) -> NDArray[np.float32]:
    """The inputs of some output positions of a layer.

    Args:
        linear: the layer.
        x: what it is called with.
        most: positions, drawn without replacement where there are more.
        random: draws them.

    Returns:
        float32 [positions, window * inputs].
    """
    x = x.astype(np.float32, copy=False)
    window = linear.window
    if not window:
        flat = x.reshape(-1, x.shape[-1])
        return flat[_drawn(len(flat), most, random)]
    if linear.layer.data_format == "channels_first":
        x = np.moveaxis(x, 1, -1)
    pads, extents = [], []
    for size, reach, stride, rate in zip(
        x.shape[1:-1], window, linear.strides, linear.layer.dilation_rate, strict=True
    ):
        span = (reach - 1) * rate + 1
        before, after = _padding(linear.layer.padding, size, span, stride)
        pads.append((before, after))
        extents.append((size + before + after - span) // stride + 1)
    padded = np.pad(x, ((0, 0), *pads, (0, 0)))
    chosen = _drawn(len(x) * int(np.prod(extents)), most, random)
    sample, *places = np.unravel_index(chosen, (len(x), *extents))
    taps = np.indices(window).reshape(len(window), -1)
    index = [
        place[:, None] * stride + tap[None] * rate
        for place, tap, stride, rate in zip(places, taps, linear.strides, linear.layer.dilation_rate, strict=True)
    ]
    return np.asarray(padded[(sample[:, None], *index)]).reshape(len(chosen), -1)


def _padding(kind: str, size: int, span: int, stride: int) -> tuple[int, int]:
    """Zeros before and after, as TensorFlow pads."""
    if kind == "causal":
        return span - 1, 0
    if kind == "valid":
        return 0, 0
    total = max((-(-size // stride) - 1) * stride + span - size, 0)
    return total // 2, total - total // 2


def _drawn(count: int, most: int, random: np.random.Generator) -> NDArray[np.int64]:
    return np.arange(count) if count <= most else random.choice(count, most, replace=False)
