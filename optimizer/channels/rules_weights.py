"""Layers with weights: they make channels, read them, or treat each by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optimizer.channels.atoms import Ids
from optimizer.channels.lanes import Lanes
from optimizer.channels.trace import Call, Role, Rule, Trace

_EACH_BY_ITSELF = frozenset(
    {"linear", "relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "swish", "sigmoid", "hard_sigmoid"}
    | {"hard_silu", "hard_swish", "tanh", "softplus", "softsign", "exponential", "mish", "celu", "hard_tanh"}
    | {"log_sigmoid", "squareplus", "hard_shrink", "soft_shrink", "tanh_shrink", "threshold", "sparse_plus"}
)
_CHANNELS_FIRST = "keeps its channels first"


def _made(call: Call, trace: Trace, ids: Ids) -> tuple[Lanes, ...]:
    """The output's lanes, after bias and activation."""
    if getattr(call.layer, "use_bias", False):
        trace.touch(call, "bias", 0, ids)
    activation(call, trace, ids)
    return (Lanes.of_channels(ids, call.shapes[0]),)


def activation(call: Call, trace: Trace, ids: Ids) -> None:
    """Freezes what goes through an activation that looks at several channels at once."""
    function = getattr(call.layer, "activation", None)
    name = getattr(function, "__name__", type(function).__name__)
    known = (getattr(function, "__module__", "") or "").startswith("keras.") and name in _EACH_BY_ITSELF
    if function is not None and not known:
        trace.atoms.freeze(ids, f"{call.path} ({call.kind}) has the activation {name}, which mixes channels")


