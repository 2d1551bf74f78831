"""What can be taken out: units, each of channels that only go together, and groups of units of one kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.base import KerasModel
from optimizer.channels.trace import Role, Setting, Touch, Trace, trace


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one axis of a weight holds of a group.

    Attributes:
        touch: the axis.
        places: by unit of the group, the indices along that axis: [units, so many each].
    """

    touch: Touch
    places: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Units that are interchangeable: the same layers make and read them. One of them stays, whatever is taken out.

    Attributes:
        name: the layers that make it, joined by "+".
        units: their numbers, in the order of the first layer's channels.
        parts: every axis that holds it.
        joined: a sum or a concatenation puts it together with what another branch brings.
        frozen: why nothing of it can go; "" where something can.
    """

    name: str
    units: NDArray[np.int64]
    parts: tuple[Part, ...]
    joined: bool
    frozen: str

    def __len__(self) -> int:
        return len(self.units)

    @property
    def makers(self) -> tuple[str, ...]:
        """Layers that compute it."""
        return self._layers(Role.MAKES)

    @property
    def readers(self) -> tuple[str, ...]:
        """Layers that sum over it."""
        return self._layers(Role.READS)

    @property
    def key(self) -> tuple[tuple[str, str, int, int], ...]:
        """What holds it, and how often: no two groups of a network share it, and it outlives a surgery."""
        return tuple((p.touch.layer, p.touch.weight, p.touch.axis, p.places.shape[1]) for p in self.parts)

    def _layers(self, role: Role) -> tuple[str, ...]:
        return tuple(dict.fromkeys(part.touch.layer for part in self.parts if part.touch.role is role))


@dataclass(frozen=True, slots=True, eq=False)
class Channels:
    """The channels of a network.

    Attributes:
        groups: those that can shrink.
        frozen: those that cannot, each with its reason.
        unit_of: by channel number, the unit it belongs to.
        touches: every axis of a weight that holds channels.
        settings: every count of them in a config.
        layers: path -> layer.
    """

    groups: tuple[Group, ...]
    frozen: tuple[Group, ...]
    unit_of: NDArray[np.int64]
    touches: tuple[Touch, ...]
    settings: tuple[Setting, ...]
    layers: Mapping[str, object]


def find(model: KerasModel) -> Channels:
    """The groups of a network.

    Args:
        model: a built Keras 3 functional or Sequential model.

    Raises:
        ModelError: it has no graph.
    """
    found = trace(model)
    roots, frozen = found.atoms.roots(), found.atoms.frozen()
    found.joined = set(roots[list(found.joined)].tolist())
    groups = [_group(found, roots, units, frozen) for units in _alike(found, roots)]
    return Channels(
        groups=tuple(group for group in groups if not group.frozen),
        frozen=tuple(group for group in groups if group.frozen),
        unit_of=roots,
        touches=tuple(found.touches.values()),
        settings=tuple(found.settings.values()),
        layers=dict(found.layers),
    )


def _alike(found: Trace, roots: NDArray[np.int64]) -> list[list[int]]:
    """Units by what holds them, and how often; only those that some layer makes."""
    held: dict[int, list[tuple[str, str, int, int]]] = defaultdict(list)
    made: set[int] = set()
    for key, touch in found.touches.items():
        units, counts = np.unique(roots[touch.ids], return_counts=True)
        for unit, count in zip(units.tolist(), counts.tolist(), strict=True):
            held[unit].append((*key, count))
        if touch.role is Role.MAKES:
            made.update(units.tolist())
    kinds: dict[tuple[tuple[str, str, int, int], ...], list[int]] = defaultdict(list)
    for unit in sorted(made):
        kinds[tuple(held[unit])].append(unit)
    return list(kinds.values())


def _group(found: Trace, roots: NDArray[np.int64], units: list[int], frozen: Mapping[int, str]) -> Group:
    parts = []
    for touch in found.touches.values():
        mine = roots[touch.ids]
        if units[0] in mine:
            parts.append(Part(touch, np.array([np.flatnonzero(mine == unit) for unit in units])))
    makers = dict.fromkeys(part.touch.layer for part in parts if part.touch.role is Role.MAKES)
    reason = next((frozen[unit] for unit in units if unit in frozen), "")
    joined = not found.joined.isdisjoint(units)
    return Group("+".join(makers), np.array(units, dtype=np.int64), tuple(parts), joined, reason)
