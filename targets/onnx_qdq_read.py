"""Reads grids and integer weights back out of a file that `targets.onnx_qdq` wrote: proof that they are the plan's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.types import QuantParams
from targets import onnx_file
from targets.onnx_qdq_file import QUANTIZED
from targets.qdq_nodes import DEQUANTIZE, QUANTIZE, QdqGraph

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def quantized_tensors(path: Path) -> dict[str, QuantParams]:
    """The grid of every quantized activation, by the plan's name of it.

    uint8 is told as the int8 grid that it was planned as: zero point 128 lower. An int16 grid is told as symmetric.

    Raises:
        ModelError: the file cannot be read.
    """
    return tensors_of(onnx_file.read(path))


def quantized_weights(path: Path) -> dict[str, tuple[NDArray[np.int8], QuantParams]]:
    """Integers and grid of every quantized weight, by the plan's name of its op.

    Raises:
        ModelError: the file cannot be read.
    """
    return weights_of(onnx_file.read(path))


def tensors_of(proto: Any) -> dict[str, QuantParams]:
    """The same as `quantized_tensors` for a graph in memory."""
    graph = QdqGraph(proto)
    found: dict[str, QuantParams] = {}
    for node in graph.nodes(QUANTIZE, DEQUANTIZE):
        integer = node.output[0] if node.op_type == QUANTIZE else node.input[0]
        if _stored(graph, integer) is None:
            found[integer.partition(QUANTIZED)[0]] = _activation(graph, node)
    return found


def weights_of(proto: Any) -> dict[str, tuple[NDArray[np.int8], QuantParams]]:
    """The same as `quantized_weights` for a graph in memory."""
    graph = QdqGraph(proto)
    found: dict[str, tuple[NDArray[np.int8], QuantParams]] = {}
    for node in graph.nodes(*_WEIGHTED):
        weight = graph.maker(node.input[1])
        if weight is None or weight.op_type != DEQUANTIZE or (given := _stored(graph, weight.input[0])) is None:
            continue
        integers = graph.values(given)
        scale = graph.values(weight.input[1])
        assert integers is not None and scale is not None  # noqa: S101, PT018 - both are stored, as `lower` wrote them
        axis = next((int(a.i) for a in weight.attribute if a.name == "axis"), 1) if scale.ndim else None
        found[_op_name(graph, node)] = (
            integers.astype(np.int8),
            QuantParams(
                scale=tuple(scale.reshape(-1).tolist()),
                zero_point=(0,) * scale.size,
                axis=axis,
                dtype="int4" if integers.dtype.name == "int4" else "int8",
                symmetric=True,
            ),
        )
    return found


def _activation(graph: QdqGraph, node: Any) -> QuantParams:
    scale, zero_point = graph.values(node.input[1]), graph.values(node.input[2])
    assert scale is not None and zero_point is not None  # noqa: S101, PT018 - both are stored, as `lower` wrote them
    wide = zero_point.dtype == np.int16
    shift = 128 if zero_point.dtype == np.uint8 else 0
    return QuantParams(
        scale=(float(scale),),
        zero_point=(int(zero_point) - shift,),
        axis=None,
        dtype="int16" if wide else "int8",
        symmetric=wide,
    )


def _stored(graph: QdqGraph, name: str) -> str | None:
    """The constant behind a tensor, maybe cast; None where it is computed."""
    maker = graph.maker(name)
    if maker is not None and maker.op_type == "Cast":
        name = maker.input[0]
    return name if graph.is_stored(name) else None


def _op_name(graph: QdqGraph, node: Any) -> str:
    """Down from an op, over its bias and its activation, to where it is quantized: the plan names it so."""
    while node.op_type != QUANTIZE:
        (node,) = graph.readers(node.output[0])
    return str(node.output[0]).partition(QUANTIZED)[0]
