"""How the board is to build an engine from a file: the options that the workstation decides, as plain JSON.

They are written into the file as well: two files that are to be built differently are two files, with two hashes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.types import Scheme
from targets import onnx_file
from targets.qdq_nodes import QdqGraph
from targets.tensorrt_shapes import Profile
from targets.tensorrt_versions import Reads

KEY = "edgesmith.build"
"""Metadata of the file."""

_FLAGS = {Scheme.FLOAT16: ["fp16"], Scheme.INT8: ["fp16", "int8"], Scheme.INT8_FLOAT_IO: ["fp16", "int8"]}
"""What a weakly typed builder may compute in beside float32."""


def options(proto: Any, scheme: Scheme, board: Reads, profile: Profile, float32: Sequence[str] = ()) -> dict[str, Any]:
    """What decides which engine comes out of a file, besides the board itself.

    Args:
        proto: the finished graph.
        scheme: how numbers are computed.
        board: what its TensorRT takes.
        profile: shapes of inputs with an open batch; empty where there are none.
        float32: names of nodes that a weakly typed builder should not compute in float16, whatever it may.
    """
    return {
        "precision": [] if board.typed else list(_FLAGS.get(scheme, [])),
        "profile": profile or None,
        "float32": list(float32),
        "sparsity": board.sparse and has_pairs_of_zeros(proto),
    }


def put_in(proto: Any, chosen: dict[str, Any]) -> None:
    """Writes the options into a graph's metadata."""
    kept = [(entry.key, entry.value) for entry in proto.metadata_props if entry.key != KEY]
    del proto.metadata_props[:]
    for key, value in sorted([*kept, (KEY, json.dumps(chosen, sort_keys=True))]):
        proto.metadata_props.add(key=key, value=value)


def read(path: Path) -> dict[str, Any] | None:
    """The options of a file; None where it was not written for TensorRT.

    Raises:
        ModelError: the file cannot be read.
    """
    proto = onnx_file.read(path)
    found = next((entry.value for entry in proto.metadata_props if entry.key == KEY), None)
    return None if found is None else dict(json.loads(found))


def has_pairs_of_zeros(proto: Any) -> bool:
    """Whether a kernel has two zeros in every four weights along its input channels, as sparse tensor cores need."""
    return any(_is_two_of_four(kernel) for kernel in _kernels(proto))


def _kernels(proto: Any) -> Iterator[NDArray[Any]]:
    """Stored kernels with their input channels last; integers where they are stored as such."""
    graph = QdqGraph(proto)
    for node in graph.nodes("Conv", "Gemm", "MatMul"):
        name = node.input[1]
        while (values := graph.values(name)) is None and (maker := graph.maker(name)) is not None:
            if maker.op_type not in ("QuantizeLinear", "DequantizeLinear", "Cast"):
                break
            name = maker.input[0]
        if values is None or values.ndim < 2:
            continue
        transposed = any(each.name == "transB" and each.i for each in node.attribute)
        axis = 1 if node.op_type == "Conv" or transposed else -2
        yield np.moveaxis(values, axis, -1)


def _is_two_of_four(kernel: NDArray[Any]) -> bool:
    if kernel.shape[-1] % 4 or not kernel.any():
        return False
    return bool(((kernel.reshape(-1, 4) == 0).sum(axis=1) >= 2).all())
