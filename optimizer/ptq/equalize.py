"""Repairs the float network before rounding: scales channels so that int8 fits them, and keeps the function.

Cross-layer equalization (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction")
and SmoothQuant (Xiao et al. 2023) are the same move: x[c] / s[c] between what makes a channel and what reads it. They
differ in who makes it, convolutions or normalizations, and in how s is chosen. Here both ways, the second in
several strengths, are candidates for every group of channels that is tied together; the one that leaves the least
estimated rounding noise is taken, and none where none helps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.progress import Progress, Silent
from optimizer.ptq.channel_stats import ChannelStats, View, observe
from optimizer.ptq.scale_choice import Choice
from optimizer.ptq.scale_groups import ScaleGroups
from optimizer.ptq.scale_noise import Floats, Measured, observed
from optimizer.ptq.scale_trace import tensor_names, trace
from targets.plan_graph import PlanGraph

HEADROOM = 0.8
"""Share of a ReLU6's ceiling that a channel may reach, before and after scaling: unseen data needs room."""

_SWEEPS = 4
_SETTLED = 0.02
"""A sweep that lowers the estimate by less than this share is the last."""
_SAME = 1e-4
"""How far, relative to the largest output, float32 reordering may move an output."""


def equalize(
    graph: PlanGraph,
    x: NDArray[Any] | Sequence[NDArray[Any]],
    *,
    smooth: bool,
    cross_layer: bool = True,
    relu6: bool = True,
    per_channel: bool = True,
    progress: Progress | None = None,
) -> tuple[PlanGraph, tuple[str, ...]]:
    """Scales the channels of a float network for int8.

    Zeros in kernels stay zeros. Kernels that hold few distinct values, as clustering leaves them, are not touched.

    Args:
        graph: batch normalization folded.
        x: calibration samples [N, ...], or one array per input; read once, memory does not grow with N.
        smooth: scale what normalizations and constant factors give out (SmoothQuant's migration).
        cross_layer: scale what lies between convolutions and matrix products.
        relu6: scale through ReLU6 those channels that no sample brings near 6; exact as long as none gets there.
        per_channel: kernels will have an int8 scale for each output channel, or one.
        progress: told how far it is.

    Returns:
        The network with other constants, and a sentence for each kind of thing that was done.
    """
    progress = progress or Silent()
    first = [array[:1] for array in ([x] if isinstance(x, np.ndarray) else x)]
    shapes = {name: value.shape for name, value in next(graph.run(first, tensor_names(graph), batch=1)).items()}
    groups = trace(graph, shapes, relu6=relu6)
    if not _wanted(groups, frozenset(), smooth=smooth, cross_layer=cross_layer):
        return graph, _left_alone(groups, cross_layer=cross_layer)
    stats = observe(graph, x, observed(groups, groups.blocked), shapes, progress)
    least, cut = _ceilings(groups, stats)
    measured = Measured(
        groups=groups,
        constants=graph.constants,
        stats=stats,
        fixed=groups.blocked | cut,
        per_channel=per_channel,
    )
    choice = Choice(measured, least)
    sets = _wanted(groups, cut, smooth=smooth, cross_layer=cross_layer)
    with progress.task("channel scales", total=_SWEEPS) as task:
        for _ in range(_SWEEPS):
            _, before = choice.noise()
            for ids, _ in sets:
                choice.improve(ids)
            task.advance()
            if choice.noise()[1] > (1 - _SETTLED) * before:
                break
    scaled = _scaled(graph, groups, choice.scales)
    if (moved := _moved(graph, scaled, x)) > _SAME:
        return graph, (f"Equalization was taken back: it moved the float outputs by {moved:.1e} of the largest.",)
    notes = [*_told(choice, sets), *_cut_off(groups, cut), *_left_alone(groups, cross_layer=cross_layer)]
    return scaled, tuple(notes)


def _wanted(
    groups: ScaleGroups, cut: frozenset[int], *, smooth: bool, cross_layer: bool
) -> list[tuple[NDArray[np.int64], bool]]:
    return [found for found in groups.chosen_together(cut) if (smooth if found[1] else cross_layer)]


def _ceilings(groups: ScaleGroups, stats: dict[View, ChannelStats]) -> tuple[Floats, frozenset[int]]:
    """What ReLU6 allows.

    A channel that comes near 6 is cut off there, and would be elsewhere after scaling: it stays. The others may grow
    until they come near it.

    Returns:
        Smallest scale of each id, float64 [groups.size]; ids that stay.
    """
    least, cut = np.zeros(groups.size), set[int]()
    for name, ceiling in groups.ceilings.items():
        channels = groups.tensors[name]
        if (found := stats.get((name, channels.axes))) is None:
            continue
        ids = np.broadcast_to(channels.ids.reshape(-1), found.high.shape)
        needed = found.high / (HEADROOM * ceiling)
        cut.update(ids[needed > 1].tolist())
        np.maximum.at(least, ids, needed)
    return least, frozenset(cut)


def _scaled(graph: PlanGraph, groups: ScaleGroups, scales: Floats) -> PlanGraph:
    changes = {}
    for constant in groups.constants:
        factor = np.asarray(scales[constant.times] / scales[constant.over])
        if (factor != 1).any():
            changes[constant.name] = (graph.constants[constant.name] * factor).astype(np.float32)
    return graph.with_constants(changes) if changes else graph


def _moved(before: PlanGraph, after: PlanGraph, x: NDArray[Any] | Sequence[NDArray[Any]]) -> float:
    """Largest difference of the outputs for the first samples, relative to the largest output."""
    if after is before:
        return 0.0
    few = [array[:32] for array in ([x] if isinstance(x, np.ndarray) else x)]
    moved = 0.0
    for given, found in zip(before.run(few), after.run(few), strict=True):
        for name, values in given.items():
            if values.dtype.kind == "f":
                top = float(np.abs(values).max()) or 1.0
                moved = max(moved, float(np.abs(found[name] - values).max()) / top)
    return moved


def _told(choice: Choice, sets: Sequence[tuple[NDArray[np.int64], bool]]) -> Iterator[str]:
    for normalized, what in (
        (False, "Cross-layer equalization scaled {channels} channels in {groups}"),
        (True, "SmoothQuant's migration scaled {channels} channels behind normalizations, in {groups}"),
    ):
        changed = [ids for ids, made in sets if made is normalized and (choice.scales[ids] != 1).any()]
        if changed:
            together = np.unique(np.concatenate(changed))
            before, after = choice.noise(together)
            text = what.format(
                channels=int((choice.scales[together] != 1).sum()),
                groups="1 group" if len(changed) == 1 else f"{len(changed)} groups",
            )
            yield f"{text}: the estimated int8 noise there falls by {_db(before, after):.1f} dB."


def _db(before: float, after: float) -> float:
    return 10 * math.log10(before / after) if after > 0 else math.inf


def _cut_off(groups: ScaleGroups, cut: frozenset[int]) -> Iterator[str]:
    stay = cut - groups.blocked
    if stay:
        yield (
            f"{len(stay)} channels come within {100 * (1 - HEADROOM):.0f} % of the ceiling of their ReLU6, or are cut "
            "off by it: they keep their scale."
        )


def _left_alone(groups: ScaleGroups, *, cross_layer: bool) -> tuple[str, ...]:
    if not (cross_layer and groups.clustered):
        return ()
    return (f"Equalization left {', '.join(groups.clustered)} alone: shared weights would not stay shared.",)
