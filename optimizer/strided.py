"""Keeps strided 1x1 convolutions out of a kernel of TensorFlow's that destroys memory when it takes their gradient.

oneDNN's filter gradient of such a layer with fewer input channels than a vector register holds (16 with AVX-512)
writes beyond its buffer where the threads cannot share out the batch evenly (uxlfoundation/oneDNN issue 6035; in
TensorFlow 2.21). Seen: batches of 1, 3 and 33 with 2 threads, 32 and 64 with 6. The process dies of it sooner or later.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from edgesmith.frameworks import import_keras
from optimizer.base import KerasModel


@contextlib.contextmanager
def safe_gradients(model: KerasModel) -> Iterator[None]:
    """Lets 1x1 convolutions with strides read every so many places themselves, and run without strides.

    That is the same function of the same weights, and another gradient kernel. To be around all that differentiates a
    model, from where its graph is traced; nothing may be saved within.
    """
    layers = import_keras().layers
    kinds = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
    found = {
        id(layer): layer
        for layer in model._flatten_layers()  # noqa: SLF001 - the only walk that also sees wrapped and nested layers
        if type(layer) in kinds and set(layer.kernel_size) == {1} and set(layer.strides) != {1}
    }
    saved = [(layer, layer.strides) for layer in found.values()]
    try:
        for layer, strides in saved:
            layer.call = _reading(layer.call, strides, channels_first=layer.data_format == "channels_first")
            layer.strides = (1,) * len(strides)
        yield
    finally:
        for layer, strides in saved:
            layer.strides = strides
            # The attribute of the instance hides the method of the class; without it the method is back.
            vars(layer).pop("call", None)


def _reading(call: Callable[[Any], Any], strides: Sequence[int], *, channels_first: bool) -> Callable[[Any], Any]:
    every = tuple(slice(None, None, stride) for stride in strides)
    whole = (slice(None),) * (2 if channels_first else 1)

    def reading(fed: Any) -> Any:
        return call(fed[(*whole, *every)])

    return reading
