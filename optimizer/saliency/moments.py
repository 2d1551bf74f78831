"""Second moments of what goes into a layer: mean of x x^T over samples and places, streamed.

For a kernel as a matrix W [inputs, outputs] and rows x of its inputs, the mean squared change of the layer's outputs by
a change D of W is trace(D^T H D) with H = mean of x x^T. A convolution's row is a window of its input, in the order of
its kernel: [height, width, channels].
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration import inputs
from edgesmith.frameworks import import_keras, import_tensorflow
from edgesmith.progress import Progress
from optimizer.base import KerasModel
from optimizer.saliency.layouts import Layout
from targets.keras_model import one_or_list

MOST_INPUTS = 8192
"""Of one output; their second moments in float64 are then 512 MiB."""

_AT_ONCE = 1 << 26
"""Second moments held at a time, in values: as many as those of the widest layer that is taken."""
_BATCH = 32
_MOST_ROWS = 1 << 14
"""Rows of a convolution multiplied at a time: more would fill memory with windows."""


def why_not(layout: Layout) -> str:
    """Why the inputs of a kernel are not observed; "" where they are."""
    keras = import_keras()
    layer, layers = layout.layer, keras.layers
    kind = type(layer).__name__
    if not isinstance(layer, (layers.Dense, layers.EinsumDense, layers.Conv1D, layers.Conv2D)):
        return f"{kind} does not multiply one matrix with its input"
    if getattr(layer, "groups", 1) != 1:
        return "its channels are in groups"
    taps, rows, _ = layout.matrices(np.empty(layout.shape, np.bool_)).shape
    if taps * rows > MOST_INPUTS:
        return f"each output has {taps * rows:,} inputs, and second moments of more than {MOST_INPUTS:,} are too large"
    return ""


def rows_of(layout: Layout) -> int:
    """Inputs of one output: taps times input channels."""
    taps, rows, _ = layout.matrices(np.empty(layout.shape, np.bool_)).shape
    return int(taps * rows)


def second_moments(
    model: KerasModel, layouts: Mapping[str, Layout], x: NDArray[Any], progress: Progress
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """H of each kernel, [inputs, inputs], one after the other; as many are observed in one pass as fit into memory.

    Args:
        model: must give the same answers until the last one is out: change its kernels afterwards.
        layouts: by kernel name; none of which has a `why_not`.
        x: samples [N, ...].
        progress: moves on by samples.
    """
    waiting = dict(layouts)
    while waiting:
        now: dict[str, Layout] = {}
        room = _AT_ONCE
        for name, layout in waiting.items():
            if not now or rows_of(layout) ** 2 <= room:
                now[name] = layout
                room -= rows_of(layout) ** 2
        for name in now:
            del waiting[name]
        sums = {name: _Sum(layout) for name, layout in now.items()}
        with progress.task("inputs of layers", total=len(x)) as task, _listening(sums):
            for start in range(0, len(x), _BATCH):
                batch = x[start : start + _BATCH]
                model(one_or_list(inputs.split(batch)), training=False)
                task.advance(len(batch))
        yield from ((name, sums.pop(name).mean()) for name in now)


class _Sum:
    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        size = rows_of(layout)
        self._sum = np.zeros((size, size))
        self._rows = 0

    def add(self, fed: Any) -> None:
        """Takes what the layer was called with."""
        layer, layers = self.layout.layer, import_keras().layers
        if isinstance(layer, (layers.Conv1D, layers.Conv2D)):
            for part in _windows(layer, fed):
                self._add(part)
        else:
            self._add(np.asarray(fed).reshape(-1, len(self._sum)))

    def _add(self, rows: NDArray[Any]) -> None:
        # In float32, as fast as it goes; a sum of many in float64. Narrower floats would overflow.
        narrow = rows.astype(np.float32, copy=False)
        for start in range(0, len(narrow), _MOST_ROWS):
            part = narrow[start : start + _MOST_ROWS]
            self._sum += part.T @ part
        self._rows += len(narrow)

    def mean(self) -> NDArray[np.float64]:
        return self._sum / max(self._rows, 1)


def _windows(layer: Any, fed: Any) -> Iterator[NDArray[Any]]:
    """[places, taps * channels] of a few samples at a time."""
    tf = import_tensorflow()
    image = tf.cast(tf.convert_to_tensor(fed), tf.float32)
    if layer.data_format == "channels_first":
        image = tf.experimental.numpy.moveaxis(image, 1, -1)
    size, stride, rate = layer.kernel_size, layer.strides, layer.dilation_rate
    padding = layer.padding.upper()
    if len(size) == 1:
        if padding == "CAUSAL":
            image = tf.pad(image, [[0, 0], [(size[0] - 1) * rate[0], 0], [0, 0]])
            padding = "VALID"
        image = image[:, None]
        size, stride, rate = (1, *size), (1, *stride), (1, *rate)
    per_sample = int(np.prod(image.shape[1:3])) * int(np.prod(size))
    at_once = max(1, (_MOST_ROWS * 16) // max(per_sample, 1))
    for start in range(0, int(image.shape[0]), at_once):
        found = tf.image.extract_patches(
            image[start : start + at_once], (1, *size, 1), (1, *stride, 1), (1, *rate, 1), padding
        )
        yield found.numpy().reshape(-1, int(np.prod(size)) * int(image.shape[-1]))


@contextlib.contextmanager
def _listening(sums: Mapping[str, _Sum]) -> Iterator[None]:
    """Lets each layer tell what it is called with; a shared layer tells at every call."""
    by_layer: dict[int, tuple[Any, list[_Sum]]] = {}
    for each in sums.values():
        by_layer.setdefault(id(each.layout.layer), (each.layout.layer, []))[1].append(each)
    try:
        for layer, told in by_layer.values():
            layer.call = _telling(layer.call, told)
        yield
    finally:
        for layer, _ in by_layer.values():
            # The attribute of the instance hides the method of the class; without it the method is back.
            del layer.call


def _telling(call: Callable[..., Any], told: list[_Sum]) -> Callable[..., Any]:
    def telling(fed: Any, *args: Any, **kwargs: Any) -> Any:
        for each in told:
            each.add(fed)
        return call(fed, *args, **kwargs)

    return telling
