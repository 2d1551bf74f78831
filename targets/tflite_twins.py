"""Which op of the plan graph each op of a float `.tflite` file computes, and how its kernel lies in the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from targets.plan_graph import PlanGraph, PlanOp
from targets.tflite_kernels import BIAS, WEIGHT, WEIGHTED
from targets.tflite_layout import Layout, find_layout, same
from targets.tflite_match import Match
from targets.tflite_model import TfliteModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """What an op of the file does in the plan graph.

    Attributes:
        op: the plan op that names it: the one with its kernel, else the one whose output it, or what follows it, makes.
            None where what it makes is no tensor of the plan.
        inside: the plan ops that it and its unmatched neighbours compute.
        layout: of its kernel, where it has one and that is the plan op's; else None.
    """

    op: PlanOp | None
    inside: tuple[PlanOp, ...]
    layout: Layout | None


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
            found.append(Role(op=None, inside=(), layout=None))
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
        for planned in inside:
            if planned.weight is None or planned.weight_axis is None or not _same_bias(model, op, graph, planned):
                continue
            layout = find_layout(kind, planned.weight_axis, graph.constants[planned.weight], stored)
            if layout is not None:
                return Role(op=planned, inside=inside, layout=layout)
    return Role(op=graph.producer(output), inside=inside, layout=None)


def _same_bias(model: TfliteModel, op: Any, graph: PlanGraph, planned: PlanOp) -> bool:
    position = BIAS[model.kind(op)]
    tensor = int(op.inputs[position]) if position < len(op.inputs) else -1
    wanted = None if planned.bias is None else graph.constants[planned.bias].ravel()
    held = model.constant(tensor)
    if held is None or wanted is None:
        # The converter leaves a bias of zeros out, and the plan graph may have none where the file has zeros.
        return not any(np.any(values) for values in (held, wanted) if values is not None)
    return same(wanted, held.ravel()) or same(held.ravel(), wanted)
