"""The range of every activation: one pass over all samples, then a choice by what it does to the ops that read it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.affine import choose_params, fake_quantize
from calibration.observers import RangeObserver
from edgesmith.progress import Task
from edgesmith.types import QuantParams
from optimizer.ptq.rules import MOVES, Group, Rules
from optimizer.ptq.settings import ObserverChoice
from optimizer.ptq.stepwise import Array, Step, Stepwise, activate
from targets.plan_graph import PlanGraph

LADDER = ("minmax", "percentile-99.999", "percentile-99.99", "percentile-99.9", "mse")
"""What "auto" chooses from; the first is taken unless another is better by more than `_WORTH`."""

_WORTH = 0.99
_BYTES_AT_ONCE = 200_000_000
_COPIES = frozenset(
    {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Gather", "Concat", "MaxPool"}
    | {"AveragePool"}
)
"""Moves whose output lies within the range of their inputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """What was decided for one group of tensors.

    Attributes:
        params: the grid.
        low: lower end of the range.
        high: upper end.
        observer: what decided it.
    """

    params: QuantParams
    low: float
    high: float
    observer: str


def observe(
    graph: PlanGraph,
    x: NDArray[Any] | Sequence[NDArray[Any]],
    rules: Rules,
    task: Task | None = None,
    *,
    ends_only: Collection[str] = (),
) -> dict[str, RangeObserver]:
    """Sees every value of every quantized tensor once, in bounded memory.

    Args:
        graph: the float network.
        x: [N, ...], or one such array per input.
        rules: which tensors are quantized, and which of them share a scale: those have one observer.
        task: advanced by one for each sample.
        ends_only: first tensors of groups that only the smallest and the largest value are wanted of.

    Returns:
        Observers by the first tensor of each group, none for the fixed ones.
    """
    firsts = [group.tensors[0] for group in rules.groups if group.fixed is None]
    observers = {first: RangeObserver(first, counted=first not in ends_only) for first in firsts}
    seen = {name: observers[group.tensors[0]] for group in rules.groups for name in _sources(graph, group)}
    names = list(seen)
    arrays = [x] if isinstance(x, np.ndarray) else list(x)
    batch = _batch(graph, [array[:1] for array in arrays], names)
    for made in graph.run(x, names, batch=batch):
        for name in names:
            seen[name].update(made[name])
        if task is not None:
            task.advance(len(made[names[0]]))
    return observers


def _sources(graph: PlanGraph, group: Group) -> list[str]:
    """The tensors whose values make up a group's: those merely copied from others of it are left out."""
    if group.fixed is not None:
        return []
    members = set(group.tensors)
    found = []
    for name in group.tensors:
        op = graph.producer(name)
        copied = op is not None and op.kind in _COPIES and op.inputs and set(op.inputs) <= members
        if not copied:
            found.append(name)
    return found


def _batch(graph: PlanGraph, first: Sequence[NDArray[Any]], names: Sequence[str]) -> int:
    """As many samples at once as their observed tensors leave memory for."""
    size = sum(array.nbytes for made in graph.run(first, names) for array in made.values())
    return int(np.clip(_BYTES_AT_ONCE // max(size, 1), 1, 64))


def choose(
    observers: Mapping[str, RangeObserver],
    rules: Rules,
    observer: ObserverChoice,
    stepwise: Stepwise,
    settled: Mapping[str, str] | None = None,
) -> dict[str, Range]:
    """Decides the range of every group, by the group's first tensor.

    Args:
        observers: as `observe` gives them.
        rules: the same.
        observer: what decides; "auto": the error at the ops that read the tensor.
        stepwise: samples to measure that error with.
        settled: first tensor of a group to what "auto" chose for it before, with fewer samples; it is not asked again.
    """
    found: dict[str, Range] = {}
    tried: dict[str, list[Range]] = {}
    for group in rules.groups:
        first = group.tensors[0]
        if group.fixed is not None:
            low, high = _ends(group.fixed)
            found[first] = Range(params=group.fixed, low=low, high=high, observer="fixed")
            continue
        names = LADDER if observer == "auto" else (_method(observer),)
        if observer == "auto" and settled is not None and first in settled:
            names = (settled[first],)
        candidates: dict[QuantParams, Range] = {}
        for name in names:
            made = _range(observers[first], name, group.dtype)
            candidates.setdefault(made.params, made)
        tried[first] = list(candidates.values())
        found[first] = tried[first][0]
    open_ = {first: ranges for first, ranges in tried.items() if len(ranges) > 1}
    if open_:
        for first, noise in _noise(stepwise, rules, open_).items():
            best = int(np.argmin(noise))
            if noise[best] < _WORTH * noise[0]:
                found[first] = open_[first][best]
    return found


def grids(rules: Rules, ranges: Mapping[str, Range]) -> dict[str, QuantParams]:
    """The grid of every quantized tensor."""
    return {name: ranges[group.tensors[0]].params for group in rules.groups for name in group.tensors}


def _noise(stepwise: Stepwise, rules: Rules, tried: Mapping[str, list[Range]]) -> dict[str, NDArray[np.float64]]:
    """For each group, per candidate: noise relative to signal, summed over the outputs of the ops that read it.

    All else is float32: noise of different tensors adds up, as it hardly depends on each other.
    """
    group_of = {name: group.tensors[0] for group in rules.groups for name in group.tensors if group.tensors[0] in tried}
    noise = {first: np.zeros(len(ranges)) for first, ranges in tried.items()}
    graph = stepwise.graph
    for name in graph.inputs:
        _add_own_noise(noise, tried, group_of, graph, name, stepwise.inputs[name])
    for step, live, _ in stepwise.float_pass():
        op = step.op
        _add_own_noise(noise, tried, group_of, graph, op.output, live[op.output])
        if op.kind in MOVES:
            continue
        for name in dict.fromkeys(op.inputs):
            first = group_of.get(name)
            if first is None:
                continue
            for index, candidate in enumerate(tried[first]):
                changed = {**live, name: fake_quantize(live[name], candidate.params)}
                noise[first][index] += _relative(live[op.output], _output(stepwise, step, changed))
    return noise


def _add_own_noise(
    noise: Mapping[str, NDArray[np.float64]],
    tried: Mapping[str, list[Range]],
    group_of: Mapping[str, str],
    graph: PlanGraph,
    name: str,
    values: Array,
) -> None:
    """A tensor that the network gives out is judged by itself."""
    if name not in group_of or name not in graph.outputs:
        return
    for index, candidate in enumerate(tried[group_of[name]]):
        noise[group_of[name]][index] += _relative(values, fake_quantize(values, candidate.params))


def _output(stepwise: Stepwise, step: Step, values: Mapping[str, NDArray[Any]]) -> Array:
    return activate(step.op, stepwise.run(step, values)[step.op.output])


def _relative(real: Array, other: Array) -> float:
    """Sum of squared errors over sum of squares; 0 where there is no signal."""
    power = float(np.vdot(real, real))
    error = real - other
    return float(np.vdot(error, error)) / power if power else 0.0


def _range(observer: RangeObserver, name: str, dtype: Any) -> Range:
    symmetric = dtype == "int16"
    low, high = observer.range(name, dtype=dtype, symmetric=symmetric)
    return Range(
        params=choose_params(low, high, dtype=dtype, symmetric=symmetric),
        low=float(low),
        high=float(high),
        observer=name,
    )


def _method(observer: ObserverChoice) -> str:
    return "percentile-99.99" if observer == "percentile" else observer


def _ends(params: QuantParams) -> tuple[float, float]:
    from calibration.affine import range_of

    low, high = range_of(params)
    return float(low), float(high)
