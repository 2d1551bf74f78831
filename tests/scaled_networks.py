"""Small float graphs by hand for tests of repairs before rounding, their badly scaled twins, and plain int8 of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from optimizer.ptq.scale_groups import ScaleGroups
from optimizer.ptq.scale_trace import tensor_names, trace
from targets.divergence import sqnr_db
from targets.plan_graph import PlanGraph

Array = NDArray[np.float32]
Samples = Array | tuple[Array, ...]


class Net:
    """Builds a float graph; every method answers with the name of the tensor it made."""

    def __init__(self, *shape: int, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.stored: dict[str, NDArray[Any]] = {}
        self.inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])]

    def constant(self, name: str, values: Any) -> str:
        self.stored[name] = np.asarray(values, np.float32)
        return name

    def integers(self, name: str, *values: int) -> str:
        self.stored[name] = np.array(values, np.int64)
        return name

    def node(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def conv(
        self,
        x: str,
        name: str,
        channels: tuple[int, int],
        *,
        size: int = 3,
        groups: int = 1,
        activation: str = "",
        kernel: Any = None,
        bias: Any = None,
    ) -> str:
        given, made = channels
        shape = (made, given // groups, size, size)
        fan = shape[1] * size * size
        kernel = self.random.normal(size=shape) / np.sqrt(fan / 2) if kernel is None else kernel
        bias = self.random.normal(size=made) * 0.1 if bias is None else bias
        ends = [self.constant(f"{name}_w", kernel), self.constant(f"{name}_b", bias)]
        self.node("Conv", [x, *ends], name, pads=[size // 2] * 4, group=groups)
        return self.activation(name, activation)

    def dense(self, x: str, name: str, channels: tuple[int, int], *, kernel: Any = None) -> str:
        kernel = self.random.normal(size=channels) / np.sqrt(channels[0]) if kernel is None else kernel
        self.constant(f"{name}_w", kernel)
        self.constant(f"{name}_b", self.random.normal(size=channels[1]) * 0.1)
        product = self.node("MatMul", [x, f"{name}_w"], f"{name}_product")
        return self.node("Add", [product, f"{name}_b"], name)

    def activation(self, x: str, kind: str) -> str:
        if kind == "relu6":
            bounds = [self.constant("zero", np.float32(0)), self.constant("six", np.float32(6))]
            return self.node("Clip", [x, *bounds], f"{x}_relu6")
        return self.node("Relu", [x], f"{x}_relu") if kind == "relu" else x

    def head(self, x: str, channels: int, classes: int = 5) -> str:
        pooled = self.node("GlobalAveragePool", [x], "pooled")
        flat = self.node("Flatten", [pooled], "flat")
        ends = [
            self.constant("head_w", self.random.normal(size=(channels, classes)) / np.sqrt(channels)),
            self.constant("head_b", self.random.normal(size=classes) * 0.1),
        ]
        return self.node("Gemm", [flat, *ends], "logits")

    def graph(self, *outputs: str) -> PlanGraph:
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        stored = [numpy_helper.from_array(array, name) for name, array in self.stored.items()]
        graph = helper.make_graph(self.nodes, "net", self.inputs, values, stored)
        return PlanGraph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def outputs(graph: PlanGraph, x: Samples) -> Array:
    parts = [np.concatenate([value.ravel() for value in found.values()]) for found in graph.run(x)]
    return np.concatenate(parts)


def int8_outputs(graph: PlanGraph, calibration: Array, x: Array, *, per_channel: bool = True) -> Array:
    """The network with int8 kernels, and int8 activations by min-max, computed in float."""
    changes = {}
    for op in graph.ops:
        if op.weight is not None:
            kernel = graph.constants[op.weight]
            others = tuple(i for i in range(kernel.ndim) if not per_channel or i != op.weight_axis)
            step = np.maximum(np.abs(kernel).max(axis=others, keepdims=True), 1e-30) / 127
            changes[op.weight] = (np.rint(kernel / step) * step).astype(np.float32)
    names = [name for name in graph.tensors if name not in graph.outputs]
    found = [{n: (v.min(), v.max()) for n, v in part.items()} for part in graph.run(calibration, names)]
    ranges = {n: (min(0.0, *(f[n][0] for f in found)), max(0.0, *(f[n][1] for f in found))) for n in names}
    proto = type(graph.proto)()
    proto.CopyFrom(graph.with_constants(changes).proto)
    nodes = list(proto.graph.node)
    for node in nodes:
        node.input[:] = [f"{name}_dq" if name in ranges else name for name in node.input]
    added: dict[str, list[Any]] = {}
    for name, (low, high) in ranges.items():
        step = max(high - low, 1e-30) / 255
        zero = np.clip(np.rint(-128 - low / step), -128, 127).astype(np.int8)
        proto.graph.initializer.extend(
            [numpy_helper.from_array(np.float32(step), f"{name}_s"), numpy_helper.from_array(zero, f"{name}_z")]
        )
        ends = [f"{name}_s", f"{name}_z"]
        added[name] = [
            helper.make_node("QuantizeLinear", [name, *ends], [f"{name}_q"], name=f"{name}_q"),
            helper.make_node("DequantizeLinear", [f"{name}_q", *ends], [f"{name}_dq"], name=f"{name}_dq"),
        ]
    del proto.graph.node[:]
    for name in graph.inputs:
        proto.graph.node.extend(added.get(name, []))
    for node in nodes:
        proto.graph.node.append(node)
        for name in node.output:
            proto.graph.node.extend(added.get(name, []))
    return outputs(PlanGraph(proto), x)


def int8_sqnr(graph: PlanGraph, calibration: Array, fresh: Array, *, per_channel: bool = True) -> float:
    """Of what is left of each output's variation once its mean error, which bias correction takes away, is gone."""
    shape = (-1, next(graph.run(fresh[:1]))[graph.outputs[0]].size)
    exact = outputs(graph, fresh).reshape(shape)
    error = int8_outputs(graph, calibration, fresh, per_channel=per_channel).reshape(shape) - exact
    return sqnr_db(exact - exact.mean(axis=0), exact - exact.mean(axis=0) + error - error.mean(axis=0))


