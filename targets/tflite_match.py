"""Finds which tensor of a float `.tflite` file is which tensor of the plan graph: by value.

Both files come from the same network through different converters, which rename, fuse, transpose and reshape. What the
tensors hold on a few samples stays the same, so that is what they are matched by: extremes, sum and sum of squares
first, then value by value under every transposition.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.errors import InternalError
from edgesmith.native_log import captured
from targets import onnx_file
from targets.plan_graph import PlanGraph, with_outputs
from targets.tflite_kernels import LAYOUT
from targets.tflite_model import TfliteModel

SAMPLES = 3
"""Enough to tell tensors apart: one sample of a network with ReLUs may leave a small tensor all zero."""

_SAME = 1e-4
"""How far values may be apart, relative to the tensor's largest: two runtimes' float32."""

_NEAR = 0.05
"""How far they may be apart where the ops and their inputs are the same."""

_KINDS: Mapping[str, tuple[str, ...]] = {
    "CONV_2D": ("Conv", "Relu", "Clip", "MatMul", "Gemm"),
    "DEPTHWISE_CONV_2D": ("Conv", "Relu", "Clip"),
    "TRANSPOSE_CONV": ("ConvTranspose",),
    "FULLY_CONNECTED": ("MatMul", "Gemm", "Relu", "Clip", "Conv"),
    "BATCH_MATMUL": ("MatMul",),
    "ADD": ("Add",),
    "SUB": ("Sub",),
    "MUL": ("Mul",),
    "CONCATENATION": ("Concat",),
    "MEAN": ("GlobalAveragePool", "ReduceMean", "AveragePool"),
    "MAX_POOL_2D": ("MaxPool",),
    "AVERAGE_POOL_2D": ("AveragePool",),
    "RELU": ("Relu",),
    "RELU6": ("Clip",),
    "SOFTMAX": ("Softmax",),
    "LOGISTIC": ("Sigmoid",),
    "TANH": ("Tanh",),
    "PAD": ("Pad",),
}
"""TFLite op -> kinds of plan ops whose output its output most likely is, where several tensors hold the same values."""

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Which tensors are the same.

    Attributes:
        same: tensor of the file -> plan tensors that hold its values, in the order they are computed; tensors without
            any are left out.
        twin: tensor of the file -> the one of those that it is taken for.
    """

    same: Mapping[int, tuple[str, ...]]
    twin: Mapping[int, str]


def match(model: TfliteModel, content: bytes, graph: PlanGraph, x: Sequence[Array]) -> Match:
    """Matches the tensors of a float file to those of the plan graph it was converted beside.

    Args:
        model: the file's structure.
        content: the file itself.
        graph: with the same numbers: before the repairs.
        x: samples per input of the plan graph, [N, ...].
    """
    few = [array[:SAMPLES] for array in x]
    planned = planned_values(graph, few)
    order = {name: index for index, name in enumerate(graph.tensors)}
    stacks = {name: np.stack(rows) for name, rows in planned.items()}
    prints = {name: _Fingerprint.of(stack) for name, stack in stacks.items()}
    held: dict[int, list[Array]] = {}
    for row in file_values(content, graph, few):
        for tensor, values in row.items():
            held.setdefault(tensor, []).append(values)
    same: dict[int, tuple[str, ...]] = {}
    for tensor, rows in held.items():
        stack = np.stack(rows)
        mark = _Fingerprint.of(stack)
        found = [name for name, other in prints.items() if mark.like(other) and _equal(stack, stacks[name])]
        if found:
            same[tensor] = tuple(sorted(found, key=order.__getitem__))
    _match_by_structure(model, graph, same, held, stacks)
    return Match(same=same, twin=_twins(model, graph, same))


def _match_by_structure(
    model: TfliteModel,
    graph: PlanGraph,
    same: dict[int, tuple[str, ...]],
    held: Mapping[int, list[Array]],
    stacks: Mapping[str, Array],
) -> None:
    """Adds outputs of ops that compute the same from the same inputs, and whose values are near enough.

    A sigmoid or a softmax of large values makes much of what two runtimes' float32 differ in.
    """
    taken = {name for names in same.values() for name in names}
    for op in model.ops:
        output = int(op.outputs[0])
        sources = [int(i) for i in op.inputs if int(i) in held]
        if output in same or output not in held or not all(source in same for source in sources):
            continue
        known = {name for source in sources for name in same[source]}
        for planned in graph.ops:
            if planned.kind not in _KINDS.get(model.kind(op), ()) or not set(planned.inputs) <= known:
                continue
            if planned.output not in taken and _equal(np.stack(held[output]), stacks[planned.output], _NEAR):
                same[output] = (planned.output,)
                taken.add(planned.output)
                break


def _twins(model: TfliteModel, graph: PlanGraph, same: Mapping[int, tuple[str, ...]]) -> dict[int, str]:
    """One plan tensor each, where several hold the same values: by kind of op, each only once, first come first."""
    twin: dict[int, str] = {}
    for tensor, name in zip(input_tensors(model, graph), graph.inputs, strict=True):
        if tensor in same:
            twin[tensor] = name if name in same[tensor] else same[tensor][0]
    used = set(twin.values())
    for op in model.ops:
        kind = model.kind(op)
        for output in map(int, op.outputs):
            if not (found := same.get(output)):
                continue
            source = int(op.inputs[0]) if kind in LAYOUT else -1
            if source in twin:
                twin[output] = twin[source]
                continue
            makers = {name: maker.kind if (maker := graph.producer(name)) else "" for name in found}
            wanted = _KINDS.get(kind, ())
            ranked = sorted(found, key=lambda name: (name in used, makers[name] not in wanted))
            twin[output] = ranked[0]
            used.add(ranked[0])
    return twin


