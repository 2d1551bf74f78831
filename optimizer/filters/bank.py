"""A filter bank as base filters and what makes each filter from one of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.filters.transforms import Transform


@dataclass(frozen=True, slots=True, eq=False)
class TransferredBank:
    """Filter i is `scales[i]` times transform `codes[i]` of base filter `members[i]`.

    Attributes:
        base: float32 [bases, *window, inputs].
        members: int32 [filters], the base of each filter.
        codes: uint8 [filters], `Transform.code` of each, four bits.
        scales: float32 [filters]; all 1 where filters share their size, too.
    """

    base: NDArray[np.float32]
    members: NDArray[np.int32]
    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]

    def expand(self) -> NDArray[np.float32]:
        """The kernel it stands for, float32 [*window, inputs, filters]."""
        filters = np.empty((len(self.members), *self.base.shape[1:]), np.float32)
        for code in np.unique(self.codes):
            mine = self.codes == code
            filters[mine] = Transform.of(int(code))(self.base[self.members[mine]])
        scaled = filters * self.scales.reshape(-1, *(1,) * (filters.ndim - 1))
        # A zero negated is -0.0, whose bits would differ from its base's zero.
        return np.asarray(np.moveaxis(scaled, 0, -1) + np.float32(0), dtype=np.float32)

    def fitted(self, kernel: NDArray[Any]) -> TransferredBank:
        """The same sharing with the bases that come nearest to a kernel, in the sense of least squares.

        Each base is the mean of its members transformed back, weighted by their scales:
        b = sum s_i T_i^-1 w_i / sum s_i^2. This is linear: it is what averaging gradients over members would give.

        Args:
            kernel: [*window, inputs, filters].
        """
        back = self._back(kernel)
        weight = self.scales.astype(np.float64)
        sums = np.zeros(self.base.shape)
        np.add.at(sums, self.members, back * weight.reshape(-1, *(1,) * (back.ndim - 1)))
        sizes = np.bincount(self.members, weights=weight**2, minlength=len(self.base))
        return replace(self, base=(sums / sizes.reshape(-1, *(1,) * (back.ndim - 1))).astype(np.float32))

    def scaled_to(self, kernel: NDArray[Any]) -> TransferredBank:
        """Bases and scales that come nearest together: the leading singular vectors of each base's members.

        Scales are of mean square 1 in each group.
        """
        back = self._back(kernel)
        scales, bases = np.ones(len(self.members)), np.zeros(self.base.shape)
        for index in range(len(self.base)):
            mine = np.flatnonzero(self.members == index)
            left, sizes, right = np.linalg.svd(back[mine].reshape(len(mine), -1), full_matrices=False)
            sign = -1.0 if left[:, 0].sum() < 0 else 1.0
            scales[mine] = sign * left[:, 0] * math.sqrt(len(mine))
            bases[index] = (sign * sizes[0] / math.sqrt(len(mine)) * right[0]).reshape(bases.shape[1:])
        return replace(self, base=bases.astype(np.float32), scales=scales.astype(np.float32))

    def reordered(self, order: Sequence[int]) -> TransferredBank:
        """Its filters in another order: `order` has the old place of each."""
        places = np.asarray(order)
        return replace(self, members=self.members[places], codes=self.codes[places], scales=self.scales[places])

    @property
    def weights(self) -> int:
        """Numbers that have to be stored: the bases, and the scales where there are any."""
        return self.base.size + (len(self.scales) if (self.scales != 1).any() else 0)

    @property
    def index_bits(self) -> int:
        """What naming base and transform takes for all filters, unpacked and uncompressed."""
        return len(self.members) * (max(len(self.base) - 1, 1).bit_length() + 4)

    def _back(self, kernel: NDArray[Any]) -> NDArray[np.float64]:
        """Every filter as its base would look: [filters, *window, inputs]."""
        filters = as_filters(kernel)
        back = np.empty(filters.shape)
        for code in np.unique(self.codes):
            mine = self.codes == code
            back[mine] = Transform.of(int(code)).inverse(filters[mine])
        return back


def as_filters(kernel: NDArray[Any]) -> NDArray[np.float64]:
    """[*window, inputs, filters] -> float64 [filters, *window, inputs]."""
    return np.moveaxis(np.asarray(kernel, dtype=np.float64), -1, 0)


def recovered(kernel: NDArray[Any], transforms: Sequence[Transform]) -> TransferredBank:
    """The bank with the fewest bases that is this kernel, bit for bit.

    A kernel without sharing gives as many bases as it has filters. Scaled members are not found.

    Args:
        kernel: float32 [*window, inputs, filters].
        transforms: a group, as `transforms.allowed` gives it.
    """
    filters = np.moveaxis(np.asarray(kernel, dtype=np.float32), -1, 0) + np.float32(0)
    variants = [(one(filters) + np.float32(0)) for one in transforms]
    keys: dict[bytes, int] = {}
    bases: list[NDArray[np.float32]] = []
    members: list[int] = []
    codes: list[int] = []
    for index in range(len(filters)):
        looks = [variant[index].tobytes() for variant in variants]
        # Members of one base have the same set of looks; the first one met is the base.
        member = next((keys[look] for look in looks if look in keys), None)
        if member is None:
            member = len(bases)
            keys[looks[0]] = member
            bases.append(filters[index])
        back = next(one for one, look in zip(transforms, looks, strict=True) if keys.get(look) == member)
        members.append(member)
        codes.append(back.inverse.code)
    return TransferredBank(
        base=np.stack(bases),
        members=np.array(members, np.int32),
        codes=np.array(codes, np.uint8),
        scales=np.ones(len(filters), np.float32),
    )
