"""Which tensors of a plan TensorRT is to read in int8.

NVIDIA's recommendations for explicit quantization (TensorRT developer guide): quantize every input of an op with
weights and no output of it; of a residual addition only the branch that is not the convolution's own, so that the
convolution, the addition, its ReLU and the next quantization become one kernel; an op without weights reads int8 only
where its output is int8 as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from targets.plan_files import Planned
from targets.plan_graph import PlanGraph
from targets.plan_ops import PlanOp
from targets.tensorrt_rules import MOVES, WEIGHTED

POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool")

SMALLEST_PRODUCT = 16
"""Fully connected layers with fewer inputs or outputs are slower in int8: NVIDIA's modelopt leaves them out as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What is read in int8.

    Attributes:
        reads: op name -> tensors that it reads in int8; ops that read none are left out.
        kept: op name -> why an op that the plan computes with integers is in float here.
        fused: tensors that their convolution adds to the other branch itself.
    """

    reads: Mapping[str, frozenset[str]]
    kept: Mapping[str, str]
    fused: frozenset[str]

    @property
    def tensors(self) -> frozenset[str]:
        """All that are read in int8."""
        return frozenset[str]().union(*self.reads.values())


def place(planned: Planned, floats: Mapping[str, str] | None = None) -> Placement:
    """Decides it for every op, from the last to the first: what a pool reads depends on who reads the pool.

    Args:
        planned: the plan.
        floats: names of ops that read nothing in int8 on this board, and why.
    """
    return _Placing(planned, floats or {}).place()


class _Placing:
    def __init__(self, planned: Planned, floats: Mapping[str, str]) -> None:
        self._graph: PlanGraph = planned.graph
        self._floats = floats
        self._plans = {op.name: op for op in planned.plan.ops}
        self._grids = {tensor.name for tensor in planned.plan.tensors if tensor.params is not None}
        self._depth = _depths(self._graph)
        self._reads: dict[str, frozenset[str]] = {}
        self._kept: dict[str, str] = {}
        self._fused: set[str] = set()

    def place(self) -> Placement:
        for op in self._graph.ops:
            if op.kind in WEIGHTED and self._quantized(op) and (why := self._why_not(op)):
                self._kept[op.name] = why
        for op in reversed(self._graph.ops):
            if read := self._read(op):
                self._reads[op.name] = frozenset(read)
        return Placement(reads=self._reads, kept=self._kept, fused=frozenset(self._fused))

    def _quantized(self, op: PlanOp) -> bool:
        return op.name in self._plans and self._plans[op.name].precision != "float32"

    def _why_not(self, op: PlanOp) -> str:
        if self._plans[op.name].precision == "int16":
            return "TensorRT has no 16-bit activations"
        if op.name in self._floats:
            return self._floats[op.name]
        if op.weight is None:
            return "" if len(op.inputs) == 2 else "a product of a computed tensor with a constant on its left"
        if op.kind in ("Gemm", "MatMul") and op.weight_axis is not None and op.input_axis is not None:
            shape = self._graph.constants[op.weight].shape
            inputs, outputs = shape[op.input_axis], shape[op.weight_axis]
            if min(inputs, outputs) < SMALLEST_PRODUCT:
                return f"a product of {inputs} inputs and {outputs} outputs is slower in int8"
        return ""

    def _in_int8(self, op: PlanOp | None) -> bool:
        """Whether an op with weights computes in int8."""
        return op is not None and op.kind in WEIGHTED and self._quantized(op) and op.name not in self._kept

    def _read(self, op: PlanOp) -> set[str]:
        if self._in_int8(op):
            return set(op.inputs)
        if not self._quantized(op) or self._plans[op.name].precision == "int16" or op.name in self._floats:
            return set()
        if op.kind == "Add":
            return self._identity_branch(op)
        pools = op.kind in POOLS and self._grids.issuperset(op.inputs) and self._read_in_int8(op.output)
        return set(op.inputs) if pools else set()

    def _identity_branch(self, op: PlanOp) -> set[str]:
        """The other input of an addition that a convolution does itself; of two, the one at the end of more ops."""
        own = [name for name in dict.fromkeys(op.inputs) if self._fuses_into(name)]
        if len(set(op.inputs)) != 2 or not own:
            return set()
        deepest = max(own, key=lambda name: self._depth[name])
        self._fused.add(deepest)
        return (set(op.inputs) - {deepest}) & self._grids

    def _fuses_into(self, tensor: str) -> bool:
        """Whether its convolution can do the addition: nothing in between, and nobody else reads the sum's part."""
        maker = self._graph.producer(tensor)
        alone = len(self._graph.consumers(tensor)) == 1 and tensor not in self._graph.outputs
        return maker is not None and self._in_int8(maker) and not maker.activation and alone

    def _read_in_int8(self, tensor: str) -> bool:
        """Whether an op after this one reads a tensor in int8, at once or after it was only moved about."""
        for reader in self._graph.consumers(tensor):
            if tensor in self._reads.get(reader.name, ()):
                return True
            if reader.kind in MOVES and self._read_in_int8(reader.output):
                return True
        return False


def _depths(graph: PlanGraph) -> dict[str, int]:
    """Tensor -> ops on the longest way to it."""
    found = dict.fromkeys(graph.inputs, 0)
    for op in graph.ops:
        found[op.output] = 1 + max((found.get(name, 0) for name in op.inputs), default=0)
    return found
