"""Twins of a network with the same outputs and numbers that eight bits hold badly.

A channel is multiplied by a factor where it is made and divided by it where it is read. ReLU, max pooling, averages
and additions let a positive factor through, so the float network computes the same (Nagel et al. 2019, Data-Free
Quantization Through Weight Equalization and Bias Correction, arXiv:1906.04721, eq. 4, used the other way round). ReLU6
does only while a channel stays below 6 before and after: the factors are limited by what the channel reaches on data.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Factors = NDArray[np.float64]


def spread(seed: int, channels: int, octaves: float) -> Factors:
    """2 ** U(-octaves, octaves) for every channel: badly scaled kernels, as training leaves them in depthwise nets."""
    return 2.0 ** np.random.default_rng(seed).uniform(-octaves, octaves, channels)


def outliers(seed: int, channels: int, factor: float, every: int = 16) -> Factors:
    """`factor` for one channel in `every`, at least one; 1 for the others."""
    draw = np.random.default_rng(seed)
    factors = np.ones(channels)
    factors[draw.choice(channels, max(1, channels // every), replace=False)] = factor
    return factors


def move(model: Any, made_by: Sequence[str], read_by: Sequence[str], factors: Factors) -> None:
    """Multiplies what the layers `made_by` give by the factors, and divides the kernels of `read_by` by them.

    Args:
        model: Keras model, changed in place.
        made_by: normalisations, or convolutions without one behind them.
        read_by: convolutions, dense layers, or parts of an attention layer as "layer/part".
        factors: > 0, one per channel.
    """
    for name in made_by:
        layer = _layer(model, name)
        scaled = (layer.gamma, layer.beta) if hasattr(layer, "gamma") else (layer.kernel, layer.bias)
        for weight in scaled:
            if weight is not None:
                weight.assign(np.asarray(weight) * factors.astype(np.float32))
    for name in read_by:
        layer = _layer(model, name)
        kernel = np.asarray(layer.kernel)
        axis = 0 if type(layer).__name__ in {"Dense", "EinsumDense"} else kernel.ndim - 2
        shape = [-1 if each == axis else 1 for each in range(kernel.ndim)]
        layer.kernel.assign(kernel / factors.astype(np.float32).reshape(shape))


def _layer(model: Any, name: str) -> Any:
    outer, _, part = name.partition("/")
    layer = model.get_layer(outer)
    return getattr(layer, f"_{part}_dense") if part else layer


def _channels(model: Any, norm: str) -> int:
    return int(model.get_layer(norm).gamma.shape[0])


def chain(model: Any, layers: Sequence[str], octaves: float, seed: int = 0) -> None:
    """Spreads every channel between each layer of a chain (conv, batch norm, ReLU) and the next."""
    for i, (made, read) in enumerate(pairwise(layers)):
        norm = f"{made}_bn"
        move(model, [norm], [read], spread(seed + i, _channels(model, norm), octaves))


def mobilenet_v1(model: Any, x: NDArray[np.float32]) -> None:
    """All channels of all depthwise and pointwise convolutions."""
    del x
    chain(model, ["stem", *(f"b{i}_{part}" for i in range(1, 6) for part in ("dw", "pw")), "head"], 2.5)


def bundled(model: Any, x: NDArray[np.float32]) -> None:
    """All channels of all depthwise and pointwise convolutions."""
    del x
    parts = (f"block{i}_{part}" for i in range(1, 7) for part in ("depthwise", "pointwise"))
    chain(model, ["stem", *parts, "probabilities"], 2.5)


def mobilenet_v2(model: Any, x: NDArray[np.float32]) -> None:
    """The linear bottlenecks, freely; the channels between ReLU6 and the next kernel as far as 6 allows on `x`."""
    for i, (first, second, third) in enumerate(((2, 3, "b4_expand"), (4, 5, "b6_expand"), (6, 7, "last"))):
        norm = f"b{first}_project_bn"
        factors = spread(50 + i, _channels(model, norm), 2.5)
        move(model, [norm, f"b{second}_project_bn"], [f"b{second}_expand", third], factors)
    pairs = [pair for i in range(1, 8) for pair in ((f"b{i}_expand", f"b{i}_dw"), (f"b{i}_dw", f"b{i}_project"))]
    tops = _reached(model, [f"{made}_bn" for made, _ in pairs], x)  # moving one pair leaves the others' where they are
    for i, ((made, read), top) in enumerate(zip(pairs, tops, strict=True)):
        free = top < 5.0  # those that reach 6, or may on other samples, are left as they are
        wanted = spread(70 + i, len(top), 2.5)
        factors = np.where(free, np.minimum(wanted, 5.0 / np.maximum(top, 1e-3)), 1.0)
        move(model, [f"{made}_bn"], [read], factors)


def _reached(model: Any, layers: Sequence[str], x: NDArray[np.float32]) -> list[Factors]:
    """Largest value of each channel behind some layers, over all samples."""
    import keras

    part = keras.Model(model.inputs, [keras.ops.max(model.get_layer(name).output, axis=(1, 2)) for name in layers])
    return [tops.max(axis=0).astype(np.float64) for tops in part.predict(x, batch_size=200, verbose=0)]


def separable(model: Any, x: NDArray[np.float32]) -> None:
    """A few loud channels before each depthwise and each pointwise convolution."""
    del x
    names = ["stem", *(f"b{i}_{part}" for i in range(1, 4) for part in ("dw", "pw")), "head"]
    for i, (made, read) in enumerate(pairwise(names)):
        norm = f"{made}_bn"
        move(model, [norm], [read], outliers(i, _channels(model, norm), 32.0))


def resnet8(model: Any, x: NDArray[np.float32]) -> None:
    """A few loud channels in every residual stream and inside every block of the MLPerf Tiny network."""
    del x
    for i, (made, read) in enumerate(
        (
            (("batch_normalization", "batch_normalization_2"), ("conv2d_1", "conv2d_3", "conv2d_5")),
            (("batch_normalization_4", "conv2d_5"), ("conv2d_6", "conv2d_8")),
            (("batch_normalization_6", "conv2d_8"), ("dense",)),
            (("batch_normalization_1",), ("conv2d_2",)),
            (("batch_normalization_3",), ("conv2d_4",)),
            (("batch_normalization_5",), ("conv2d_7",)),
        )
    ):
        move(model, made, read, outliers(i, _channels(model, made[0]), 16.0))


def vit(model: Any, x: NDArray[np.float32]) -> None:
    """A few loud channels behind each normalisation, as large transformers have them.

    Xiao et al. 2022, SmoothQuant, arXiv:2211.10438, section 3.
    """
    del x
    for i in range(1, 4):
        attention = [f"b{i}_attention/{part}" for part in ("query", "key", "value")]
        for norm, read in ((f"b{i}_norm1", attention), (f"b{i}_norm2", [f"b{i}_up"])):
            move(model, [norm], read, outliers(10 * i, _channels(model, norm), 24.0))
