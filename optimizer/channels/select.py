"""How many units each group keeps: a share of each, or a budget of cost spent over all of them."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from edgesmith.errors import ModelError
from optimizer.channels.groups import Channels
from optimizer.channels.scores import Array, Scores
from optimizer.channels.widths import nearest

Levels = Mapping[int, Sequence[int]]
"""By index of a group, the numbers of units it may keep, falling; the first is all of them. Others stay whole."""

LOOSEN = "Raise `keep`, lower `min_channels` or `round_to`, raise `max_share`, or exclude less."


class Cost(Protocol):
    """What a network costs, by how many units each of its groups keeps."""

    @property
    def steps(self) -> int:
        """How many levels of a group to look ahead: more than one where a cost falls in steps."""

    def total(self, kept: Sequence[int]) -> float:
        """Of the whole network."""

    def saved(self, kept: Sequence[int], group: int, units: int = 1) -> float:
        """What falls away with the next units of a group."""

    def neighbours(self, group: int) -> frozenset[int]:
        """Groups whose savings change when this one shrinks, itself included."""


def by_share(channels: Channels, levels: Levels, shares: Mapping[int, float], originals: Sequence[int]) -> list[int]:
    """Takes a share out of each group, as near as its levels allow.

    Args:
        channels: of the network.
        levels: of the groups that may shrink.
        shares: by index of a group, how much of it goes, in [0, 1).
        originals: units of each group that the share is of.

    Returns:
        Units kept, by group.
    """
    kept = [len(group) for group in channels.groups]
    for index, share in shares.items():
        kept[index] = nearest(levels[index], originals[index] * (1.0 - share))
    return kept


def by_budget(channels: Channels, levels: Levels, scores: Scores, cost: Cost, budget: float) -> list[int]:
    """Takes out what matters least for what it costs, until the network is within its budget.

    Greedy: of all groups the next level with the lowest loss per cost saved, costs taken anew as widths shrink. What a
    group loses is S log(S / R), with S the sum of its scores and R what is left of it: at first the scores of what
    goes, and more the less remains, as each remaining channel then stands for more. That is the rule of LAMP
    (arXiv:2010.07611): a score counts relative to all that are still there. Plain sums would empty one group before
    they touched the next.

    A heap holds the best move of each group; when a group shrinks, its own entry and those of the groups next to it are
    replaced, and stale ones are dropped as they come up.

    Args:
        channels: of the network.
        levels: of the groups that may shrink.
        scores: of the units of these.
        cost: of the network.
        budget: what it may cost at most.

    Returns:
        Units kept, by group.

    Raises:
        ModelError: the budget is not met with all groups at their narrowest.
    """
    kept = [len(group) for group in channels.groups]
    sums = {index: np.concatenate([[0.0], np.cumsum(np.sort(scores[index]))]) for index in levels}
    places = dict.fromkeys(levels, 0)
    heap: list[tuple[float, int, int, int]] = []
    version = dict.fromkeys(levels, 0)

    def offer(group: int) -> None:
        version[group] += 1
        if (move := _best(group, kept, levels[group], places[group], sums[group], cost)) is not None:
            heapq.heappush(heap, (move[0], group, move[1], version[group]))

    for group in levels:
        offer(group)
    total = cost.total(kept)
    while total > budget * (1.0 + 1e-12):
        if not heap:
            raise ModelError(
                f"The budget of {budget:,.4g} is not met: with every group as narrow as allowed the model costs "
                f"{total:,.4g}, of {cost.total([len(group) for group in channels.groups]):,.4g} now.",
                next_step=LOOSEN,
            )
        _, group, place, stamp = heapq.heappop(heap)
        if stamp != version[group]:
            continue
        kept[group] = levels[group][place]
        places[group] = place
        total = cost.total(kept)
        for near in cost.neighbours(group) | {group}:
            if near in version:
                offer(near)
    return kept


def narrowest(channels: Channels, levels: Levels) -> list[int]:
    """Units that each group keeps at its narrowest."""
    return [levels[i][-1] if i in levels else len(group) for i, group in enumerate(channels.groups)]


def gone(channels: Channels, scores: Scores, kept: Sequence[int]) -> list[int]:
    """Numbers of the units that go: of each group those with the lowest scores, ties by their order."""
    units: list[int] = []
    for index, group in enumerate(channels.groups):
        if (excess := len(group) - kept[index]) > 0:
            units.extend(group.units[np.argsort(scores[index], kind="stable")[:excess]].tolist())
    return units


def _best(
    group: int, kept: list[int], levels: Sequence[int], place: int, sums: Array, cost: Cost
) -> tuple[float, int] | None:
    """(score per cost saved, place of the level) of the best next move; None where nothing more can go."""
    whole, now = levels[0], levels[place]
    best: tuple[float, int] | None = None
    for ahead in range(place + 1, min(place + 1 + cost.steps, len(levels))):
        saved = cost.saved(kept, group, now - levels[ahead])
        lost = _lost(sums, whole - now, whole - levels[ahead])
        rate = lost / saved if saved > 0 else np.inf
        if best is None or rate < best[0]:
            best = (rate, ahead)
    return best


def _lost(sums: Array, before: int, after: int) -> float:
    """What a group loses with more of its lowest scores gone; `sums` of so many of them."""
    whole = sums[-1]
    left, next_left = whole - sums[before], whole - sums[after]
    if whole <= 0.0 or left <= 0.0:
        return 0.0
    return float(whole * np.log(left / next_left)) if next_left > 0.0 else np.inf
