"""Carries the numbers that repairs changed from the plan graph into a float `.tflite` file."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.errors import ModelError
from targets.plan_graph import PlanGraph
from targets.tflite_kernels import BIAS, WEIGHT
from targets.tflite_layout import same
from targets.tflite_match import file_values, planned_values
from targets.tflite_model import TfliteModel
from targets.tflite_twins import Role

_SAME = 1e-3
"""How far outputs may be apart, relative to the largest: float32 in two runtimes, after repairs that rescaled it."""


def repair(model: TfliteModel, roles: Sequence[Role], original: PlanGraph, repaired: PlanGraph) -> None:
    """Overwrites constants: kernels and biases by role, others (a LayerNormalization's gain) by what they hold.

    Every op gets constants of its own: the converter lets equal ones share a buffer.

    Args:
        model: the float file; changed.
        roles: of its ops.
        original: the plan graph with the file's numbers.
        repaired: with the new ones.
    """
    changed = {
        name
        for name, values in original.constants.items()
        if values.dtype == np.float32 and not np.array_equal(values, repaired.constants[name])
    }
    nodes = {node.name: node for node in original.proto.graph.node}
    for op, role in zip(model.ops, roles, strict=True):
        taken: set[str] = set()
        if (kernel := role.kernel) is not None and kernel.op.weight is not None:
            taken = {kernel.op.weight} | ({kernel.op.bias} if kernel.op.bias else set())
            if kernel.op.weight in changed:
                _replace(model, op, WEIGHT, kernel.weight(repaired.constants[kernel.op.weight]))
            if kernel.op.bias in changed:
                _replace_bias(model, op, kernel.bias(repaired.constants[kernel.op.bias]))
        names = {n for plan_op in role.inside for node in plan_op.nodes for n in nodes[node].input} & changed - taken
        for name in sorted(names):
            _replace_equal(model, op, original.constants[name], repaired.constants[name])


def _replace(model: TfliteModel, op: Any, position: int, values: NDArray[Any]) -> None:
    tensor = int(op.inputs[position])
    inputs = np.array(op.inputs, np.int32)
    inputs[position] = model.add_constant(model.name(tensor), values.astype(np.float32))
    op.inputs = inputs


def _replace_bias(model: TfliteModel, op: Any, values: NDArray[Any]) -> None:
    set_bias(model, op, model.add_constant(f"{model.name(int(op.outputs[0]))}/bias", values.astype(np.float32)))


def set_bias(model: TfliteModel, op: Any, tensor: int) -> None:
    """Gives an op a bias, also where the converter left it out."""
    position = BIAS[model.kind(op)]
    inputs = [int(i) for i in op.inputs] + [-1] * (position + 1 - len(op.inputs))
    inputs[position] = tensor
    op.inputs = np.array(inputs, np.int32)
    if model.kind(op) == "TRANSPOSE_CONV":
        model.set_version(op, 3)  # the first with a bias


def _replace_equal(model: TfliteModel, op: Any, old: NDArray[Any], new: NDArray[Any]) -> None:
    """Overwrites the inputs of an op that hold a constant's old values, however they are laid out."""
    for position, tensor in enumerate(op.inputs):
        held = model.constant(int(tensor))
        if held is None or held.dtype != np.float32 or held.size != old.size:
            continue
        for axes in itertools.permutations(range(old.ndim)):
            if same(old.transpose(axes).ravel(), held.ravel()):
                _replace(model, op, position, new.transpose(axes).reshape(held.shape))
                break


def check(content: bytes, repaired: PlanGraph, x: Sequence[NDArray[Any]], outputs: Sequence[int]) -> None:
    """Compares the repaired file with the repaired plan graph.

    Args:
        content: the file.
        repaired: the plan graph it must equal.
        x: samples per input.
        outputs: the file's, in the order of the plan graph's.

    Raises:
        ModelError: they differ: a repair did not arrive in the file.
    """
    wanted = planned_values(repaired, x, repaired.outputs)
    for index, row in enumerate(file_values(content, repaired, x, outputs)):
        for name, tensor in zip(repaired.outputs, outputs, strict=True):
            expected = wanted[name][index]
            found = row[tensor].reshape(expected.shape)
            peak = float(np.abs(expected).max(initial=0.0))
            error = float(np.abs(found.astype(np.float64) - expected).max(initial=0.0))
            if not error <= _SAME * peak + 1e-6:
                raise ModelError(
                    f"tflite: output {name} of the repaired network is {error:.3g} off in the .tflite file (largest "
                    f"value {peak:.3g}): the converter fused the changed layers in a way that cannot be followed.",
                    next_step="Switch the repairs off one by one (equalize, smooth, bias_correction): one of them "
                    "changes a layer that the converter merges with another.",
                )
