"""Rewrites of a float `.tflite` file that leave what it computes, so that its ops are those of the plan graph."""

from __future__ import annotations

from typing import Any

from targets.tflite_model import TfliteModel
from targets.tflite_repairs import set_bias

_NO_ACTIVATION = 0
"""`ActivationFunctionType.NONE` of the schema."""


def biases_behind_reshapes(model: TfliteModel) -> None:
    """FULLY_CONNECTED, RESHAPE, ADD becomes FULLY_CONNECTED with that bias, RESHAPE.

    Dense layers on more than two axes and attention's split heads are written so where the batch is open. The plan
    graph has one op there (`plan_normalise.biases_behind_reshapes`), and int8 wants the bias in int32.

    Args:
        model: the float file; changed.
    """
    readers: dict[int, list[Any]] = {}
    for op in model.ops:
        for tensor in {int(i) for i in op.inputs if i >= 0}:
            readers.setdefault(tensor, []).append(op)

    def only_reader(op: Any, kind: str) -> Any | None:
        tensor = int(op.outputs[0])
        after = readers.get(tensor, [])
        alone = len(after) == 1 and tensor not in model.outputs and int(after[0].inputs[0]) == tensor
        return after[0] if alone and model.kind(after[0]) == kind else None

    gone: list[Any] = []
    for op in model.ops:
        if model.kind(op) != "FULLY_CONNECTED" or (len(op.inputs) > 2 and int(op.inputs[2]) >= 0):
            continue
        split = only_reader(op, "RESHAPE")
        add = None if split is None else only_reader(split, "ADD")
        if split is None or add is None or op.builtinOptions.fusedActivationFunction != _NO_ACTIVATION:
            continue
        bias = model.constant(int(add.inputs[1]))
        channels = model.shape(int(op.inputs[1]))[0]
        if bias is None or bias.size != channels:
            continue
        heads = bias.shape[next((i for i, dim in enumerate(bias.shape) if dim != 1), -1) :]
        if model.shape(int(add.outputs[0]))[-len(heads) :] != heads:
            continue
        set_bias(model, op, model.add_constant(model.name(int(add.inputs[1])), bias.ravel()))
        op.builtinOptions.fusedActivationFunction = add.builtinOptions.fusedActivationFunction
        split.outputs = add.outputs
        gone.append(add)
    model.ops = [op for op in model.ops if not any(op is other for other in gone)]
