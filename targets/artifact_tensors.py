"""What a compiled file computes inside, tensor by tensor, with the integer grid that each one is held in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from calibration import inputs
from edgesmith.types import Artifact
from targets import onnx_file, tflite_file
from targets.qdq_nodes import DEQUANTIZE, QUANTIZE, QdqGraph

_PAIRED = ("_QuantizeLinear_Input", "_QuantizeLinear_Output", "_DequantizeLinear_Output")
"""What quantizers put behind the name of the float tensor."""

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The integers that hold a tensor: real = scale * (integer - zero_point).

    Attributes:
        dtype: numpy name of the integers.
        scale: step between two neighbours.
    """

    dtype: str
    scale: float
    zero_point: int

    @property
    def low(self) -> float:
        """The smallest value that it holds."""
        return self.scale * (np.iinfo(self.dtype).min - self.zero_point)

    @property
    def high(self) -> float:
        """The largest."""
        return self.scale * (np.iinfo(self.dtype).max - self.zero_point)

    def integers(self, values: Array) -> Array:
        """Values as these integers, half to even."""
        limits = np.iinfo(self.dtype)
        steps = np.clip(np.rint(values / np.float64(self.scale)) + self.zero_point, limits.min, limits.max)
        held: Array = steps.astype(self.dtype)
        return held

    def rounded(self, values: Array) -> NDArray[np.float32]:
        """Values on the grid: quantized and dequantized."""
        steps = self.integers(values).astype(np.float64) - self.zero_point
        real: NDArray[np.float32] = (steps * self.scale).astype(np.float32)
        return real


class ArtifactTensors(Protocol):
    """An open file.

    Attributes:
        grids: of the quantized activations, by the names that `run` gives.
        inputs: names of its inputs, in its order.
        outputs: names of its outputs, in its order.
    """

    grids: Mapping[str, Grid]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def run(self, x: Array) -> dict[str, NDArray[np.float32]]:
        """Every tensor that holds activations, dequantized, in the order they are computed.

        Args:
            x: samples as the float model takes them, [n, ...]; several inputs as in `calibration.inputs`.

        Returns:
            float32 [n, ...]: what a run of batch 1 computes, n times.
        """


def open_tensors(artifact: Artifact) -> ArtifactTensors:
    """A compiled `.tflite` or `.onnx`.

    Raises:
        ModelError: the file cannot be read.
    """
    return _Tflite(artifact.path) if artifact.format == "tflite" else _Onnx(artifact.path)


class _Tflite:
    def __init__(self, path: Path) -> None:
        file = tflite_file.TfliteFile(path)
        self._path = path
        self.inputs: tuple[str, ...] = tuple(file.name(tensor) for tensor in file.inputs)
        self.outputs: tuple[str, ...] = tuple(file.name(tensor) for tensor in file.outputs)
        found = {}
        for tensor in (*file.inputs, *file.computed()):
            affine = file.affine(tensor)
            if affine is not None and (dtype := file.spec(tensor).dtype) in ("int8", "uint8", "int16"):
                found[file.name(tensor)] = Grid(dtype=dtype, scale=affine[0], zero_point=affine[1])
        self.grids: Mapping[str, Grid] = found

    def run(self, x: Array) -> dict[str, NDArray[np.float32]]:
        values = {}
        columns = inputs.split(x)
        if len(columns) == 1:  # the interpreter is given integers; what they stand for is worth seeing
            grid = self.grids.get(self.inputs[0])
            if grid is not None:
                values[self.inputs[0]] = grid.rounded(columns[0])[:, None]
        for name, array in tflite_file.tensors(self._path, x):
            values.setdefault(name, array.reshape(len(x), -1, *array.shape[1:]) if array.ndim else array)
        return values


