"""Reads grids and integer weights out of a file that `targets.tflite_plan` wrote: proof that they are the plan's."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgesmith.types import QuantParams
from targets.plan_graph import PlanGraph
from targets.tflite_kernels import WEIGHT, WEIGHTED
from targets.tflite_layout import layouts
from targets.tflite_match import input_tensors
from targets.tflite_model import TfliteModel
from targets.tflite_write import WEIGHT_SUFFIX


def quantized_tensors(content: bytes | Path, graph: PlanGraph) -> dict[str, QuantParams]:
    """The grid of every quantized activation that has a tensor of its own in the file, by the plan's name of it.

    Args:
        content: the file.
        graph: of the plan; it names inputs and outputs, which go by the converter's names in the file.

    Raises:
        ModelError: no `.tflite` file.
    """
    model = _open(content)
    planned = set(graph.tensors)
    named = {model.name(tensor): tensor for tensor in range(len(model)) if model.name(tensor) in planned}
    borders = zip((*graph.inputs, *graph.outputs), (*input_tensors(model, graph), *model.outputs), strict=True)
    named.update((name, tensor) for name, tensor in borders if name not in named)
    grids = {name: model.grid(tensor) for name, tensor in named.items()}
    return {
        name: dataclasses.replace(grid, symmetric=grid.dtype == "int16")
        for name, grid in grids.items()
        if grid is not None
    }


def quantized_weights(content: bytes | Path, graph: PlanGraph) -> dict[str, tuple[NDArray[np.int8], QuantParams]]:
    """Integers and grid of every quantized weight, in the plan graph's layout, by the plan's name of its op.

    Args:
        content: the file.
        graph: of the plan.

    Raises:
        ModelError: no `.tflite` file.
    """
    model = _open(content)
    planned = {op.name: op for op in graph.ops if op.weight is not None}
    found: dict[str, tuple[NDArray[np.int8], QuantParams]] = {}
    for op in model.ops:
        kind = model.kind(op)
        if kind not in WEIGHTED:
            continue
        tensor = int(op.inputs[WEIGHT])
        plan_op = planned.get(model.name(tensor).removesuffix(WEIGHT_SUFFIX))
        grid = model.grid(tensor)
        if plan_op is None or plan_op.weight is None or plan_op.weight_axis is None or grid is None:
            continue
        shape = graph.constants[plan_op.weight].shape
        layout = next(layouts(kind, plan_op.weight_axis, shape, model.shape(tensor)))
        axis = None if grid.axis is None else plan_op.weight_axis
        found[plan_op.name] = (
            layout.planned(model.values(tensor), shape),
            dataclasses.replace(grid, axis=axis, symmetric=True),
        )
    return found


def _open(content: bytes | Path) -> TfliteModel:
    return TfliteModel(content if isinstance(content, bytes) else content.read_bytes())
