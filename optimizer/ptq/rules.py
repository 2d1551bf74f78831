"""Which ops and tensors of a plan graph are quantized, at which precision, and which must share a scale.

The rules are LiteRT's (8-bit quantization specification), adopted for every runtime, so that one plan fits all.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edgesmith.errors import ConfigError
from edgesmith.types import Precision, QuantParams
from optimizer.ptq.settings import PtqSettings
from targets.plan_graph import PlanGraph
from targets.plan_ops import PlanOp

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

MOVES = frozenset(
    {
        *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Pad", "Slice", "Split", "Gather", "Resize"),
        *("MaxPool", "AveragePool", "Concat"),
    }
)
"""Kinds whose inputs and output have the same scale: their kernels copy, compare or average integers."""

FIXED: Mapping[str, tuple[float, int]] = {
    "Softmax": (1 / 256, -128),
    "Sigmoid": (1 / 256, -128),
    "Tanh": (1 / 128, 0),
}
"""Kind -> scale and zero point of its int8 output: its values lie in [0, 1) or [-1, 1]."""

_COMPUTES = frozenset(
    {
        *("Add", "Sub", "Mul", "GlobalAveragePool", "ReduceMean"),
        *("Relu", "Clip", "LeakyRelu", "PRelu", "HardSwish", "HardSigmoid"),
    }
)
QUANTIZABLE = WEIGHTED | MOVES | frozenset(FIXED) | _COMPUTES
"""Kinds that the runtimes have integer kernels for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What becomes of one op.

    Attributes:
        precision: float32 where it is not quantized.
        reason: why it is not what the scheme asks for; empty where it is.
    """

    precision: Precision
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Tensors with one scale.

    Attributes:
        tensors: in the order they are computed; the first is the one the others share with.
        dtype: of their integers.
        fixed: given by the op that computes one of them, and not by any range.
    """

    tensors: tuple[str, ...]
    dtype: Literal["int8", "int16"]
    fixed: QuantParams | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is quantized, before any number is chosen.

    Attributes:
        ops: by op name, all of them.
        groups: of every quantized tensor, alone or with others.
    """

    ops: Mapping[str, Decision]
    groups: tuple[Group, ...]

    def quantized(self, op: PlanOp) -> bool:
        """Whether an op computes with integers."""
        return self.ops[op.name].precision != "float32"


def decide(graph: PlanGraph, settings: PtqSettings) -> Rules:
    """Applies the rules to a graph.

    A tensor is quantized where a quantized op reads or writes it. Its integers are those of the op that writes it, if
    that one is quantized, else of the ops that read it (int16 where one of them is).

    Raises:
        ConfigError: `keep_float` names no layer, or `precision_of` no op.
    """
    _check_names(graph, settings)
    nodes = {node.name: node for node in graph.proto.graph.node}
    decisions = {op.name: _decide_op(op, nodes[op.main], settings) for op in graph.ops}
    known = {*graph.inputs, *(op.output for op in graph.ops)}
    for op in graph.ops:
        if not known.issuperset(op.inputs):
            decisions[op.name] = Decision(precision="float32", reason="it reads one of several results of an op")
    for op in _sums_between_float(graph, settings):
        decisions[op.name] = Decision(precision="float32", reason="only float32 ops read the sum")
    for op in _idle_moves(graph, decisions):
        decisions[op.name] = Decision(precision="float32", reason="only float32 ops around it")
    return Rules(ops=decisions, groups=tuple(_groups(graph, decisions)))


def _check_names(graph: PlanGraph, settings: PtqSettings) -> None:
    layers = list(dict.fromkeys(op.layer for op in graph.ops))
    for pattern in settings.keep_float:
        if not any(matches(layer, pattern) for layer in layers):
            near = difflib.get_close_matches(pattern, layers, n=3) or layers[:20]
            raise ConfigError(
                f"keep_float: the model has no layer '{pattern}'.",
                next_step=f"Did you mean: {', '.join(near)}?",
            )
    names = {op.name for op in graph.ops}
    if unknown := sorted(set(settings.precision_of) - names):
        raise ConfigError(
            f"precision_of: the plan graph has no op {', '.join(unknown)}.",
            next_step="The model or its export has changed since the precisions were chosen: choose them anew.",
        )


def matches(layer: str, pattern: str) -> bool:
    """Whether a shell-style pattern means a layer: by its full path, or by its own name."""
    return fnmatch.fnmatchcase(layer, pattern) or fnmatch.fnmatchcase(layer.rpartition("/")[2], pattern)


def _decide_op(op: PlanOp, node: Any, settings: PtqSettings) -> Decision:
    if why := _unquantizable(op, node):
        return Decision(precision="float32", reason=why)
    if any(matches(op.layer, pattern) for pattern in settings.keep_float):
        return Decision(precision="float32", reason="the user's keep_float")
    default = _for(op, settings.precision)
    wanted = _for(op, settings.precision_of.get(op.name, settings.precision))
    if wanted == default:
        return Decision(precision=default)
    return Decision(precision=wanted, reason=settings.reasons.get(op.name, "chosen for this op"))


def _for(op: PlanOp, precision: Precision) -> Precision:
    """An op without a weight has nothing to store in 4 bits."""
    return "int8" if precision == "int4" and op.weight is None else precision


def _unquantizable(op: PlanOp, node: Any) -> str:
    if op.kind not in QUANTIZABLE:
        return f"no int8 kernel for {op.kind}"
    if not op.inputs:
        return "it reads no float32 activations"
    if op.kind == "Gather" and op.inputs[0] != node.input[0]:
        return "it looks up a float32 table"
    if len([name for name in node.output if name]) > 1:
        return f"a {op.kind} with several outputs has no place in a plan"
    return ""


def _sums_between_float(graph: PlanGraph, settings: PtqSettings) -> list[PlanOp]:
    """The residual sums of a transformer: normalizations read them, and the next sums.

    In int8 each would round the whole signal once more, only to be turned back into float32.
    """
    found: dict[str, PlanOp] = {}
    for op in reversed(graph.ops):
        readers = graph.consumers(op.output)
        if op.kind not in ("Add", "Sub") or op.output in graph.outputs or op.name in settings.precision_of:
            continue
        if readers and all(r.name in found or r.kind not in QUANTIZABLE for r in readers):
            found[op.name] = op
    return list(found.values())


def _idle_moves(graph: PlanGraph, decisions: Mapping[str, Decision]) -> Iterator[PlanOp]:
    """Moves that connect only float32 ops: quantizing there would cost accuracy and save nothing."""
    together = _UnionFind([op.name for op in graph.ops])
    moves = {op.name for op in graph.ops if op.kind in MOVES and decisions[op.name].precision != "float32"}
    for op in graph.ops:
        for reader in graph.consumers(op.output):
            if op.name in moves and reader.name in moves:
                together.join(op.name, reader.name)
    useful = set()
    for op in graph.ops:
        if op.name not in moves:
            continue
        around = [graph.producer(name) for name in op.inputs] + list(graph.consumers(op.output))
        if any(o is not None and o.name not in moves and decisions[o.name].precision != "float32" for o in around):
            useful.add(together.find(op.name))
    yield from (op for op in graph.ops if op.name in moves and together.find(op.name) not in useful)


def _groups(graph: PlanGraph, decisions: Mapping[str, Decision]) -> Iterator[Group]:
    computing = [op for op in graph.ops if decisions[op.name].precision != "float32"]
    touched = {name for op in computing for name in (*op.inputs, op.output)}
    tensors = [name for name in graph.tensors if name in touched]
    together = _UnionFind(tensors)
    for op in computing:
        if op.kind in MOVES:
            for name in op.inputs:
                together.join(op.output, name)
    members: dict[str, list[str]] = {}
    for name in tensors:
        members.setdefault(together.find(name), []).append(name)
    for names in members.values():
        dtype = _dtype(graph, decisions, names)
        yield Group(tensors=tuple(names), dtype=dtype, fixed=_fixed(graph, decisions, names, dtype))


def _dtype(graph: PlanGraph, decisions: Mapping[str, Decision], names: Sequence[str]) -> Literal["int8", "int16"]:
    """By the ops that write the tensors; by those that read them, where none of the writers is quantized."""

    def of(ops: Sequence[PlanOp | None]) -> list[Precision]:
        found = [decisions[op.name].precision for op in ops if op is not None and op.kind not in MOVES]
        return [precision for precision in found if precision != "float32"]

    writers = of([graph.producer(name) for name in names])
    readers = of([op for name in names for op in graph.consumers(name)])
    moves = [decisions[op.name].precision for name in names for op in graph.consumers(name)]
    return "int16" if "int16" in (writers or readers or moves) else "int8"


def _fixed(
    graph: PlanGraph, decisions: Mapping[str, Decision], names: Sequence[str], dtype: Literal["int8", "int16"]
) -> QuantParams | None:
    """Fixed where every tensor that is not merely moved into the group comes from an op with the same fixed grid."""
    makers = [graph.producer(name) for name in names]
    sources = [op for op in makers if op is None or op.kind not in MOVES or decisions[op.name].precision == "float32"]
    kinds = {op.kind if op is not None and decisions[op.name].precision != "float32" else "" for op in sources}
    grids = {FIXED.get(kind) for kind in kinds}
    if len(grids) != 1 or (grid := grids.pop()) is None:
        return None
    scale, zero_point = grid if dtype == "int8" else (1 / 32768, 0)
    symmetric = dtype == "int16"
    return QuantParams(
        scale=(float(np.float32(scale)),), zero_point=(zero_point,), axis=None, dtype=dtype, symmetric=symmetric
    )


class _UnionFind:
    def __init__(self, names: Sequence[str]) -> None:
        self._parent = {name: name for name in names}

    def find(self, name: str) -> str:
        while self._parent[name] != name:
            self._parent[name] = self._parent[self._parent[name]]
            name = self._parent[name]
        return name

    def join(self, one: str, other: str) -> None:
        self._parent[self.find(one)] = self.find(other)
