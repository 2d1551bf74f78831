"""Which tensor of a compiled file is which of the plan graph: by name where names say it, else by value, by place.

Unlike `targets.tflite_match`, which pairs two float files of equal values, this pairs a float network with a file that
may be wrong: names come first, because the values of a damaged layer fit nothing.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from targets.divergence import sqnr_db
from targets.plan_graph import PlanGraph
from targets.plan_ops import PlanOp

How = Literal["name", "layer", "value", "place"]

_MIN_DB = 10.0
"""Values that are closer than this are the same tensor. An int8 tensor of a sound artifact has 20 to 40 dB."""

REARRANGES = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")
"""Ops whose output holds the values of their input."""

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One tensor in both.

    Attributes:
        tensor: in the plan graph.
        name: in the artifact.
        axes: that bring the artifact's squeezed values into the plan's order; None: they are only reshaped.
        how: it was found: its name is the plan's, or names the layer; it holds the values; or it is the next of its
            size in the order of computing, which is a guess.
    """

    tensor: str
    name: str
    axes: tuple[int, ...] | None
    how: How

    def planned(self, values: Array, shape: Sequence[int]) -> Array:
        """The artifact's values [n, ...] in the plan's layout.

        Args:
            shape: of the plan's [n, ...].
        """
        return turned(values, self.axes).reshape(len(values), *shape[1:])


def turned(values: Array, axes: tuple[int, ...] | None) -> Array:
    """[n, ...] without axes of length 1, the others in another order."""
    if axes is None:
        return values
    n, *shape = values.shape
    return values.reshape(n, *(dim for dim in shape if dim != 1)).transpose(axes)


