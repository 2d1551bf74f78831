"""The layers of a plan that can be kept in float, what they cost, and the plan that keeps some of them."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration import affine
from edgesmith.errors import InternalError
from edgesmith.files import sha256_json
from edgesmith.types import OpPlan, Precision, QuantPlan, TensorPlan
from optimizer.ptq import biases, rules
from optimizer.ptq.settings import PtqSettings
from targets.plan_files import Planned
from targets.plan_graph import PlanGraph
from targets.plan_ops import PlanOp

if TYPE_CHECKING:
    from numpy.typing import NDArray

SURROUNDED = "only float32 ops around it"
"""Of a tensor that no quantized op reads or writes."""


def kinds_of_layers(planned: Planned) -> dict[str, tuple[str, ...]]:
    """The layers with ops that compute with integers, in order: layer -> ONNX op types of these ops, once each.

    Ops that only move integers (`rules.MOVES`: reshapes, concatenations, pooling) are no reason to keep a layer in
    float; they follow their neighbours.
    """
    quantized = {op.name for op in planned.plan.ops if op.precision != "float32"}
    found: dict[str, list[str]] = {}
    for op in planned.graph.ops:
        if op.name in quantized and op.kind not in rules.MOVES:
            found.setdefault(op.layer, []).append(op.kind)
    return {layer: tuple(dict.fromkeys(kinds)) for layer, kinds in found.items()}


def output_of_layers(planned: Planned) -> dict[str, str]:
    """Layer -> the tensor that its last op that computes with integers writes."""
    layers = kinds_of_layers(planned)
    return {op.layer: op.output for op in planned.graph.ops if op.layer in layers and op.kind not in rules.MOVES}


def with_float(planned: Planned, reasons: Mapping[str, str]) -> Planned:
    """The same plan with the ops of some layers in float32; see `with_precision`."""
    return with_precision(planned, reasons, "float32")


def with_precision(planned: Planned, reasons: Mapping[str, str], precision: Precision) -> Planned:
    """The same plan with the ops of some layers at another precision; no other number changes.

    Layers in float get their biases back as they were before any correction; the corrections of the others are still
    those of the plan with all layers quantized, see `optimizer.ptq.biases.Corrector`. What only moves values between
    float ops becomes float as well, and so do tensors that no quantized op is left at. Tensors that become int16 get
    the symmetric grid of the range that was decided for them.

    Args:
        planned: the plan.
        reasons: layer -> why, for the record.
        precision: of their ops that compute.

    Raises:
        InternalError: no such layer, or a tensor would become quantized that has no range.
    """
    if unknown := sorted(set(reasons) - {op.layer for op in planned.graph.ops}):
        raise InternalError(f"the plan has no layer {', '.join(unknown)}.")
    changed = {
        op.name: reasons[op.layer]
        for op in planned.graph.ops
        if op.layer in reasons and op.kind not in rules.MOVES and planned.plan.op(op.name).precision != "float32"
    }
    # Every op's own precision is given: what the user and the scheme decided is in the plan already.
    settings = PtqSettings(
        scheme=planned.plan.settings.get("scheme", "int8"),
        precision_of={op.name: precision if op.name in changed else op.precision for op in planned.plan.ops},
        reasons=changed,
    )
    decided = rules.decide(planned.graph, settings)
    ops = tuple(_op(op, decided.ops[op.name]) for op in planned.plan.ops)
    dtypes = {name: group.dtype for group in decided.groups for name in group.tensors}
    tensors = tuple(_tensor(tensor, dtypes.get(tensor.name)) for tensor in planned.plan.tensors)
    left = {op.name for op in ops if op.weights is not None}
    floats = {op.name for op in ops if op.precision == "float32"}
    own = [op.bias for op in planned.graph.ops if op.bias is not None and op.name in floats]
    return Planned(
        plan=dataclasses.replace(planned.plan, ops=ops, tensors=tensors),
        graph=biases.uncorrected(planned.graph, own),
        integers={name: integers for name, integers in planned.integers.items() if name in left},
    )


def _op(op: OpPlan, decision: rules.Decision) -> OpPlan:
    if decision.precision == op.precision:
        return op
    weights = None if decision.precision == "float32" else op.weights
    return dataclasses.replace(op, precision=decision.precision, weights=weights, reason=decision.reason)


def _tensor(tensor: TensorPlan, dtype: str | None) -> TensorPlan:
    params = tensor.params
    if dtype is None:
        if params is None:
            return tensor
        return dataclasses.replace(tensor, params=None, low=None, high=None, observer="", reason=SURROUNDED)
    if params is None or tensor.low is None or tensor.high is None:
        raise InternalError(f"tensor {tensor.name} has no range that its integers could have.")
    if params.dtype == dtype:
        return tensor
    if dtype != "int16":
        raise InternalError(f"tensor {tensor.name} is planned as {params.dtype}, not {dtype}.")
    wide = affine.choose_params(tensor.low, tensor.high, dtype="int16", symmetric=True)
    return dataclasses.replace(tensor, params=wide)


def operations(graph: PlanGraph, x: NDArray[Any] | Sequence[NDArray[Any]]) -> dict[str, float]:
    """What each layer computes for one sample: multiply-accumulates, and one for each number it writes.

    A stand-in for the price of a layer where no latency was measured.

    Args:
        graph: the network.
        x: samples; the first is run.
    """
    arrays = [x] if isinstance(x, np.ndarray) else list(x)
    one = [array[:1] for array in arrays]
    wanted = tuple(dict.fromkeys(name for op in graph.ops for name in (op.output, *op.inputs)))
    (values,) = graph.run(one, wanted)
    total: dict[str, float] = {}
    for op in graph.ops:
        total[op.layer] = total.get(op.layer, 0.0) + _operations(graph, op, values)
    return total


def _operations(graph: PlanGraph, op: PlanOp, values: Mapping[str, NDArray[np.float32]]) -> float:
    written = values[op.output].size
    if op.weight is not None and op.weight_axis is not None:
        weight = graph.constants[op.weight]
        if op.kind == "ConvTranspose":
            # Each input value meets the kernel once for each output channel of its group.
            return float(written + values[op.inputs[0]].size * weight.size / weight.shape[0])
        return float(written + written * weight.size / weight.shape[op.weight_axis])
    if op.kind == "MatMul":
        return float(written + written * values[op.inputs[0]].shape[-1])
    return float(written)


def digest(planned: Planned) -> str:
    """Hex SHA-256 of everything that decides what a plan computes; not of how long it took to make."""
    plan: QuantPlan = planned.plan
    hashed = hashlib.sha256(planned.graph.proto.SerializeToString(deterministic=True))
    for name in sorted(planned.integers):
        hashed.update(name.encode() + b"\0" + planned.integers[name].tobytes())
    ops = [dataclasses.asdict(op) for op in plan.ops]
    tensors = [dataclasses.asdict(tensor) for tensor in plan.tensors]
    return sha256_json({"numbers": hashed.hexdigest(), "ops": ops, "tensors": tensors})


def finite(value: float | None) -> float | None:
    """For JSON, which has no infinity: None where nothing was lost at all, or nothing was measured."""
    return None if value is None or not math.isfinite(value) else value


def in_order(planned: Planned, layers: Iterable[str]) -> tuple[str, ...]:
    """Layers in the order they are computed."""
    wanted = set(layers)
    return tuple(layer for layer in dict.fromkeys(op.layer for op in planned.graph.ops) if layer in wanted)
