"""Two quantizations of one network on the same samples: how far apart, and whether that is more than noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Mean of a - b in percentage points, with half the width of its 95 % interval."""

    points: float
    half_width: float

    @property
    def within_noise(self) -> bool:
        """Whether b is as good as a, as far as these samples can tell."""
        return self.points <= self.half_width


def difference(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> Difference:
    """Of two rates on the same samples.

    The interval is that of McNemar's comparison: only samples where the two differ carry information. Normal
    approximation with a continuity correction of half a sample, so that few discordant samples are not taken for none.

    Args:
        a: bool [N], what succeeded.
        b: bool [N], the same samples.
    """
    count, apart = len(a), a.astype(np.int64) - b.astype(np.int64)
    mean = float(apart.mean())
    deviation = math.sqrt(max(float((apart**2).mean()) - mean**2, 0.0) / count)
    return Difference(points=100 * mean, half_width=100 * (1.96 * deviation + 0.5 / count))
