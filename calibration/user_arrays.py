"""What a user's `package.module:function` returns or yields, as arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration import arrays, user_code
from edgesmith.errors import DataError
from edgesmith.progress import Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgesmith.types import TensorSpec

_MAX_STREAM_BYTES = 16 << 30
"""A function that yields more than this is taken for one that never ends."""


def read(
    source: str, where: str, specs: Sequence[TensorSpec], root: Path, progress: Progress
) -> tuple[tuple[NDArray[Any], ...], NDArray[Any] | None]:
    """Calls the function, without arguments, and collects what it gives.

    It may return the arrays `(x, y)`, or yield `(x, y)` pairs of single samples or of batches, which are told apart
    by the shape of the model's input; y may be None throughout. Anything numpy can turn into an array will do. For a
    model with several inputs x is a dict of arrays by input name, or a tuple or list of them in the model's order.

    Args:
        source: `package.module:function`.
        where: the config key, for messages.
        specs: the model's inputs.
        root: the config's folder: the module is looked for there first.
        progress: told every item of a stream.

    Returns:
        One array per input, and y, as the function gave them, stacked; nothing is cast.

    Raises:
        DataError: not found, it raised (the last line and the place), or it gave something else.
    """
    reference = f"{where}: {source}"
    function = user_code.load_function(source, root)
    with progress.task(f"Calling {source}") as task, user_code.blaming(reference, root):
        value = function()
        if isinstance(value, tuple) and len(value) == 2:
            x, y = _of_inputs(value[0], reference, specs), None if value[1] is None else _plain(value[1], reference)
        elif isinstance(value, Iterable) and not isinstance(value, str | bytes | dict | np.ndarray):
            x, y = _collect(value, reference, specs, task.advance)
        else:
            raise DataError(
                f"{reference} returned {type(value).__name__}.",
                next_step="Return the arrays (x, y), or yield (x, y) sample by sample or batch by batch.",
            )
    return x, y


def _collect(
    stream: Iterable[Any], reference: str, specs: Sequence[TensorSpec], advance: Callable[[float, str], None]
) -> tuple[tuple[NDArray[Any], ...], NDArray[Any] | None]:
    """Stacks what a function yields: single samples or batches, told apart by their shape."""
    xs: list[tuple[NDArray[Any], ...]] = []
    ys: list[NDArray[Any]] = []
    total = 0
    for number, item in enumerate(stream):
        if not (isinstance(item, tuple | list) and len(item) == 2):
            raise DataError(
                f"{reference}: item {number} is a {type(item).__name__}, not a pair (x, y).",
                next_step="Yield (x, y), or (x, None) where there are no labels.",
            )
        x = _of_inputs(item[0], reference, specs)
        single = _is_single(x[0].shape, specs[0])
        if any(_is_single(array.shape, spec) is not single for array, spec in zip(x, specs, strict=True)):
            shapes = ", ".join(f"{spec.name} {list(array.shape)}" for array, spec in zip(x, specs, strict=True))
            raise DataError(
                f"{reference}: item {number} is a single sample for one input and a batch for another: {shapes}; "
                f"the model takes {', '.join(map(str, specs))}."
            )
        xs.append(tuple(array[None] for array in x) if single else x)
        if item[1] is not None:
            y = _plain(item[1], reference)
            ys.append(y[None] if single else y)
        if len(ys) not in (0, len(xs)):
            raise DataError(f"{reference}: some of its items have labels and some have none (item {number}).")
        for have, first in zip(xs[-1], xs[0], strict=True):
            if have.shape[1:] != first.shape[1:]:
                raise DataError(
                    f"{reference}: item {number} has samples of shape {have.shape[1:]}, the first had "
                    f"{first.shape[1:]}."
                )
        total += sum(array.nbytes for array in x)
        if total > _MAX_STREAM_BYTES:
            raise DataError(
                f"{reference} yielded more than {_MAX_STREAM_BYTES >> 30} GiB and has not ended.",
                next_step="Let it end after one pass over the data; a repeating data set needs a take().",
            )
        advance(1, f"{number + 1:,} items")
    if not xs:
        raise DataError(f"{reference} yielded nothing.")
    return tuple(np.concatenate(column) for column in zip(*xs, strict=True)), np.concatenate(ys) if ys else None


def _of_inputs(value: Any, reference: str, specs: Sequence[TensorSpec]) -> tuple[NDArray[Any], ...]:
    """The x of a function, one array per input."""
    if len(specs) == 1:
        return (_plain(value, reference),)
    names = [spec.name for spec in specs]
    if isinstance(value, dict):
        if set(value) != set(names):
            raise DataError(
                f"{reference}: x is a dict of {', '.join(map(repr, value))}; the model's inputs are "
                f"{', '.join(map(repr, names))}."
            )
        return tuple(_plain(value[name], reference) for name in names)
    if isinstance(value, tuple | list) and len(value) == len(names):
        return tuple(_plain(part, reference) for part in value)
    raise DataError(
        f"{reference}: x is a {type(value).__name__}; the model takes {len(specs)} inputs: "
        f"{', '.join(map(str, specs))}.",
        next_step="Give x as a dict of arrays by input name, or as a tuple in this order.",
    )


def _is_single(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    """One sample rather than a batch; where the shape fits neither, the rank decides."""
    wanted = spec.shape[1:]
    axis = arrays.channel_axis(spec.shape)
    bare = wanted if axis is None or spec.shape[axis] != 1 else tuple(d for i, d in enumerate(wanted, 1) if i != axis)
    if arrays.fits(shape, wanted):
        return True
    if shape and (arrays.fits(shape[1:], wanted) or arrays.fits(shape[1:], bare)):
        return False
    return arrays.fits(shape, bare) or len(shape) < len(spec.shape)


def _plain(value: Any, reference: str) -> NDArray[Any]:
    if isinstance(value, dict):
        raise DataError(f"{reference}: x and y must be arrays, one of them is a dict.")
    array = np.asarray(value)
    if array.dtype == object:
        raise DataError(
            f"{reference}: one of its arrays holds Python objects.",
            next_step="All samples need the same shape, and numbers only.",
        )
    return array
