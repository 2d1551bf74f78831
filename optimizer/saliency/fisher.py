"""Optimal Brain Damage: what the loss gains when one weight becomes zero, to second order, others left as they are.

LeCun, Denker & Solla, "Optimal Brain Damage", NIPS 1989, equation 4: saliency s = h w^2 / 2 with h the diagonal of the
loss's second derivatives. As there, the part with second derivatives of the network itself is dropped: that leaves the
Gauss-Newton matrix, never negative. For a softmax with cross-entropy, a sigmoid with binary cross-entropy and a squared
error it equals the Fisher information (Martens, arXiv:1412.1193, section 9.2), so its diagonal is the mean over samples
of squared gradients of the log-likelihood, with labels drawn from the network's own answers. No labels are needed; with
the true ones it would be the empirical Fisher, which is small exactly where a sample is fitted well (Kunstner, Balles &
Hennig, arXiv:1905.12558).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from calibration import inputs
from edgesmith.frameworks import import_keras, import_tensorflow
from edgesmith.progress import Progress
from optimizer import strided
from optimizer.base import KerasModel
from optimizer.kernels import Kernel
from targets.keras_model import one_or_list

Likelihood = Literal["softmax", "logits", "sigmoid", "binary logits", "squared error"]
"""What the outputs mean: probabilities or logits of classes, of yes and no, or numbers."""

_SMALL = 1e-7


def saliencies(
    model: KerasModel,
    kernels: Sequence[Kernel],
    x: NDArray[Any],
    likelihood: Likelihood,
    *,
    seed: int,
    progress: Progress,
) -> dict[str, NDArray[np.float64]]:
    """The saliency h w^2 / 2 of every weight, by kernel name.

    Args:
        model: left as it is.
        kernels: of it.
        x: samples [N, ...], as the model takes them; each goes through once, there and back.
        likelihood: of all its outputs.
        seed: of the labels drawn.
        progress: moves on by samples.
    """
    second = curvature(model, kernels, x, likelihood, seed=seed, progress=progress)
    return {k.name: second[k.name] * np.square(k.value().astype(np.float64)) / 2 for k in kernels}


def curvature(
    model: KerasModel,
    kernels: Sequence[Kernel],
    x: NDArray[Any],
    likelihood: Likelihood,
    *,
    seed: int,
    progress: Progress,
) -> dict[str, NDArray[np.float64]]:
    """The diagonal h of the Gauss-Newton matrix of the mean loss, by kernel name. Arguments as in `saliencies`."""
    tf = import_tensorflow()
    variables = [kernel.variable.value for kernel in kernels]
    random = tf.random.Generator.from_seed(seed)
    sums = [tf.Variable(tf.zeros_like(variable)) for variable in variables]

    def add(sample: Any) -> None:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)  # those of frozen layers, too
            found = model(sample, training=False)
            outputs = list(found) if isinstance(found, (list, tuple)) else [found]
            loss = tf.add_n([_drawn(tf, random, tf.cast(each, tf.float32), likelihood) for each in outputs])
        gradients = tape.gradient(loss, variables, unconnected_gradients="zero")
        for total, gradient in zip(sums, gradients, strict=True):
            total.assign_add(tf.square(tf.cast(tf.convert_to_tensor(gradient), total.dtype)))

    keras, compiled = import_keras(), tf.function(add, reduce_retracing=True)
    with progress.task("second derivatives", total=len(x)) as task, strided.safe_gradients(model):
        for i in range(len(x)):
            compiled(one_or_list([keras.ops.convert_to_tensor(part) for part in inputs.split(x[i : i + 1])]))
            task.advance()
    return {k.name: total.numpy().astype(np.float64) / len(x) for k, total in zip(kernels, sums, strict=True)}


def _drawn(tf: Any, random: Any, output: Any, likelihood: Likelihood) -> Any:
    """Negative log-likelihood of a label that is drawn from the output itself."""
    if likelihood == "squared error":
        # Of a Gaussian of variance 1: the gradient by the output is the noise.
        return tf.reduce_sum(tf.stop_gradient(random.normal(tf.shape(output))) * output)
    if likelihood in ("sigmoid", "binary logits"):
        drawn = output if likelihood == "sigmoid" else tf.sigmoid(output)
        yes = tf.stop_gradient(tf.cast(random.uniform(tf.shape(output)) < drawn, tf.float32))
        if likelihood == "binary logits":
            return tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(labels=yes, logits=output))
        chosen = yes * output + (1.0 - yes) * (1.0 - output)
        return -tf.reduce_sum(tf.math.log(tf.maximum(chosen, _SMALL)))
    flat = tf.reshape(output, (-1, output.shape[-1]))
    logs = tf.nn.log_softmax(flat) if likelihood == "logits" else tf.math.log(tf.maximum(flat, _SMALL))
    # The largest of logarithms with Gumbel noise is a draw from the distribution.
    noise = -tf.math.log(-tf.math.log(random.uniform(tf.shape(flat), minval=_SMALL, maxval=1.0 - _SMALL)))
    label = tf.stop_gradient(tf.argmax(logs + noise, axis=-1))
    return -tf.reduce_sum(tf.gather(logs, label, axis=-1, batch_dims=1))
