"""A plan as `.onnx` for TensorRT: explicit quantization, symmetric, by the rules of `targets.tensorrt_rules`.

The file holds the plan's integers exactly: kernels are stored as scale * integer, which QuantizeLinear turns into that
integer again. TensorRT has no zero points, so that every activation gets the symmetric grid of its planned range; a
tensor that is never negative then uses half of the 256 steps. Where an op is quantized in the plan and in float here,
it keeps the plan's rounded kernel: the plan's bias was corrected for that one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from calibration import affine
from edgesmith.errors import InternalError, ModelError
from edgesmith.types import Deviation, QuantParams
from targets import onnx_file, onnx_order, tensorrt_opset, tensorrt_placement, tensorrt_rules
from targets.plan_files import Planned
from targets.plan_ops import PlanOp
from targets.qdq_nodes import Added, pair, stored

DEFAULT_OPSET = 17
"""The newest that TensorRT 8.4 to 8.6 read; 8.0 and 8.2, those of a Jetson Nano, read 13."""

SYMMETRIC = "TensorRT has no zero points"
FUSED = "TensorRT adds it inside the convolution that computes it"
UNREAD = "nothing that TensorRT computes in int8 reads it"


def lower(
    planned: Planned,
    *,
    opset: int = DEFAULT_OPSET,
    weights: Literal["float", "int8"] = "float",
    lacks: Collection[str] = (),
    floats: Mapping[str, str] | None = None,
) -> tuple[Any, tuple[Deviation, ...]]:
    """Writes a plan down for TensorRT.

    Args:
        planned: the plan.
        opset: the newest that the parser on the board reads; 13 or later. A graph of a later one is spelt in it.
        weights: "float" stores kernels in float32 behind QuantizeLinear and DequantizeLinear, which every TensorRT
            reads; "int8" stores integers behind DequantizeLinear, a quarter of the size.
        lacks: ops of that opset that the parser does not read: they are spelt in others.
        floats: names of ops that this board does not compute in int8, and why: they read float32, whatever is planned.

    Returns:
        The `onnx.ModelProto`, equal bytes for equal plans, and where it does not follow the plan: one entry per tensor.

    Raises:
        ModelError: the network uses operators that this opset does not have.
    """
    return _Writer(planned, weights, floats).write(opset, lacks)


class _Writer:
    """Builds one file."""

    def __init__(self, planned: Planned, weights: Literal["float", "int8"], floats: Mapping[str, str] | None) -> None:
        self._planned, self._graph, self._weights = planned, planned.graph, weights
        self._plans = {op.name: op for op in planned.plan.ops}
        self._placement = tensorrt_placement.place(planned, floats)
        self._uses = _uses(self._graph.proto)
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}
        self._kernels: set[str] = set()
        self._renamed: dict[str, dict[str, str]] = {}
        self._deviations: list[Deviation] = []

    def write(self, opset: int, lacks: Collection[str]) -> tuple[Any, tuple[Deviation, ...]]:
        """See `lower`."""
        dequantized = dict(self._activations())
        if missing := self._placement.tensors - dequantized.keys():
            raise InternalError(f"{', '.join(sorted(missing))}: read by ops planned as integers, and without a grid.")
        for op in self._graph.ops:
            names = {name: dequantized[name] for name in self._placement.reads.get(op.name, ())}
            self._renamed[op.main] = {**names, **self._kernel(op)}
        proto = tensorrt_opset.at_most(self._graph.proto, opset, lacks=lacks)
        self._refuse_taken_names(proto)
        for node in proto.graph.node:
            names = self._renamed.get(node.name, {})
            node.input[:] = [names.get(name, name) for name in node.input]
        proto.graph.node.extend(self._nodes)
        left = [tensor for tensor in proto.graph.initializer if tensor.name not in self._constants]
        constants = [*left, *self._constants.values()]
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(constants)
        onnx_order.normalise(proto)
        onnx_file.tidy(proto)
        broken = [each for each in tensorrt_rules.violations(proto, max_opset=opset) if each.severity == "error"]
        if broken:
            raise InternalError(f"written for TensorRT against its rule '{broken[0].rule}': {broken[0]}")
        return proto, tuple(self._deviations)

    def _refuse_taken_names(self, proto: Any) -> None:
        """A constant of ours under a name of the user's would replace it without a word."""
        taken = {tensor.name for tensor in proto.graph.initializer} | {value.name for value in proto.graph.input}
        taken |= {name for node in proto.graph.node for name in node.output}
        made = {name for node in self._nodes for name in node.output} | (self._constants.keys() - self._kernels)
        if both := sorted(taken & made):
            raise ModelError(
                f"the network has a tensor '{both[0]}', the name of a part of its quantization.",
                next_step="Rename it, and export the network again.",
            )

    def _activations(self) -> Iterator[tuple[str, str]]:
        """Writes one pair for every tensor that is read in int8: its name, and that of the dequantized one."""
        tensors = self._placement.tensors
        for tensor in self._planned.plan.tensors:
            if tensor.params is None:
                continue
            if tensor.name not in tensors:
                why = FUSED if tensor.name in self._placement.fused else UNREAD
                self._deviate(tensor.layer, tensor.name, "stays in float", why)
                continue
            scale = symmetric_scale(tensor.params)
            if scale != np.float32(tensor.params.scale[0]):
                what = f"symmetric, scale {scale:.6g} instead of {tensor.params.scale[0]:.6g}"
                self._deviate(tensor.layer, tensor.name, what, SYMMETRIC)
            yield tensor.name, self._add(pair(tensor.name, np.asarray(scale), np.int8))

    def _kernel(self, op: PlanOp) -> Mapping[str, str]:
        """Writes the kernel of an op that the plan computes with integers: its name, and the one to read instead."""
        if op.weight is None or (grid := self._plans[op.name].weights) is None:
            return {}
        integers = self._planned.integers[op.name]
        name = op.weight if self._uses[op.weight] == 1 else f"{op.weight}/{op.name}"
        shape = () if grid.axis is None else (-1,)
        scale = np.array(grid.scale, np.float32).reshape(shape)
        if why := self._placement.kept.get(op.name):
            self._deviate(op.layer, op.weight, "multiplied in float, rounded as planned", why)
            return {op.weight: self._store(name, affine.dequantize(integers, grid))}
        if grid.dtype == "int4":
            self._deviate(op.layer, op.weight, "4-bit integers stored in 8", "TensorRT multiplies 8-bit activations so")
        if self._weights == "int8":
            return {op.weight: self._add(stored(name, integers, scale, grid.axis))}
        kernel = self._store(name, affine.dequantize(integers, grid))
        return {op.weight: self._add(pair(kernel, scale, np.int8, grid.axis))}

    def _store(self, name: str, values: NDArray[np.float32]) -> str:
        """A kernel, in the place of the one that was not rounded."""
        from onnx import numpy_helper

        self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name)
        self._kernels.add(name)
        return name

    def _add(self, added: Added) -> str:
        self._nodes += added.nodes
        self._constants.update((tensor.name, tensor) for tensor in added.constants)
        return added.output

    def _deviate(self, layer: str, tensor: str, what: str, why: str) -> None:
        self._deviations.append(Deviation(layer=layer, tensor=tensor, what=what, why=why))


def symmetric_scale(params: QuantParams) -> np.float32:
    """The scale of the symmetric int8 grid that covers an activation's grid: max(|low|, |high|) / 127.

    A grid of int8 around 0 stays: TensorRT saturates at -128 and 127 as well.
    """
    if params.dtype == "int8" and params.zero_point == (0,):
        return np.float32(params.scale[0])
    low, high = affine.range_of(params)
    return np.float32(affine.choose_params(low, high, dtype="int8", symmetric=True).scale[0])


def _uses(proto: Any) -> dict[str, int]:
    """How many nodes read each tensor."""
    found: dict[str, int] = {}
    for node in proto.graph.node:
        for name in dict.fromkeys(node.input):
            found[name] = found.get(name, 0) + 1
    return found
