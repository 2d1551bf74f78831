"""Disjoint sets."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class UnionFind:
    """Disjoint sets of 0, 1, 2, ..., with path halving; the root of a set is its smallest member."""

    def __init__(self) -> None:
        self._parent: list[int] = []

    def __len__(self) -> int:
        return len(self._parent)

    def add(self) -> int:
        """A new set of one."""
        self._parent.append(len(self._parent))
        return self._parent[-1]

    def find(self, item: int) -> int:
        """The root of its set."""
        parent = self._parent
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    def unite(self, first: int, second: int) -> None:
        """Makes one set of two."""
        low, high = sorted((self.find(first), self.find(second)))
        self._parent[high] = low

    def roots(self) -> NDArray[np.int64]:
        """The root of every item."""
        return np.array([self.find(item) for item in range(len(self._parent))], dtype=np.int64)
