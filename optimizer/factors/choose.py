"""Which product, and of which ranks, every layer gets: by energy, by error, or under a budget for the whole network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product as pairs
from typing import Literal

from edgesmith.errors import ModelError
from optimizer.factors.maps import Linear
from optimizer.factors.products import Form, Product, Ranks

Count = Literal["macs", "parameters"]

# Ranks looked at along one axis of a kernel; those of wide layers are spread evenly over the ones that save something.
_MOST_RANKS = 32
_MOST_OF_TUCKER = 12


@dataclass(frozen=True, slots=True)
class Option:
    """A product that one layer could become, cheaper than the layer.

    Attributes:
        form: of the product.
        ranks: of it.
        macs: multiply-accumulates of one sample.
        parameters: weights without biases.
        error: relative squared error of the output.
    """

    form: Form
    ranks: Ranks
    macs: int
    parameters: int
    error: float

    def cost(self, count: Count) -> int:
        """What is counted."""
        return self.macs if count == "macs" else self.parameters


def options(linear: Linear, products: Sequence[Product], *, multiple: int) -> list[Option]:
    """All products of a layer that have fewer multiply-accumulates and fewer weights than it has itself."""
    macs, parameters = linear.macs(linear.whole), linear.parameters(linear.whole)
    found = []
    for product in products:
        for ranks in _ranks(product, multiple):
            stages = product.stages(ranks)
            now = linear.macs(stages), linear.parameters(stages)
            if now[0] < macs and now[1] < parameters:
                found.append(Option(product.form, ranks, *now, product.error(ranks)))
    return found


def within(found: Sequence[Option], limit: float) -> Option | None:
    """The product with the fewest multiply-accumulates of those that lose at most so much."""
    return min((one for one in found if one.error <= limit), key=lambda one: (one.macs, one.parameters), default=None)


def under_budget(
    layers: Mapping[str, Linear], found: Mapping[str, Sequence[Option]], *, total: int, keep: float, count: Count
) -> dict[str, Option]:
    """Products that bring a network down to a share of its cost, with little error for what they save.

    Every layer offers the lower convex hull of its errors over its savings; the steps of all hulls are taken in the
    order of error per saving until the goal is met. Errors are relative to each layer's own output.

    Args:
        layers: by path.
        found: options of each.
        total: cost of the whole network as it is.
        keep: share of it that may stay.
        count: what is counted.

    Raises:
        ModelError: not even the cheapest products reach it; says what can be reached.
    """
    steps = []
    for path, choices in found.items():
        whole = layers[path]
        full = whole.macs(whole.whole) if count == "macs" else whole.parameters(whole.whole)
        steps += [(slope, path, saving, option) for slope, saving, option in _hull(full, choices, count)]
    taken: dict[str, Option] = {}
    spent, goal = float(total), keep * total
    for _, path, saving, option in sorted(steps, key=lambda step: step[0]):
        if spent <= goal:
            break
        taken[path] = option
        spent -= saving
    if spent > goal:
        raise ModelError(
            f"low_rank: keep {keep:.0%} of the {count} cannot be reached: with the smallest ranks in all "
            f"{len(found)} layers that can be factorised ({', '.join(found)}), {spent / total:.0%} stay.",
            next_step=f"Set keep above {spent / total:.2f}, or take channels out first.",
        )
    return taken


def _hull(full: int, choices: Sequence[Option], count: Count) -> Iterator[tuple[float, int, Option]]:
    """(error per saving, saving, option) of each step along the hull; each step replaces the one before."""
    points = sorted(((full - one.cost(count), one.error, one) for one in choices), key=lambda point: point[:2])
    saved, error = 0, 0.0
    while ahead := [point for point in points if point[0] > saved]:
        best = min(ahead, key=lambda point: ((point[1] - error) / (point[0] - saved), -point[0]))
        yield (best[1] - error) / (best[0] - saved), best[0] - saved, best[2]
        saved, error = best[0], best[1]


def _ranks(product: Product, multiple: int) -> Iterator[Ranks]:
    most = _MOST_RANKS if len(product.most) == 1 else _MOST_OF_TUCKER
    return pairs(*(_spread(limit, multiple, most) for limit in product.most))


def _spread(limit: int, multiple: int, most: int) -> list[int]:
    """Ranks up to the limit, multiples of a number where there are any, at most so many of them."""
    every = list(range(multiple, limit + 1, multiple)) or list(range(1, limit + 1))
    if len(every) <= most:
        return every
    return sorted({every[round(i * (len(every) - 1) / (most - 1))] for i in range(most)})
