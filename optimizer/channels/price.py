"""What a network costs as a function of how many units each of its groups keeps: exact, without building it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from optimizer import cost
from optimizer.base import KerasModel
from optimizer.channels import kernel_macs
from optimizer.channels.axes import Axis, axes_of
from optimizer.channels.groups import Channels
from optimizer.graph import is_model

Kind = Literal["macs", "parameters"]


@dataclass(frozen=True, slots=True)
class _Term:
    """A product: a factor that stays, and axes that shrink; of a layer."""

    layer: str
    factor: float
    axes: tuple[Axis, ...]

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
        self._channels = channels
        self._axes = axes_of(channels)
        self._terms = self._parameters() if kind == "parameters" else self._macs(model)
        self._by_group: dict[int, list[_Term]] = {index: [] for index in range(len(channels.groups))}
        for term in self._terms:
            for group in {group for axis in term.axes for group in axis.places}:
                self._by_group[group].append(term)

    def total(self, kept: Sequence[int]) -> float:
        """The cost of the whole network; `kept` by group."""
        return sum(term.value(kept) for term in self._terms)

    def by_layer(self, kept: Sequence[int]) -> Mapping[str, float]:
        """What each layer has of the total, by path."""
        found: dict[str, float] = {}
        for term in self._terms:
            found[term.layer] = found.get(term.layer, 0.0) + term.value(kept)
        return found

    def saved(self, kept: Sequence[int], group: int, units: int = 1) -> float:
        """What falls away with the next units of a group."""
        fewer = [count - units if index == group else count for index, count in enumerate(kept)]
        return sum(term.value(kept) - term.value(fewer) for term in self._by_group[group])

    @property
    def steps(self) -> int:
        """Every unit saves something: there is no need to look further ahead than one level."""
        return 1

    def neighbours(self, group: int) -> frozenset[int]:
        """Groups whose savings change when this one shrinks, itself included."""
        return frozenset(other for term in self._by_group[group] for axis in term.axes for other in axis.places)

    def _term(self, path: str, holder: tuple[str, str], shape: Mapping[int, int], factor: float) -> _Term:
        """A factor times the length of some axes of a weight, which `holder` (layer, weight) names."""
        axes = {axis: found for axis in shape if (found := self._axes.get((*holder, axis))) is not None}
        rest = math.prod(size for axis, size in shape.items() if axis not in axes)
        return _Term(path, factor * rest, tuple(axes.values()))

    def _parameters(self) -> list[_Term]:
        names: dict[int, tuple[str, str]] = {}
        for touch in self._channels.touches:
            names.setdefault(
                id(variable(self._channels.layers[touch.layer], touch.weight)), (touch.layer, touch.weight)
            )
        terms, seen = [], set()
        for path, layer in self._channels.layers.items():
            for weight in getattr(layer, "weights", ()):
                if id(weight) in seen or is_model(layer):
                    continue
                seen.add(id(weight))
                holder = names.get(id(weight), (path, ""))
                terms.append(self._term(path, holder, dict(enumerate(weight.shape)), 1.0))
        return terms

    def _macs(self, model: KerasModel) -> list[_Term]:
        paths = {id(layer): path for path, layer in self._channels.layers.items()}
        terms = []
        for layer, inputs, outputs in cost.calls(model):
            for share in kernel_macs.shares(layer, inputs, outputs):
                shape = dict(enumerate(variable(layer, share.weight).shape)) if share.weight else {}
                counted = {axis: size for axis, size in shape.items() if share.axes is None or axis in share.axes}
                path = paths[id(layer)]
                terms.append(self._term(path, (path, share.weight), counted, share.factor))
        return terms


def variable(layer: Any, name: str) -> Any:
    """A weight by its name within the layer, "cell.kernel"."""
    for part in name.split("."):
        layer = getattr(layer, part)
    return layer
