"""The binomial law, which every interval here rests on: accuracy, percentiles, "better than chance"."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Z95 = 1.959963984540054
"""Two-sided 95 % point of the standard normal law."""


def cdf(n: int, p: float) -> NDArray[np.float64]:
    """P(X <= k) for k = 0..n, X ~ Binomial(n, p).

    Args:
        n: trials, at least 0.
        p: chance of success, 0 < p < 1.

    Returns:
        float64 [n + 1], non-decreasing, the last exactly 1.

    Raises:
        ValueError: n or p out of range.
    """
    if n < 0 or not 0.0 < p < 1.0:
        raise ValueError(f"Binomial({n}, {p}) is not defined here: n >= 0 and 0 < p < 1")
    k = np.arange(n + 1, dtype=np.float64)
    log_factorial = np.concatenate(([0.0], np.cumsum(np.log(k[1:]))))
    log_choose = log_factorial[n] - log_factorial - log_factorial[::-1]
    chance = np.exp(log_choose + k * math.log(p) + (n - k) * math.log1p(-p))
    below: NDArray[np.float64] = np.minimum(np.cumsum(chance), 1.0)
    below[-1] = 1.0
    return below


def tail(k: int, n: int, p: float) -> float:
    """P(X >= k) for X ~ Binomial(n, p): how likely chance alone does at least this well."""
    return 1.0 if k <= 0 else max(0.0, 1.0 - float(cdf(n, p)[min(k, n + 1) - 1]))


def wilson(successes: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927); stays within 0..1 and is sound near both ends.

    Args:
        successes: 0..n.
        n: trials, at least 1.
        z: normal point; the default gives 95 %.

    Returns:
        (low, high).

    Raises:
        ValueError: n < 1 or successes out of 0..n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is no proportion")
    share, z2 = successes / n, z * z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # The ends are exact in theory; rounding must not push them past the proportion itself.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def paired_difference(only_first: int, only_second: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Interval of P(first right) - P(second right), both asked the same n questions.

    Bonett and Price 2012 (adjusted Wald): one is added to each discordant count. Pairing matters: two models
    that agree on nearly all samples have a far narrower difference than their two separate intervals suggest.

    Args:
        only_first: questions only the first got right.
        only_second: questions only the second got right.
        n: questions, at least 1.
        z: normal point; the default gives 95 %.

    Returns:
        (low, high), within -1..1.

    Raises:
        ValueError: counts that do not fit into n.
    """
    if n < 1 or min(only_first, only_second) < 0 or only_first + only_second > n:
        raise ValueError(f"{only_first} + {only_second} discordant answers do not fit into {n}")
    first, second = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    centre = first - second
    half = z * math.sqrt((first + second - centre * centre) / (n + 2))
    point = (only_first - only_second) / n
    return max(-1.0, min(point, centre - half)), min(1.0, max(point, centre + half))


def order_statistic_ranks(n: int, quantile: float, confidence: float = 0.95) -> tuple[int | None, int | None]:
    """Ranks whose samples enclose a quantile, whatever the law of the samples (David and Nagaraja 2003, 7.1).

    With X the number of samples at or below the true quantile, X ~ Binomial(n, quantile): the l-th smallest sample
    is above the quantile with chance P(X <= l - 1), the u-th is below it with chance P(X >= u). Each is kept at or
    under half of what `confidence` leaves. The samples are taken as independent.

    Args:
        n: samples.
        quantile: 0 < quantile < 1.
        confidence: of both ends together.

    Returns:
        1-based (l, u); an end is None where n samples are too few to give it.
    """
    spare = (1.0 - confidence) / 2.0
    below = cdf(n, quantile)
    low = int(np.searchsorted(below, spare, side="right"))
    high = int(np.searchsorted(below, 1.0 - spare, side="left")) + 1
    return low if low >= 1 else None, high if high <= n else None
