"""What a user's `package.module:function` returns or yields, as two arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
    source: str, where: str, spec: TensorSpec, root: Path, progress: Progress
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Calls the function, without arguments, and collects what it gives.

    It may return the arrays `(x, y)`, or yield `(x, y)` pairs of single samples or of batches, which are told apart
    by the shape of the model's input; y may be None throughout. Anything numpy can turn into an array will do.

    Args:
        source: `package.module:function`.
        where: the config key, for messages.
        spec: the model's input.
        root: the config's folder: the module is looked for there first.
        progress: told every item of a stream.

    Returns:
        x and y as the function gave them, stacked; nothing is cast.

    Raises:
        DataError: not found, it raised (the last line and the place), or it gave something else.
    """
    reference = f"{where}: {source}"
    function = user_code.load_function(source, root)
    with progress.task(f"Calling {source}") as task, user_code.blaming(reference, root):
        value = function()
        if isinstance(value, tuple) and len(value) == 2:
            x, y = _plain(value[0], reference), None if value[1] is None else _plain(value[1], reference)
        elif isinstance(value, Iterable) and not isinstance(value, str | bytes | dict | np.ndarray):
            x, y = _collect(value, reference, spec, task.advance)
        else:
            raise DataError(
                f"{reference} returned {type(value).__name__}.",
                next_step="Return the arrays (x, y), or yield (x, y) sample by sample or batch by batch.",
            )
    return x, y


def _collect(
    stream: Iterable[Any], reference: str, spec: TensorSpec, advance: Callable[[float, str], None]
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Stacks what a function yields: single samples or batches, told apart by their shape."""
    xs: list[NDArray[Any]] = []
    ys: list[NDArray[Any]] = []
    total = 0
    for number, item in enumerate(stream):
        if not (isinstance(item, tuple | list) and len(item) == 2):
            raise DataError(
                f"{reference}: item {number} is a {type(item).__name__}, not a pair (x, y).",
                next_step="Yield (x, y), or (x, None) where there are no labels.",
            )
        x = _plain(item[0], reference)
        single = _is_single(x.shape, spec)
        xs.append(x[None] if single else x)
        if item[1] is not None:
            y = _plain(item[1], reference)
            ys.append(y[None] if single else y)
        if len(ys) not in (0, len(xs)):
            raise DataError(f"{reference}: some of its items have labels and some have none (item {number}).")
        if xs[-1].shape[1:] != xs[0].shape[1:]:
            raise DataError(
                f"{reference}: item {number} has samples of shape {xs[-1].shape[1:]}, the first had {xs[0].shape[1:]}."
            )
        total += x.nbytes
        if total > _MAX_STREAM_BYTES:
            raise DataError(
                f"{reference} yielded more than {_MAX_STREAM_BYTES >> 30} GiB and has not ended.",
                next_step="Let it end after one pass over the data; a repeating data set needs a take().",
            )
        advance(1, f"{number + 1:,} items")
    if not xs:
        raise DataError(f"{reference} yielded nothing.")
    return np.concatenate(xs), np.concatenate(ys) if ys else None


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
