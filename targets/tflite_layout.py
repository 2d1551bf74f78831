"""How a kernel of the plan graph lies in a `.tflite` file: which axes change places, and where the channels end up.

ONNX: https://onnx.ai/onnx/operators/. TFLite: CONV_2D [O, h, w, I], DEPTHWISE_CONV_2D [1, h, w, C], TRANSPOSE_CONV
[O, h, w, I], FULLY_CONNECTED [O, I].
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SAME = 1e-5
"""How far constants may be apart, relative to the largest: both files have folded batch normalization in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """From a kernel of the plan graph to one of the file.

    Attributes:
        axes: transposition of the plan graph's axes.
        shape: in the file, after the transposition.
        axis: of the output channels in the file.
    """

    axes: tuple[int, ...]
    shape: tuple[int, ...]
    axis: int

    def stored(self, values: NDArray[Any]) -> NDArray[Any]:
        """As the file holds it."""
        return values.transpose(self.axes).reshape(self.shape)

    def planned(self, values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Back to the plan graph's layout.

        Args:
            values: as the file holds it.
            shape: in the plan graph.
        """
        turned = values.reshape([shape[axis] for axis in self.axes])
        return turned.transpose(np.argsort(self.axes))


def channel_axis(kind: str) -> int:
    """Of the output channels of a TFLite op's kernel."""
    return 3 if kind == "DEPTHWISE_CONV_2D" else 0


def layouts(kind: str, weight_axis: int, shape: tuple[int, ...], stored: tuple[int, ...]) -> Iterator[Layout]:
    """Ways to lay out a kernel; the usual one first, so that a kernel without structure gets that one.

    Args:
        kind: of the TFLite op.
        weight_axis: of the plan graph's kernel: output channels.
        shape: of the plan graph's kernel.
        stored: of the file's.
    """
    axis = channel_axis(kind)
    if np.prod(shape) != np.prod(stored) or shape[weight_axis] != stored[axis]:
        return
    rest = [a for a in range(len(shape)) if a != weight_axis]
    # Input channels are the first of the rest in ONNX and the last in TFLite.
    orders = sorted(itertools.permutations(rest), key=lambda order: order != (*rest[1:], rest[0]))
    for order in orders:
        axes = (*order, weight_axis) if axis else (weight_axis, *order)
        turned = [shape[a] for a in axes if shape[a] != 1]
        plain = [size for size in stored if size != 1]
        if turned == plain or (len(turned) != len(plain) and shape[weight_axis] == stored[axis]):
            yield Layout(axes=axes, shape=stored, axis=axis)


def find_layout(
    kind: str, weight_axis: int, kernel: NDArray[Any], stored: NDArray[Any]
) -> tuple[Layout, NDArray[np.float64]] | None:
    """The layout in which both kernels hold the same values, but for a factor per output channel.

    Args:
        kind: of the TFLite op.
        weight_axis: of the plan graph's kernel: output channels.
        kernel: the plan graph's, float.
        stored: the file's, float.

    Returns:
        The layout, and the factors [C] that the converter folded into the file's kernel: all exactly 1 where it folded
        none. None where there is no such layout.
    """
    folded = None
    for layout in layouts(kind, weight_axis, kernel.shape, stored.shape):
        turned = layout.stored(kernel)
        if same(turned, stored):
            return layout, np.ones(kernel.shape[weight_axis])
        folded = folded or _folded(layout, turned, stored)
    return folded


def _folded(layout: Layout, turned: NDArray[Any], stored: NDArray[Any]) -> tuple[Layout, NDArray[np.float64]] | None:
    rows, held = (np.moveaxis(a, layout.axis, 0).reshape(turned.shape[layout.axis], -1) for a in (turned, stored))
    energy = np.sum(rows.astype(np.float64) ** 2, axis=1)
    gain = np.sum(rows.astype(np.float64) * held, axis=1) / np.where(energy > 0, energy, 1.0)
    gain = np.where(gain != 0, gain, 1.0)
    rest = np.abs(rows * gain[:, None] - held).max(axis=1, initial=0.0)
    close = rest <= _SAME * np.abs(held).max(axis=1, initial=0.0)
    return (layout, gain) if bool(close.all()) else None


def same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two float arrays of one shape hold the same, but for the rounding of float32."""
    if one.shape != other.shape:
        return False
    largest = float(np.abs(one).max(initial=0.0))
    return bool(np.abs(one.astype(np.float64) - other).max(initial=0.0) <= _SAME * largest)
