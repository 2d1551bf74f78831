"""Follows channels through a plan graph, op by op, and finds which can be scaled and where their scale goes.

Op semantics: https://onnx.ai/onnx/operators/. Shapes are those of one sample, so nothing symbolic is needed.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from optimizer.ptq import scale_passing
from optimizer.ptq.scale_groups import (
    Channels,
    Ids,
    Kernel,
    ScaledConstant,
    ScaleGroups,
)
from optimizer.ptq.scale_ledger import NONE, Ledger
from optimizer.ptq.scale_passing import met_by, placed
from optimizer.ptq.weights import shared_factors
from targets import onnx_file
from targets.plan_graph import PlanGraph
from targets.plan_ops import PlanOp

_SHAPE_ONLY = ("Shape", "Size")


def trace(graph: PlanGraph, shapes: Mapping[str, tuple[int, ...]], *, relu6: bool) -> ScaleGroups:
    """Finds every channel that can be scaled.

    Args:
        graph: the float network.
        shapes: of its inputs and float tensors, for one sample.
        relu6: whether channels may be scaled through a ReLU6 that does not cut them off; else it blocks.
    """
    return _Tracer(graph, shapes, relu6=relu6).found()


def tensor_names(graph: PlanGraph) -> list[str]:
    """The tensors whose shapes `trace` needs: those of the plan, and further outputs of ops that have several."""
    nodes = {node.name: node for node in graph.proto.graph.node}
    names = dict.fromkeys(graph.tensors)
    for op in graph.ops:
        if op.kind == "Split":
            names.update(dict.fromkeys(nodes[op.main].output))
    return list(names)


class _Tracer:
    def __init__(self, graph: PlanGraph, shapes: Mapping[str, tuple[int, ...]], *, relu6: bool) -> None:
        self.graph, self.shapes, self.relu6 = graph, shapes, relu6
        self.nodes = {node.name: node for node in graph.proto.graph.node}
        self.uses = Counter(name for node in graph.proto.graph.node for name in _reads(node))
        self.uses.update(graph.outputs)
        self.opset = onnx_file.opset(graph.proto)
        self.ledger = Ledger()
        self.tensors: dict[str, Channels] = {}
        self.constants: list[ScaledConstant] = []
        self.ceilings: dict[str, float] = {}
        self.copies: dict[str, tuple[str, ...]] = {}
        self.clustered: list[str] = []
        self.rules: dict[str, Callable[[PlanOp, Any], bool]] = {
            **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul"), self._product),
            **dict.fromkeys(("Add", "Sub", "Sum"), self._addition),
            **dict.fromkeys(("Mul", "Div"), self._multiplication),
            **dict.fromkeys(("LayerNormalization", "InstanceNormalization", "BatchNormalization"), self._normalization),
            **dict.fromkeys(scale_passing.RULES, self._passing),
            **dict.fromkeys(scale_passing.MOVES, self._move),
            "Clip": self._clip,
        }

    def found(self) -> ScaleGroups:
        for name in self.graph.inputs:
            if name in self.shapes:
                self._set_blocked(name)
        for op in self.graph.ops:
            self._visit(op)
        self._block_what_others_see()
        roots = self.ledger.ids.roots()
        return ScaleGroups(
            size=len(roots),
            blocked=frozenset(int(roots[channel]) for channel in self.ledger.blocked),
            families=tuple(np.unique(roots[family]) for family in self.ledger.families),
            normalized=frozenset(self.ledger.normalized),
            tensors={n: Channels(ids=roots[c.ids], shape=c.shape) for n, c in self.tensors.items()},
            constants=tuple(_rooted(constant, roots) for constant in self.constants),
            ceilings=self.ceilings,
            copies=self.copies,
            clustered=tuple(dict.fromkeys(self.clustered)),
        )

    def _visit(self, op: PlanOp) -> None:
        node = self.nodes[op.main]
        rule = self.rules.get(op.kind)
        known = all(name in self.tensors for name in op.inputs) and op.output in self.shapes
        if rule is None or not known or op.activation not in ("", "relu", "relu6") or not rule(op, node):
            self._block(op.inputs)
            for name in (op.output, *node.output):
                if name in self.shapes:
                    self._set_blocked(name)
        elif op.activation == "relu6":
            self._ceiling(op.output, 6.0)

    def _block_what_others_see(self) -> None:
        """Network outputs; what nodes read that are no ops of the plan, such as ArgMax; channels along the samples."""
        self._block(self.graph.outputs)
        self._block([name for name, found in self.tensors.items() if len(found.shape) < 2 or found.ids.shape[0] > 1])
        inside = {name for op in self.graph.ops for name in op.nodes}
        for node in self.graph.proto.graph.node:
            if node.op_type not in _SHAPE_ONLY and (node.name not in inside or _subgraphs(node)):
                self._block(_reads(node))

    def _block(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self.tensors:
                self.ledger.block(self.tensors[name])

    def _set_blocked(self, name: str) -> None:
        self.tensors[name] = Channels.constant(self.ledger.blocked_one(), self.shapes[name])

    def _give(self, name: str, channels: Channels | None) -> bool:
        """Sets the ids of a tensor, and tells whether there are any."""
        if channels is not None:
            self.tensors[name] = channels
        return channels is not None

    def _ceiling(self, name: str, value: float) -> None:
        if self.relu6:
            self.ceilings[name] = value
        else:
            self._block([name])

    def _product(self, op: PlanOp, node: Any) -> bool:
        if op.weight is None:
            return self._product_of_two(op, node)
        kernel, source = self.graph.constants[op.weight], self.tensors.get(node.input[0])
        shape = self.shapes[op.output]
        convolution = op.kind in ("Conv", "ConvTranspose")
        axis, rank = (1, len(shape)) if convolution else (len(shape) - 1, 2)
        if source is None or len(source.shape) != len(shape) or kernel.ndim != rank or op.weight_axis is None:
            return False
        if node.input[1] != op.weight or scale_passing.attributes(node).get("transA"):
            return False
        own = all(name is None or self.uses[name] == 1 for name in (op.weight, op.bias))
        if shared_factors(op, kernel) is not None:
            self.clustered.append(op.layer)
            own = False
        ids, bias = source.along(axis), None if op.bias is None else self.graph.constants[op.bias]
        if ids is None or not own or (bias is not None and bias.shape != (shape[axis],)):
            return False
        reads, writes = _places(op, kernel.shape)
        made = self.ledger.fresh(shape[axis])
        self.constants.append(
            Kernel(
                name=op.weight,
                role="kernel",
                output=op.output,
                times=ids[reads],
                over=made[writes],
                source=node.input[0],
                axis=axis,
                reads=reads,
                writes=writes,
                weight_axis=op.weight_axis if op.kind != "ConvTranspose" or op.groups == 1 else None,
            )
        )
        if op.bias is not None:
            self._exact(op, op.bias, made)
        self.tensors[op.output] = Channels.vector(made, axis, shape)
        return True

    def _exact(self, op: PlanOp, name: str, over: Ids) -> None:
        self.constants.append(ScaledConstant(name=name, role="exact", output=op.output, times=NONE, over=over))

    def _normalization(self, op: PlanOp, node: Any) -> bool:
        shape, names = self.shapes[op.output], [name for name in node.input[1:3] if name]
        axis = len(shape) - 1 if op.kind == "LayerNormalization" else 1
        if op.kind == "LayerNormalization" and scale_passing.attributes(node).get("axis", -1) not in (-1, axis):
            return False
        own = all(
            self.uses[name] == 1 and name in self.graph.constants and self.graph.constants[name].shape == (shape[axis],)
            for name in names
        )
        if not own:
            return False
        self._block(op.inputs)
        made = self.ledger.fresh(shape[axis], normalized=True)
        for name in names:
            self._exact(op, name, made)
        self.tensors[op.output] = Channels.vector(made, axis, shape)
        return True

    def _addition(self, op: PlanOp, node: Any) -> bool:
        stored = [name for name in node.input if name in self.graph.constants]
        computed = [self.tensors[name] for name in node.input if name in self.tensors]
        if len(stored) + len(computed) != len(node.input) or not computed or len(stored) > 1:
            return False
        ids = self.ledger.united(computed)
        if not self._give(op.output, placed(ids, self.shapes[op.output])):
            return False
        return not stored or self._offset(op, stored[0])

    def _offset(self, op: PlanOp, name: str) -> bool:
        values = self.graph.constants[name]
        over = met_by(values.shape, self.tensors[op.output])
        if self.uses[name] != 1 or over is None:
            return not values.any()
        self.constants.append(ScaledConstant(name=name, role="offset", output=op.output, times=NONE, over=over))
        return True

    def _multiplication(self, op: PlanOp, node: Any) -> bool:
        names = list(node.input)
        stored = [name for name in names if name in self.graph.constants]
        if len(stored) == 1 and len(names) == 2 and (op.kind == "Mul" or names[1] in stored):
            return self._gain(op, names[1] if names[0] in stored else names[0], stored[0])
        if stored or op.kind == "Div" or len(names) != 2 or not all(name in self.tensors for name in names):
            return False
        # A product has the factor of whichever side may have one: the other one's is 1.
        first, second = (self.tensors[name] for name in names)
        passed, other = (second, first) if self.ledger.is_blocked(first) else (first, second)
        self.ledger.block(other)
        return self._give(op.output, placed(passed.ids, self.shapes[op.output]))

    def _gain(self, op: PlanOp, source: str, name: str) -> bool:
        """Times a constant: the constant takes up the factor of its input and gives its output one of its own."""
        if source not in self.tensors:
            return False
        values, given = self.graph.constants[name], self.tensors[source]
        shape = self.shapes[op.output]
        spread = placed(given.ids, shape)
        if spread is None:
            return False
        times = met_by(values.shape, spread)
        if values.size == 1 or times is None or self.uses[name] != 1 or op.kind == "Div":
            return self._give(op.output, spread)
        made = self.ledger.fresh(values.size, normalized=True).reshape(values.shape)
        self.constants.append(ScaledConstant(name=name, role="gain", output=op.output, times=times, over=made))
        return self._give(op.output, placed(made, shape))

    def _product_of_two(self, op: PlanOp, node: Any) -> bool:
        """Attention's weights times values: what the last axis of the second carries, the product carries."""
        if op.kind != "MatMul" or not all(name in self.tensors for name in node.input):
            return False
        first, second = (self.tensors[name] for name in node.input)
        if not self.ledger.is_blocked(first) or second.ids.ndim < 2 or second.ids.shape[-2] != 1:
            return False
        return self._give(op.output, placed(second.ids, self.shapes[op.output]))

    def _only(self, node: Any) -> Channels | None:
        """The one input that is computed."""
        if any(name in self.tensors for name in node.input[1:]):
            return None
        return self.tensors.get(node.input[0])

    def _passing(self, op: PlanOp, node: Any) -> bool:
        given = self._only(node)
        if given is None:
            return False
        if op.kind in scale_passing.SAME_GRID:
            self.copies[op.output] = (node.input[0],)
        found = scale_passing.RULES[op.kind](node, given, self.shapes[op.output], self.graph.constants)
        return self._give(op.output, found)

    def _move(self, _: PlanOp, node: Any) -> bool:
        results = scale_passing.moved(node, self.tensors, self.graph.constants, self.opset)
        if results is None:
            return False
        for name, ids in zip(node.output, results, strict=True):
            if name in self.shapes:
                if ids.shape != self.shapes[name]:
                    return False
                self.tensors[name] = Channels.of(ids)
                self.copies[name] = tuple(dict.fromkeys(part for part in node.input if part in self.tensors))
        return True

    def _clip(self, op: PlanOp, node: Any) -> bool:
        """From 0 to a ceiling, or to none."""
        given = self._only(node)
        low, high = (self.graph.constants.get(name) for name in [*node.input[1:], "", ""][:2])
        if given is None or low is None or low.any() or not self._give(op.output, placed(given.ids, given.shape)):
            return False
        if high is not None:
            self._ceiling(op.output, float(high.reshape(-1)[0]))
        return high is not None or not any(node.input[2:])


def _places(op: PlanOp, shape: tuple[int, ...]) -> tuple[Ids, Ids]:
    """For each element of a kernel: its input channel, and its output channel; both broadcast to the kernel's shape."""
    rest = (1,) * (len(shape) - 2)
    first, second = np.arange(shape[0]).reshape(-1, 1, *rest), np.arange(shape[1]).reshape(1, -1, *rest)
    if op.kind == "Conv":
        return (first // (shape[0] // op.groups)) * shape[1] + second, first
    if op.kind == "ConvTranspose":
        return first, (first // (shape[0] // op.groups)) * shape[1] + second
    return (first, second) if op.weight_axis == 1 else (second, first)


def _rooted(constant: ScaledConstant, roots: Ids) -> ScaledConstant:
    return dataclasses.replace(constant, times=roots[constant.times], over=roots[constant.over])


def _subgraphs(node: Any) -> list[Any]:
    return [graph for a in node.attribute for graph in ([a.g] if a.HasField("g") else list(a.graphs))]


def _reads(node: Any) -> Iterator[str]:
    """Every tensor a node reads, those of its subgraphs included."""
    yield from node.input
    for graph in _subgraphs(node):
        for inner in graph.node:
            yield from _reads(inner)
