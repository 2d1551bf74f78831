"""Biases before and after their correction: what a layer that stays float takes back, and others are corrected anew.

A corrected bias (`optimizer.ptq.bias`) makes up for what quantization shifts, in the op itself and in those before it.
Where a layer is left in float, its own has nothing to make up for, and those behind it make up for too much: on a
network with one badly damaged layer, keeping that layer in float with all biases as they were did ten times the damage.
So the plan graph keeps what each bias was, in a constant that no node reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from optimizer.ptq import fit, stepwise
from optimizer.ptq.rules import Decision, Rules
from targets.plan_files import Planned
from targets.plan_graph import PlanGraph

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BEFORE = "/uncorrected"
"""Behind a bias's name: the constant that holds what it was."""

_SAMPLES = 128
"""That biases are corrected with while plans are compared; `make_plan` takes more."""


def corrected(graph: PlanGraph, biases: Mapping[str, NDArray[np.float32]]) -> PlanGraph:
    """The network with corrected biases, which still knows what they were.

    Args:
        graph: before the correction.
        biases: by initializer.
    """
    from onnx import numpy_helper

    if not biases:
        return graph
    twin = type(graph.proto)()
    twin.CopyFrom(graph.proto)
    for name in biases:
        if f"{name}{_BEFORE}" not in graph.constants:
            twin.graph.initializer.append(numpy_helper.from_array(graph.constants[name], f"{name}{_BEFORE}"))
    return PlanGraph(twin).with_constants(biases)


def uncorrected(graph: PlanGraph, biases: Sequence[str] | None = None) -> PlanGraph:
    """The network with these biases (None: all) as they were before their correction."""
    names = [op.bias for op in graph.ops if op.bias is not None] if biases is None else biases
    before = {name: graph.constants[f"{name}{_BEFORE}"] for name in names if f"{name}{_BEFORE}" in graph.constants}
    changed = {name: was for name, was in before.items() if not np.array_equal(was, graph.constants[name])}
    return graph.with_constants(changed) if changed else graph


class Corrector:
    """Corrects the biases of plans that differ in what they leave in float."""

    def __init__(self, planned: Planned, x: NDArray[Any] | Sequence[NDArray[Any]]) -> None:
        """Prepares the samples.

        Args:
            planned: any of the plans; they share the network.
            x: calibration samples.
        """
        self._stepwise = stepwise.within(uncorrected(planned.graph), x, most=_SAMPLES)

    def __call__(self, planned: Planned) -> Planned:
        """The same plan, with the biases that its own integers and float layers ask for."""
        plan = planned.plan
        rules = Rules(ops={op.name: Decision(precision=op.precision) for op in plan.ops}, groups=())
        grids = {tensor.name: tensor.params for tensor in plan.tensors if tensor.params is not None}
        given = fit.Numbers(
            grids={op.name: op.weights for op in plan.ops if op.weights is not None}, integers=dict(planned.integers)
        )
        how = fit.How(fitted=False, correct=True)
        found = fit.fit(self._stepwise, rules, grids, how, given=given)
        graph = corrected(self._stepwise.graph, found.biases)
        return Planned(plan=plan, graph=graph, integers=planned.integers)
