"""Channels as numbers: which are one and the same, and which have to stay."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.union_find import UnionFind

Ids = NDArray[np.int64]


class Atoms:
    """Every channel that some layer makes, as a number. Those that can only go together are united.

    A set of them is taken out as a whole, or, where one of them is frozen, not at all.
    """

    def __init__(self) -> None:
        self._sets = UnionFind()
        self._frozen: dict[int, str] = {}

    def new(self, count: int) -> Ids:
        """So many channels that go alone as yet: [count]."""
        return np.array([self._sets.add() for _ in range(count)], dtype=np.int64)

    def unite(self, first: Ids, second: Ids) -> None:
        """Unites channel by channel; the arrays broadcast."""
        pairs = np.stack(np.broadcast_arrays(first, second)).reshape(2, -1)
        for one, other in np.unique(pairs, axis=1).T:
            self._sets.unite(int(one), int(other))

    def freeze(self, ids: Ids, reason: str) -> None:
        """These stay; the first reason is kept."""
        for item in np.unique(ids):
            self._frozen.setdefault(int(item), reason)

    def roots(self) -> Ids:
        """By channel, the number of its set."""
        return self._sets.roots()

    def frozen(self) -> dict[int, str]:
        """Root of a set that stays -> why."""
        found: dict[int, str] = {}
        for item, reason in self._frozen.items():
            found.setdefault(self._sets.find(item), reason)
        return found


def uniform(ids: NDArray[Any], axis: int) -> bool:
    """Whether an array holds the same along an axis."""
    return bool((ids == np.take(ids, [0], axis=axis)).all())
