"""Every kernel as matrices [tap, input, output]: which axis the input channels are on depends on the layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.frameworks import import_keras
from optimizer.base import KerasModel
from optimizer.kernels import Kernel

_OWN = ("kernel", "recurrent_kernel", "pointwise_kernel", "embeddings")
_TRANSPOSED = ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where a kernel has its input channels.

    Attributes:
        layer: the Keras layer that the kernel belongs to; of a `MultiHeadAttention` the dense layer within.
        inputs: axes that are summed over, next to each other.
        outputs: axes of what it makes.
        sums: whether the layer multiplies and adds along `inputs`; an embedding looks its rows up.
    """

    layer: Any
    shape: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    sums: bool = True

    def matrices(self, kernel: NDArray[Any]) -> NDArray[Any]:
        """[taps, inputs, outputs] of a kernel, or of anything of its shape.

        A tap is a position of a convolution's window, in row-major order; other layers have one.
        """
        ordered = kernel.transpose(*self._order())
        return ordered.reshape(-1, self._size(self.inputs), self._size(self.outputs))

    def kernel(self, matrices: NDArray[Any]) -> NDArray[Any]:
        """The way back of `matrices`."""
        order = self._order()
        ordered = matrices.reshape([self.shape[axis] for axis in order])
        return np.ascontiguousarray(ordered.transpose(*np.argsort(order)))

    def _order(self) -> tuple[int, ...]:
        taps = [axis for axis in range(len(self.shape)) if axis not in (*self.inputs, *self.outputs)]
        return (*taps, *self.inputs, *self.outputs)

    def _size(self, axes: tuple[int, ...]) -> int:
        return math.prod(self.shape[axis] for axis in axes)


def layouts(model: KerasModel, kernels: Sequence[Kernel]) -> dict[str, Layout]:
    """The layout of each kernel, by kernel name."""
    owners: dict[int, tuple[Any, str]] = {}
    for layer in model._flatten_layers():  # noqa: SLF001 - the only walk that also sees wrapped and nested layers
        for attribute in _OWN:
            variable = getattr(layer, attribute, None)
            if variable is not None:
                owners.setdefault(id(variable), (layer, attribute))
    return {kernel.name: _layout(*owners[id(kernel.variable)], kernel) for kernel in kernels}


def _layout(layer: Any, attribute: str, kernel: Kernel) -> Layout:
    layers = import_keras().layers
    shape = tuple(int(size) for size in kernel.variable.shape)
    last = len(shape) - 1
    if attribute == "embeddings":
        return Layout(layer, shape, (0,), (1,), sums=False)
    if isinstance(layer, layers.EinsumDense):
        read, _, rest = layer.equation.replace(" ", "").partition(",")
        weights, _, made = rest.partition("->")
        summed = tuple(axis for axis, letter in enumerate(weights) if letter in read and letter not in made)
        return Layout(layer, shape, summed, tuple(axis for axis in range(len(shape)) if axis not in summed))
    if isinstance(layer, tuple(getattr(layers, name) for name in _TRANSPOSED)):
        return Layout(layer, shape, (last,), (last - 1,))
    return Layout(layer, shape, (last - 1,), (last,))
