"""What a network takes on a device, by how many units its groups keep: the sum of its layers in a latency table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgesmith.errors import ModelError
from optimizer import cost
from optimizer.base import KerasModel
from optimizer.channels.axes import Axes, Axis, axes_of
from optimizer.channels.groups import Channels
from optimizer.channels.latency_table import LatencyTable, Row, layer_kind
from optimizer.channels.price import variable

# Plateaus of a measured table are a few levels long.
_LOOK_AHEAD = 8


@dataclass(frozen=True, slots=True, eq=False)
class _Timed:
    """One call of a layer."""

    row: Row
    inputs: Axis
    outputs: Axis

    def latency_ms(self, kept: Sequence[int]) -> float:
        return self.row.at(self.inputs.length(kept), self.outputs.length(kept))

    def groups(self) -> frozenset[int]:
        return frozenset(self.inputs.places) | frozenset(self.outputs.places)


class LatencyPrice:
    """Milliseconds for one sample of a network that keeps so many units of each group.

    Convolutions and dense layers are counted. What runs between them is small or fused into them: it counts as much as
    the table says for its network, however narrow that becomes. So does what a table cannot hold (recurrent layers,
    attention): `left_out` names it.
    """

    def __init__(self, model: KerasModel, channels: Channels, table: LatencyTable) -> None:
        """Prepares.

        Args:
            model: the network.
            channels: its groups.
            table: of the device.

        Raises:
            ModelError: the table lacks a layer of the model; lists all that it lacks, with the widths needed.
        """
        paths = {id(layer): path for path, layer in channels.layers.items()}
        axes = axes_of(channels)
        self._rest_ms = table.rest_ms
        self._calls: list[_Timed] = []
        left_out: dict[str, None] = {}
        missing: dict[str, tuple[int, int]] = {}
        for layer, inputs, outputs in cost.calls(model):
            kind = layer_kind(layer, inputs)
            if kind is None:
                if cost.layer_macs(layer, inputs, outputs):
                    left_out[paths[id(layer)]] = None
            elif (row := table.rows.get(kind)) is None:
                widest = missing.get(kind, (0, 0))
                missing[kind] = (max(widest[0], inputs[0][-1] or 0), max(widest[1], outputs[0][-1] or 0))
            else:
                self._calls.append(_Timed(row, *_axes(layer, paths[id(layer)], axes)))
        if missing:
            named = "; ".join(f"{kind} ({read} to {made} channels)" for kind, (read, made) in missing.items())
            raise ModelError(
                f"The latency table of {table.device} lacks {len(missing)} kinds of layers, at these widths: {named}.",
                next_step="Measure these too, up to those widths.",
            )
        self.left_out = tuple(left_out)
        self._by_group = {
            index: [call for call in self._calls if index in call.groups()] for index in range(len(channels.groups))
        }

    @property
    def steps(self) -> int:
        """Levels to look ahead: latency falls in steps."""
        return _LOOK_AHEAD

    def total(self, kept: Sequence[int]) -> float:
        """Milliseconds of the whole network; `kept` by group."""
        return self._rest_ms + sum(call.latency_ms(kept) for call in self._calls)

    def saved(self, kept: Sequence[int], group: int, units: int = 1) -> float:
        """What falls away with the next units of a group; 0 on a plateau."""
        fewer = [count - units if index == group else count for index, count in enumerate(kept)]
        return sum(call.latency_ms(kept) - call.latency_ms(fewer) for call in self._by_group[group])

    def neighbours(self, group: int) -> frozenset[int]:
        """Groups whose savings change when this one shrinks, itself included."""
        return frozenset().union({group}, *(call.groups() for call in self._by_group[group]))


def _axes(layer: Any, path: str, axes: Axes) -> tuple[Axis, Axis]:
    """What a layer reads and makes; a weight's axis that holds no channels stays as long as it is."""

    def axis(weight: str, place: int) -> Axis:
        return axes.get((path, weight, place), Axis(int(variable(layer, weight).shape[place]), {}))

    kind = type(layer).__name__
    if kind == "Dense":
        return axis("kernel", 0), axis("kernel", 1)
    rank = len(layer.kernel_size)
    if kind.startswith("Separable"):
        return axis("depthwise_kernel", rank), axis("pointwise_kernel", rank + 1)
    if kind.startswith("Depthwise"):
        return axis("kernel", rank), axis("kernel", rank)
    if kind.endswith("Transpose"):
        return axis("kernel", rank + 1), axis("kernel", rank)
    if layer.groups > 1:
        # Its kernel holds what one group of it reads; the axis that is made tells how wide it is.
        return axis("kernel", rank + 1), axis("kernel", rank + 1)
    return axis("kernel", rank), axis("kernel", rank + 1)
