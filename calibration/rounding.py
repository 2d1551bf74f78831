"""Rounds weights up or down so that what the op computes from its real inputs stays where it was.

An op computes y = w x. Its weights are w = s u, with u in units of the scale; integers q replace u. For inputs x' of
the quantized network the expected squared error of a row is, up to a constant,

    s^2 (q - u) H (q - u)^T + 2 s (q - u) r^T,     H = E[x' x'^T],  r = E[(w x' - w x) x'^T]

"Up or Down? Adaptive Rounding for Post-Training Quantization" (Nagel et al. 2020, arXiv:2004.10568) derives the
quadratic form (eq. 13), restricts each integer to the two neighbours of u, and takes the inputs from the quantized
network (eq. 25, "asymmetric reconstruction"; there by gradient descent on a relaxation). Here the same problem is
solved directly: a start by GPTQ's column-by-column compensation ("GPTQ: Accurate Post-Training Quantization for
Generative Pre-trained Transformers", Frantar et al. 2022, arXiv:2210.17323, algorithm 1), then coordinate descent from
that start and from nearest rounding. The better of both is kept for each row, so no row is worse than nearest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

_DAMPING = 0.01
"""Of the mean diagonal, added before inverting: GPTQ, section 3.3, step 3."""

_SWEEPS = 8


def nearest(units: Float, limit: int) -> NDArray[np.int8]:
    """The nearest integer within -limit..limit, halves to even.

    Args:
        units: weights in units of their scale, any shape.
        limit: 127 for int8, 7 for int4.
    """
    return np.clip(np.rint(units), -limit, limit).astype(np.int8)


def learned(units: Float, moments: Float, limit: int, drift: Float | None = None) -> NDArray[np.int8]:
    """Integers next to `units` with a small expected output error. A weight of exactly 0 stays 0.

    Args:
        units: [G, C, K] weights in units of their scale: G groups of C output channels with K inputs each.
        moments: [G, K, K] second moments of the inputs, H above; symmetric, positive semi-definite.
        limit: 127 for int8, 7 for int4.
        drift: [G, C, K], r / s above; None: zeros, the inputs are those of the float network.

    Returns:
        int8 [G, C, K]; each is floor(u) or ceil(u), clipped to the limit. `cost` of no row exceeds that of `nearest`.
    """
    r = np.zeros_like(units) if drift is None else drift
    low = np.clip(np.floor(units), -limit, limit)
    high = np.clip(np.ceil(units), -limit, limit)
    plain = np.clip(np.rint(units), low, high)
    best = _descended(plain, units, moments, r, low, high)
    other = _descended(_compensated(units, moments, r, low, high), units, moments, r, low, high)
    better = cost(other - units, moments, r) < cost(best - units, moments, r)
    best = np.where(better[..., None], other, best)
    # Descent sums rounding errors of its own; what it claims to have gained is checked.
    worse = cost(best - units, moments, r) > cost(plain - units, moments, r)
    return np.where(worse[..., None], plain, best).astype(np.int8)


def cost(error: Float, moments: Float, drift: Float) -> Float:
    """The error of each row: e H e^T + 2 e r^T.

    Args:
        error: [G, C, K], q - u.
        moments: [G, K, K].
        drift: [G, C, K].

    Returns:
        [G, C], in squared units of the scale; may be negative where the drift is compensated.
    """
    return np.asarray(((error @ moments + 2.0 * drift) * error).sum(axis=-1))


def _compensated(units: Float, moments: Float, drift: Float, low: Float, high: Float) -> Float:
    """Rounds one column after the other; those not yet rounded make up for the error of each.

    GPTQ's algorithm 1, columns in the order of falling diagonal. The drift moves the target: the minimum of
    e H e^T + 2 e r^T is at e = -r H^-1.
    """
    groups, _, size = units.shape
    diagonal = np.diagonal(moments, axis1=-2, axis2=-1)
    floor = np.maximum(_DAMPING * diagonal.mean(axis=-1), 1e-30)
    damped = moments + floor[:, None, None] * np.eye(size)
    inverse = np.linalg.inv(damped)
    inverse = 0.5 * (inverse + np.swapaxes(inverse, -1, -2))
    order = np.argsort(-diagonal, axis=-1, kind="stable")
    each = np.arange(groups)[:, None]
    inverse = inverse[each[:, :, None], order[:, :, None], order[:, None, :]]
    upper = np.swapaxes(np.linalg.cholesky(inverse), -1, -2)
    left = np.take_along_axis(units - drift @ np.linalg.inv(damped), order[:, None, :], axis=-1)
    low, high = (np.take_along_axis(a, order[:, None, :], axis=-1) for a in (low, high))
    found = np.empty_like(left)
    for k in range(size):
        found[..., k] = np.clip(np.rint(left[..., k]), low[..., k], high[..., k])
        error = (left[..., k] - found[..., k]) / upper[:, None, k, k]
        left[..., k + 1 :] -= error[..., None] * upper[:, None, k, k + 1 :]
    back = np.argsort(order, axis=-1)
    return np.take_along_axis(found, back[:, None, :], axis=-1)


def _descended(start: Float, units: Float, moments: Float, drift: Float, low: Float, high: Float) -> Float:
    """Flips single weights between their two integers while that lowers the cost, column by column."""
    q = start.copy()
    gradient = (q - units) @ moments + drift
    diagonal = np.diagonal(moments, axis1=-2, axis2=-1)
    for _ in range(_SWEEPS):
        flipped = False
        for k in range(q.shape[-1]):
            step = low[..., k] + high[..., k] - 2.0 * q[..., k]
            gain = 2.0 * step * gradient[..., k] + step * step * diagonal[:, None, k]
            step = np.where(gain < -1e-12 * diagonal[:, None, k], step, 0.0)
            if not step.any():
                continue
            flipped = True
            q[..., k] += step
            gradient += step[..., None] * moments[:, None, k, :]
        if not flipped:
            break
    return q
