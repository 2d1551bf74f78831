"""Which groups of a network are up for pruning: by scope, and by the names of the layers that make them."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Literal

from edgesmith.errors import ModelError
from optimizer.channels.groups import Channels, Group

Scope = Literal["channels", "filters"]


def within(channels: Channels, scope: Scope) -> tuple[int, ...]:
    """Indices of the groups in a scope.

    `channels`: all of them, residual streams too. `filters`: those that stay inside a block, so that the widths between
    blocks stay: made by one layer, read by one, and joined with no other branch by a sum or a concatenation. A
    squeeze-and-excite gate inside the block counts neither as a second maker nor as a second reader.

    Args:
        channels: of the network.
        scope: as above.
    """
    everything = range(len(channels.groups))
    return tuple(index for index in everything if scope == "channels" or _inside(channels, channels.groups[index]))


def select(channels: Channels, among: Sequence[int], include: Sequence[str], exclude: Sequence[str]) -> tuple[int, ...]:
    """Those groups whose makers match.

    Args:
        channels: of the network.
        among: indices of groups.
        include: shell-style patterns of layer names; none = all of them.
        exclude: the same; a group goes unpruned where one of its makers matches. Wins over `include`.

    Raises:
        ModelError: a pattern matches no layer that makes channels, or nothing is left; lists the layers.
    """
    for pattern in (*include, *exclude):
        matching(channels, among, pattern, allow_frozen=pattern in exclude)
    chosen = tuple(
        index
        for index in among
        if (not include or _any(channels.groups[index], include)) and not _any(channels.groups[index], exclude)
    )
    if not chosen:
        raise ModelError(
            "`include`, `exclude` and `scope` leave no channels to prune.", next_step=_listed(channels, among)
        )
    return chosen


def matching(channels: Channels, among: Sequence[int], pattern: str, *, allow_frozen: bool = False) -> tuple[int, ...]:
    """The groups a pattern means.

    Raises:
        ModelError: none; where the layer's channels have to stay, says why.
    """
    found = tuple(index for index in among if _any(channels.groups[index], [pattern]))
    if found:
        return found
    stays = next((group for group in channels.frozen if _any(group, [pattern])), None)
    if stays is not None:
        if allow_frozen:
            return ()
        raise ModelError(
            f"The layer pattern '{pattern}' names channels that have to stay: {stays.frozen}.",
            next_step=_listed(channels, among),
        )
    if any(_any(group, [pattern]) for group in channels.groups):
        if allow_frozen:
            return ()
        raise ModelError(
            f"The layer pattern '{pattern}' names channels that run between blocks, and `scope: filters` keeps those.",
            next_step=f"Take `scope: channels`. {_listed(channels, among)}",
        )
    raise ModelError(
        f"The layer pattern '{pattern}' matches no layer that makes channels.", next_step=_listed(channels, among)
    )


def frozen_reasons(channels: Channels) -> Mapping[str, tuple[str, ...]]:
    """Why channels stay -> the layers that make them."""
    found: dict[str, list[str]] = {}
    for group in channels.frozen:
        found.setdefault(group.frozen, []).append(group.name)
    return {reason: tuple(names) for reason, names in found.items()}


def _inside(channels: Channels, group: Group) -> bool:
    gates = _gates(channels, group)
    makers = [layer for layer in group.makers if layer not in gates.values()]
    readers = [layer for layer in group.readers if layer not in gates]
    return not group.joined and len(makers) == 1 and len(readers) == 1


def _gates(channels: Channels, group: Group) -> Mapping[str, str]:
    """Layers that read a group and only serve to make a factor for it -> the layer that makes the factor."""
    found: dict[str, str] = {}
    if len(group.makers) == 1:
        return found
    for squeeze in group.readers:
        squeezed = [other for other in channels.groups if squeeze in other.makers and other is not group]
        ends = {reader for other in squeezed for reader in other.readers}
        if len(ends) == 1 and ends <= set(group.makers):
            found[squeeze] = ends.pop()
    return found


def _any(group: Group, patterns: Sequence[str]) -> bool:
    return any(_matches(layer, pattern) for layer in group.makers for pattern in patterns)


def _matches(layer: str, pattern: str) -> bool:
    """By the full path, or by the layer's own name."""
    return fnmatch.fnmatchcase(layer, pattern) or fnmatch.fnmatchcase(layer.rpartition("/")[2], pattern)


def _listed(channels: Channels, among: Sequence[int]) -> str:
    names = dict.fromkeys(layer for index in among for layer in channels.groups[index].makers)
    if not names and channels.groups:
        return "All channels that can go run between blocks: take `scope: channels`."
    if not names:
        return "No layer of this model makes channels that can go."
    return f"Layers whose channels can go: {', '.join(names)}."
