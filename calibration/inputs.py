"""Samples of a model with several inputs, as one array: a field for each input, so that a sample stays one element.

Everything that counts, picks, hashes, stores or sends samples works on one array `[N, ...]` and need not know. What
feeds a runtime takes them apart again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def join(arrays: Sequence[NDArray[Any]], names: Sequence[str]) -> NDArray[Any]:
    """One array of samples from one array per input.

    Args:
        arrays: [N, ...] each, in the model's order.
        names: of the inputs.

    Returns:
        The array itself where there is only one; else [N] with a field for each input, packed, in their order.
    """
    if len(arrays) == 1:
        return arrays[0]
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1:
        raise ValueError(f"The inputs have {', '.join(str(len(array)) for array in arrays)} samples.")
    kinds = [(name, array.dtype, array.shape[1:]) for name, array in zip(names, arrays, strict=True)]
    joined = np.empty(lengths.pop(), np.dtype(kinds))
    for name, array in zip(names, arrays, strict=True):
        joined[name] = array
    return joined


def split(x: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """One array [N, ...] per input, contiguous; of a plain array itself alone.

    A sample taken out of the set, `x[i]`, is split in the same way, without the N.
    """
    if x.dtype.names is None:
        return (x,)
    return tuple(np.require(x[name], requirements=["C", "A"]) for name in x.dtype.names)


def renamed(x: NDArray[Any], names: Sequence[str]) -> NDArray[Any]:
    """The same samples with other names for the fields; a plain array has none and stays as it is."""
    if x.dtype.names is None:
        return x
    kinds = [(new, *_form(x.dtype, old)) for new, old in zip(names, x.dtype.names, strict=True)]
    return x.view(np.dtype(kinds))


def _form(dtype: np.dtype[Any], name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    field = dtype[name]
    return field.base, field.shape
