"""Which layers are one linear map, and what that map and its factors cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.frameworks import import_keras
from optimizer import cost, rewrite
from optimizer.base import KerasModel

Kernel = NDArray[np.float64]
_CONVOLUTIONS = ("Conv1D", "Conv2D", "Conv3D")
_OTHERS_WITH_KERNELS = frozenset(
    {"Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose", "SeparableConv1D", "SeparableConv2D", "EinsumDense"}
    | {"DepthwiseConv1D", "DepthwiseConv2D", "MultiHeadAttention", "LSTM", "GRU", "SimpleRNN", "Embedding"}
    | {"TimeDistributed", "Bidirectional", "GroupQueryAttention", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "RNN"}
)


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """A Dense layer or an ordinary convolution.

    Attributes:
        path: its name, with those of the models around it.
        layer: the Keras layer.
        calls: (input, output) extents of every call, spatial axes only; where one is open, a nominal pair whose ratio
            is the stride.
    """

    path: str
    layer: Any
    calls: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]

    @property
    def window(self) -> tuple[int, ...]:
        """Extent of the kernel; () of a Dense layer."""
        return tuple(getattr(self.layer, "kernel_size", ()))

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the spatial axes."""
        return tuple(getattr(self.layer, "strides", ()))

    def kernel(self) -> Kernel:
        """[*window, inputs, outputs]."""
        return np.asarray(self.layer.kernel.numpy(), dtype=np.float64)

    @property
    def widths(self) -> tuple[int, int]:
        """Inputs and outputs of a position."""
        *_, inputs, outputs = self.layer.kernel.shape
        return int(inputs), int(outputs)

    @property
    def rows(self) -> int:
        """Inputs that one output position is a sum over."""
        return math.prod(self.window) * self.widths[0]

    def macs(self, stages: Sequence[Stage]) -> int:
        """Multiply-accumulates of one sample, over all calls (per position, where its extents are open)."""
        total = 0
        for before, after in self.calls:
            done: frozenset[int] = frozenset()
            for stage in stages:
                done |= stage.axes
                extents = [after[axis] if axis in done else before[axis] for axis in range(len(before))]
                total += math.prod(extents) * stage.size(self.window)
        return total

    def parameters(self, stages: Sequence[Stage]) -> int:
        """Weights, without the bias, which stays whatever is done."""
        return sum(stage.size(self.window) for stage in stages)

    @property
    def whole(self) -> tuple[Stage, ...]:
        """The layer as it is."""
        return (Stage(frozenset(range(len(self.window))), *self.widths),)


@dataclass(frozen=True, slots=True)
class Stage:
    """One layer of a product.

    Attributes:
        axes: spatial axes along which its kernel reaches and strides; along the others it is 1 wide.
        inputs: channels in.
        outputs: channels out.
    """

    axes: frozenset[int]
    inputs: int
    outputs: int

    def size(self, window: Sequence[int]) -> int:
        """Weights of its kernel."""
        return math.prod(window[axis] for axis in self.axes) * self.inputs * self.outputs


def find(model: KerasModel) -> tuple[dict[str, Linear], dict[str, str]]:
    """The linear maps of a model.

    Returns:
        By path the layers that can be factorised, and those with a kernel that cannot, each with the reason.
    """
    keras = import_keras()
    calls: dict[int, list[tuple[cost.Shape, cost.Shape]]] = {}
    for layer, inputs, outputs in cost.calls(model):
        calls.setdefault(id(layer), []).append((inputs[0], outputs[0]))
    found: dict[str, Linear] = {}
    left: dict[str, str] = {}
    for path, layer in rewrite.layers(model).items():
        kind = type(layer).__name__
        if type(layer) in (getattr(keras.layers, name) for name in ("Dense", *_CONVOLUTIONS)):
            if reason := _reason(keras, layer):
                left[path] = reason
            else:
                found[path] = Linear(path, layer, tuple(_extents(layer, *call) for call in calls.get(id(layer), ())))
        elif kind in _OTHERS_WITH_KERNELS:
            left[path] = f"{kind} is not factorised"
    return found, left


def grouped(left: Mapping[str, str]) -> tuple[str, ...]:
    """Notes on layers that were left alone: one for each reason."""
    by_reason: dict[str, list[str]] = {}
    for path, reason in left.items():
        by_reason.setdefault(reason, []).append(path)
    return tuple(f"left alone: {', '.join(paths)} ({reason})" for reason, paths in by_reason.items())


def _reason(keras: Any, layer: Any) -> str:
    if not isinstance(layer.kernel, keras.Variable):
        return "its kernel is computed, not stored: LoRA or a quantized layer"
    if getattr(layer, "groups", 1) != 1:
        return "grouped convolution"
    return zeros_in(np.asarray(layer.kernel.numpy()))


def zeros_in(kernel: NDArray[Any]) -> str:
    """Why a kernel stays as it is where an earlier step, or whoever made the model, pruned it; "" where nobody did."""
    zeros = kernel.size - np.count_nonzero(kernel)
    if zeros == kernel.size:
        return "its kernel is zero"
    return "some of its weights are zero, and would be no more" if zeros else ""


def _extents(layer: Any, before: cost.Shape, after: cost.Shape) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Spatial extents. For a Dense layer the positions, as one axis that no kernel reaches along."""
    if type(layer).__name__ == "Dense":
        positions = math.prod(dim or 1 for dim in before[1:-1])
        return (positions,), (positions,)
    first = layer.data_format == "channels_first"
    pairs = zip(*(shape[2:] if first else shape[1:-1] for shape in (before, after)), layer.strides, strict=True)
    closed = [(stride, 1) if old is None or new is None else (old, new) for old, new, stride in pairs]
    return tuple(old for old, _ in closed), tuple(new for _, new in closed)
