"""The batch of a file for TensorRT: fixed, or open with the shapes that the builder has to know of."""

from __future__ import annotations

from typing import Any

from edgesmith.errors import ModelError

Profile = dict[str, list[list[int]]]
"""Input -> its smallest, likeliest and largest shape."""


def fix_batch(proto: Any, batch: int = 1) -> None:
    """Gives an open batch its size, in place; one that is fixed stays.

    Raises:
        ModelError: another dimension of an input is open; names it.
    """
    names = set()
    for value in _inputs(proto):
        dims = value.type.tensor_type.shape.dim
        _refuse_open(value, dims)
        if dims and not dims[0].HasField("dim_value"):
            names.add(dims[0].dim_param)
            dims[0].dim_value = batch
    for value in proto.graph.output:
        for place, dim in enumerate(value.type.tensor_type.shape.dim):
            open_batch = place == 0 and names and not dim.HasField("dim_value")
            if open_batch or (dim.dim_param and dim.dim_param in names):
                dim.dim_value = batch


def profile(proto: Any, largest: int) -> Profile:
    """The shapes of the inputs whose batch is open: from 1 to the largest, tuned for the largest.

    Raises:
        ModelError: another dimension of an input is open; names it.
    """
    found: Profile = {}
    for value in _inputs(proto):
        dims = value.type.tensor_type.shape.dim
        _refuse_open(value, dims)
        if dims and not dims[0].HasField("dim_value"):
            rest = [int(dim.dim_value) for dim in dims[1:]]
            found[value.name] = [[1, *rest], [largest, *rest], [largest, *rest]]
    return found


def _inputs(proto: Any) -> list[Any]:
    stored = {tensor.name for tensor in proto.graph.initializer}
    return [value for value in proto.graph.input if value.name not in stored]


def _refuse_open(value: Any, dims: Any) -> None:
    if any(not dim.HasField("dim_value") for dim in dims[1:]):
        shape = ", ".join(str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims)
        raise ModelError(
            f"tensorrt: input '{value.name}' has shape [{shape}]: the builder has to know every size but the batch.",
            next_step="Export the model with fixed sizes.",
        )
