"""The model that a health check times on a board, for each runtime, with its inputs; `make_models` wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HERE = Path(__file__).parent
SIDE = 48
_SAMPLES = 4


def samples() -> NDArray[np.float32]:
    """The inputs, [4, 48, 48, 1]: whole numbers 0..16 in a pattern, the same on every machine."""
    import numpy as np

    n, row, column = np.ogrid[:_SAMPLES, :SIDE, :SIDE]
    pattern: NDArray[np.float32] = ((7 * row + 3 * column + 5 * n) % 17).astype(np.float32)
    return pattern[..., None]
