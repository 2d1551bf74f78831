"""Negation pairs on activations: half of the filters are computed, and the other half are their negatives.

Shang et al., "Understanding and Improving Convolutional Neural Networks via Concatenated Rectified Linear Units",
arXiv:1603.05201: trained filters come in pairs of opposite phase, so a layer can compute one of each pair and put x and
-x together before the activation. Here the pairs are found in a trained layer, and biases stay each filter's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.frameworks import import_keras
from optimizer import rewrite
from optimizer.base import KerasModel
from optimizer.filters.bank import TransferredBank
from optimizer.filters.transforms import NEGATION


def in_order(bank: TransferredBank) -> list[int]:
    """Filters as the layers of `replacement` give them: first of each pair, second of each pair, those without one."""
    firsts, seconds, singles = _roles(bank)
    return [*firsts, *seconds, *singles]


def replacement(model: KerasModel, layer: Any, bank: TransferredBank) -> rewrite.Replacement:
    """What computes the same as a layer whose filters are this bank, its channels in the order of `in_order`.

    The layer of the old name makes the first of each pair, with their biases. `<name>_negated` gives the second ones:
    times -1, plus the sum of both biases. `<name>_singles` makes those without a partner, `<name>_joined` puts all
    together, and `<name>_activation` is what the layer had.

    Args:
        model: that it will stand in; for names that are still free.
        layer: Conv1D, Conv2D or Dense; its weights in their old order.
        bank: negation pairs, at least one.
    """
    layers = import_keras().layers
    firsts, seconds, singles = _roles(bank)
    kernel = bank.expand()
    bias = np.asarray(layer.bias.numpy()) if layer.use_bias else None
    axis = 1 if getattr(layer, "data_format", "channels_last") == "channels_first" else -1
    made = _narrower(layer, str(layer.name), len(firsts))
    offset: Any = 0.0
    if bias is not None:
        offset = (bias[firsts] + bias[seconds]).astype(np.float64)
        offset = offset.reshape(-1, *(1,) * len(layer.kernel_size)).tolist() if axis == 1 else offset.tolist()
    negated = layers.Rescaling(-1.0, offset, name=_name(model, layer, "negated"))
    alone = _narrower(layer, _name(model, layer, "singles"), len(singles)) if singles else None
    joined = layers.Concatenate(axis=axis, name=_name(model, layer, "joined"))
    config = layer.get_config()
    after = None
    if config["activation"] != "linear":
        after = layers.Activation(layer.activation, name=_name(model, layer, "activation"))

    def call(x: Any) -> Any:
        pairs = made(x)
        parts = [pairs, negated(pairs)]
        if alone is not None:
            parts.append(alone(x))
        whole = joined(parts)
        return whole if after is None else after(whole)

    weights = [(made, _taken(kernel, bias, firsts))]
    if alone is not None:
        weights.append((alone, _taken(kernel, bias, singles)))
    return rewrite.Replacement(call, tuple(weights))


def pairs(bank: TransferredBank) -> int:
    """How many filters need not be computed."""
    return len(_roles(bank)[1])


def _roles(bank: TransferredBank) -> tuple[list[int], list[int], list[int]]:
    negative = bank.codes == NEGATION.code
    firsts, seconds = [], []
    for second in np.flatnonzero(negative).tolist():
        partners = np.flatnonzero((bank.members == bank.members[second]) & ~negative)
        firsts.append(int(partners[0]))
        seconds.append(second)
    paired = {*firsts, *seconds}
    return firsts, seconds, [one for one in range(len(bank.members)) if one not in paired]


def _narrower(layer: Any, name: str, width: int) -> Any:
    config = dict(layer.get_config())
    config |= {"name": name, "activation": None, "units" if "units" in config else "filters": width}
    # An initializer or constraint may count on the old width; the weights are given, and stay a bank no longer.
    config |= {"kernel_initializer": "glorot_uniform", "bias_initializer": "zeros"}
    return type(layer).from_config(config)


def _taken(kernel: NDArray[Any], bias: NDArray[Any] | None, filters: list[int]) -> list[NDArray[Any]]:
    return [kernel[..., filters], *([] if bias is None else [bias[filters]])]


def _name(model: KerasModel, layer: Any, what: str) -> str:
    return rewrite.free_name(model, f"{layer.name}_{what}")