def input_tensors(model: TfliteModel, graph: PlanGraph) -> list[int]:
    """The file's inputs in the order of the plan graph's: by name where the names are the same, else as listed.

    Raises:
        InternalError: another number of inputs.
    """
    if len(model.inputs) != len(graph.inputs):
        raise InternalError(f"the .tflite file has {len(model.inputs)} inputs, the plan graph {len(graph.inputs)}.")
    named = model.input_names()
    if set(named) == set(graph.inputs):
        return [named[name] for name in graph.inputs]
    return list(model.inputs)


def planned_values(
    graph: PlanGraph, x: Sequence[Array], tensors: Sequence[str] | None = None
) -> dict[str, list[Array]]:
    """What the plan graph computes, one sample at a time.

    Args:
        graph: a float network.
        x: samples per input.
        tensors: wanted; None: all that a plan speaks of.

    Returns:
        name -> one array per sample, batch 1.
    """
    names = list(graph.tensors if tensors is None else tensors)
    computed = [name for name in names if name not in graph.inputs]
    session = onnx_file.session(with_outputs(graph.proto, computed).SerializeToString())
    fixed = session.get_inputs()[0].shape
    copies = fixed[0] if fixed and isinstance(fixed[0], int) else 1
    rows: dict[str, list[Array]] = {name: [] for name in names}
    for index in range(len(x[0])):
        feed = {
            name: np.repeat(array[index : index + 1], copies, axis=0)
            for name, array in zip(graph.inputs, x, strict=True)
        }
        found = dict(zip(computed, session.run(computed, feed), strict=True)) if computed else {}
        for name in names:
            values = feed[name] if name in feed else found[name]
            rows[name].append(values[: max(1, len(values) // copies)] if values.ndim else values)
    return rows


def file_values(
    content: bytes, graph: PlanGraph, x: Sequence[Array], wanted: Sequence[int] | None = None
) -> Iterator[dict[int, Array]]:
    """What a float `.tflite` file computes, with the built-in kernels and without XNNPACK, which hides tensors.

    Args:
        content: the file; its inputs are float32, or integers that are no quantized floats.
        graph: names the inputs.
        x: samples per input of the plan graph.
        wanted: tensors; None: every float32 one that is computed.

    Yields:
        Per sample, tensor -> values.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    model = TfliteModel(content)
    if wanted is None:
        made = [*model.inputs, *(int(i) for op in model.ops for i in op.outputs)]
        wanted = [t for t in dict.fromkeys(made) if model.is_float(t) and model.constant(t) is None]
    with captured():  # left before anything is handed out: an error in between would be printed into the capture
        interpreter = Interpreter(
            model_content=content,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
        interpreter.allocate_tensors()
    inputs = input_tensors(model, graph)
    for index in range(len(x[0])):
        for tensor, array in zip(inputs, x, strict=True):
            interpreter.set_tensor(tensor, np.ascontiguousarray(array[index : index + 1]))
        interpreter.invoke()
        yield {tensor: np.array(interpreter.get_tensor(tensor)) for tensor in wanted}


@dataclass(frozen=True, slots=True)
class _Fingerprint:
    """What does not depend on the order of values."""

    size: int
    low: float
    high: float
    total: float
    squares: float

    @classmethod
    def of(cls, values: Array) -> _Fingerprint:
        if values.size == 0 or not np.isfinite(values).all():
            return cls(0, 0.0, 0.0, 0.0, 0.0)
        low, high = float(values.min()), float(values.max())
        return cls(
            values.size, low, high, float(values.sum(dtype=np.float64)), float(np.square(values).sum(dtype=np.float64))
        )

    def like(self, other: _Fingerprint) -> bool:
        if self.size != other.size or self.size == 0:
            return False
        peak = max(abs(self.low), abs(self.high))
        close = abs(self.low - other.low) <= _SAME * peak and abs(self.high - other.high) <= _SAME * peak
        # Errors of single values add up at worst.
        room = _SAME * self.size * peak
        return close and abs(self.total - other.total) <= room and abs(self.squares - other.squares) <= 2 * room * peak


def _equal(one: Array, other: Array, room: float = _SAME) -> bool:
    """Whether two stacks of samples hold the same values, one of them transposed and reshaped, sample by sample."""
    if one.size != other.size:
        return False
    room *= float(np.abs(one).max(initial=0.0))
    n = len(one)
    flat, other_flat = one.reshape(n, -1), other.reshape(n, -1)
    for turned in _turned(other):
        if _close(flat, turned, room):
            return True
    return any(_close(turned, other_flat, room) for turned in _turned(one))


def _turned(stack: Array) -> Iterator[Array]:
    """[N, values] under every order of the axes longer than 1, the usual ones first."""
    n, *shape = stack.shape
    squeezed = stack.reshape(n, *(dim for dim in shape if dim != 1))
    axes = range(1, squeezed.ndim)
    if math.factorial(len(axes)) > 120:
        return
    for order in itertools.permutations(axes):
        yield squeezed.transpose(0, *order).reshape(n, -1)


def _close(one: Array, other: Array, room: float) -> bool:
    # One sample first: most pairs that are not the same end there.
    return bool(np.abs(one[0] - other[0]).max(initial=0.0) <= room) and bool(
        np.abs(one - other).max(initial=0.0) <= room
    )
