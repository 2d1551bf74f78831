"""Which op of the plan graph each op of a float `.tflite` file computes, and how its kernel lies in the file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.types import QuantParams
from targets.plan_graph import PlanGraph
from targets.plan_ops import PlanOp
from targets.tflite_kernels import BIAS, WEIGHT, WEIGHTED
from targets.tflite_layout import Layout, find_layout, same
from targets.tflite_match import Match
from targets.tflite_model import TfliteModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """How a plan op's kernel lies in an op of the file.

    The converter folds constants around an op into its kernel and bias (the 3 that a hard sigmoid adds, the 1 / 255 of
    a rescaling before it): in the file they are kernel * gain and bias * bias_gain + shift.

    Attributes:
        op: the plan op.
        layout: of the kernel.
        gain: [C], not 0; all exactly 1 where nothing is folded in.
        bias_gain: [C]; the gain, or 1 where what is folded in comes before the op.
        shift: [C].
    """

    op: PlanOp
    layout: Layout
    gain: NDArray[np.float64]
    bias_gain: NDArray[np.float64]
    shift: NDArray[np.float64]

    @property
    def scaled(self) -> bool:
        """Whether the file's kernel is another one than the plan's."""
        return not bool((self.gain == 1).all())

    def weight(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """A float kernel of the plan graph as the file holds it."""
        turned = np.moveaxis(self.layout.stored(values), self.layout.axis, -1) * self.gain
        return np.moveaxis(turned, -1, self.layout.axis).astype(np.float32)

    def bias(self, values: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """A float bias of the plan graph, [C] or none, as the file holds it."""
        plain = 0.0 if values is None else values.ravel().astype(np.float64)
        return np.asarray(plain * self.bias_gain + self.shift, np.float32)

    def integers(self, values: NDArray[np.int8], grid: QuantParams) -> tuple[NDArray[np.int8], QuantParams]:
        """An integer kernel and its grid as the file holds them: a gain changes the scales, a sign the integers."""
        axis = None if grid.axis is None else self.layout.axis
        stored = self.layout.stored(values)
        if not self.scaled:
            return stored, dataclasses.replace(grid, axis=axis)
        turned = np.moveaxis(stored, self.layout.axis, -1) * np.sign(self.gain).astype(np.int8)
        scale = np.array(grid.scale, np.float64) * np.abs(self.gain)
        folded = dataclasses.replace(
            grid,
            scale=tuple(float(value) for value in scale.astype(np.float32)),
            zero_point=(0,) * len(scale),
            axis=self.layout.axis,
        )
        return np.moveaxis(turned, -1, self.layout.axis), folded


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """What an op of the file does in the plan graph.

    Attributes:
        op: the plan op that names it: the one with its kernel, else the one whose output it, or what follows it, makes.
            None where what it makes is no tensor of the plan.
        inside: the plan ops that it and its unmatched neighbours compute.
        kernel: where its kernel is the plan op's; else None.
    """

    op: PlanOp | None
    inside: tuple[PlanOp, ...]
    kernel: Kernel | None


def roles(model: TfliteModel, graph: PlanGraph, match: Match) -> list[Role]:
    """The role of each op, in the order of the file.

    Args:
        model: the float file.
        graph: with the same numbers: before the repairs.
        match: of their tensors.
    """
    readers: dict[int, list[Any]] = {}
    makers: dict[int, Any] = {}
    for op in model.ops:
        makers.update((int(i), op) for i in op.outputs)
        for tensor in {int(i) for i in op.inputs if i >= 0}:
            readers.setdefault(tensor, []).append(op)
    found = []
    for op in model.ops:
        below = _first_matched(op, readers, match)
        if below is None:
            found.append(Role(op=None, inside=(), kernel=None))
            continue
        inside = _inside(graph, match.twin[below], _known_above(op, makers, match))
        found.append(_role(model, op, graph, inside, match.twin[below]))
    return found


def _first_matched(op: Any, readers: Mapping[int, list[Any]], match: Match) -> int | None:
    """The first tensor with a twin that an op makes, or that is made from what it makes."""
    queue, seen = [op], {id(op)}
    while queue:
        current = queue.pop(0)
        for tensor in map(int, current.outputs):
            if tensor in match.twin:
                return tensor
        for reader in (r for t in current.outputs for r in readers.get(int(t), [])):
            if id(reader) not in seen:
                seen.add(id(reader))
                queue.append(reader)
    return None


def _known_above(op: Any, makers: Mapping[int, Any], match: Match) -> set[str]:
    """Plan tensors with the values of what goes into an op and into the unmatched ops before it."""
    known: set[str] = set()
    queue, seen = [int(i) for i in op.inputs], set()
    while queue:
        tensor = queue.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        if tensor in match.same:
            known.update(match.same[tensor])
        elif tensor in makers:
            queue.extend(int(i) for i in makers[tensor].inputs)
    return known


def _inside(graph: PlanGraph, output: str, known: set[str]) -> tuple[PlanOp, ...]:
    """Plan ops from tensors that are known to the one that is made, in the order they are computed."""
    names: set[str] = set()
    queue = [output]
    while queue:
        maker = graph.producer(queue.pop())
        if maker is None or maker.name in names:
            continue
        names.add(maker.name)
        queue.extend(name for name in maker.inputs if name not in known)
    return tuple(op for op in graph.ops if op.name in names)


def _role(model: TfliteModel, op: Any, graph: PlanGraph, inside: tuple[PlanOp, ...], output: str) -> Role:
    kind = model.kind(op)
    if kind in WEIGHTED and (stored := model.constant(int(op.inputs[WEIGHT]))) is not None:
        position = BIAS[kind]
        bias = model.constant(int(op.inputs[position])) if position < len(op.inputs) else None
        found = [k for planned in inside if (k := _kernel(kind, graph, planned, stored, bias)) is not None]
        # Unchanged ones first: a kernel with a single value per channel is any other's, but for a factor.
        if found:
            kernel = min(found, key=lambda k: (k.scaled, bool(k.shift.any())))
            return Role(op=kernel.op, inside=inside, kernel=kernel)
    return Role(op=graph.producer(output), inside=inside, kernel=None)


def _kernel(
    kind: str, graph: PlanGraph, planned: PlanOp, stored: NDArray[Any], bias: NDArray[Any] | None
) -> Kernel | None:
    if planned.weight is None or planned.weight_axis is None:
        return None
    found = find_layout(kind, planned.weight_axis, graph.constants[planned.weight], stored)
    if found is None:
        return None
    layout, gain = found
    held = np.zeros(len(gain)) if bias is None else bias.ravel().astype(np.float64)
    own = np.zeros(len(gain)) if planned.bias is None else graph.constants[planned.bias].ravel().astype(np.float64)
    for bias_gain in (gain, np.ones(len(gain))):
        if same(own * bias_gain, held):
            return Kernel(op=planned, layout=layout, gain=gain, bias_gain=bias_gain, shift=np.zeros(len(gain)))
    return Kernel(op=planned, layout=layout, gain=gain, bias_gain=gain, shift=held - own * gain)
