"""Fits the products of a network one after the other, each to what the layer it stands for made in the original.

The last factor of a product is fitted on what it reads in the new network, so that it also makes up for the layers
before it (Zhang et al., arXiv:1505.06798, section 3.3, the asymmetric case, in closed form). With X' the rows it reads
and Y what the old layer made of its own rows at the same positions:

    argmin over W, b of  |X' W + b - Y|^2 + r |W - W0|^2,   W0 the factor of the decomposition, r the ridge
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration import inputs
from edgesmith.progress import Progress
from optimizer import rewrite
from optimizer.base import KerasModel
from optimizer.factors.maps import Linear
from optimizer.factors.moments import listening, most_rows, patches
from targets.keras_model import one_or_list

_BATCH = 32
# Of the mean second moment of what the factor reads: directions that the samples hardly show keep their weights.
_RIDGE = 1e-3


def reconstruct(
    original: KerasModel,
    made: KerasModel,
    layers: Sequence[Linear],
    x: NDArray[Any],
    *,
    seed: int,
    progress: Progress,
) -> None:
    """Changes the last factors, and their biases where they have some, in place.

    Args:
        original: before.
        made: the same with products; the last layer of each has the name of the old one.
        layers: of the original that became products, in the order of the graph.
        x: samples, as the models take them.
        seed: which positions of each image are looked at.
        progress: told of every layer.
    """
    now = rewrite.layers(made)
    with progress.task("low_rank: reconstruction", total=float(len(layers))) as task:
        for linear in layers:
            most = most_rows(linear, -(-len(x) // _BATCH))
            old = _read(original, linear, x, most, seed)
            wanted = old @ linear.kernel().reshape(-1, linear.widths[1])
            if linear.layer.use_bias:
                wanted += np.asarray(linear.layer.bias.numpy())
            last = replace(linear, layer=now[linear.path])
            _fit(last, _read(made, last, x, most, seed), wanted)
            task.advance()


def _read(model: KerasModel, linear: Linear, x: NDArray[Any], most: int, seed: int) -> NDArray[np.float64]:
    """The rows a layer reads, the same positions for an old layer and the one in its place."""
    random = np.random.default_rng([seed, 6])
    rows: list[NDArray[np.float32]] = []
    with listening(linear.layer, lambda given: rows.append(patches(linear, given, most, random))):
        for start in range(0, len(x), _BATCH):
            model(one_or_list(inputs.split(x[start : start + _BATCH])), training=False)
    return np.concatenate(rows).astype(np.float64)


def _fit(linear: Linear, rows: NDArray[np.float64], wanted: NDArray[np.float64]) -> None:
    layer = linear.layer
    before = linear.kernel()
    flat = before.reshape(-1, before.shape[-1])
    biased = bool(layer.use_bias)
    missing = wanted - rows @ flat
    means = rows.mean(axis=0) if biased else np.zeros(rows.shape[1])
    offset = missing.mean(axis=0) if biased else np.zeros(missing.shape[1])
    centred = rows - means
    square = centred.T @ centred
    size = float(np.trace(square)) / len(square)
    if size > 0:
        square[np.diag_indices_from(square)] += _RIDGE * size
        change = np.asarray(np.linalg.solve(square, centred.T @ (missing - offset)))
        layer.kernel.assign((flat + change).reshape(before.shape).astype(np.float32))
        offset = offset - means @ change
    if biased:
        layer.bias.assign(offset.astype(np.float32))
