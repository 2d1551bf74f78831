"""Channels that can only be scaled together, and the constants that take the scale up.

Relu, pooling, padding, a transpose pass a factor on one channel from their input to their output unchanged: they are
positively homogeneous per channel. So every channel of every tensor gets an id, ops that pass a factor on share ids
between their tensors, an addition unites those of its inputs, and an op that is not understood blocks what it touches.
What is left are sets of channels between ops with constants: x[c] can be divided by s[c] if the kernel that makes it
is divided and each kernel that reads it is multiplied (Nagel et al. 2019, section 4.1, equation 7 and appendix A).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from optimizer.union_find import UnionFind

Ids = NDArray[np.int64]

UNSCALED = 0
"""The id of what has no channel: its scale is 1."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Channels:
    """Which channel each element of a tensor belongs to.

    Attributes:
        ids: of the tensor's rank; size 1 along axes on which the id does not change.
        shape: of the tensor, for one sample.
    """

    ids: Ids
    shape: tuple[int, ...]

    @property
    def axes(self) -> tuple[int, ...]:
        """Those on which the id changes; the last one where it never does."""
        changing = tuple(axis for axis, size in enumerate(self.ids.shape) if size > 1)
        return changing or ((len(self.shape) - 1,) if self.shape else ())

    def full(self) -> Ids:
        """An id for each element, read only."""
        return np.broadcast_to(self.ids, self.shape)

    def along(self, axis: int) -> Ids | None:
        """The ids along one axis, [shape[axis]]; None where they change along another one too."""
        axis %= max(len(self.shape), 1)
        if any(size > 1 for other, size in enumerate(self.ids.shape) if other != axis):
            return None
        return np.broadcast_to(self.ids.reshape(-1), (self.shape[axis],))

    @classmethod
    def of(cls, full: Ids) -> Channels:
        """From an id for each element."""
        ids = full
        for axis, size in enumerate(full.shape):
            first = ids[(slice(None),) * axis + (slice(0, 1),)]
            if size > 0 and np.array_equal(np.broadcast_to(first, ids.shape), ids):
                ids = first
        return cls(ids=np.array(ids), shape=full.shape)

    @classmethod
    def constant(cls, channel: int, shape: tuple[int, ...]) -> Channels:
        """One id for all elements."""
        return cls(ids=np.full((1,) * len(shape), channel, np.int64), shape=shape)

    @classmethod
    def vector(cls, ids: Ids, axis: int, shape: tuple[int, ...]) -> Channels:
        """Ids along one axis."""
        form = [1] * len(shape)
        form[axis] = len(ids)
        return cls(ids=ids.reshape(form), shape=shape)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScaledConstant:
    """A constant that takes up scales: it becomes value * s[times] / s[over].

    Attributes:
        name: of the initializer.
        role: "kernel": see `Kernel`; "gain" of a multiplication, "offset" of an addition, whose constant has one int8
            scale; "exact" where it has more bits than int8: biases, what belongs to a normalization.
        output: tensor that the op computes.
        times: ids, of the constant's rank, size 1 where they do not change; `UNSCALED` for none.
        over: the same.
    """

    name: str
    role: Literal["kernel", "gain", "offset", "exact"]
    output: str
    times: Ids
    over: Ids


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Kernel(ScaledConstant):
    """Of a convolution or matrix product.

    Attributes:
        source: tensor that it reads.
        axis: channels of `source`, and of `output`.
        reads: its elements -> places along the channels of `source`; broadcasts to its shape.
        writes: its elements -> places along the channels of `output`.
        weight_axis: where its int8 scales lie with one per output channel; None: it has one scale.
    """

    source: str
    axis: int
    reads: Ids
    writes: Ids
    weight_axis: int | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScaleGroups:
    """What a trace through a network found. Ids everywhere are those of united channels: equal means tied.

    Attributes:
        size: ids are below it.
        blocked: ids whose scale must stay 1.
        families: ids that one op gives to its output, one array for each op with constants.
        normalized: index into `families` of those that a normalization or a constant factor makes.
        tensors: by name.
        constants: in the order they are used.
        ceilings: tensor -> where its channels are cut off: 6 for ReLU6.
        copies: tensor -> one that holds the same numbers, or is on the same int8 grid.
        clustered: layers whose kernels share few values and are left alone.
    """

    size: int
    blocked: frozenset[int]
    families: tuple[Ids, ...]
    normalized: frozenset[int]
    tensors: Mapping[str, Channels]
    constants: tuple[ScaledConstant, ...]
    ceilings: Mapping[str, float]
    copies: Mapping[str, tuple[str, ...]]
    clustered: tuple[str, ...]

    def chosen_together(self, blocked: Iterable[int] = ()) -> list[tuple[Ids, bool]]:
        """Sets of ids that are worth one choice: what the ops with constants give out, joined where they share ids.

        Args:
            blocked: more ids that must stay, for reasons that the data give.

        Returns:
            (ids in rising order, whether a normalization or constant factor is among the makers) for each set.
        """
        fixed = self.blocked | frozenset(blocked)
        family_of: dict[int, int] = {}
        joined = UnionFind()
        for index, family in enumerate(self.families):
            joined.add()
            for channel in family.tolist():
                if channel not in fixed:
                    joined.unite(family_of.setdefault(channel, index), index)
        sets: dict[int, list[int]] = {}
        for channel, index in family_of.items():
            sets.setdefault(joined.find(index), []).append(channel)
        normalized = {joined.find(index) for index in self.normalized}
        return [(np.array(sorted(ids)), root in normalized) for root, ids in sorted(sets.items())]
