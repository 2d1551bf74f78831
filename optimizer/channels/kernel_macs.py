"""How the multiply-accumulates of a layer grow with the axes of its weights, by the conventions of `optimizer.cost`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from optimizer import cost

_CONVOLUTIONS = frozenset({"Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D", "DepthwiseConv2D"})
_TRANSPOSED = frozenset({"Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"})
_PROJECTIONS = ("_query_dense", "_value_dense", "_key_dense")


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a layer's multiply-accumulates.

    Attributes:
        factor: times the length of every axis of the weight that counts.
        weight: its name within the layer; "" where nothing of it shrinks.
        axes: those that count; None = all of them.
    """

    factor: int
    weight: str = ""
    axes: tuple[int, ...] | None = None


def shares(layer: Any, inputs: list[cost.Shape], outputs: list[cost.Shape]) -> Iterator[Share]:
    """The parts of one call; they add up to `cost.layer_macs`.

    Raises:
        ModelError: as that.
    """
    kind = type(layer).__name__
    if kind in _CONVOLUTIONS:
        yield Share(cost.positions(layer, outputs[0]), "kernel")
    elif kind in ("SeparableConv1D", "SeparableConv2D"):
        for weight in ("depthwise_kernel", "pointwise_kernel"):
            yield Share(cost.positions(layer, outputs[0]), weight)
    elif kind in _TRANSPOSED:
        yield Share(cost.positions(layer, inputs[0]), "kernel")
    elif kind == "Dense":
        yield Share(cost.product(layer, inputs[0][1:-1]), "kernel")
    elif kind in ("LSTM", "GRU", "SimpleRNN"):
        for weight in ("cell.kernel", "cell.recurrent_kernel"):
            yield Share(cost.product(layer, inputs[0][1:2]), weight)
    elif kind == "MultiHeadAttention":
        yield from _attention(layer, inputs, outputs)
    elif macs := cost.layer_macs(layer, inputs, outputs):
        yield Share(macs)


def _attention(layer: Any, inputs: list[cost.Shape], outputs: list[cost.Shape]) -> Iterator[Share]:
    cost.layer_macs(layer, inputs, outputs)  # refuses what it has no convention for
    query, value = inputs[0], inputs[1] if len(inputs) > 1 else inputs[0]
    key = inputs[2] if len(inputs) > 2 else value
    steps, memory = cost.product(layer, query[1:2]), cost.product(layer, value[1:2])
    for name, shape in zip(_PROJECTIONS, (query, value, key), strict=True):
        yield Share(cost.product(layer, shape[1:2]), f"{name}.kernel")
    yield Share(steps, "_output_dense.kernel")
    config = layer.get_config()
    width = config["key_dim"] + (config["value_dim"] or config["key_dim"])
    yield Share(steps * memory * width, "_query_dense.kernel", axes=(1,))
