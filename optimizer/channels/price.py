"""What a network costs as a function of how many units each of its groups keeps: exact, without building it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from optimizer import cost
from optimizer.base import KerasModel
from optimizer.channels import kernel_macs
from optimizer.channels.groups import Channels

Kind = Literal["macs", "parameters"]


@dataclass(frozen=True, slots=True)
class _Axis:
    """How long an axis is: `fixed` entries that stay, and `places[group]` for every unit that the group keeps."""

    fixed: int
    places: Mapping[int, int]

    def length(self, kept: Sequence[int]) -> int:
        return self.fixed + sum(each * kept[group] for group, each in self.places.items())


@dataclass(frozen=True, slots=True)
class _Term:
    """A product: a factor that stays, and axes that shrink."""

    factor: float
    axes: tuple[_Axis, ...]

    def value(self, kept: Sequence[int]) -> float:
        return self.factor * math.prod(axis.length(kept) for axis in self.axes)


class Price:
    """The multiply-accumulates of one sample, or the parameters, of a network that keeps so many units of each group.

    Multiply-accumulates are counted as in `optimizer.cost`.
    """

    def __init__(self, model: KerasModel, channels: Channels, kind: Kind) -> None:
        """Prepares.

        Args:
            model: the network.
            channels: its groups.
            kind: what is counted.

        Raises:
            ModelError: multiply-accumulates cannot be counted.
        """
        self._group_of = {int(unit): index for index, group in enumerate(channels.groups) for unit in group.units}
        self._channels = channels
        self._axes = {
            (touch.layer, touch.weight, touch.axis): self._axis(channels.unit_of[touch.ids])
            for touch in channels.touches
        }
        self._terms = self._parameters() if kind == "parameters" else self._macs(model)
        self._by_group: dict[int, list[_Term]] = {index: [] for index in range(len(channels.groups))}
        for term in self._terms:
            for group in {group for axis in term.axes for group in axis.places}:
                self._by_group[group].append(term)

    def total(self, kept: Sequence[int]) -> float:
        """The cost of the whole network; `kept` by group."""
        return sum(term.value(kept) for term in self._terms)

    def saved(self, kept: Sequence[int], group: int, units: int = 1) -> float:
        """What falls away with the next units of a group."""
        fewer = [count - units if index == group else count for index, count in enumerate(kept)]
        return sum(term.value(kept) - term.value(fewer) for term in self._by_group[group])

    def _axis(self, units: Any) -> _Axis:
        found, counts = np.unique(units, return_counts=True)
        places: dict[int, int] = {}
        fixed = 0
        for unit, count in zip(found.tolist(), counts.tolist(), strict=True):
            group = self._group_of.get(unit)
            if group is None:
                fixed += count
            else:
                places[group] = count  # the same for each unit of a group
        return _Axis(fixed, places)

    def _term(self, layer: str, weight: str, shape: Mapping[int, int], factor: float) -> _Term:
        """A factor times the length of some axes of a weight."""
        axes = {axis: found for axis in shape if (found := self._axes.get((layer, weight, axis))) is not None}
        rest = math.prod(size for axis, size in shape.items() if axis not in axes)
        return _Term(factor * rest, tuple(axes.values()))

    def _parameters(self) -> list[_Term]:
        names: dict[int, tuple[str, str]] = {}
        for touch in self._channels.touches:
            names.setdefault(
                id(variable(self._channels.layers[touch.layer], touch.weight)), (touch.layer, touch.weight)
            )
        terms, seen = [], set()
        for path, layer in self._channels.layers.items():
            for weight in getattr(layer, "weights", ()):
                if id(weight) in seen or hasattr(layer, "_nodes_by_depth"):
                    continue
                seen.add(id(weight))
                terms.append(self._term(*names.get(id(weight), (path, "")), dict(enumerate(weight.shape)), 1.0))
        return terms

    def _macs(self, model: KerasModel) -> list[_Term]:
        paths = {id(layer): path for path, layer in self._channels.layers.items()}
        terms = []
        for layer, inputs, outputs in cost.calls(model):
            for share in kernel_macs.shares(layer, inputs, outputs):
                shape = dict(enumerate(variable(layer, share.weight).shape)) if share.weight else {}
                counted = {axis: size for axis, size in shape.items() if share.axes is None or axis in share.axes}
                terms.append(self._term(paths[id(layer)], share.weight, counted, share.factor))
        return terms


def variable(layer: Any, name: str) -> Any:
    """A weight by its name within the layer, "cell.kernel"."""
    for part in name.split("."):
        layer = getattr(layer, part)
    return layer
