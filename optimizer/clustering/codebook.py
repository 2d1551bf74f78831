"""The numbers that shared values are kept in: fewer bytes for each entry of a codebook."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Codebook = Literal["float32", "float16", "int8"]

_HALF = np.finfo(np.float16)
_MOST_INT8 = 127


def rounded(values: NDArray[np.float32], kind: Codebook) -> NDArray[np.float32]:
    """The values as the codebook can hold them, as float32.

    Args:
        values: of one codebook.
        kind: float32 keeps them; float16 rounds each; int8 rounds to multiples of a float32 scale, the largest
            magnitude being 127 of them.
    """
    if kind == "float32" or not values.size:
        return values
    if kind == "float16":
        kept = np.clip(values, _HALF.min, _HALF.max).astype(np.float16)
        return kept.astype(np.float32) + np.float32(0)  # -0.0 becomes 0.0
    scale = int8_scale(values)
    return (np.rint(values / scale) * scale).astype(np.float32) + np.float32(0) if scale else values


def int8_scale(values: NDArray[np.float32]) -> np.float32:
    """The scale of an int8 codebook for these values; 0 where all are zero, or too small to have one."""
    scale = np.float32(np.abs(values).max() / np.float32(_MOST_INT8))
    return scale if scale >= np.finfo(np.float32).tiny else np.float32(0)