def _convolution(call: Call, trace: Trace) -> Sequence[Lanes]:
    layer = call.layer
    if layer.data_format == "channels_first":
        return trace.kept(call, _CHANNELS_FIRST)
    rank = layer.rank
    x, out, groups = trace.channels(call.inputs[0]), trace.atoms.new(layer.filters), layer.groups
    if groups == 1:
        trace.touch(call, "kernel", rank, x, Role.READS)
    elif groups == len(x):
        # Depthwise by another name: a channel goes with all that is made of it, and with its group.
        trace.atoms.unite(out, np.repeat(x, layer.filters // groups))
        trace.setting(call, "groups", x)
    else:
        # Every group loses the same places, so that all stay as wide as each other.
        mine, theirs = x.reshape(groups, -1), out.reshape(groups, -1)
        trace.atoms.unite(mine, mine[:1])
        trace.atoms.unite(theirs, theirs[:1])
        trace.touch(call, "kernel", rank, mine[0], Role.READS)
    trace.touch(call, "kernel", rank + 1, out, Role.MAKES)
    trace.setting(call, "filters", out)
    return _made(call, trace, out)


def _transposed(call: Call, trace: Trace) -> Sequence[Lanes]:
    layer = call.layer
    if layer.data_format == "channels_first":
        return trace.kept(call, _CHANNELS_FIRST)
    x, out = trace.channels(call.inputs[0]), trace.atoms.new(layer.filters)
    trace.touch(call, "kernel", layer.rank + 1, x, Role.READS)
    trace.touch(call, "kernel", layer.rank, out, Role.MAKES)
    trace.setting(call, "filters", out)
    return _made(call, trace, out)


def _depthwise(call: Call, trace: Trace) -> Sequence[Lanes]:
    layer = call.layer
    if layer.data_format == "channels_first":
        return trace.kept(call, _CHANNELS_FIRST)
    x = trace.channels(call.inputs[0])
    trace.touch(call, "kernel", layer.rank, x)
    return _made(call, trace, np.repeat(x, layer.depth_multiplier))


def _separable(call: Call, trace: Trace) -> Sequence[Lanes]:
    layer = call.layer
    if layer.data_format == "channels_first":
        return trace.kept(call, _CHANNELS_FIRST)
    x, out = trace.channels(call.inputs[0]), trace.atoms.new(layer.filters)
    trace.touch(call, "depthwise_kernel", layer.rank, x)
    trace.touch(call, "pointwise_kernel", layer.rank, np.repeat(x, layer.depth_multiplier), Role.READS)
    trace.touch(call, "pointwise_kernel", layer.rank + 1, out, Role.MAKES)
    trace.setting(call, "filters", out)
    return _made(call, trace, out)


def _dense(call: Call, trace: Trace) -> Sequence[Lanes]:
    out = trace.atoms.new(call.layer.units)
    trace.touch(call, "kernel", 0, trace.channels(call.inputs[0]), Role.READS)
    trace.touch(call, "kernel", 1, out, Role.MAKES)
    trace.setting(call, "units", out)
    return _made(call, trace, out)


def _embedding(call: Call, trace: Trace) -> Sequence[Lanes]:
    trace.atoms.freeze(call.inputs[0].ids, f"{call.path} (Embedding) looks its input up")
    out = trace.atoms.new(call.layer.output_dim)
    trace.touch(call, "embeddings", 1, out, Role.MAKES)
    trace.setting(call, "output_dim", out)
    return (Lanes.of_channels(out, call.shapes[0]),)


def _batch_normalization(call: Call, trace: Trace) -> Sequence[Lanes] | None:
    layer = call.layer
    axis = layer.axis % (len(call.shapes[0]) + 1) - 1  # theirs counts the batch
    x = trace.channels(call.inputs[0], axis)
    names = ["moving_mean", "moving_variance", *(["gamma"] if layer.scale else []), *(["beta"] if layer.center else [])]
    for name in names:
        trace.touch(call, name, 0, x)
    return call.inputs[:1]


def _prelu(call: Call, trace: Trace) -> Sequence[Lanes] | None:
    slopes = call.layer.alpha.shape
    if any(size != 1 for size in slopes[:-1]):
        return None
    if slopes[-1] != 1:
        trace.touch(call, "alpha", len(slopes) - 1, trace.channels(call.inputs[0]))
    return call.inputs[:1]


def _attention(call: Call, trace: Trace) -> Sequence[Lanes] | None:
    """Whole heads can go. The width of a head stays: the scores are scaled by it."""
    config = call.layer.get_config()
    query, value = call.inputs[0], call.inputs[1] if len(call.inputs) > 1 else call.inputs[0]
    key = call.inputs[2] if len(call.inputs) > 2 else value
    plain = len(call.shapes) == 1 and len(call.inputs) <= 3 and all(len(lanes.shape) == 2 for lanes in call.inputs)
    if not plain or set(call.arguments[1]) & {"attention_mask", "query_mask", "value_mask", "key_mask"}:
        return None  # scores as a second output, masks, or attention over more than one axis
    heads = trace.atoms.new(config["num_heads"])
    out = trace.atoms.new(int(call.shapes[0][-1] or 0))
    for name, lanes in (("_query_dense", query), ("_key_dense", key), ("_value_dense", value)):
        trace.touch(call, f"{name}.kernel", 0, trace.channels(lanes), Role.READS)
        trace.touch(call, f"{name}.kernel", 1, heads, Role.MAKES)
        if config["use_bias"]:
            trace.touch(call, f"{name}.bias", 0, heads)
    trace.touch(call, "_output_dense.kernel", 0, heads, Role.READS)
    trace.touch(call, "_output_dense.kernel", 2, out, Role.MAKES)
    if config["use_bias"]:
        trace.touch(call, "_output_dense.bias", 0, out)
    trace.setting(call, "num_heads", heads)
    if config["output_shape"] is None:
        # The output is as wide as the query.
        trace.atoms.unite(out, trace.channels(query))
    else:
        trace.atoms.freeze(out, f"{call.path} (MultiHeadAttention) has an output shape of its own")
    return (Lanes.of_channels(out, call.shapes[0]),)


def _recurrent(call: Call, trace: Trace) -> Sequence[Lanes] | None:
    """What it reads may shrink; its own state stays as wide as it is."""
    if type(call.layer).__name__ not in ("LSTM", "GRU", "SimpleRNN") or len(call.inputs) != 1:
        return None
    trace.touch(call, "cell.kernel", 0, trace.channels(call.inputs[0]), Role.READS)
    return trace.fixed(call.shapes, f"{call.path} ({call.kind}) keeps the width of its state")


RULES: dict[str, Rule] = {
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D"), _convolution),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), _transposed),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), _depthwise),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _separable),
    **dict.fromkeys(("LSTM", "GRU", "SimpleRNN"), _recurrent),
    "Dense": _dense,
    "Embedding": _embedding,
    "BatchNormalization": _batch_normalization,
    "PReLU": _prelu,
    "MultiHeadAttention": _attention,
}
