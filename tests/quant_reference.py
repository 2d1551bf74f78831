"""Plans by the real rules and the plainest ranges, and what each op of a plan has to answer, in numpy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from calibration import affine
from edgesmith.types import OpPlan, QuantPlan, TensorPlan
from optimizer.ptq import rules
from optimizer.ptq.settings import PtqSettings
from targets.plan_files import Planned
from targets.plan_graph import PlanGraph
from targets.plan_ops import PlanOp


def graph(
    nodes: Sequence[Any],
    shape: Sequence[int | str],
    constants: dict[str, NDArray[Any]],
    output: str = "y",
    output_rank: int = 4,
    opset: int = 17,
) -> PlanGraph:
    """A plan graph of one input `x` and one output, from nodes; nodes without a name get that of their output."""
    for node in nodes:
        node.name = node.name or node.output[0]
    made = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", *(f"d{i}" for i in range(output_rank - 1))])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return PlanGraph(helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8))


def plan(network: PlanGraph, x: NDArray[Any], **settings: Any) -> Planned:
    """Which op is quantized and what shares a scale by `optimizer.ptq.rules`; min-max ranges, nearest rounding."""
    decided = rules.decide(network, PtqSettings(**settings))
    values: dict[str, list[NDArray[Any]]] = {name: [] for name in network.tensors}
    for found in network.run(x, network.tensors):
        for name, part in found.items():
            values[name].append(part)
    params = {}
    for group in decided.groups:
        low = min(float(part.min()) for name in group.tensors for part in values[name])
        high = max(float(part.max()) for name in group.tensors for part in values[name])
        grid = group.fixed or affine.choose_params(low, high, dtype=group.dtype, symmetric=group.dtype == "int16")
        params.update(dict.fromkeys(group.tensors, grid))
    ops, integers = [], {}
    for op in network.ops:
        precision, weights = decided.ops[op.name].precision, None
        if op.weight is not None and op.bias is not None and precision != "float32":
            least = affine.smallest_weight_scale(network.constants[op.bias], params[op.inputs[0]].scale[0])
            kernel, dtype = network.constants[op.weight], "int4" if precision == "int4" else "int8"
            weights = affine.weight_params(kernel, op.weight_axis, dtype, minimum_scale=least)
            integers[op.name] = affine.quantize(kernel, weights).astype(np.int8)
        ops.append(OpPlan(name=op.name, layer=op.layer, kind=op.kind, precision=precision, weights=weights))
    tensors = [TensorPlan(name=name, layer=name, params=params.get(name)) for name in network.tensors]
    made = QuantPlan(model_sha256="0" * 64, calibration_sha256="0" * 64, ops=tuple(ops), tensors=tuple(tensors))
    return Planned(plan=made, graph=network, integers=integers)


def answer(planned: Planned, op: PlanOp, inputs: Sequence[NDArray[np.float32]]) -> NDArray[Any]:
    """The integers that a quantized op gives: its float nodes on dequantized numbers, then rounded.

    Args:
        planned: the plan.
        op: with a grid for its output.
        inputs: dequantized, in the order of `op.inputs`.
    """
    network, plan_op = planned.graph, planned.plan.op(op.name)
    constants = dict(network.constants)
    if op.weight is not None and op.bias is not None and plan_op.weights is not None:
        given = planned.plan.tensor(op.inputs[0])
        assert given is not None
        assert given.params is not None
        steps = affine.int32_bias(network.constants[op.bias], given.params.scale[0], plan_op.weights.scale)
        constants[op.weight] = affine.dequantize(planned.integers[op.name], plan_op.weights)
        scale = affine.bias_scale(given.params.scale[0], plan_op.weights.scale)
        constants[op.bias] = (steps * scale).astype(np.float32)
    nodes = [node for node in network.proto.graph.node if node.name in op.nodes]
    read = {name for node in nodes for name in node.input}
    part = helper.make_graph(
        nodes,
        "op",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, v.shape) for n, v in zip(op.inputs, inputs, strict=True)],
        [onnx.ValueInfoProto(name=op.output)],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items() if n in read],
    )
    model = helper.make_model(part, opset_imports=network.proto.opset_import)
    with np.errstate(over="ignore", invalid="ignore"):  # its sigmoid computes the side that it does not take as well
        (y,) = ReferenceEvaluator(model).run(None, dict(zip(op.inputs, inputs, strict=True)))
    made = planned.plan.tensor(op.output)
    assert made is not None
    assert made.params is not None
    return affine.quantize(y.astype(np.float32), made.params)


def steps_off(planned: Planned, found: dict[str, NDArray[np.float32]]) -> Iterator[tuple[str, int]]:
    """By how many steps each quantized op's output is off, given what it was given.

    Args:
        planned: the plan.
        found: what a runtime computed: every tensor of the plan, dequantized.
    """
    for op in planned.graph.ops:
        params = getattr(planned.plan.tensor(op.output), "params", None)
        if planned.plan.op(op.name).precision == "float32" or params is None:
            continue
        wanted = answer(planned, op, [found[name] for name in op.inputs])
        had = affine.quantize(found[op.output], params)
        yield op.name, int(np.abs(wanted.astype(np.int64) - had.astype(np.int64)).max())


def kernels_used(model: bytes, folder: Path, entries: dict[str, str] | None = None) -> list[str]:
    """Op types that ONNX Runtime makes of a graph, in order."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]
