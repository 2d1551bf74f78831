"""Layers that put elements into another order: their channels are followed element by element."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optimizer.channels.lanes import Lanes
from optimizer.channels.trace import Call, Rule, Trace


def _flatten(call: Call, _trace: Trace) -> Sequence[Lanes] | None:
    whole = call.inputs[0].whole()
    if whole is None or getattr(call.layer, "data_format", "channels_last") == "channels_first":
        return None
    return (Lanes(whole.reshape(-1), call.shapes[0]),)


def _reshape(call: Call, trace: Trace) -> Sequence[Lanes] | None:
    """The last axis of the new shape may shrink: every row of it loses the same places, so that the order stays."""
    shape = call.shapes[0]
    whole = call.inputs[0].whole()
    if whole is None or None in shape:
        return None
    ids = whole.reshape([size or 0 for size in shape])
    made = Lanes(ids, shape)
    channels = trace.channels(made)
    if call.layer.target_shape[-1] != -1:
        trace.setting(call, "target_shape", channels, len(shape) - 1)
    return (Lanes.of_channels(channels, shape),)


def _permute(call: Call, _trace: Trace) -> Sequence[Lanes]:
    order = [axis - 1 for axis in call.layer.dims]
    return (Lanes(call.inputs[0].ids.transpose(order), call.shapes[0]),)


def _concatenate(call: Call, trace: Trace) -> Sequence[Lanes]:
    shape = call.shapes[0]
    trace.join(call.inputs)
    axis = call.layer.axis
    axis = axis % (len(shape) + 1) - 1  # theirs counts the batch
    parts = [lanes.along(axis) for lanes in call.inputs]
    sizes = [max(part.ids.shape[other] for part in parts) for other in range(len(shape))]
    spread = []
    for part in parts:
        target = list(sizes)
        target[axis] = part.ids.shape[axis]
        spread.append(np.broadcast_to(part.ids, target))
    return (Lanes(np.concatenate(spread, axis=axis), shape),)


def _repeat(call: Call, trace: Trace) -> Sequence[Lanes]:
    return (Lanes.of_channels(trace.channels(call.inputs[0]), call.shapes[0]),)


RULES: dict[str, Rule] = {
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Permute": _permute,
    "Concatenate": _concatenate,
    "RepeatVector": _repeat,
}
