"""The ids of channels while a network is traced: which are tied to each other, and which cannot be scaled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optimizer.ptq.scale_groups import UNSCALED, Channels, Ids
from optimizer.union_find import UnionFind

NONE: Ids = np.full((), UNSCALED, np.int64)
"""For a constant that takes nothing up."""


class Ledger:
    """Gives out ids, ties them and blocks them.

    Attributes:
        ids: tied ones are one set.
        blocked: some of the ids whose sets cannot be scaled; the others of their sets cannot either.
        families: see `ScaleGroups`.
        normalized: see `ScaleGroups`.
    """

    def __init__(self) -> None:
        self.ids = UnionFind()
        self.blocked: set[int] = set()
        self.families: list[Ids] = []
        self.normalized: set[int] = set()
        if self.blocked_one() != UNSCALED:
            raise AssertionError("the first id is that of what has no channel")

    def fresh(self, count: int, *, normalized: bool = False) -> Ids:
        """New ids of what one op with constants gives out."""
        family = np.array([self.ids.add() for _ in range(count)], dtype=np.int64)
        if normalized:
            self.normalized.add(len(self.families))
        self.families.append(family)
        return family

    def blocked_one(self) -> int:
        """A new id that cannot be scaled."""
        channel = self.ids.add()
        self.blocked.add(channel)
        return channel

    def block(self, channels: Channels) -> None:
        """None of these can be scaled."""
        self.blocked.update(channels.ids.ravel().tolist())

    def is_blocked(self, channels: Channels) -> bool:
        """Whether none of these can be scaled, by what is known so far."""
        roots = {self.ids.find(channel) for channel in self.blocked}
        return all(self.ids.find(channel) in roots for channel in set(channels.ids.ravel().tolist()))

    def united(self, tensors: Sequence[Channels]) -> Ids:
        """Ties the ids of tensors that are added, element by element.

        A tensor that is blocked throughout blocks the others and is not tied to them: its one id would make one
        channel of all of theirs, and what is blocked later is told by channel.

        Returns:
            Ids of the sum, that broadcast to its shape.
        """
        free = [tensor for tensor in tensors if not self.is_blocked(tensor)] or list(tensors[:1])
        if len(free) < len(tensors):
            for tensor in tensors:
                self.block(tensor)
        arrays = np.broadcast_arrays(*(tensor.ids for tensor in free))
        for other in arrays[1:]:
            for first, second in set(zip(arrays[0].ravel().tolist(), other.ravel().tolist(), strict=True)):
                self.ids.unite(first, second)
        return np.array(arrays[0])