class _Onnx:
    """Values are those after QuantizeLinear and DequantizeLinear, under the name of the tensor before them."""

    def __init__(self, path: Path) -> None:
        from onnx import ValueInfoProto

        proto = onnx_file.read(path)
        graph = QdqGraph(proto)
        stored = {tensor.name for tensor in proto.graph.initializer}
        self.inputs: tuple[str, ...] = tuple(v.name for v in proto.graph.input if v.name not in stored)
        self.outputs: tuple[str, ...] = tuple(value.name for value in proto.graph.output)
        self.grids: Mapping[str, Grid] = _onnx_grids(graph)
        self._shown = _shown(graph, {*self.inputs})
        declared = {*self.outputs}
        proto.graph.output.extend(ValueInfoProto(name=name) for name in self._shown if name not in declared)
        self._session = onnx_file.session(proto.SerializeToString(), as_written=True)
        floats = {out.name for out in self._session.get_outputs() if out.type in ("tensor(float)", "tensor(float16)")}
        self._shown = {name: label for name, label in self._shown.items() if name in floats}

    def run(self, x: Array) -> dict[str, NDArray[np.float32]]:
        columns = inputs.split(x)
        given = self._session.get_inputs()
        names = list(x.dtype.names or ())
        order = names if set(names) == {value.name for value in given} else [value.name for value in given]
        kinds = {value.name: value.type for value in given}
        first = given[0].shape
        copies = first[0] if first and isinstance(first[0], int) else 1
        rows: dict[str, list[Array]] = {name: [] for name in self._shown}
        for index in range(len(x)):
            feed = {
                name: np.repeat(self._fitting(name, column[index : index + 1], kinds[name]), copies, axis=0)
                for name, column in zip(order, columns, strict=True)
            }
            for name, values in zip(rows, self._session.run(list(rows), feed), strict=True):
                rows[name].append(values[: max(1, len(values) // copies)] if values.ndim else values)
        found: dict[str, NDArray[np.float32]] = {}
        for name, label in self._shown.items():
            found.setdefault(label, np.stack(rows[name]).astype(np.float32))
        return found

    def _fitting(self, name: str, values: Array, kind: str) -> Array:
        """Floats as the integers that a file without a QuantizeLinear at its front takes."""
        grid = self.grids.get(name)
        if values.dtype.kind != "f" or grid is None or kind == "tensor(float)":
            return values
        return grid.integers(values)


def _onnx_grids(graph: QdqGraph) -> dict[str, Grid]:
    """Of activations with one scale each."""
    found: dict[str, Grid] = {}
    for each in graph.grids:
        if each.constant or each.scale is None or each.scale.size != 1:
            continue
        point = each.zero_point
        dtype = each.integers or "uint8"  # QuantizeLinear without a zero point makes uint8
        if dtype in ("int8", "uint8", "int16", "uint16"):
            value = 0 if point is None else int(point.ravel()[0])
            grid = Grid(dtype=dtype, scale=float(each.scale.ravel()[0]), zero_point=value)
            found.setdefault(_label(each.tensor), grid)
    return found


def _shown(graph: QdqGraph, alive: set[str]) -> dict[str, str]:
    """Tensors of the file that depend on an input -> the names they are shown under.

    Of a tensor that is quantized only the dequantized twin is shown: the one that the next layers compute with.
    """
    grids = {each.node.output[0]: each for each in graph.grids}
    quantized = {each.node.input[0] for each in graph.grids if each.node.op_type == QUANTIZE}
    found: dict[str, str] = {}
    for node in graph.proto.graph.node:
        if not alive.intersection(node.input):
            continue
        alive.update(node.output)
        if node.op_type == QUANTIZE:
            continue
        if node.op_type == DEQUANTIZE:
            found[node.output[0]] = _label(grids[node.output[0]].tensor)
        else:
            found.update((name, name) for name in node.output if name and name not in quantized)
    return found


def _label(name: str) -> str:
    for suffix in _PAIRED:
        name = name.removesuffix(suffix)
    return name
