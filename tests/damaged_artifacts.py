"""Compiled files in which one layer was damaged on purpose: its weights, its scales, or the range of its output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from targets import onnx_file, tflite_file

Change = Callable[[NDArray[Any]], NDArray[Any]]


def shifted(weights: NDArray[Any]) -> NDArray[Any]:
    """Each output channel with the numbers of the one before it: the axis that is not 1 and stands first or last."""
    return np.roll(weights, 1, axis=0 if weights.shape[0] > 1 else -1)


def tflite(
    source: Path,
    made: Path,
    output: str,
    *,
    weights: Change | None = None,
    scales: Change | None = None,
    output_scale: Change | None = None,
) -> Path:
    """A `.tflite` file with other numbers in the op whose output's name holds `output`."""
    from ai_edge_litert import schema_py_generated as schema

    file = tflite_file.TfliteFile(source)
    (op,) = [op for op in file.ops if output in file.name(op.outputs[0])]
    content = tflite_file.read(source)
    model = schema.Model.GetRootAs(content, 0)
    kernel, out = (model.Subgraphs(0).Tensors(tensor) for tensor in (op.inputs[1], op.outputs[0]))
    if weights is not None:
        stored = model.Buffers(kernel.Buffer()).DataAsNumpy()
        stored[:] = weights(stored.view(np.int8).reshape(kernel.ShapeAsNumpy())).ravel().view(np.uint8)
    if scales is not None:
        table = kernel.Quantization().ScaleAsNumpy()
        table[:] = scales(table)
    if output_scale is not None:
        table = out.Quantization().ScaleAsNumpy()
        table[:] = output_scale(table)
    made.write_bytes(bytes(content))
    return made


def onnx(source: Path, made: Path, constant: str, change: Change, *, rank: int, dtype: str) -> Path:
    """An `.onnx` file with other numbers in the one initializer of this rank and type whose name holds `constant`."""
    from onnx import numpy_helper

    proto = onnx_file.read(source)
    (tensor,) = [
        tensor
        for tensor in proto.graph.initializer
        if constant in tensor.name and len(tensor.dims) == rank and numpy_helper.to_array(tensor).dtype == dtype
    ]
    values = change(np.array(numpy_helper.to_array(tensor))).astype(dtype)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
    made.write_bytes(proto.SerializeToString())
    return made
