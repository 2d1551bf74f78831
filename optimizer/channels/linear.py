"""Layers as matrix products: what a convolution reads at an output position, as a row, and its kernel as a matrix."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.frameworks import import_keras

Array = NDArray[Any]

_CONVOLUTIONS = ("Conv1D", "Conv2D", "Conv3D")
_SEPARABLE = ("SeparableConv1D", "SeparableConv2D")


def is_linear(layer: Any) -> bool:
    """Whether a layer's sum over channels is covered here: dense, convolution (grouped too), separable (its 1x1)."""
    return type(layer).__name__ in ("Dense", *_CONVOLUTIONS, *_SEPARABLE)


def rows(layer: Any, x: Array, count: int, random: np.random.Generator) -> Array:
    """What the layer reads at some output positions, padding included.

    The same generator state picks the same positions for every input with the same shape but for its channels.

    Args:
        layer: `is_linear`.
        x: its input, [n, ..., channels].
        count: of positions at most; fewer where there are fewer.
        random: picks them without repeats.

    Returns:
        [positions, groups, weights per output].
    """
    kind = type(layer).__name__
    if kind in _SEPARABLE:
        x = _depthwise(layer, x)
    if kind not in _CONVOLUTIONS:
        flat = x.reshape(-1, x.shape[-1])
        return flat[_some(len(flat), count, random)][:, None, :]
    padded, sizes = _padded(layer, x)
    chosen = np.unravel_index(_some(len(x) * math.prod(sizes), count, random), (len(x), *sizes))
    rank = len(sizes)
    index: list[Array] = [chosen[0].reshape(-1, *(1,) * rank)]
    for axis, position in enumerate(chosen[1:]):
        taps = np.arange(layer.kernel_size[axis]) * layer.dilation_rate[axis]
        place = position[:, None] * layer.strides[axis] + taps
        index.append(place.reshape(len(place), *(len(taps) if axis == other else 1 for other in range(rank))))
    windows = padded[tuple(index)]  # [positions, *kernel, channels]
    groups = layer.groups
    split = windows.reshape(*windows.shape[:-1], groups, windows.shape[-1] // groups)
    return np.moveaxis(split, -2, 1).reshape(len(windows), groups, -1)


def matrix(layer: Any) -> Array:
    """The kernel: [groups, weights per output, outputs per group], float64."""
    kernel = _kernel(layer)
    values = np.asarray(kernel.numpy(), np.float64)
    groups = getattr(layer, "groups", 1)
    return values.reshape(-1, groups, values.shape[-1] // groups).transpose(1, 0, 2)


def assign(layer: Any, values: Array, bias: Array | None) -> None:
    """Sets kernel and bias.

    Args:
        layer: `is_linear`.
        values: as `matrix` has them.
        bias: [outputs]; None: as it is.
    """
    kernel = _kernel(layer)
    kernel.assign(values.transpose(1, 0, 2).reshape(kernel.shape).astype(np.float32))
    if bias is not None:
        layer.bias.assign(bias.astype(np.float32))


def product(rows: Array, values: Array) -> Array:
    """Rows times kernel: [positions, outputs]."""
    out: Array = np.matmul(rows.transpose(1, 0, 2), values)
    return out.transpose(1, 0, 2).reshape(len(rows), -1)


def _kernel(layer: Any) -> Any:
    return layer.pointwise_kernel if type(layer).__name__ in _SEPARABLE else layer.kernel


def _some(available: int, count: int, random: np.random.Generator) -> NDArray[np.int64]:
    return np.sort(random.permutation(available)[:count])


def _depthwise(layer: Any, x: Array) -> Array:
    keras = import_keras()
    made = keras.ops.depthwise_conv(
        x, layer.depthwise_kernel, strides=_stride(layer), padding=layer.padding, dilation_rate=layer.dilation_rate
    )
    return np.asarray(made)


def _stride(layer: Any) -> Any:
    strides = set(layer.strides)
    return strides.pop() if len(strides) == 1 else tuple(layer.strides)


def _padded(layer: Any, x: Array) -> tuple[Array, tuple[int, ...]]:
    """The input with its zeros around it, and the number of output positions along each axis."""
    pads, sizes = [(0, 0)], []
    for size, kernel, stride, dilation in zip(
        x.shape[1:-1], layer.kernel_size, layer.strides, layer.dilation_rate, strict=True
    ):
        reach = (kernel - 1) * dilation + 1
        if layer.padding == "same":
            out = -(-size // stride)
            total = max((out - 1) * stride + reach - size, 0)
            pads.append((total // 2, total - total // 2))
        elif layer.padding == "causal":
            out = -(-size // stride)
            pads.append((reach - 1, 0))
        else:
            out = (size - reach) // stride + 1
            pads.append((0, 0))
        sizes.append(out)
    return np.pad(x, [*pads, (0, 0)]), tuple(sizes)
