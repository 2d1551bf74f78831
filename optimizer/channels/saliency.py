"""How much the loss would change without a channel, judged by gradients on data. A small score goes first.

To take a unit out is to set to zero the weights that read it, in all layers that do: what makes it no longer matters
then. So the set S of a unit's weights is what reads it, and its first-order change, the sum of gradient times weight
over S, is the gradient of the gate of Molchanov et al. put right in front of the readers, after normalization and
activation, and summed over them. It needs no rule for residual streams, depthwise layers or folded normalization.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration import inputs
from edgesmith.errors import DataError
from edgesmith.frameworks import import_tensorflow
from edgesmith.progress import Progress
from optimizer import losses, strided
from optimizer.base import KerasModel
from optimizer.channels.groups import Channels, Part
from optimizer.channels.price import variable
from optimizer.channels.scores import Array, Scores, taken
from optimizer.channels.trace import Role
from targets.keras_model import one_or_list

_BATCH = 32
_PROBABILITIES = ("softmax", "sigmoid")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evidence:
    """What gradients are taken on.

    Attributes:
        x: [N, ...], as the model takes it; several inputs joined.
        loss: with the labels of these samples; None: targets are drawn from the model's own answers.
        seed: of what is drawn.
        progress: where it is told.
    """

    x: NDArray[Any]
    loss: losses.ChosenLoss | None
    seed: int
    progress: Progress


def taylor(model: KerasModel, channels: Channels, evidence: Evidence) -> Scores:
    """Mean over batches of the squared sum of gradient times weight over S.

    Molchanov et al., "Importance estimation for neural network pruning", arXiv:1906.10771, equation 8 for a gate. The
    scores of all layers compare: each is a change of the same loss.
    """
    readers = _readers(channels)
    sums = {index: np.zeros(len(channels.groups[index])) for index in readers}
    batches = 0
    for gradients in _gradients(model, channels, evidence, drawn=evidence.loss is None):
        batches += 1
        for index, parts in readers.items():
            change = sum((_of(channels, part, gradients, _product) for part in parts), start=np.zeros(len(sums[index])))
            sums[index] += np.square(change)
    return {index: total / max(batches, 1) for index, total in sums.items()}


def obd(model: KerasModel, channels: Channels, evidence: Evidence) -> Scores:
    """Half the sum over S of the diagonal Hessian times the squared weight.

    LeCun, Denker and Solla, "Optimal brain damage" (1990), equation 5. The diagonal is that of the Fisher matrix, which
    is the Gauss-Newton part of the Hessian (Martens, arXiv:1412.1193, section 9.2). Targets are drawn from the model's
    own answers, whatever labels there are: the gradients of the samples in a batch are then independent with mean
    zero, so that the batch size times the squared gradient of the batch's mean loss estimates the mean of their squares
    without bias (Liu et al., "Sophia", arXiv:2305.14342, section 2.3, Gauss-Newton-Bartlett).
    """
    readers = _readers(channels)
    sums = {index: np.zeros(len(channels.groups[index])) for index in readers}
    batches = 0
    for gradients in _gradients(model, channels, evidence, drawn=True):
        batches += 1
        for index, parts in readers.items():
            for part in parts:
                sums[index] += _of(channels, part, gradients, _squared_product)
    size = min(_BATCH, len(evidence.x))
    return {index: 0.5 * size * total / max(batches, 1) for index, total in sums.items()}


def _product(weight: NDArray[Any], gradient: NDArray[Any]) -> NDArray[Any]:
    change: NDArray[Any] = weight * gradient
    return change


def _squared_product(weight: NDArray[Any], gradient: NDArray[Any]) -> NDArray[Any]:
    square: NDArray[Any] = np.square(weight * gradient)
    return square


def _readers(channels: Channels) -> Mapping[int, Sequence[Part]]:
    found = {
        index: [part for part in group.parts if part.touch.role is Role.READS]
        for index, group in enumerate(channels.groups)
    }
    return {index: parts for index, parts in found.items() if parts}


def _of(
    channels: Channels, part: Part, gradients: Mapping[int, NDArray[Any]], combine: Callable[..., NDArray[Any]]
) -> Array:
    weight = variable(channels.layers[part.touch.layer], part.touch.weight)
    total: Array = taken(combine(np.asarray(weight.numpy(), np.float64), gradients[id(weight)]), part).sum(axis=1)
    return total


def _gradients(
    model: KerasModel, channels: Channels, evidence: Evidence, *, drawn: bool
) -> Iterator[Mapping[int, NDArray[Any]]]:
    """By batch, id of a variable -> gradient of the batch's mean loss; for all weights that read channels."""
    tf = import_tensorflow()
    read = {
        id(weight): weight
        for parts in _readers(channels).values()
        for part in parts
        for weight in [variable(channels.layers[part.touch.layer], part.touch.weight)]
    }
    watched = [weight.value for weight in read.values()]
    order = np.random.default_rng([evidence.seed, 5]).permutation(len(evidence.x))
    size = min(_BATCH, len(order))
    if not size:
        raise DataError("There are no samples to judge channels on.", next_step="Give `data.train`.")
    kind = losses.last_activation(model)
    steps = float(len(order) // size)
    with strided.safe_gradients(model), evidence.progress.task("channels: gradients", total=steps) as task:
        for start in range(0, len(order) - size + 1, size):
            chosen = order[start : start + size]
            x = one_or_list(inputs.split(evidence.x[chosen]))
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(watched)
                answer = model(x, training=False)
                if drawn or evidence.loss is None:
                    loss = _own_loss(tf, answer, kind, seed=[evidence.seed % 2**31, start])
                else:
                    loss = tf.reduce_mean(evidence.loss.function(evidence.loss.labels[chosen], answer))
            found = tape.gradient(loss, watched, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            yield {key: np.asarray(tf.convert_to_tensor(g), np.float64) for key, g in zip(read, found, strict=True)}
            task.advance()


def _own_loss(tf: Any, answer: Any, kind: str, seed: list[int]) -> Any:
    """Mean negative log-likelihood of targets drawn from the answers themselves.

    Soft targets equal to the answers would do no good: the gradient of their cross-entropy is zero. Where the answer is
    no probability, targets are normal around it with variance 1: what counts then is how far the answer would move.
    """
    total = 0.0
    many = tf.nest.flatten(answer)
    for number, y in enumerate(many):
        here = [seed[0] + number, seed[1]]
        if kind == "softmax" and len(many) == 1:
            logs = tf.math.log(tf.maximum(tf.reshape(y, (-1, y.shape[-1])), 1e-12))
            drawn = tf.random.stateless_categorical(logs, 1, here)[:, 0]
            each = -tf.gather(logs, drawn, batch_dims=1)
        elif kind == "sigmoid" and len(many) == 1:
            p = tf.clip_by_value(y, 1e-7, 1.0 - 1e-7)
            drawn = tf.cast(tf.random.stateless_uniform(tf.shape(p), here) < p, p.dtype)
            each = -(drawn * tf.math.log(p) + (1.0 - drawn) * tf.math.log(1.0 - p))
        else:
            drawn = tf.stop_gradient(y) + tf.random.stateless_normal(tf.shape(y), here, dtype=y.dtype)
            each = 0.5 * tf.square(y - drawn)
        total += tf.reduce_sum(each) / tf.cast(tf.shape(y)[0], y.dtype)
    return total
