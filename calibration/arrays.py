"""Arrays as a user has them -> arrays as a model takes them; every change is told, none is silent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgesmith.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgesmith.types import Dim, TensorSpec


def fits(shape: tuple[int, ...], wanted: tuple[Dim, ...]) -> bool:
    """Whether a shape agrees with a signature's: same rank, and equal wherever the signature has a number."""
    return len(shape) == len(wanted) and all(
        have == want for have, want in zip(shape, wanted, strict=True) if isinstance(want, int)
    )


def channel_axis(wanted: tuple[Dim, ...]) -> int | None:
    """Axis of the colour channel of an image input: 3 for [N, H, W, C], 1 for [N, C, H, W], None for other ranks.

    A rank-4 input that says neither (no axis of 1, 3 or 4) counts as channels last.
    """
    if len(wanted) != 4:
        return None
    for channels in ((1, 3), (4,)):  # 4 is more often a small height or width than a number of channels
        for axis in (3, 1):
            if wanted[axis] in channels:
                return axis
    return 3


def add_channel(x: NDArray[Any], wanted: tuple[Dim, ...]) -> NDArray[Any]:
    """[N, H, W] -> [N, H, W, 1] or [N, 1, H, W] where that is what the model takes; else as it is."""
    axis = channel_axis(wanted)
    if axis is None or wanted[axis] != 1 or x.ndim != len(wanted) - 1:
        return x
    return np.expand_dims(x, axis)


def scaled(x: NDArray[Any], scale: float, offset: float) -> NDArray[Any]:
    """Gives x * scale + offset in float32; `x` itself where that changes nothing."""
    if scale == 1.0 and offset == 0.0:
        return x
    out = x.astype(np.float32)
    out *= np.float32(scale)
    out += np.float32(offset)
    return out


def cast(x: NDArray[Any], spec: TensorSpec, where: str) -> tuple[NDArray[Any], str]:
    """Brings `x` to the dtype of `spec`.

    Whole numbers go to any float dtype and to whole numbers that hold them; float64 is rounded to a smaller float;
    floats become whole numbers only when every one of them is whole.

    Args:
        x: any shape; numbers or bool.
        spec: of the input.
        where: the source, for messages.

    Returns:
        The array, and what was done to it ("" for nothing).

    Raises:
        DataError: not numbers, or values the dtype cannot hold; names both dtypes.
    """
    want = np.dtype(spec.dtype)
    if x.dtype == want:
        return x, ""
    if x.dtype.kind not in "buif" or want.kind not in "buif":
        raise DataError(f"{where}: x is {x.dtype}, which is not numbers; the model's input '{spec.name}' is {want}.")
    told = f"{x.dtype} cast to {want}"
    if np.can_cast(x.dtype, want, "safe") or (want.kind == "f" and x.dtype.kind in "bui" and want.itemsize >= 4):
        return x.astype(want), told
    if want.kind == "f":
        with np.errstate(over="ignore"):
            out = x.astype(want)
        lost = int(np.count_nonzero(np.isinf(out) & np.isfinite(x)))
        if lost:
            raise DataError(f"{where}: {lost:,} values of x ({x.dtype}) are too large for the model's {want} input.")
        return out, f"{x.dtype} rounded to {want}"
    if x.dtype.kind == "f" and not bool(np.all(np.isfinite(x) & (x == np.rint(x)))):
        raise DataError(
            f"{where}: x is {x.dtype} with values that are not whole; the model's input '{spec.name}' is {want}.",
            next_step=f"Give the {want} values the model was built for, or set `scale` and `offset` so that x "
            "becomes whole numbers.",
        )
    limits = np.iinfo(want)
    if x.size and (x.min() < limits.min or x.max() > limits.max):
        raise DataError(
            f"{where}: x runs from {x.min()} to {x.max()}, the model's input '{spec.name}' is {want} "
            f"({limits.min}..{limits.max})."
        )
    return x.astype(want), told


def labels(y: NDArray[Any], n: int, where: str) -> NDArray[Any]:
    """Brings labels to one of two forms.

    [N, 1] becomes [N]; one-hot rows become indices; bool and whole numbers become int64, floats float32.

    Args:
        y: as the source has them.
        n: samples.
        where: the source, for messages.

    Returns:
        int64 [N, ...] or float32 [N, ...].

    Raises:
        DataError: not numbers, or not one per sample.
    """
    if y.dtype.kind not in "buif":
        raise DataError(
            f"{where}: labels y are {y.dtype}, not numbers.",
            next_step="Number the classes from 0 in the order of the model's outputs.",
        )
    if y.ndim == 0 or len(y) != n:
        count = "a single value" if y.ndim == 0 else f"{len(y):,} labels"
        raise DataError(f"{where}: {n:,} samples but {count}.", next_step="x and y must be in step: one label each.")
    if y.ndim > 1 and y.size == n:
        y = y.reshape(n)
    if y.ndim == 2 and n and bool(np.all((y == 0) | (y == 1))) and bool(np.all(y.sum(axis=1) == 1)):
        indices: NDArray[np.int64] = np.argmax(y, axis=1).astype(np.int64)
        return indices
    out: NDArray[Any] = y.astype(np.float32 if y.dtype.kind == "f" else np.int64)
    return out


def choose(y: NDArray[Any] | None, available: int, wanted: int, seed: int, where: str) -> NDArray[np.int64]:
    """Picks `wanted` samples, as evenly over the classes as they allow; the same ones for the same seed.

    Every class gives one in turn until enough are taken, so a rare class is used up before a common one dominates.

    Args:
        y: int64 [N] labels; None or floats: picked without regard to class.
        available: N.
        wanted: how many to take.
        seed: of the choice.
        where: the source, for messages.

    Returns:
        int64 [wanted], rising.

    Raises:
        DataError: more wanted than there are.
    """
    if wanted > available:
        raise DataError(
            f"{where}: `samples: {wanted}` asks for more than the {available:,} samples there are.",
            next_step=f"Set `samples` to {available} or less, or leave it out to take all.",
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(available)
    if y is None or y.ndim != 1 or y.dtype.kind not in "iu":
        return np.sort(order[:wanted]).astype(np.int64)
    _, classes = np.unique(y, return_inverse=True)
    turn_of_class = rng.permutation(int(classes.max()) + 1)
    shuffled = classes[order]
    by_class = np.argsort(shuffled, kind="stable")
    starts = np.searchsorted(shuffled[by_class], np.arange(len(turn_of_class)))
    turn = np.empty(available, dtype=np.int64)
    turn[by_class] = np.arange(available) - starts[shuffled[by_class]]
    taken = np.lexsort((turn_of_class[shuffled], turn))[:wanted]
    return np.sort(order[taken]).astype(np.int64)
