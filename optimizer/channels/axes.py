"""How long every axis of a weight is, as a function of how many units each group keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.channels.groups import Channels


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis: `fixed` entries that stay, and `places[group]` for every unit that the group keeps."""

    fixed: int
    places: Mapping[int, int]

    def length(self, kept: Sequence[int]) -> int:
        """Its length; `kept` by group."""
        return self.fixed + sum(each * kept[group] for group, each in self.places.items())


Axes = Mapping[tuple[str, str, int], Axis]
"""By layer, weight and axis: those that hold channels. Others never change."""


def axes_of(channels: Channels) -> Axes:
    """Every axis that holds channels of a network."""
    group_of = {int(unit): index for index, group in enumerate(channels.groups) for unit in group.units}
    return {
        (touch.layer, touch.weight, touch.axis): _axis(group_of, channels.unit_of[touch.ids])
        for touch in channels.touches
    }


def _axis(group_of: Mapping[int, int], units: NDArray[np.int64]) -> Axis:
    found, counts = np.unique(units, return_counts=True)
    places: dict[int, int] = {}
    fixed = 0
    for unit, count in zip(found.tolist(), counts.tolist(), strict=True):
        group = group_of.get(unit)
        if group is None:
            fixed += count
        else:
            places[group] = count  # the same for each unit of a group
    return Axis(fixed, places)
