"""Follows channels through a plan graph, op by op, and finds which can be scaled and where their scale goes.

Op semantics: https://onnx.ai/onnx/operators/. Shapes are those of one sample, so nothing symbolic is needed.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.ptq.scale_groups import (
    UNSCALED,
    Channels,
    Ids,
    Kernel,
    ScaledConstant,
    ScaleGroups,
    UnionFind,
    shares_values,
)
from targets import onnx_file
from targets.plan_graph import PlanGraph
from targets.plan_ops import PlanOp

_SAME_SHAPE = ("Relu", "LeakyRelu", "PRelu", "Identity", "Dropout", "Neg", "Abs")
_PER_CHANNEL = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize", "Upsample")
_REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")
_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_MOVES = ("Transpose", "Concat", "Slice", "Split", "Gather")
_SAME_GRID = ("MaxPool", "AveragePool", "Resize", "Pad", *_RESHAPES, *_MOVES, "Identity", "Dropout")
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
        self.ids = UnionFind()
        self.blocked = {self.ids.add()}
        self.none = np.full((), UNSCALED, np.int64)
        self.families: list[Ids] = []
        self.normalized: set[int] = set()
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
            **dict.fromkeys(_SAME_SHAPE, self._same_shape),
            **dict.fromkeys(_PER_CHANNEL, self._per_channel),
            **dict.fromkeys(_REDUCTIONS, self._reduction),
            **dict.fromkeys(_RESHAPES, self._reshape),
            **dict.fromkeys(_MOVES, self._move),
            "Clip": self._clip,
            "Pad": self._pad,
        }

    def found(self) -> ScaleGroups:
        for name in self.graph.inputs:
            if name in self.shapes:
                self._set_blocked(name)
        for op in self.graph.ops:
            self._visit(op)
        self._block_what_others_see()
        roots = self.ids.roots()
        return ScaleGroups(
            size=len(roots),
            blocked=frozenset(int(roots[channel]) for channel in self.blocked),
            families=tuple(np.unique(roots[family]) for family in self.families),
            normalized=frozenset(self.normalized),
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
                self._block(list(_reads(node)))

    # Ids.

    def _fresh(self, count: int, *, normalized: bool = False) -> Ids:
        family = np.array([self.ids.add() for _ in range(count)], dtype=np.int64)
        if normalized:
            self.normalized.add(len(self.families))
        self.families.append(family)
        return family

    def _block(self, names: Sequence[str]) -> None:
        for name in names:
            if name in self.tensors:
                self.blocked.update(self.tensors[name].ids.ravel().tolist())

    def _set_blocked(self, name: str) -> None:
        channel = self.ids.add()
        self.blocked.add(channel)
        self.tensors[name] = Channels.constant(channel, self.shapes[name])

    def _is_blocked(self, channels: Channels) -> bool:
        roots = {self.ids.find(channel) for channel in self.blocked}
        return all(self.ids.find(channel) in roots for channel in set(channels.ids.ravel().tolist()))

    def _give(self, name: str, ids: Ids) -> bool:
        """Sets the ids of a tensor from an array that broadcasts to its shape; False where it does not."""
        shape = self.shapes[name]
        try:
            np.broadcast_to(ids, shape)
        except ValueError:
            return False
        self.tensors[name] = Channels(ids=ids.reshape((1,) * (len(shape) - ids.ndim) + ids.shape), shape=shape)
        return True

    def _ceiling(self, name: str, value: float) -> None:
        if self.relu6:
            self.ceilings[name] = value
        else:
            self._block([name])

    # Ops with constants.

    def _product(self, op: PlanOp, node: Any) -> bool:
        if op.weight is None:
            return self._product_of_two(op, node)
        kernel, source = self.graph.constants[op.weight], self.tensors.get(node.input[0])
        shape = self.shapes[op.output]
        convolution = op.kind in ("Conv", "ConvTranspose")
        axis = 1 if convolution else len(shape) - 1
        if source is None or node.input[1] != op.weight or _attributes(node).get("transA") or op.weight_axis is None:
            return False
        if len(source.shape) != len(shape) or kernel.ndim != (len(shape) if convolution else 2):
            return False
        own = all(name is None or self.uses[name] == 1 for name in (op.weight, op.bias))
        if shares_values(kernel):
            self.clustered.append(op.layer)
            own = False
        ids, bias = source.along(axis), None if op.bias is None else self.graph.constants[op.bias]
        if ids is None or not own or (bias is not None and bias.shape != (shape[axis],)):
            return False
        reads, writes = _places(op, kernel.shape)
        made = self._fresh(shape[axis])
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
        self.constants.append(
            ScaledConstant(name=name, role="exact", output=op.output, times=self.none, over=over),
        )

    def _normalization(self, op: PlanOp, node: Any) -> bool:
        shape, names = self.shapes[op.output], [name for name in node.input[1:3] if name]
        axis = len(shape) - 1 if op.kind == "LayerNormalization" else 1
        if op.kind == "LayerNormalization" and _attributes(node).get("axis", -1) not in (-1, axis):
            return False
        own = all(
            self.uses[name] == 1 and name in self.graph.constants and self.graph.constants[name].shape == (shape[axis],)
            for name in names
        )
        if not own:
            return False
        self._block(op.inputs)
        made = self._fresh(shape[axis], normalized=True)
        for name in names:
            self._exact(op, name, made)
        self.tensors[op.output] = Channels.vector(made, axis, shape)
        return True

    def _addition(self, op: PlanOp, node: Any) -> bool:
        stored = [name for name in node.input if name in self.graph.constants]
        computed = [self.tensors[name] for name in node.input if name in self.tensors]
        if len(stored) + len(computed) != len(node.input) or not computed or len(stored) > 1:
            return False
        ids = self._united(computed)
        if not self._give(op.output, ids):
            return False
        if stored:
            return self._offset(op, stored[0])
        return True

    def _united(self, tensors: Sequence[Channels]) -> Ids:
        """Ties the ids of tensors that are added; one that is blocked throughout blocks the others, structure kept."""
        free = [tensor for tensor in tensors if not self._is_blocked(tensor)] or list(tensors[:1])
        if len(free) < len(tensors):
            for tensor in tensors:
                self.blocked.update(tensor.ids.ravel().tolist())
        arrays = np.broadcast_arrays(*(tensor.ids for tensor in free))
        for other in arrays[1:]:
            for first, second in set(zip(arrays[0].ravel().tolist(), other.ravel().tolist(), strict=True)):
                self.ids.unite(first, second)
        return np.array(arrays[0])

    def _offset(self, op: PlanOp, name: str) -> bool:
        values = self.graph.constants[name]
        over = _per_element(values.shape, self.tensors[op.output])
        if self.uses[name] != 1 or over is None:
            return not values.any()
        self.constants.append(ScaledConstant(name=name, role="offset", output=op.output, times=self.none, over=over))
        return True

    def _multiplication(self, op: PlanOp, node: Any) -> bool:
        names = list(node.input)
        stored = [name for name in names if name in self.graph.constants]
        if len(stored) == 1 and len(names) == 2 and (op.kind == "Mul" or names[1] in stored):
            return self._gain(op, names[1] if names[0] not in stored else names[0], stored[0])
        if stored or op.kind == "Div" or len(names) != 2 or not all(name in self.tensors for name in names):
            return False
        # A product has the factor of whichever side may have one: the other one's is 1.
        first, second = (self.tensors[name] for name in names)
        passed, other = (second, first) if self._is_blocked(first) else (first, second)
        self.blocked.update(other.ids.ravel().tolist())
        return self._give(op.output, passed.ids)

    def _gain(self, op: PlanOp, source: str, name: str) -> bool:
        """Times a constant: the constant takes up the factor of its input and gives its output one of its own."""
        if source not in self.tensors:
            return False
        values, given = self.graph.constants[name], self.tensors[source]
        shape = self.shapes[op.output]
        try:
            spread = Channels.of(np.broadcast_to(given.full(), shape).copy())
        except ValueError:
            return False
        times = _per_element(values.shape, spread)
        if values.size == 1 or times is None or self.uses[name] != 1 or op.kind == "Div":
            return self._give(op.output, spread.ids)
        made = self._fresh(values.size, normalized=True).reshape(values.shape)
        self.constants.append(
            ScaledConstant(
                name=name,
                role="gain",
                output=op.output,
                times=times,
                over=made,
            )
        )
        return self._give(op.output, made)

    def _product_of_two(self, op: PlanOp, node: Any) -> bool:
        """Attention's weights times values: what the last axis of the second carries, the product carries."""
        if op.kind != "MatMul" or not all(name in self.tensors for name in node.input):
            return False
        first, second = (self.tensors[name] for name in node.input)
        if not self._is_blocked(first) or second.ids.ndim < 2 or second.ids.shape[-2] != 1:
            return False
        return self._give(op.output, second.ids)

    # Ops without.

    def _only(self, op: PlanOp, node: Any) -> Channels | None:
        name = node.input[0]
        if name not in self.tensors or any(other in self.tensors for other in node.input[1:]):
            return None
        if op.kind in _SAME_GRID:
            self.copies[op.output] = (name,)
        return self.tensors[name]

    def _same_shape(self, op: PlanOp, node: Any) -> bool:
        given = self._only(op, node)
        return given is not None and self._give(op.output, given.ids)

    def _clip(self, op: PlanOp, node: Any) -> bool:
        """From 0 to a ceiling, or to none."""
        bounds = [self.graph.constants.get(name) if name else None for name in (*node.input[1:3], "", "")[:2]]
        given = self.tensors.get(node.input[0])
        if given is None or bounds[0] is None or _number(bounds[0]) != 0.0 or not self._give(op.output, given.ids):
            return False
        if len(node.input) > 2 and node.input[2]:
            if bounds[1] is None:
                return False
            self._ceiling(op.output, _number(bounds[1]))
        return True

    def _per_channel(self, op: PlanOp, node: Any) -> bool:
        given = self._only(op, node)
        ids = None if given is None else given.along(1)
        shape = self.shapes[op.output]
        if ids is None or len(shape) < 3 or len(ids) != shape[1]:
            return False
        return self._give(op.output, Channels.vector(ids, 1, shape).ids)

    def _reduction(self, op: PlanOp, node: Any) -> bool:
        given = self._only(op, node)
        if given is None:
            return False
        axes = _attributes(node).get("axes")
        if axes is None and len(node.input) > 1 and node.input[1]:
            stored = self.graph.constants.get(node.input[1])
            axes = None if stored is None else stored.tolist()
        if not axes:
            return False
        rank = len(given.shape)
        places = tuple(axis % rank for axis in axes)
        if any(given.ids.shape[axis] > 1 for axis in places):
            return False
        keeps = _attributes(node).get("keepdims", 1)
        return self._give(op.output, given.ids if keeps else given.ids.squeeze(places))

    def _reshape(self, op: PlanOp, node: Any) -> bool:
        given = self._only(op, node)
        shape = self.shapes[op.output]
        if given is None or np.prod(given.shape) != np.prod(shape):
            return False
        self.tensors[op.output] = Channels.of(given.full().reshape(shape))
        return True

    def _move(self, _: PlanOp, node: Any) -> bool:
        """Runs the op itself on ids in place of values: where an element goes, its id goes."""
        from onnx.reference import ReferenceEvaluator

        feed: dict[str, NDArray[Any]] = {}
        for name in filter(None, node.input):
            if name in self.tensors:
                feed[name] = self.tensors[name].full()
            elif name in self.graph.constants:
                feed[name] = self.graph.constants[name]
            else:
                return False
        results = ReferenceEvaluator(node, opsets={"": self.opset}).run(None, feed)
        for name, ids in zip(node.output, results, strict=True):
            if name in self.shapes:
                if ids.shape != self.shapes[name]:
                    return False
                self.tensors[name] = Channels.of(ids)
                self.copies[name] = tuple(part for part in node.input if part in self.tensors)
        return True

    def _pad(self, op: PlanOp, node: Any) -> bool:
        """With zeros, which stay zeros whatever the factor: they may take any id."""
        given = self._only(op, node)
        inputs = [*node.input, "", "", ""]
        pads, value = self.graph.constants.get(inputs[1]), self.graph.constants.get(inputs[2])
        plain = _attributes(node).get("mode", b"constant") == b"constant" and (value is None or not value.any())
        if given is None or pads is None or not plain or inputs[3] or (inputs[2] and value is None) or pads.min() < 0:
            return False
        rank = len(given.shape)
        amounts = [
            (int(pads[axis]), int(pads[axis + rank])) if given.ids.shape[axis] > 1 else (0, 0) for axis in range(rank)
        ]
        return self._give(op.output, np.pad(given.ids, amounts, mode="edge"))


