"""Makes up for channels that are gone, without training: layers that read them are fitted to what they said before.

Each layer that lost inputs is fitted by itself, in the order of the graph, on the inputs it has in the narrower
network, so that it also makes up for the layers before it (He, Zhang and Sun, "Channel pruning for accelerating very
deep neural networks", arXiv:1707.06168, section 3.1, equation 1, and section 3.2 for the order; Luo et al., "ThiNet",
arXiv:1707.06342, equation 7). With X' the rows it reads now, and Y what the layer of the original made of its own rows
at the same positions of the same samples:

    least squares:  argmin over W, b of  |X' W + b - Y|^2 + r |W - W0|^2,   W0 what the surgery left, r the ridge
    bias:           b = mean(Y - X' W0), which is the mean of the removed channels, times the weights that read them
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from calibration import inputs
from edgesmith.progress import Progress
from optimizer.base import KerasModel
from optimizer.channels import linear
from optimizer.channels.groups import Channels, find
from optimizer.channels.trace import Role
from targets.keras_model import one_or_list

Repair = Literal["least_squares", "bias", "none"]
Array = NDArray[Any]

_BATCH = 32
# More samples change little: a few rows for each weight of a filter are enough.
_MOST_SAMPLES = 256
_ROWS_PER_WEIGHT = 8
_FEWEST_ROWS = 2048
_MOST_NUMBERS = 2**25
"""In the rows of one layer: 256 MiB."""
_RIDGE = 1e-3


@dataclass(slots=True, kw_only=True)
class Repaired:
    """What was fitted.

    Attributes:
        fitted: layers whose kernels, or biases, were.
        left: layers that lost inputs and stay as the surgery left them.
    """

    fitted: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def compensate(
    original: KerasModel,
    channels: Channels,
    gone: Sequence[int],
    narrow: KerasModel,
    x: Array,
    *,
    repair: Repair,
    seed: int,
    progress: Progress,
) -> Repaired:
    """Fits the layers of a network that has lost units, in place.

    Args:
        original: with all units.
        channels: of it.
        gone: the units.
        narrow: `surgery.without` of these; changed.
        x: calibration samples, as the model takes them.
        repair: what is fitted.
        seed: picks samples and positions.
        progress: where it is told.
    """
    done = Repaired()
    if repair == "none":
        return done
    order = np.random.default_rng([seed, 6]).permutation(len(x))[:_MOST_SAMPLES]
    x = x[np.sort(order)]
    now = find(narrow).layers
    layers: dict[str, NDArray[np.bool_]] = {}
    for path in _readers(channels, gone):
        layer = channels.layers[path]
        if linear.is_linear(layer) and (repair == "least_squares" or layer.use_bias):  # type: ignore[attr-defined]
            layers[path] = _outputs_that_stay(channels, path, gone)
        else:
            done.left.append(path)
    if not layers:
        return done
    reading = _Reading(x, {path: rows_wanted(channels.layers[path]) for path in layers}, seed)
    with progress.task("channels: reconstruction", total=float(len(layers) + 1)) as task:
        said = {path: _said(channels.layers[path], stays) for path, stays in layers.items()}
        wanted = reading.of(original, {path: channels.layers[path] for path in layers}, said)
        task.advance()
        for path in layers:
            _fit(now[path], reading.of(narrow, {path: now[path]}, {})[path], wanted[path], repair)
            done.fitted.append(path)
            task.advance()
    return done


def _readers(channels: Channels, gone: Sequence[int]) -> list[str]:
    """Layers that lost inputs, in the order of the graph."""
    lost = {
        touch.layer
        for touch in channels.touches
        if touch.role is Role.READS and np.isin(channels.unit_of[touch.ids], gone).any()
    }
    return [path for path in channels.layers if path in lost]


def _outputs_that_stay(channels: Channels, path: str, gone: Sequence[int]) -> NDArray[np.bool_]:
    made = next(touch for touch in channels.touches if touch.layer == path and touch.role is Role.MAKES)
    return ~np.isin(channels.unit_of[made.ids], gone)


def _said(layer: Any, stays: NDArray[np.bool_]) -> Callable[[Array], Array]:
    """Rows that a layer reads -> what it makes of them, before activation, of the outputs that stay."""

    def said(rows: Array) -> Array:
        made = linear.product(rows.astype(np.float64), linear.matrix(layer))
        if layer.use_bias:
            made += np.asarray(layer.bias.numpy(), np.float64)
        return made[:, stays]

    return said


def _fit(layer: Any, read: Array, wanted: Array, repair: Repair) -> None:
    """Fits kernel and bias to what is wanted of the rows that are read."""
    rows = read.astype(np.float64)
    before = linear.matrix(layer)
    missing = wanted - linear.product(rows, before)
    groups = before.shape[0]
    change = np.zeros_like(before)
    means, offset = np.zeros(rows.shape[1:]), np.zeros(missing.shape[1])
    if layer.use_bias:
        means, offset = rows.mean(axis=0), missing.mean(axis=0)
    if repair == "least_squares":
        errors = (missing - offset).reshape(len(rows), groups, -1)
        for group in range(groups):
            centred = rows[:, group] - means[group]
            square = centred.T @ centred
            # Towards what the surgery left, so that directions that the samples do not show stay as they are.
            ridge = _RIDGE * max(float(np.trace(square)) / len(square), 1e-12)
            square[np.diag_indices_from(square)] += ridge
            change[group] = np.linalg.solve(square, centred.T @ errors[:, group])
        offset = offset - linear.product(means[None], change)[0]
    linear.assign(layer, before + change, offset if layer.use_bias else None)


@dataclass(frozen=True, slots=True, eq=False)
class _Reading:
    """Which rows of which layers are read, the same in both networks.

    Attributes:
        x: samples.
        counts: by path of a layer, its rows.
        seed: picks positions.
    """

    x: Array
    counts: dict[str, int]
    seed: int

    def of(
        self, model: KerasModel, layers: dict[str, Any], keep: dict[str, Callable[[Array], Array]]
    ) -> dict[str, Array]:
        """Rows that layers read of the samples, over all their calls, and of these what `keep` makes of them."""
        found: dict[str, list[Array]] = {path: [] for path in layers}
        batches = max(-(-len(self.x) // _BATCH), 1)

        def recorder(path: str, layer: Any) -> Callable[[Array], None]:
            # By name, so that a layer draws the same positions in both networks.
            random = np.random.default_rng([self.seed, 7, *path.encode()])
            each = -(-self.counts[path] // batches)

            def record(given: Array) -> None:
                rows = linear.rows(layer, given, each, random)
                found[path].append(keep[path](rows) if path in keep else rows)

            return record

        with _listening([(layer, recorder(path, layer)) for path, layer in layers.items()]):
            for start in range(0, len(self.x), _BATCH):
                model(one_or_list(inputs.split(self.x[start : start + _BATCH])), training=False)
        return {path: np.concatenate(parts) for path, parts in found.items()}


def rows_wanted(layer: Any) -> int:
    """Rows, at most, that fit a layer of the original; as many are read of its narrower twin."""
    weights = int(linear.matrix(layer).shape[1])
    return max(min(max(_ROWS_PER_WEIGHT * weights, _FEWEST_ROWS), _MOST_NUMBERS // weights), 1)


@contextlib.contextmanager
def _listening(records: Sequence[tuple[Any, Callable[[Array], None]]]) -> Iterator[None]:
    """Hands what each layer is called on to a function, wherever in the network the layer is."""
    try:
        for layer, record in records:
            layer.call = _recorded(layer.call, record)
        yield
    finally:
        for layer, _ in records:
            # The attribute of the instance hides the method of the class; without it the method is back.
            del layer.call


def _recorded(call: Any, record: Callable[[Array], None]) -> Any:
    def recorded(given: Any, *args: Any, **kwargs: Any) -> Any:
        record(np.asarray(given))
        return call(given, *args, **kwargs)

    return recorded
