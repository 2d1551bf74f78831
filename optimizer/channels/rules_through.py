"""Layers without weights that treat every channel by itself, and those that join tensors element by element."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optimizer.channels.lanes import Lanes
from optimizer.channels.rules_weights import activation
from optimizer.channels.trace import Call, Rule, Trace

_SUMS = frozenset({"Add", "Subtract", "Average", "Maximum", "Minimum"})


def _same(call: Call, _trace: Trace) -> Sequence[Lanes] | None:
    return call.inputs[:1] if call.inputs[0].shape == call.shapes[0] else None


def _activation(call: Call, trace: Trace) -> Sequence[Lanes] | None:
    activation(call, trace, call.inputs[0].ids)
    return _same(call, trace)


def _positions(call: Call, trace: Trace) -> Sequence[Lanes] | None:
    """Pooling, padding, cropping, resizing: positions change, channels do not."""
    if getattr(call.layer, "data_format", "channels_last") == "channels_first":
        return None
    return (Lanes.of_channels(trace.channels(call.inputs[0]), call.shapes[0]),)


def _joined(call: Call, trace: Trace) -> Sequence[Lanes] | None:
    """Elements that meet go together. A number that all elements meet is no channel."""
    shape, lanes = call.shapes[0], call.inputs
    if len(lanes) == 1:
        # The other side is a constant of the graph.
        others = [arg for arg in call.arguments[0][1:] if not isinstance(arg, int | float)]
        if others or call.arguments[1] or len(lanes[0].shape) != len(shape) or lanes[0].shape != shape:
            return None
        return lanes
    if any(len(one.shape) != len(shape) for one in lanes):
        return None
    wide = [one for one in lanes if one.shape[-1] == shape[-1]]
    narrow = [one for one in lanes if one.shape[-1] != shape[-1]]
    if narrow and call.kind in _SUMS:
        return trace.kept(call, "adds one and the same channel to all")
    for one in narrow:
        trace.atoms.freeze(one.ids, f"{call.path} ({call.kind}) spreads it over all channels")
    first = wide[0].along(-1)
    for other in wide[1:]:
        trace.atoms.unite(first.ids, other.along(-1).ids)
    if call.kind in _SUMS:
        trace.join(wide)
    # Along the other axes the widest of them tells how it varies.
    sizes = [max(one.ids.shape[axis] for one in wide) for axis in range(len(shape) - 1)]
    ids = np.broadcast_to(first.ids, (*sizes, first.ids.shape[-1]))
    return (Lanes(ids, tuple(shape)),)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("ReLU", "LeakyReLU", "ELU", "Dropout", "SpatialDropout1D", "SpatialDropout2D"), _same),
    **dict.fromkeys(("SpatialDropout3D", "GaussianDropout", "GaussianNoise", "AlphaDropout"), _same),
    **dict.fromkeys(("ActivityRegularization", "Identity", "Relu", "Relu6", "Gelu", "Silu", "Sigmoid", "Tanh"), _same),
    **dict.fromkeys(("HardSigmoid", "HardSilu", "LeakyRelu", "Elu", "Selu", "Softplus", "Absolute", "Negative"), _same),
    "Activation": _activation,
    **{
        f"{kind}Pooling{rank}D": _positions
        for kind in ("Max", "Average", "GlobalMax", "GlobalAverage")
        for rank in (1, 2, 3)
    },
    **{f"{kind}{rank}D": _positions for kind in ("ZeroPadding", "Cropping", "UpSampling") for rank in (1, 2, 3)},
    "Resizing": _positions,
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"), _joined),
}