def _places(op: PlanOp, shape: tuple[int, ...]) -> tuple[Ids, Ids]:
    """For each element of a kernel: its input channel, and its output channel; both broadcast to the kernel's shape."""
    rest = (1,) * (len(shape) - 2)
    first, second = np.arange(shape[0]).reshape(-1, 1, *rest), np.arange(shape[1]).reshape(1, -1, *rest)
    if op.kind == "Conv":
        return (first // (shape[0] // op.groups)) * shape[1] + second, first
    if op.kind == "ConvTranspose":
        return first, (first // (shape[0] // op.groups)) * shape[1] + second
    return (first, second) if op.weight_axis == 1 else (second, first)


def _per_element(shape: tuple[int, ...], channels: Channels) -> Ids | None:
    """The id that each element of a constant meets where it is broadcast against a tensor; None where it meets several.

    Returns:
        Of the constant's shape.
    """
    places = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    try:
        spread = np.broadcast_to(places, channels.shape).ravel()
    except ValueError:
        return None
    ids = channels.full().ravel()
    met = np.zeros(places.size, np.int64)
    met[spread] = ids
    return met.reshape(shape) if np.array_equal(met[spread], ids) else None


def _number(values: NDArray[Any]) -> float:
    return float(values.reshape(-1)[0])


def _rooted(constant: ScaledConstant, roots: Ids) -> ScaledConstant:
    return dataclasses.replace(constant, times=roots[constant.times], over=roots[constant.over])


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _subgraphs(node: Any) -> list[Any]:
    return [graph for a in node.attribute for graph in ([a.g] if a.HasField("g") else list(a.graphs))]


def _reads(node: Any) -> Iterator[str]:
    """Every tensor a node reads, those of its subgraphs included."""
    yield from node.input
    for graph in _subgraphs(node):
        for inner in graph.node:
            yield from _reads(inner)
