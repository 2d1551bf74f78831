"""Runs a plan graph one op at a time, so that what goes into an op can be changed on the way."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgesmith.errors import ModelError
from targets import onnx_file
from targets.plan_graph import PlanGraph
from targets.plan_ops import PlanOp

Array = NDArray[np.float32]
Sessions: TypeAlias = dict[tuple[bytes, tuple[str, ...]], Any]
"""Of ONNX Runtime, by the model of one op, kernel and bias left out, and the element types of its inputs."""

BUDGET = 400_000_000
"""Bytes of activations that are kept at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One op, ready to run.

    Attributes:
        op: the op.
        reads: tensors that it is fed: `op.inputs`, and what shapes and indices are computed from.
        makes: tensors that others read: `op.output` first.
        before_activation: the tensor that the fused activation is applied to; `op.output` where there is none.
        proto: a model of this op alone; weight and bias are inputs of it.
    """

    op: PlanOp
    reads: tuple[str, ...]
    makes: tuple[str, ...]
    before_activation: str
    proto: Any


class Stepwise:
    """The ops of a graph as single-op networks on ONNX Runtime, and the samples that go through them.

    Attributes:
        graph: what is run.
        inputs: the network's inputs by name; a multiple of its batch, where that is fixed.
        steps: in the order they are computed.
    """

    def __init__(self, graph: PlanGraph, inputs: Mapping[str, NDArray[Any]], sessions: Sessions | None = None) -> None:
        self.graph = graph
        self.inputs = dict(inputs)
        self.steps = tuple(_steps(graph))
        self._index = {step.op.name: index for index, step in enumerate(self.steps)}
        self._keys: dict[str, bytes] = {}
        self._sessions: Sessions = {} if sessions is None else sessions
        last = dict.fromkeys(graph.inputs, 0)
        for index, step in enumerate(self.steps):
            last.update(dict.fromkeys((*step.makes, *step.reads), index))
        self._freed: list[list[str]] = [[] for _ in self.steps]
        for name, index in last.items():
            if name not in graph.outputs:
                self._freed[index].append(name)

    def with_inputs(self, inputs: Mapping[str, NDArray[Any]]) -> Stepwise:
        """The same with other samples."""
        twin = copy.copy(self)
        twin.inputs = dict(inputs)
        return twin

    def few(self, most: int) -> Stepwise:
        """The same with at most so many of its samples, evenly spread; at least a batch, where that is fixed."""
        batch = _fixed_batch(self.graph) or 1
        chosen = spread(self.count, max(batch, most // batch * batch))
        return self.with_inputs({name: array[chosen] for name, array in self.inputs.items()})

    @property
    def count(self) -> int:
        """Samples."""
        return len(next(iter(self.inputs.values())))

    def step(self, op: str) -> Step:
        """By the op's name."""
        return self.steps[self._index[op]]

    def dead_after(self, step: Step) -> Sequence[str]:
        """Tensors that no later step reads and that are no outputs of the network."""
        return self._freed[self._index[step.op.name]]

    def run(
        self,
        step: Step,
        values: Mapping[str, NDArray[Any]],
        *,
        weight: Array | None = None,
        bias: Array | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Computes an op up to its activation, which `activate` applies.

        Args:
            step: of this graph.
            values: at least what it reads: [N, ...], N the same for all.
            weight: in place of its own, of the same shape.
            bias: in place of its own.

        Returns:
            `step.makes` -> [N, ...]; the first of them before the activation.
        """
        op, constants = step.op, self.graph.constants
        feed = {name: np.ascontiguousarray(values[name]) for name in step.reads}
        fixed: dict[str, NDArray[Any]] = {}
        if op.weight is not None:
            fixed[op.weight] = constants[op.weight] if weight is None else weight
        if op.bias is not None:
            fixed[op.bias] = constants[op.bias] if bias is None else bias
        session = self._session(step, {**feed, **fixed})
        wanted = [step.before_activation, *step.makes[1:]]
        parts = [session.run(wanted, {**part, **fixed}) for part in self._batches(feed)]
        joined = [np.concatenate(arrays) if len(arrays) > 1 else arrays[0] for arrays in zip(*parts, strict=True)]
        return dict(zip(step.makes, joined, strict=True))

    def _batches(self, feed: Mapping[str, NDArray[Any]]) -> Iterator[dict[str, NDArray[Any]]]:
        """Everything at once; where the batch is fixed, as many pieces as the network would take."""
        batch = _fixed_batch(self.graph)
        if batch is None or not feed:
            yield dict(feed)
            return
        # A network of batch 1 may hold tensors of other first dimensions: each is cut into as many equal pieces.
        pieces = max(1, self.count // batch)
        cut = {name: np.array_split(array, pieces) for name, array in feed.items()}
        for index in range(pieces):
            yield {name: arrays[index] for name, arrays in cut.items()}

    def _session(self, step: Step, feed: Mapping[str, NDArray[Any]]) -> Any:
        # Element types of what shapes are computed from are known only now.
        if step.op.name not in self._keys:
            self._keys[step.op.name] = step.proto.SerializeToString(deterministic=True)
        key = (self._keys[step.op.name], tuple(str(array.dtype) for array in feed.values()))
        if key not in self._sessions:
            import onnx

            proto = type(step.proto)()
            proto.CopyFrom(step.proto)
            for name, array in feed.items():
                kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
                proto.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, None))
            self._sessions[key] = onnx_file.session(proto.SerializeToString())
        return self._sessions[key]

    def float_pass(self) -> Iterator[tuple[Step, Mapping[str, NDArray[Any]], Array]]:
        """Computes the network op by op.

        Yields:
            (step, the tensors that are alive, its output before the activation); the output after it is alive already.
        """
        live = dict(self.inputs)
        for step in self.steps:
            made = self.run(step, live)
            before = made[step.op.output]
            live.update(made)
            live[step.op.output] = activate(step.op, before)
            yield step, live, before
            del made, before
            for name in self.dead_after(step):
                live.pop(name, None)


def within(
    graph: PlanGraph,
    x: NDArray[Any] | Sequence[NDArray[Any]],
    *,
    most: int,
    streams: int = 2,
    budget: int = BUDGET,
    sessions: Sessions | None = None,
) -> Stepwise:
    """The ops of a graph with as many of the samples as fit into memory side by side.

    Args:
        graph: what is run.
        x: [N, ...], or one such array per input.
        most: samples at most; they are taken evenly spread.
        streams: how often each tensor is kept.
        budget: bytes of activations.
        sessions: shared with networks of the same ops and other kernels; grows.

    Raises:
        ModelError: the network cannot be run op by op, or answers NaN or infinity.
    """
    inputs = named(graph, x)
    batch = _fixed_batch(graph) or 1
    count = len(next(iter(inputs.values())))
    probe = Stepwise(graph, {name: _filled(array[:batch], batch) for name, array in inputs.items()}, sessions)
    peak = 1
    for step, live, before in probe.float_pass():
        if not np.isfinite(live[step.op.output]).all():
            raise ModelError(
                f"{step.op.layer}: its output is NaN or infinite on the first calibration sample.",
                next_step="Check the model, and that the calibration data is scaled as in training.",
            )
        peak = max(peak, sum(array.nbytes for array in live.values()) + before.nbytes)
    room = max(1, budget * batch // (streams * peak))
    chosen = spread(count, min(most, room))
    whole = max(batch, len(chosen) // batch * batch)
    return probe.with_inputs({name: _filled(array[chosen[:whole]], batch) for name, array in inputs.items()})


def _filled(array: NDArray[Any], batch: int) -> NDArray[Any]:
    """At least a batch of samples: the last one again, where there are fewer."""
    short = batch - len(array)
    return np.concatenate([array, np.repeat(array[-1:], short, axis=0)]) if short > 0 else array


def _fixed_batch(graph: PlanGraph) -> int | None:
    dims = graph.proto.graph.input[0].type.tensor_type.shape.dim
    return int(dims[0].dim_value) if dims and dims[0].HasField("dim_value") else None


def activate(op: PlanOp, x: Array) -> Array:
    """Applies an op's fused activation."""
    if op.activation == "relu":
        return np.maximum(x, np.float32(0))
    if op.activation == "relu6":
        return np.clip(x, np.float32(0), np.float32(6))
    return x


def named(graph: PlanGraph, x: NDArray[Any] | Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The samples by input name.

    Args:
        graph: whose inputs they are for.
        x: [N, ...], or one such array per input.
    """
    arrays = [x] if isinstance(x, np.ndarray) else list(x)
    return dict(zip(graph.inputs, arrays, strict=True))


def spread(count: int, wanted: int) -> NDArray[np.intp]:
    """Indices of `wanted` of `count` samples, evenly spread: data sorted by class gives some of each."""
    wanted = max(1, min(count, wanted))
    return np.floor((np.arange(wanted) + 0.5) * count / wanted).astype(np.intp)


def _steps(graph: PlanGraph) -> Iterator[Step]:
    nodes = {node.name: node for node in graph.proto.graph.node}
    makers = {name: node for node in graph.proto.graph.node for name in node.output}
    readers: dict[str, set[str]] = {}
    for node in graph.proto.graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.name)
    floats = {name for op in graph.ops for member in op.nodes for name in nodes[member].output} | set(graph.inputs)
    initializers = {tensor.name: tensor for tensor in graph.proto.graph.initializer}
    for op in graph.ops:
        members = [nodes[name] for name in op.nodes]
        before = op.output
        if op.activation:
            before = members[-1].input[0]
            members = members[:-1]
        inside = {name for member in members for name in member.output}
        side = _side_nodes(members, inside, makers, floats, initializers)
        known = inside | {name for node in side for name in node.output}
        wanted = [name for node in (*side, *members) for name in node.input if name and name not in known]
        reads = dict.fromkeys(name for name in wanted if name not in initializers)
        others = [
            name
            for member in members
            for name in member.output
            if name != before and (readers.get(name, set()) - set(op.nodes) or name in graph.outputs)
        ]
        parameters = {op.weight, op.bias}
        stored = dict.fromkeys(name for name in wanted if name in initializers and name not in parameters)
        yield Step(
            op=op,
            reads=tuple(reads),
            makes=(op.output, *others),
            before_activation=before,
            proto=_model(graph.proto, (*side, *members), [initializers[name] for name in stored], (before, *others)),
        )


def _side_nodes(
    members: Sequence[Any],
    inside: set[str],
    makers: Mapping[str, Any],
    floats: set[str],
    initializers: Mapping[str, Any],
) -> list[Any]:
    """The nodes that compute shapes and indices for an op: they belong to no op of their own."""
    found: dict[str, Any] = {}

    def visit(names: Iterable[str]) -> None:
        for name in names:
            if not name or name in inside or name in floats or name in initializers or name not in makers:
                continue
            node = makers[name]
            if node.name not in found:
                visit(node.input)
                found[node.name] = node

    for member in members:
        visit(member.input)
    return list(found.values())


def _model(whole: Any, nodes: Sequence[Any], stored: Sequence[Any], outputs: Sequence[str]) -> Any:
    """A model of some nodes of another; its inputs are declared when their types are known."""
    import onnx

    graph = onnx.GraphProto(name="op")
    graph.node.extend(nodes)
    graph.initializer.extend(stored)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    model = onnx.ModelProto(ir_version=whole.ir_version, graph=graph)
    model.opset_import.extend(whole.opset_import)
    return model
