"""The channels of one tensor: for every element, the number of the channel that it belongs to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optimizer.channels.atoms import Ids


@dataclass(frozen=True, slots=True, eq=False)
class Lanes:
    """A tensor without its batch axis.

    Attributes:
        ids: as many axes as the tensor; 1 long where it is the same along the whole axis.
        shape: of the tensor; None where a dimension is open.
    """

    ids: Ids
    shape: tuple[int | None, ...]

    def __post_init__(self) -> None:
        fits = all(have in (1, size) for have, size in zip(self.ids.shape, self.shape, strict=True))
        if not fits:
            raise AssertionError(f"lanes {self.ids.shape} of a tensor {self.shape}")

    @classmethod
    def of_channels(cls, ids: Ids, shape: Sequence[int | None]) -> Lanes:
        """The same channels at every position, along the last axis."""
        return cls(ids.reshape((1,) * (len(shape) - 1) + ids.shape), tuple(shape))

    def along(self, axis: int) -> Lanes:
        """Written out along one axis."""
        size = self.shape[axis]
        if size is None or self.ids.shape[axis] == size:
            return self
        return Lanes(np.repeat(self.ids, size, axis=axis), self.shape)

    def whole(self) -> Ids | None:
        """Every element: an array of the tensor's shape; None where a dimension is open."""
        if None in self.shape:
            return None
        return np.broadcast_to(self.ids, [size or 0 for size in self.shape])

    @property
    def size(self) -> int | None:
        """Elements of the tensor; None where a dimension is open."""
        return None if None in self.shape else math.prod(size or 0 for size in self.shape)
