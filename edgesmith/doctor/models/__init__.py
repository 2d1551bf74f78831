"""The networks of the self-test: one small network in every format and precision; `make_models` wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HERE = Path(__file__).parent
MANIFEST = "manifest.json"
EXPECTED = "expected.json"

SIDE, CHANNELS, SAMPLES, OUTPUTS = 32, 3, 8, 10


def samples(count: int = SAMPLES) -> NDArray[np.float32]:
    """The inputs, [count, 32, 32, 3]: a pattern of up to 1.2 behind a window, the same on every machine.

    Each has a window and a contrast of its own, so that their answers are far apart; up to 64 no two are alike.
    """
    import numpy as np

    n, row, column, channel = np.ogrid[:count, :SIDE, :SIDE, :CHANNELS]
    pattern = (7 * row + 3 * column + 5 * n + 11 * channel + row * column * (n % 4)) % 33 - 16
    inside = ((row - 5 * n) % SIDE < 8 + n % 24) & ((column - 11 * n) % SIDE < 8 + (7 * n) % 24)
    # Exact in float32. Backgrounds lie on no tie of the int8 grid, which a whole picture would fall off on either side.
    values: NDArray[np.float32] = (pattern * inside * ((3 * n) % 8 + 1) / 128 + (n % 5 - 2) * 3 / 32).astype(np.float32)
    return values