def pair_tensors(
    graph: PlanGraph,
    planned: Mapping[str, Array],
    found: Mapping[str, Array],
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> tuple[Pair, ...]:
    """Pairs as many tensors as it can, each only once.

    Args:
        graph: the float network.
        planned: its tensors on a few samples, [n, ...], in the order of computing.
        found: the artifact's on the same samples, in its order.
        inputs: the artifact's inputs, in the model's order.
        outputs: its outputs, in the model's order.

    Returns:
        In the plan's order.
    """
    work = _Pairing(planned, found)
    for ours, theirs in ((graph.inputs, inputs), (graph.outputs, outputs)):
        if set(ours) != set(theirs) and len(ours) == len(theirs):
            for tensor, name in zip(ours, theirs, strict=True):
                work.take(tensor, name, "name")
    for name in found:
        work.take(name, name, "name")
    _by_layer(work, graph)
    _by_value(work)
    _by_place(work, graph)
    return tuple(work.pairs[name] for name in planned if name in work.pairs)


class _Pairing:
    """Pairs so far. The mappings keep their order."""

    def __init__(self, planned: Mapping[str, Array], found: Mapping[str, Array]) -> None:
        self.planned, self.found = planned, found
        self.pairs: dict[str, Pair] = {}
        self.used: set[str] = set()

    def fits(self, tensor: str, name: str) -> bool:
        """Whether both are free and of one size."""
        if tensor in self.pairs or name in self.used or tensor not in self.planned or name not in self.found:
            return False
        return bool(self.planned[tensor].size == self.found[name].size)

    def take(self, tensor: str, name: str, how: How) -> None:
        """Pairs them, where both are free and of one size."""
        if self.fits(tensor, name):
            axes, _ = best_layout(self.planned[tensor], self.found[name])
            self.pairs[tensor] = Pair(tensor=tensor, name=name, axes=axes, how=how)
            self.used.add(name)


def best_layout(planned: Array, found: Array) -> tuple[tuple[int, ...] | None, float]:
    """The order of the artifact's axes under which it has the plan's shape and is closest to it; and its SQNR in dB.

    Args:
        planned: [n, ...].
        found: [n, ...], of as many values.
    """
    n = len(planned)
    target = tuple(dim for dim in planned.shape[1:] if dim != 1)
    given = tuple(dim for dim in found.shape[1:] if dim != 1)
    rank = len(given)
    usual = [tuple(range(rank)), (rank - 1, *range(rank - 1)), (*range(1, rank), 0)] if rank else [()]
    orders = [order for order in usual if tuple(given[axis] for axis in order) == target]
    if not orders and rank <= 4:
        orders = [order for order in itertools.permutations(range(rank)) if tuple(given[a] for a in order) == target]
    candidates: list[tuple[int, ...] | None] = [(0, *(axis + 1 for axis in order)) for order in orders]
    flat = planned.reshape(n, -1)
    scored = [(sqnr_db(flat, turned(found, axes).reshape(n, -1)), axes) for axes in candidates or [None]]
    quality, axes = max(scored, key=lambda entry: entry[0])
    return axes, quality


def _by_layer(work: _Pairing, graph: PlanGraph) -> None:
    """By the layers that converters keep in names: "net_1/conv_1/Relu;net_1/bn_1/add" for layers conv and bn.

    Within a layer by value; then the last tensor that names a layer is the last op of that layer.
    """
    by_layer: dict[str, list[PlanOp]] = {}
    for op in graph.ops:
        by_layer.setdefault(op.layer, []).append(op)
    suffix = _suffix(by_layer, work.found)
    candidates: dict[str, list[PlanOp]] = {}
    tails: dict[str, set[str]] = {}
    for name in work.found:
        pieces = [scopes for piece in name.split(";") if len(scopes := _scopes(piece)) > 2]
        tails[name] = {_bare(scopes[-1]) for scopes in pieces}
        mentioned = [layer for layer in by_layer if any(_mentions(scopes, layer, suffix) for scopes in pieces)]
        candidates[name] = [op for layer in mentioned for op in by_layer[layer] if work.fits(op.output, name)]
    close = [
        (quality, op.output, name)
        for name, ops in candidates.items()
        for op in ops
        if (quality := best_layout(work.planned[op.output], work.found[name])[1]) >= _MIN_DB
    ]
    for _, tensor, name in sorted(close, key=lambda entry: entry[0], reverse=True):
        work.take(tensor, name, "layer")
    for name, ops in reversed(candidates.items()):
        free = [op for op in ops if work.fits(op.output, name)]
        same = [op for op in free if _bare(_scopes(op.output)[-1]) in tails[name]]
        computing = [op for op in free if op.kind not in REARRANGES]
        if best := same or computing or free:
            work.take(best[-1].output, name, "layer")


def _scopes(name: str) -> list[str]:
    return name.split(":", maxsplit=1)[0].split("/")


def _bare(text: str) -> str:
    """An op's name without what converters append: "MatMul_Gemm__11" and "MatMul1" are MatMul."""
    return re.sub(r"(_[A-Za-z]+)?(__\d+)?$|\d+$", "", text, count=1) or text


def _mentions(scopes: Sequence[str], layer: str, suffix: str) -> bool:
    path = [f"{scope}{suffix}" for scope in layer.split("/")]
    return list(scopes[1 : 1 + len(path)]) == path


def _suffix(layers: Mapping[str, Any], names: Mapping[str, Any]) -> str:
    """Tracing gives every scope of one graph the same number behind its name: "conv_1" for layer "conv"."""
    seen = [_scopes(piece) for name in names for piece in name.split(";")]
    return max(
        ("", "_1", "_2", "_3"),
        key=lambda suffix: sum(any(_mentions(scopes, layer, suffix) for scopes in seen) for layer in layers),
    )


def _by_value(work: _Pairing) -> None:
    """By what they hold, where no tensor that is paired already holds it as well; of equals the first of its shape."""
    for name, values in work.found.items():
        if name in work.used:
            continue
        scored: dict[str, tuple[float, bool]] = {}
        for tensor, planned in work.planned.items():
            if planned.size == values.size:
                axes, quality = best_layout(planned, values)
                scored[tensor] = (quality, axes is not None)
        free = {tensor: score for tensor, score in scored.items() if tensor not in work.pairs}
        best = max(free, key=free.__getitem__, default=None)
        if best is not None and max(_MIN_DB, *(quality for quality, _ in scored.values())) <= free[best][0]:
            work.take(best, name, "value")


def _by_place(work: _Pairing, graph: PlanGraph) -> None:
    """What is left, in order: the next free plan tensor of its size between the pair before it and the one behind.

    Only tensors that no pair says more about: what an op's own nodes pass on inside it has no tensor in the plan.
    """
    order = list(work.planned)
    named = {pair.name: order.index(pair.tensor) for pair in work.pairs.values()}
    rearranged = {op.output for op in graph.ops if op.kind in REARRANGES}
    names = list(work.found)
    at = -1
    for index, name in enumerate(names):
        if name in named:
            at = max(at, named[name])
            continue
        behind = min((named[later] for later in names[index + 1 :] if named.get(later, -1) > at), default=len(order))
        if at < 0:
            continue
        tensor = next((t for t in order[at + 1 : behind] if t not in rearranged and work.fits(t, name)), None)
        if tensor is not None:
            work.take(tensor, name, "place")
            at = order.index(tensor)
