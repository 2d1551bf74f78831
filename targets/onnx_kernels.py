"""Reads the weight kernels back out of `.onnx` files, quantized or not.

Op semantics: https://onnx.ai/onnx/operators/ and, for com.microsoft, ONNX Runtime's docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from targets.onnx_file import read, subgraphs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weight:
    """Where an op takes a kernel from.

    Attributes:
        input: its position.
        zero_point: position of the input that is its zero point; None where it has none of its own.
        gates: axis along which an LSTM's four gates are stacked; None where there are none.
        directions: the first axis counts directions, each with a kernel of its own.
    """

    input: int
    zero_point: int | None = None
    gates: int | None = None
    directions: bool = False


_WEIGHTS: dict[str, tuple[_Weight, ...]] = {
    "Conv": (_Weight(input=1),),
    "ConvTranspose": (_Weight(input=1),),
    "Gemm": (_Weight(input=1),),
    "MatMul": (_Weight(input=1),),
    "ConvInteger": (_Weight(input=1, zero_point=3),),
    "MatMulInteger": (_Weight(input=1, zero_point=3),),
    "Gather": (_Weight(input=0),),
    "GRU": (_Weight(input=1, directions=True), _Weight(input=2, directions=True)),
    "LSTM": (_Weight(input=1, gates=1, directions=True), _Weight(input=2, gates=1, directions=True)),
    "DynamicQuantizeLSTM": (
        _Weight(input=1, zero_point=9, gates=2, directions=True),
        _Weight(input=2, zero_point=11, gates=2, directions=True),
    ),
}

_PASSES_ON = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast", "Transpose", "Reshape", "Identity"})
"""Ops that may stand between a constant and the op that uses it as a kernel."""


def kernels(path: Path) -> dict[str, NDArray[Any]]:
    """See `targets.base.Target.kernels`."""
    return kernels_of(read(path))


def kernels_of(proto: Any) -> dict[str, NDArray[Any]]:
    """The same for a graph in memory."""
    constants = _Constants(proto.graph)
    found: dict[str, NDArray[Any]] = {}
    for node in constants.nodes:
        for weight in _WEIGHTS.get(node.op_type, ()):
            name, values = constants.behind(_input(node, weight.input), _input(node, weight.zero_point))
            if values is None or values.ndim < 2:
                continue
            if weight.gates is not None:
                values = _gates_as_in_keras(values, weight.gates)
            if weight.directions and len(values) > 1:
                found.update((f"{name}[{direction}]", part) for direction, part in enumerate(values))
            else:
                found[name] = values
    return found


class _Constants:
    """The stored tensors of a graph and of those inside it, by every name they go by."""

    def __init__(self, graph: Any) -> None:
        self.nodes: list[Any] = []
        self._stored: dict[str, Any] = {}
        self._makers: dict[str, Any] = {}
        for each in _graphs(graph):
            self._stored.update((tensor.name, tensor) for tensor in each.initializer)
            for node in each.node:
                self._add(node)

    def _add(self, node: Any) -> None:
        self.nodes.append(node)
        self._makers.update(dict.fromkeys(node.output, node))
        if node.op_type == "Constant":
            self._stored.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
        if node.op_type == "Loop":  # what a loop carries unchanged has another name inside
            inside = [value.name for value in subgraphs(node)[0].input]
            pairs = zip(node.input, inside, strict=False)
            self._stored.update([(to, self._stored[name]) for name, to in pairs if name in self._stored])

    def behind(self, name: str, zero_point: str) -> tuple[str, NDArray[Any] | None]:
        """The constant that a tensor is made from and its values less the zero point; None where it is computed."""
        from onnx import numpy_helper

        while name not in self._stored and (maker := self._makers.get(name)) and maker.op_type in _PASSES_ON:
            if maker.op_type == "DequantizeLinear":
                zero_point = _input(maker, 2)
            elif maker.op_type == "QuantizeLinear":
                zero_point = ""  # stored in float, with nothing to take off
            name = maker.input[0]
        if name not in self._stored:
            return name, None
        values = numpy_helper.to_array(self._stored[name])
        if zero_point not in self._stored:
            return name, values
        return name, _without_zero_point(values, numpy_helper.to_array(self._stored[zero_point]))


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph, then those inside it."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from _graphs(inner)


def _input(node: Any, position: int | None) -> str:
    return str(node.input[position]) if position is not None and position < len(node.input) else ""


def _without_zero_point(values: NDArray[Any], point: NDArray[Any]) -> NDArray[Any]:
    if not np.any(point):
        return values
    if point.size > 1:
        axis = next(a for a, size in enumerate(values.shape) if size == point.size)
        point = point.reshape([-1 if a == axis else 1 for a in range(values.ndim)])
    return values.astype(np.int64) - point.astype(np.int64)


def _gates_as_in_keras(weights: NDArray[Any], axis: int) -> NDArray[Any]:
    """From ONNX's gate order i o f c to Keras' i f c o."""
    i, o, f, c = np.split(weights, 4, axis=axis)
    return np.concatenate([i, f, c, o], axis=axis)
