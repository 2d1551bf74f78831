"""Ops without weights that pass a factor on a channel through: where the channels of their output come from.

Each is positively homogeneous per channel, or only moves numbers. Op semantics: https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.ptq.scale_groups import Channels, Ids

Constants = Mapping[str, NDArray[Any]]
Rule = Callable[[Any, Channels, tuple[int, ...], Constants], Channels | None]
"""(node, its input, shape of its output, initializers) -> its output; None where it cannot be told."""

MOVES = frozenset({"Transpose", "Concat", "Slice", "Split", "Gather"})
_RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
SAME_GRID = MOVES | _RESHAPES | {"MaxPool", "AveragePool", "Resize", "Pad", "Identity", "Dropout"}
"""Their inputs and outputs share one int8 scale on every runtime."""


def placed(ids: Ids, shape: tuple[int, ...]) -> Channels | None:
    """Ids that broadcast to a shape; None where they do not."""
    try:
        np.broadcast_to(ids, shape)
    except ValueError:
        return None
    return Channels(ids=ids.reshape((1,) * (len(shape) - ids.ndim) + ids.shape), shape=shape)


def met_by(shape: tuple[int, ...], channels: Channels) -> Ids | None:
    """The id that each element of a constant meets where it is broadcast against a tensor; None where it meets several.

    Args:
        shape: of the constant.
        channels: of the tensor.

    Returns:
        Of the constant's shape.
    """
    places = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    try:
        spread = np.broadcast_to(places, channels.shape).ravel()
    except ValueError:
        return None
    ids = channels.full().ravel()
    met = np.zeros(places.size, np.int64)
    met[spread] = ids
    return met.reshape(shape) if np.array_equal(met[spread], ids) else None


def _same(_: Any, given: Channels, shape: tuple[int, ...], __: Constants) -> Channels | None:
    return placed(given.ids, shape)


def _per_channel(_: Any, given: Channels, shape: tuple[int, ...], __: Constants) -> Channels | None:
    """Mixes places, never channels: axis 1."""
    ids = given.along(1) if len(shape) > 2 and len(given.shape) == len(shape) else None
    return None if ids is None or len(ids) != shape[1] else Channels.vector(ids, 1, shape)


def _reduced(node: Any, given: Channels, shape: tuple[int, ...], constants: Constants) -> Channels | None:
    axes = attributes(node).get("axes")
    if axes is None and len(node.input) > 1 and node.input[1] in constants:
        axes = constants[node.input[1]].tolist()
    if not axes:
        return None
    places = tuple(axis % len(given.shape) for axis in axes)
    if any(given.ids.shape[axis] > 1 for axis in places):
        return None
    return placed(given.ids if attributes(node).get("keepdims", 1) else given.ids.squeeze(places), shape)


def _reshaped(_: Any, given: Channels, shape: tuple[int, ...], __: Constants) -> Channels | None:
    if np.prod(given.shape) != np.prod(shape):
        return None
    return Channels.of(given.full().reshape(shape))


def _padded(node: Any, given: Channels, shape: tuple[int, ...], constants: Constants) -> Channels | None:
    """With zeros, which stay zeros whatever the factor: they may take any id."""
    inputs = [*node.input, "", "", ""]
    pads, value = constants.get(inputs[1]), constants.get(inputs[2])
    zeros = not inputs[2] or (value is not None and not value.any())
    plain = attributes(node).get("mode", b"constant") == b"constant" and not inputs[3]
    if pads is None or not plain or not zeros or pads.min() < 0:
        return None
    rank = len(given.shape)
    amounts = [(int(pads[axis]), int(pads[axis + rank])) for axis in range(rank)]
    changing = [amount if size > 1 else (0, 0) for amount, size in zip(amounts, given.ids.shape, strict=True)]
    return placed(np.pad(given.ids, changing, mode="edge"), shape)


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("Relu", "LeakyRelu", "PRelu", "Identity", "Dropout", "Neg", "Abs"), _same),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize"), _per_channel),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"), _reduced),
    **dict.fromkeys(_RESHAPES, _reshaped),
    "Pad": _padded,
}


def moved(node: Any, given: Mapping[str, Channels], constants: Constants, opset: int) -> list[Ids] | None:
    """Runs an op of `MOVES` on ids in place of values: where an element goes, its id goes.

    Returns:
        For each output, an id for each element; None where an input is neither traced nor constant.
    """
    from onnx.reference import ReferenceEvaluator

    feed: dict[str, NDArray[Any]] = {}
    for name in filter(None, node.input):
        if name in given:
            feed[name] = given[name].full()
        elif name in constants:
            feed[name] = constants[name]
        else:
            return None
    return list(ReferenceEvaluator(node, opsets={"": opset}).run(None, feed))


def attributes(node: Any) -> dict[str, Any]:
    """By name."""
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
