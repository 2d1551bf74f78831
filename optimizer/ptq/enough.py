"""How many calibration samples were enough: ranges seen after 8, 16, 32, ... samples against those of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.convergence import RangeConvergence, range_convergence, sample_counts
from calibration.observers import PercentileObserver
from targets.plan_graph import PlanGraph

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Samples = NDArray[Any] | Sequence[NDArray[Any]]

PERCENT = 99.99
"""A minimum or maximum is set by one value and may move with any sample; so much of all values settles."""


def ranges_by_samples(graph: PlanGraph, x: Samples) -> RangeConvergence:
    """The curve over all activations, from one pass.

    Args:
        graph: the float network.
        x: calibration samples, [N, ...], or one array per input.

    Raises:
        DataError: an activation is NaN or infinite.
    """
    arrays = [x] if isinstance(x, np.ndarray) else list(x)
    observers = {name: PercentileObserver(name, percent=PERCENT) for name in graph.tensors}
    snapshots: dict[int, dict[str, tuple[float, float]]] = {}
    start = 0
    for count in sample_counts(len(arrays[0])):
        for found in graph.run([array[start:count] for array in arrays], graph.tensors):
            for name, values in found.items():
                observers[name].update(values)
        snapshots[count] = {name: _range(observer) for name, observer in observers.items()}
        start = count
    return range_convergence(snapshots)


def _range(observer: PercentileObserver) -> tuple[float, float]:
    low, high = observer.range()
    return float(low), float(high)
