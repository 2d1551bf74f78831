"""Fits a head alone, on features that are computed once: a softmax regression.

A new head that starts at random sends gradients through the network that mean nothing yet, and the first steps spoil
what was learnt (Kumar et al., "Fine-tuning can distort pretrained features", arXiv:2202.10054). So every method begins
with this: it costs a forward pass for each sample and next to nothing for the head itself.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calibration import inputs
from optimizer.base import KerasModel
from targets.keras_model import one_or_list

ITERATIONS: Final = 150
_RATE = 0.05
_DECAY = 1e-2
_BATCH = 128
Array = NDArray[np.float64]


def flops(features: int, classes: int) -> int:
    """FLOPs of the fit for each sample: forward and backward to the weights, in every iteration."""
    return 4 * ITERATIONS * features * classes


def fit(head: Any, features: NDArray[Any], labels: NDArray[np.int64]) -> None:
    """Gives a Dense layer the weights that tell the classes apart best by its features.

    Adam on all samples at once, from zero, features brought to mean 0 and variance 1 and weights drawn towards zero.
    Logits and softmax have the same weights. Where the layer has no bias, features are only scaled.

    Args:
        head: a Dense layer; changed.
        features: [N, features].
        labels: classes [N].
    """
    classes = int(head.units)
    x = features.astype(np.float64)
    mean = x.mean(axis=0) if head.use_bias else np.zeros(x.shape[1])
    scale = x.std(axis=0) + 1e-6
    x = (x - mean) / scale
    wanted = np.eye(classes)[labels]
    # The bias is one more weight, of an input that is always 1, and not drawn towards zero.
    rows = np.concatenate([x, np.full((len(x), 1), float(head.use_bias))], axis=1)
    decay = np.append(np.full(x.shape[1], _DECAY), 0.0)[:, None]
    weights = np.zeros((rows.shape[1], classes))
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    for step in range(1, ITERATIONS + 1):
        slope = rows.T @ (_softmax(rows @ weights) - wanted) / len(rows) + decay * weights
        first = 0.9 * first + 0.1 * slope
        second = 0.99 * second + 0.01 * slope**2
        weights -= _RATE * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.99**step)) + 1e-8)
    kernel = weights[:-1] / scale[:, None]
    parts = [kernel, weights[-1] - mean @ kernel] if head.use_bias else [kernel]
    head.set_weights([part.astype(np.float32) for part in parts])


def outputs(model: KerasModel, x: NDArray[Any]) -> NDArray[Any]:
    """What a network makes of samples, batch by batch, as in inference."""
    parts = [
        np.asarray(model(one_or_list(inputs.split(x[start : start + _BATCH])), training=False))
        for start in range(0, len(x), _BATCH)
    ]
    return np.concatenate(parts)


def _softmax(logits: Array) -> Array:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Array = raised / raised.sum(axis=1, keepdims=True)
    return found
