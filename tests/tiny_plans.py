"""Plans of small networks by the plainest recipe: min-max ranges, nearest rounding, everything in int8."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration import affine
from edgesmith.types import OpPlan, Precision, QuantPlan, TensorPlan
from targets.plan_files import Planned
from targets.plan_graph import PlanGraph

KINDS = frozenset(
    {
        *("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Mul", "Concat"),
        *("MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean"),
        *("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze"),
    }
)


def plan(graph: PlanGraph, x: NDArray[Any], *, floats: Collection[str] = (), precision: Precision = "int8") -> Planned:
    """A plan for these samples.

    Args:
        graph: the float network.
        x: [N, ...].
        floats: names of ops that stay float32.
        precision: of all others.
    """
    ranges: dict[str, tuple[float, float]] = {}
    for found in graph.run(x, graph.tensors):
        for name, values in found.items():
            low, high = ranges.get(name, (0.0, 0.0))
            ranges[name] = min(low, float(values.min())), max(high, float(values.max()))
    quantized = {op.name for op in graph.ops if op.kind in KINDS and op.name not in floats}
    touched = {name for op in graph.ops if op.name in quantized for name in (*op.inputs, op.output)}
    ops, integers = [], {}
    for op in graph.ops:
        weights = None
        if op.name in quantized and op.weight is not None:
            kernel = graph.constants[op.weight]
            weights = affine.weight_params(kernel, op.weight_axis, "int4" if precision == "int4" else "int8")
            integers[op.name] = affine.quantize(kernel, weights).astype(np.int8)
        chosen: Precision = precision if op.name in quantized else "float32"
        ops.append(OpPlan(name=op.name, layer=op.layer, kind=op.kind, precision=chosen, weights=weights))
    tensors = [
        TensorPlan(
            name=name,
            layer=maker.layer if (maker := graph.producer(name)) else name,
            params=affine.choose_params(
                *ranges[name],
                dtype="int16" if precision == "int16" else "int8",
                symmetric=precision == "int16",
            )
            if name in touched
            else None,
            low=ranges[name][0] if name in touched else None,
            high=ranges[name][1] if name in touched else None,
        )
        for name in graph.tensors
    ]
    made = QuantPlan(model_sha256="0" * 64, calibration_sha256="0" * 64, ops=tuple(ops), tensors=tuple(tensors))
    return Planned(plan=made, graph=graph, integers=integers)
