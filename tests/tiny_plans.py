"""Plans of small networks by the plainest recipe: min-max ranges, nearest rounding, everything in int8."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from calibration import affine
from edgesmith.progress import Silent
from edgesmith.types import Model, OpPlan, Precision, QuantPlan, Scheme, TensorPlan
from optimizer.ptq.make import make_plan
from optimizer.ptq.settings import PtqSettings
from targets import plan_files
from targets.plan_export import make_plan_graph
from targets.plan_files import Planned
from targets.plan_graph import PlanGraph
from tests import tiny_networks

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


def network(batch: int | str = 2, opset: int = 17) -> PlanGraph:
    """NCHW, by hand: what TensorRT treats specially, with tensors named after what they are.

    image -> stem + relu -> pool -> depth + relu6 -> point -> sum (with pool) + relu -> deep1 + relu -> deep2 -> join
    (with short, a convolution of sum) + relu -> mean -> flat -> hidden + relu -> head (10 outputs).
    """
    g = Floats()
    x = g.weighted("Conv", "image", "stem", (32, 3, 3, 3), "Relu", pads=[1] * 4)
    pool = g.node("MaxPool", [x], "pool", kernel_shape=[2, 2], strides=[2, 2])
    x = g.weighted("Conv", pool, "depth", (32, 1, 3, 3), "Clip", pads=[1] * 4, group=32)
    x = g.weighted("Conv", x, "point", (32, 32, 1, 1))
    x = whole = g.node("Relu", [g.node("Add", [pool, x], "sum_add")], "sum")
    x = g.weighted("Conv", x, "deep1", (48, 32, 3, 3), "Relu", pads=[1] * 4, strides=[2, 2])
    x = g.weighted("Conv", x, "deep2", (48, 48, 3, 3), pads=[1] * 4)
    short = g.weighted("Conv", whole, "short", (48, 32, 1, 1), strides=[2, 2])
    x = g.node("Relu", [g.node("Add", [x, short], "join_add")], "join")
    x = g.node("Flatten", [g.node("GlobalAveragePool", [x], "mean")], "flat")
    x = g.weighted("Gemm", x, "hidden", (24, 48), "Relu", transB=1)
    return g.graph(g.weighted("Gemm", x, "head", (24, 10)), (batch, 3, 16, 16), opset=opset)


class Floats:
    """Builds small float networks; every method answers with the name of the tensor it made."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self._nodes: list[Any] = []
        self._stored: list[Any] = []

    def constant(self, name: str, values: NDArray[Any]) -> str:
        self._stored.append(numpy_helper.from_array(values, name))
        return name

    def node(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def kernel(self, name: str, shape: Sequence[int]) -> str:
        """Channels of different sizes, so that each has a scale of its own."""
        values = self.random.normal(size=shape) * np.linspace(0.05, 0.3, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
        return self.constant(name, values.astype(np.float32))

    def weighted(self, op: str, x: str, name: str, shape: Sequence[int], after: str = "", **attributes: Any) -> str:
        """A convolution or a dense layer with its bias and the activation after it."""
        channels = shape[1] if op == "Gemm" and not attributes else shape[0]
        bias = self.constant(f"{name}_b", (self.random.normal(size=channels) * 0.1).astype(np.float32))
        y = self.node(op, [x, self.kernel(f"{name}_w", shape), bias], f"{name}_sum" if after else name, **attributes)
        ends = [self.constant(f"{name}_{v}", np.float32(v)) for v in (0, 6)] if after == "Clip" else []
        return self.node(after, [y, *ends], name) if after else y

    def graph(self, output: str, shape: Sequence[int | str], *, opset: int = 17) -> PlanGraph:
        given = [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)]
        made = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
        graph = helper.make_graph(self._nodes, "net", given, made, self._stored)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True)  # gives the output its shape
        del proto.graph.value_info[:]
        onnx.checker.check_model(proto, full_check=True)
        return PlanGraph(proto)


def images(n: int = 32, *, seed: int = 0) -> NDArray[np.float32]:
    """float32 [n, 3, 16, 16]."""
    return np.random.default_rng(seed).normal(size=(n, 3, 16, 16)).astype(np.float32)


def plan_folder(model: Model, scheme: Scheme, folder: Path) -> Path:
    """The folder of a plan for a tiny network, as a run would leave it."""
    graph = make_plan_graph(model, Silent())
    settings = PtqSettings(scheme=scheme.value, observer="minmax", equalize=False, bias_correction=False)
    plan_files.write(make_plan(graph, tiny_networks.pictures(32), settings), folder)
    graph.write(folder / plan_files.ORIGINAL)
    return folder
