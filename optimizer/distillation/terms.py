"""What a student is held to.

`keras.distillation` is not used: its `LogitsDistillation` applies a softmax to whatever the model gives out, so a model
that ends in one gets it twice; it knows no sigmoid, asks the teacher anew in every epoch, and leaves the
regularization losses of the student out.
"""

from __future__ import annotations

import enum
from typing import Any

from edgesmith.frameworks import import_keras

_LEAST = 1e-7


class Kind(enum.StrEnum):
    """What the numbers of an output are."""

    SOFTMAX = "classes that exclude each other"
    SIGMOID = "yes or no each"
    VALUES = "values"


def from_probabilities(kind: Kind, probabilities: Any) -> Any:
    """Logits of probabilities, where the logits themselves cannot be had: what is below 1e-7 is lost."""
    ops = import_keras().ops
    p = ops.clip(ops.cast(probabilities, "float32"), _LEAST, 1.0 - _LEAST)
    return ops.log(p) - ops.log1p(-p) if kind is Kind.SIGMOID else ops.log(p)


def output_term(kind: Kind, teacher: Any, student: Any, temperature: float) -> Any:
    """The distance of two outputs, as a scalar.

    Classes: `T^2 * KL(softmax(t / T) || softmax(s / T))`, the mean over the batch (and over positions, where there are
    any). The gradient of the divergence falls with 1 / T^2; the factor keeps the share of teacher and labels the same
    for every T (Hinton, Vinyals & Dean, arXiv:1503.02531, section 2). Yes or no: the same for the two outcomes of every
    score, the mean over the scores. Values: the mean squared error; no temperature.

    Args:
        kind: of both.
        teacher: logits or values [N, ...].
        student: the same shape.
        temperature: T.
    """
    ops = import_keras().ops
    t, s = ops.cast(teacher, "float32"), ops.cast(student, "float32")
    if kind is Kind.VALUES:
        return ops.mean(ops.square(t - s))
    t, s = t / temperature, s / temperature
    if kind is Kind.SOFTMAX:
        log_p, log_q = ops.log_softmax(t, axis=-1), ops.log_softmax(s, axis=-1)
        divergence = ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)
    else:
        yes = ops.sigmoid(t) * (ops.log_sigmoid(t) - ops.log_sigmoid(s))
        divergence = yes + ops.sigmoid(-t) * (ops.log_sigmoid(-t) - ops.log_sigmoid(-s))
    return temperature**2 * ops.mean(divergence)


def feature_term(teacher: Any, student: Any) -> Any:
    """Mean squared error of two tensors over the mean square of the teacher's, so that layers of any scale weigh alike.

    Hints as in Romero et al., "FitNets: Hints for Thin Deep Nets", arXiv:1412.6550, section 2.1.
    """
    ops = import_keras().ops
    t, s = ops.cast(teacher, "float32"), ops.cast(student, "float32")
    return ops.mean(ops.square(t - s)) / (ops.mean(ops.square(t)) + _LEAST)
