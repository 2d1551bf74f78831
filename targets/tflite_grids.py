"""Which grid each tensor of a `.tflite` file gets: its twin's in the plan, its neighbour's, or one observed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from calibration.affine import choose_params, range_of
from edgesmith.types import QuantParams, QuantPlan
from targets.plan_graph import PlanGraph
from targets.tflite_kernels import CLAMPS, JOINS, MOVES
from targets.tflite_match import Match, file_values
from targets.tflite_model import TfliteModel

Width = Literal["int8", "int16"]


class Grids:
    """The grids of the computed float tensors of a file.

    Attributes:
        names: tensor -> plan tensor whose numbers it takes: its twin, or that of a neighbour with the same values
            but for moved or cut ones. Tensors without either are left out.
        observed: tensor without a grid in the plan -> lowest and highest value on the samples.
    """

    def __init__(self, plan: QuantPlan, names: Mapping[int, str], observed: Mapping[int, tuple[float, float]]) -> None:
        self._plan = {tensor.name: tensor for tensor in plan.tensors}
        self.names = names
        self.observed = observed

    def planned(self, tensor: int) -> QuantParams | None:
        """The plan's own numbers; None where the tensor is float32 in the plan, or not in it."""
        known = self._plan.get(self.names.get(tensor, ""))
        return None if known is None else known.params

    def of(self, tensor: int, width: Width) -> tuple[QuantParams, bool]:
        """The grid of a tensor that a kernel of this width reads or writes.

        Returns:
            The grid, and whether it is the plan's or follows from it.
        """
        known = self._plan.get(self.names.get(tensor, ""))
        symmetric = width == "int16"
        if known is not None and known.params is not None:
            if known.params.dtype == width:
                return known.params, True
            low, high = range_of(known.params) if known.low is None or known.high is None else (known.low, known.high)
            return choose_params(low, high, dtype=width, symmetric=symmetric), True
        low, high = self.observed.get(tensor, (0.0, 0.0))
        return choose_params(low, high, dtype=width, symmetric=symmetric), False


def named(model: TfliteModel, match: Match, plan: QuantPlan) -> dict[int, str]:
    """Tensor -> plan tensor; one without a twin takes that of what it is moved from, or moved, cut or joined into.

    Where the plan rounds a tensor only after it was transposed, say, that one names all that hold the same values.
    """
    rounded = {tensor.name for tensor in plan.tensors if tensor.params is not None}
    names = {
        tensor: next((name for name in (twin, *match.same[tensor]) if name in rounded), twin)
        for tensor, twin in match.twin.items()
    }
    known = -1
    while known < len(names):
        known = len(names)
        for op in model.ops:
            kind, results = model.kind(op), [int(i) for i in op.outputs]
            sources = [int(i) for i in op.inputs if model.is_float(int(i)) and model.constant(int(i)) is None]
            if kind in MOVES and sources and sources[0] in names:
                for result in results:
                    names.setdefault(result, names[sources[0]])
            if kind in MOVES | CLAMPS | JOINS and results[0] in names:
                for source in sources:
                    if len(model.readers(source)) == 1:
                        names.setdefault(source, names[results[0]])
    return names


def observe(
    content: bytes, graph: PlanGraph, x: Sequence[NDArray[Any]], tensors: Sequence[int]
) -> dict[int, tuple[float, float]]:
    """Lowest and highest value of tensors of a float file.

    Args:
        content: the file, after the repairs.
        graph: names the inputs.
        x: samples per input.
        tensors: wanted.
    """
    ranges: dict[int, tuple[float, float]] = {}
    if not tensors:
        return ranges
    for row in file_values(content, graph, x, tensors):
        for tensor, values in row.items():
            low, high = ranges.get(tensor, (np.inf, -np.inf))
            ranges[tensor] = (min(low, float(values.min())), max(high, float(values.max())))
    return ranges
