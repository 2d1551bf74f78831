"""Empirical bias correction: what quantization shifts on average, the bias takes back.

"Data-Free Quantization Through Weight Equalization and Bias Correction" (Nagel et al. 2019, arXiv:1906.04721), section
4.2 and appendix D: the expected error of each output channel before the activation, E[y' - y], is measured on data,
op after op, with inputs from the network quantized so far, and subtracted from the bias.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.ptq.stepwise import Array, activate
from targets.plan_ops import PlanOp

_FEWEST = 8
"""Samples, below which none are set aside."""


def along_channels(op: PlanOp, values: Array, rank: int) -> Array:
    """A number for each channel [C], shaped so that it can be added to the output of an op with a weight."""
    axis = _channel_axis(op, rank)
    return values.reshape([-1 if a == axis else 1 for a in range(rank)])


def _channel_axis(op: PlanOp, rank: int) -> int:
    return 1 if op.kind in ("Conv", "ConvTranspose") else rank - 1


def halves(count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Three of four samples to learn from, and the fourth to judge by; few samples do both."""
    every = np.arange(count)
    if count < _FEWEST:
        return every, every
    return every[every % 4 != 3], every[every % 4 == 3]


def correction(op: PlanOp, real: Array, quantized: Array) -> NDArray[np.float32]:
    """What to add to an op's bias.

    Args:
        op: with a weight and a bias.
        real: its output before the activation in the float network, [N, ...].
        quantized: the same in the quantized one.

    Returns:
        float32 [C]: the mean error of the samples to learn from, sign turned; 0 for every channel where that does not
        lower the squared error, after the activation, of the samples to judge by.
    """
    fit, held = halves(len(real))
    axis = _channel_axis(op, real.ndim)
    others = tuple(a for a in range(real.ndim) if a != axis)
    shift = (real[fit] - quantized[fit]).mean(axis=others, dtype=np.float64)
    shaped = along_channels(op, shift.astype(np.float32), real.ndim)
    target = activate(op, real[held])

    def errors(output: Any) -> NDArray[np.float64]:
        error = activate(op, output) - target
        return np.asarray(np.square(error, out=error).sum(axis=others, dtype=np.float64))

    better = errors(quantized[held] + shaped) < errors(quantized[held])
    return np.where(better, shift, 0.0).astype(np.float32)
