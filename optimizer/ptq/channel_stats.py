"""What each channel of a network's tensors holds, streamed over the calibration samples."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.progress import Progress
from targets.plan_graph import PlanGraph

View = tuple[str, tuple[int, ...]]
"""A tensor, and the axes that tell its columns apart; all others become rows."""

_AT_ONCE = 1 << 24
"""Float values that one batch of all observed tensors may hold: 64 MB."""
_KEPT = 1 << 17
"""Float values of one tensor that are kept: half a MB."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChannelStats:
    """Of one tensor, seen as [rows, columns]: a row for each sample and place, a column for each channel.

    Attributes:
        low: smallest value of each column over all samples, float64 [columns].
        high: largest.
        power: mean of squares.
        rows: float32 [about 1024 at most, columns], drawn evenly from all samples.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    power: NDArray[np.float64]
    rows: NDArray[np.float32]

    @property
    def largest(self) -> NDArray[np.float64]:
        """Of the magnitudes in each column."""
        return np.maximum(np.abs(self.low), np.abs(self.high))


def observe(
    graph: PlanGraph,
    x: NDArray[Any] | Sequence[NDArray[Any]],
    views: Collection[View],
    shapes: Mapping[str, tuple[int, ...]],
    progress: Progress,
) -> dict[View, ChannelStats]:
    """Runs the float network once over the samples.

    Memory is bounded by the number of tensors, whatever the number of samples.

    Args:
        graph: the network.
        x: its samples [N, ...], or one array per input.
        views: what is wanted.
        shapes: tensor -> shape for one sample.
        progress: moves on by samples.
    """
    names = tuple(dict.fromkeys(name for name, _ in views))
    if not names:
        return {}
    samples = len(x if isinstance(x, np.ndarray) else x[0])
    per_sample = sum(int(np.prod(shapes[name])) for name in names)
    batch = max(1, min(64, _AT_ONCE // max(per_sample, 1)))
    random = np.random.default_rng(0)
    running: dict[View, _Running] = {}
    with progress.task("activations of the float network", total=samples) as task:
        for found in graph.run(x, names, batch=batch):
            size = len(found[names[0]])
            for name, axes in views:
                table = _table(found[name], axes)
                running.setdefault((name, axes), _Running(table.shape[1])).add(table, size / samples, random)
            task.advance(size)
    return {view: found.result() for view, found in running.items()}


def _table(values: NDArray[Any], axes: tuple[int, ...]) -> NDArray[np.float32]:
    """[rows, columns], the columns in row-major order of `axes`."""
    places = [axis for axis in range(values.ndim) if axis not in axes]
    columns = int(np.prod([values.shape[axis] for axis in axes]))
    return np.ascontiguousarray(values.transpose(*places, *axes), dtype=np.float32).reshape(-1, columns)


class _Running:
    def __init__(self, columns: int) -> None:
        self._low = np.full(columns, np.inf)
        self._high = np.full(columns, -np.inf)
        self._sum = np.zeros(columns)
        self._count = 0
        self._kept: list[NDArray[np.float32]] = []
        self._wanted = min(1024, max(64, _KEPT // columns))

    def add(self, table: NDArray[np.float32], share: float, random: np.random.Generator) -> None:
        """`share`: of all samples; each gives as many rows, the last batch's as many as the first one's."""
        self._low = np.minimum(self._low, table.min(axis=0))
        self._high = np.maximum(self._high, table.max(axis=0))
        self._sum += np.einsum("rc,rc->c", table, table, dtype=np.float64)
        self._count += len(table)
        picked = random.choice(len(table), size=min(max(1, round(share * self._wanted)), len(table)), replace=False)
        self._kept.append(table[np.sort(picked)])

    def result(self) -> ChannelStats:
        return ChannelStats(
            low=self._low, high=self._high, power=self._sum / max(self._count, 1), rows=np.concatenate(self._kept)
        )
