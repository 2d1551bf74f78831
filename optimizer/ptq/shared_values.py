"""Kernels that hold few distinct values, as clustering leaves them, are found, also behind a folded normalization.

Folding a batch normalization multiplies each output channel by a factor of its own: 16 values of a kernel become up to
16 for each channel. Where the factors can be found again, integers of one scale in units of them are 16 again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

MOST = 64
"""A kernel with at most as many distinct values besides zero was clustered."""

_USES = 4
"""How often each of them is used, on average: a pruned kernel has few values, but no value twice."""

_SAME = 2e-6
"""How far equal values may be apart, relative to them, after folding and repairs in float32."""

_SAME_UNIT = 1e-3
"""The same in steps of int8, where the scales are float32 as well."""

_ASKED = 16
"""Channels; where none of these shares values with the first one, no other is asked."""


def factors(rows: Float) -> Float | None:
    """Whether a kernel holds few distinct values, up to a factor for each output channel.

    Args:
        rows: [C, K] weights by output channel.

    Returns:
        [C] the factors' magnitudes (all 1 where nothing was folded); None where its values are not shared.
    """
    values = [np.unique(row[row != 0]) for row in rows]
    telling = [len(own) > 1 for own in values]  # a single value is any other's by some factor
    plain = len(np.unique(np.concatenate(values)))
    found = _common(values, _most(rows[telling])) if any(telling) else None
    if found is not None and found[1] < plain:
        return found[0]
    return np.ones(len(rows)) if 0 < plain <= _most(rows) else None


def _most(rows: Float) -> int:
    """So many values, in so many weights, are shared ones."""
    return min(MOST, int(np.count_nonzero(rows)) // _USES)


def merged(units: Float) -> Float:
    """Gives values of one magnitude but for float32 one and the same: near a half they would be rounded apart.

    Args:
        units: of a kernel with shared values, in units of its scales; any shape.
    """
    sizes, where = np.unique(np.abs(units), return_inverse=True)
    starts = np.flatnonzero(np.diff(sizes, prepend=-np.inf) > _SAME_UNIT)
    lengths = np.diff(np.append(starts, len(sizes)))
    means = np.repeat(np.add.reduceat(sizes, starts) / lengths, lengths)
    return np.copysign(means[where].reshape(units.shape), units)


def _common(values: list[Float], most: int) -> tuple[Float, int] | None:
    """Factors [C], and how many values are left when each channel is divided by its own; None where more than `most`.

    The channel with the most values comes first. A channel that shares half of its values, by some factor, adds the
    others: a small kernel's channels do not each hold all of them. A channel of a single value takes the largest of its
    sign.
    """
    order = sorted((c for c in range(len(values)) if len(values[c]) > 1), key=lambda c: -len(values[c]))
    book, found = values[order[0]], np.ones(len(values))
    waiting = order[1:]
    while len(book) <= most:
        if not waiting:
            for channel in (c for c in range(len(values)) if len(values[c]) == 1):
                (own,) = values[channel]
                alike = book[np.sign(book) == np.sign(own)]
                found[channel] = abs(own) / np.abs(alike if len(alike) else book).max()
            return found, len(book)
        later = []
        for place, channel in enumerate(waiting):
            factor, new = _match(values[channel], book)
            if factor:
                found[channel] = abs(factor)
                book = np.concatenate([book, new / factor])
            else:
                later.append(channel)
            if len(book) > most or len(later) > place == _ASKED - 1:
                return None
        if len(later) == len(waiting):
            return None
        waiting = later
    return None


def _match(own: Float, book: Float) -> tuple[float, Float]:
    """The factor, negative too, by which most of a channel's values are those of the book; 0 where there is none.

    Returns:
        The factor, of several as good ones a positive one next to 1; and the channel's values that are not in the book.
    """
    ratios = np.sort((own[:, None] / book).ravel())
    ends = np.searchsorted(ratios, ratios + _SAME * np.abs(ratios), side="right")
    votes = ends - np.arange(len(ratios))
    best = ratios[votes == votes.max()]
    factor = float(best[np.lexsort((np.abs(np.log(np.abs(best))), best < 0))[0]])
    wanted = own[:, None] / factor
    known = (np.abs(wanted - book) <= 2 * _SAME * np.abs(book)).any(axis=1)
    hits = int(known.sum())
    if hits == len(own) or (hits > 1 and 2 * hits >= len(own)):
        return factor, own[~known]
    return 0.0, own
