"""What has to be measured for a latency table of a network: each kind of its layers alone, at a few widths.

A few are enough: tables are read linearly in both widths, and the work of a layer is linear in each of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgesmith.errors import ModelError
from edgesmith.frameworks import import_keras
from optimizer import cost
from optimizer.base import KerasModel
from optimizer.channels.latency_table import layer_kind

Place = tuple[str, int, int]
"""Kind of layer, width that it reads, width that it makes."""


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A network of one layer, or of none: what it costs to call a network, and to bring samples in and out.

    Attributes:
        name: of what it measures, for files of kept work.
        shape: of its input, without the batch.
        place: in the table; None where there is no layer in it.
        layer: Keras class and configuration; None: the input goes out as it came.
    """

    name: str
    shape: tuple[int, ...]
    place: Place | None = None
    layer: tuple[Any, Mapping[str, Any]] | None = None

    def network(self) -> KerasModel:
        """With weights that are drawn."""
        keras = import_keras()
        x = keras.Input(self.shape)
        if self.layer is None:
            return keras.Model(x, keras.layers.Flatten()(x))
        kind, config = self.layer
        return keras.Model(x, kind.from_config(dict(config))(x))


def passing(shape: tuple[int, ...]) -> Probe:
    """The probe without a layer."""
    return Probe(f"nothing @ {'x'.join(map(str, shape))}", shape)


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """One kind of layer of a network.

    Attributes:
        name: as `layer_kind`.
        inputs: widths to measure it at, rising.
        outputs: the same of what it makes; None where that follows from what it reads.
        step: channels that are computed together.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...] | None
    step: int
    _layer: Any
    _shape: tuple[int, ...]

    def probes(self) -> Iterator[Probe]:
        """One for each place in the table, row by row."""
        for read in self.inputs:
            for made in self.outputs or (read,):
                name = f"{self.name}, {read} to {made}"
                width, config = self._at(read, made)
                yield Probe(name, (*self._shape, width), (self.name, read, made), (type(self._layer), config))

    def _at(self, read: int, made: int) -> tuple[int, dict[str, Any]]:
        """The width of its input, and its configuration."""
        layer = self._layer
        config = {**layer.get_config(), "name": "layer", "use_bias": True, "activation": "linear"}
        if _is_grouped(layer):  # told by what it makes, see `LatencyPrice`
            ratio = _reads(layer) / layer.filters
            depthwise = layer.groups == _reads(layer)
            read = round(made * ratio)
            return read, {**config, "filters": made, "groups": read if depthwise else layer.groups}
        if not type(layer).__name__.startswith("Depthwise"):
            config["units" if type(layer).__name__ == "Dense" else "filters"] = made
        return read, config


def kinds(model: KerasModel, *, step: int, points: int) -> tuple[Kind, ...]:
    """The kinds of layers of a network that a latency table holds, with the widths to measure each at.

    Args:
        model: as wide as it will ever be.
        step: channels that the kernels of the board compute together.
        points: of each width, at most.

    Raises:
        ModelError: no layer of it can be in a table, or the size of what one reads is open.
    """
    found: dict[str, tuple[Any, tuple[int, ...], int, int]] = {}
    for layer, inputs, outputs in cost.calls(model):
        name = layer_kind(layer, inputs)
        if name is None:
            continue
        if None in inputs[0][1:]:
            raise ModelError(
                f"Layer {layer.name}: a dimension of its input is open, so that there is no latency to measure.",
                next_step="Give every input dimension but the batch a fixed size.",
            )
        sizes = tuple(int(size or 0) for size in inputs[0][1:])
        _, _, read, made = found.get(name, (None, (), 0, 0))
        widest = max(read, sizes[-1]), max(made, int(outputs[0][-1] or 0))
        found[name] = (layer, sizes[:-1], *widest)
    if not found:
        raise ModelError(f"{model.name} has no layer that a latency table holds: no convolution, no dense layer.")
    return tuple(_kind(name, *each, step, points) for name, each in found.items())


def widths(widest: int, step: int, points: int) -> tuple[int, ...]:
    """Multiples of `step`, evenly spread; the last is the widest itself, whatever it is."""
    count = -(-widest // step)
    few = min(points, count)
    chosen = {1 + round(place * (count - 1) / max(few - 1, 1)) for place in range(few)}
    return tuple(sorted({min(each * step, widest) for each in chosen} | {widest}))


def _kind(name: str, layer: Any, shape: tuple[int, ...], read: int, made: int, step: int, points: int) -> Kind:
    if _is_grouped(layer):
        unit = _least_made(layer)
        least = -(-step // unit) * unit
        return Kind(name, widths(made, least, points), None, least, layer, shape)
    if type(layer).__name__.startswith("Depthwise"):
        return Kind(name, widths(read, step, points), None, step, layer, shape)
    return Kind(name, widths(read, step, points), widths(made, step, points), step, layer, shape)


def _is_grouped(layer: Any) -> bool:
    return bool(getattr(layer, "groups", 1) > 1)


def _reads(layer: Any) -> int:
    return int(layer.kernel.shape[-2]) * int(layer.groups)


def _least_made(layer: Any) -> int:
    """What the widths made by a grouped convolution are multiples of, so that it reads as many as in its proportion."""
    if layer.groups == _reads(layer):
        return int(layer.filters) // int(layer.groups)
    return int(layer.filters) // math.gcd(int(layer.filters) // layer.groups, _reads(layer) // layer.groups)


def batches(probes: Sequence[Probe], most: int) -> Iterator[tuple[Probe, ...]]:
    """Probes that take the same samples, at most so many at once."""
    by_shape: dict[tuple[int, ...], list[Probe]] = {}
    for probe in probes:
        by_shape.setdefault(probe.shape, []).append(probe)
    for same in by_shape.values():
        for start in range(0, len(same), most):
            yield tuple(same[start : start + most])
