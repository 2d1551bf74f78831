"""Which widths a group of channels may have: rounded to what kernels like, never empty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from optimizer.channels.groups import Channels, Group
from optimizer.channels.price import variable
from optimizer.channels.trace import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class WidthRules:
    """What a width has to keep to.

    Attributes:
        round_to: channels of a layer that go together in the kernels of the target; 1 = any number. Those of int8
            work on blocks of 8 or 16 channels (NEON and VNNI registers hold that many products), so that 33 channels
            take as long as 40.
        min_channels: the fewest a layer keeps of a group.
        max_share: the most of a group that goes.
    """

    round_to: int = 8
    min_channels: int = 8
    max_share: float = 0.9


def channels_each(channels: Channels, group: Group) -> int:
    """Channels that a unit has in the layer that makes most of it: some per group of a grouped convolution, a head."""
    widest: int = max(
        part.places.shape[1] * _head_width(channels, part.touch.layer, part.touch.weight)
        for part in group.parts
        if part.touch.role is Role.MAKES
    )
    return widest


def levels(channels: Channels, group: Group, original: int, rules: WidthRules) -> tuple[int, ...]:
    """The numbers of units a group may keep, falling; the first is what it has now.

    Args:
        channels: of the network.
        group: of these.
        original: units it had before any were taken out; `max_share` counts from there.
        rules: for widths.
    """
    each = channels_each(channels, group)
    step = rules.round_to // math.gcd(rules.round_to, each)
    least = max(math.ceil(rules.min_channels / each), math.ceil(original * (1.0 - rules.max_share) - 1e-9), 1)
    now = len(group)
    below = range((now - 1) // step * step, 0, -step)
    return (now, *(kept for kept in below if kept >= least))


def nearest(levels: Sequence[int], wanted: float) -> int:
    """The level closest to a wanted number of units; of two equally close ones the wider."""
    return min(levels, key=lambda level: (abs(level - wanted), -level))


def _head_width(channels: Channels, layer: str, weight: str) -> int:
    """A head of attention is as many channels wide as its projection says."""
    if not weight.startswith("_query_dense"):
        return 1
    width: int = variable(channels.layers[layer], weight).shape[2]  # [inputs, heads, width]
    return width