def groups_of(graph: PlanGraph, x: Samples, *, relu6: bool = True) -> ScaleGroups:
    one = x[:1] if isinstance(x, np.ndarray) else tuple(part[:1] for part in x)
    shapes = {name: value.shape for name, value in next(graph.run(one, tensor_names(graph))).items()}
    return trace(graph, shapes, relu6=relu6)


def as_trained(graph: PlanGraph, x: Array, seed: int = 5) -> PlanGraph:
    """Every channel before its activation gets a mean and a spread as batch normalization would give it.

    Random kernels alone give channels that are almost constant, whatever the picture: no network is like that.
    """
    random = np.random.default_rng(seed)
    nodes = {node.name: node for node in graph.proto.graph.node}
    for op in graph.ops:
        if op.weight is None or op.bias is None or op.weight_axis is None or op.output in graph.outputs:
            continue
        before = nodes[op.nodes[-2] if op.activation else op.nodes[-1]].output[0]
        values = np.concatenate([found[before] for found in graph.run(x, [before])])
        axis = 1 if op.kind == "Conv" else values.ndim - 1
        others = tuple(i for i in range(values.ndim) if i != axis)
        mean, deviation = values.mean(axis=others), values.std(axis=others) + 1e-6
        gamma, beta = random.uniform(0.5, 1.5, len(mean)) / deviation, random.uniform(-0.5, 0.5, len(mean))
        weight, bias = graph.constants[op.weight], graph.constants[op.bias]
        form = [-1 if i == op.weight_axis else 1 for i in range(weight.ndim)]
        graph = graph.with_constants({op.weight: weight * gamma.reshape(form), op.bias: (bias - mean) * gamma + beta})
    return graph


def badly_scaled(graph: PlanGraph, x: Samples, *, octaves: float = 4.0, seed: int = 1) -> PlanGraph:
    """The same function, each channel that can be scaled multiplied by up to 2 ** octaves or divided by it."""
    random = np.random.default_rng(seed)
    groups = groups_of(graph, x)
    scales = np.ones(groups.size)
    for ids, _ in groups.chosen_together():
        scales[ids] = 2 ** random.uniform(-octaves, octaves, len(ids))
    changes = {c.name: graph.constants[c.name] * scales[c.times] / scales[c.over] for c in groups.constants}
    return graph.with_constants({name: values.astype(np.float32) for name, values in changes.items()})


def pictures(n: int, *, seed: int = 0) -> Array:
    """float32 [n, 3, 8, 8]."""
    return np.random.default_rng(seed).normal(size=(n, 3, 8, 8)).astype(np.float32)


def mobile(activation: str, *, width: int = 8, blocks: int = 2, seed: int = 0) -> PlanGraph:
    """Inverted residuals: expand, depthwise, project, add."""
    net = Net(3, 8, 8, seed=seed)
    x = net.conv("x", "stem", (3, width), activation=activation)
    for block in range(blocks):
        y = net.conv(x, f"expand{block}", (width, 4 * width), size=1, activation=activation)
        y = net.conv(y, f"depthwise{block}", (4 * width, 4 * width), groups=4 * width, activation=activation)
        y = net.conv(y, f"project{block}", (4 * width, width), size=1)
        x = net.node("Add", [x, y], f"add{block}")
    return as_trained(net.graph(net.head(x, width)), pictures(64))
