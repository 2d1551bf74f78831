"""Puts the channels that a layer makes in another order, there and in all that reads them; outputs stay the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optimizer.channels.groups import Channels, Group
from optimizer.channels.price import variable
from optimizer.channels.trace import Role


def orderable(channels: Channels, path: str) -> Group | str:
    """The group whose units are the channels that a layer makes, one each; or why they have to stay where they are.

    Args:
        channels: of the network.
        path: of the layer.
    """
    for group in (*channels.groups, *channels.frozen):
        made = [part for part in group.parts if part.touch.layer == path and part.touch.role is Role.MAKES]
        if not made:
            continue
        if group.frozen:
            return group.frozen
        kernel = made[0].touch
        if kernel.ids.size == len(group) and made[0].places.shape == (len(group), 1):
            return group
        return "its channels are not interchangeable"
    return "it is not known who reads its channels"


def holds_zeros(channels: Channels, group: Group) -> str:
    """The first layer whose kernel holds these channels and some zeros, which an earlier step pruned; "" for none."""
    for part in group.parts:
        value = np.asarray(variable(channels.layers[part.touch.layer], part.touch.weight).numpy())
        if value.ndim > 1 and 0 < np.count_nonzero(value) < value.size:
            return part.touch.layer
    return ""


def reorder(channels: Channels, group: Group, path: str, order: Sequence[int]) -> None:
    """Moves channels, in place.

    Args:
        channels: of the network.
        group: from `orderable`.
        path: the layer it was asked for.
        order: the channel of that layer that shall come to each place.
    """
    made = next(part for part in group.parts if part.touch.layer == path and part.touch.role is Role.MAKES)
    unit_at = np.empty(len(group), np.int64)
    unit_at[made.places[:, 0]] = np.arange(len(group))
    to, source = unit_at, unit_at[np.asarray(order)]
    for part in group.parts:
        weight = variable(channels.layers[part.touch.layer], part.touch.weight)
        value = np.asarray(weight.numpy())
        index = np.arange(value.shape[part.touch.axis])
        index[part.places[to]] = part.places[source]
        weight.assign(value.take(index, axis=part.touch.axis))
