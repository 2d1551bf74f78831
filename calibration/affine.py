"""The exact arithmetic of affine quantization: real = scale * (integer - zero_point).

Definitions are those of ONNX QuantizeLinear / DequantizeLinear (opset 13: round half to even, then saturate, float32
throughout) with the integer ranges of the LiteRT 8-bit quantization specification (weights -127..127, activations
-128..127). Every scale is a float32 value, because that is what all runtimes store; a scale kept in float64 would put
other integers into the file than the ones that were judged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from edgesmith.types import QuantParams

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

Dtype: TypeAlias = Literal["int4", "int8", "int16"]

TINY = float(np.finfo(np.float32).tiny)
"""Smallest normal float32, 2**-126: a scale below it would lose its own digits, so its range counts as all zero."""
BIAS_LIMIT = 2**30
"""Largest |int32 bias| that scales are made for. The other half of int32 stays for the products that are added to it:
enough for 33,000 of them, each at most 255 (activation less zero point) times 127 (weight)."""

_BITS = {"int4": 4, "int8": 8, "int16": 16}


def limits(dtype: str, *, symmetric: bool) -> tuple[int, int]:
    """The integers that are used.

    Args:
        dtype: "int4", "int8" or "int16".
        symmetric: leave the lowest one out, so that the range is -max..max.

    Returns:
        (smallest, largest): int8 gives (-128, 127), symmetric (-127, 127).

    Raises:
        ValueError: another dtype.
    """
    if dtype not in _BITS:
        raise ValueError(f"There is no affine grid of {dtype} here: int4, int8 or int16")
    top = 2 ** (_BITS[dtype] - 1) - 1
    return (-top if symmetric else -top - 1), top


def grids(
    low: ArrayLike, high: ArrayLike, *, dtype: str, symmetric: bool
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scales and zero points for many ranges at once; see `choose_params` for the rules.

    Args:
        low: float, any shape.
        high: float, same shape.
        dtype: "int4", "int8" or "int16".
        symmetric: zero points 0, integers -max..max.

    Returns:
        float32 scales and int64 zero points, in the shape of `low`.

    Raises:
        ValueError: NaN or infinity, or a low above its high.
    """
    least, most = limits(dtype, symmetric=symmetric)
    lows, highs = np.asarray(low, np.float64), np.asarray(high, np.float64)
    if not (np.isfinite(lows).all() and np.isfinite(highs).all()) or (lows > highs).any():
        raise ValueError("A range needs two finite ends, low <= high")
    lows, highs = np.minimum(lows, 0.0), np.maximum(highs, 0.0)
    if symmetric:
        scale = (np.maximum(-lows, highs) / most).astype(np.float32)
    else:
        scale = ((highs - lows) / (most - least)).astype(np.float32)
    empty = scale < TINY
    scale = np.where(empty, np.float32(1.0), scale)
    if symmetric:
        return scale, np.zeros(scale.shape, np.int64)
    # From the scale as stored, not from the exact quotient: the grid of a grid's own range is then that grid again.
    zero_point = np.clip(np.rint(least - lows / scale.astype(np.float64)), least, most).astype(np.int64)
    return scale, np.where(empty, 0, zero_point)


def choose_params(
    low: ArrayLike, high: ArrayLike, *, dtype: Dtype, symmetric: bool, axis: int | None = None
) -> QuantParams:
    """The grid that covers a range.

    The range is widened to include 0, so that 0.0 is exactly `zero_point` (padding and ReLU rely on it). The scale is
    (high - low) / (2**bits - 1), or max(|low|, |high|) / (2**(bits - 1) - 1) where symmetric, rounded to the nearest
    float32; the zero point is rounded half to even. Rounding it moves the grid by at most half a step, so that a value
    within the range is off by at most half a step at either end, too. A range whose scale is no normal float32 (all
    zero, or so small) gets scale 1, zero point 0, as in ONNX Runtime's `compute_scale_zp`.

    Args:
        low: lower end, in units of the tensor; one, or one per channel [C].
        high: upper end; same shape.
        dtype: of the integers.
        symmetric: zero point 0 and integers -max..max (weights, and activations of int16).
        axis: of the channels; None: one grid for the tensor.

    Returns:
        One scale and zero point, or C of them.

    Raises:
        ValueError: NaN or infinity, low above high, or a shape that does not go with `axis`.
    """
    scale, zero_point = grids(low, high, dtype=dtype, symmetric=symmetric)
    if scale.ndim != (0 if axis is None else 1):
        raise ValueError(f"Ranges of shape {scale.shape} do not go with axis {axis}")
    return QuantParams(
        scale=tuple(float(value) for value in scale.ravel()),
        zero_point=tuple(int(value) for value in zero_point.ravel()),
        axis=axis,
        dtype=dtype,
        symmetric=symmetric,
    )


def weight_params(
    weights: NDArray[Any], axis: int | None, dtype: Dtype = "int8", *, minimum_scale: ArrayLike | None = None
) -> QuantParams:
    """The symmetric grids of a constant weight: scale = max |w| / 127 per channel (LiteRT specification, weights).

    A channel of zeros says nothing about its scale, but the int32 bias of that channel is counted in steps of it: it
    gets the finest scale of the other channels (1.0 where all are zero).

    Args:
        weights: float, any shape.
        axis: of the output channels; None: one scale for the tensor.
        dtype: int8 or int4 (int16 works, too).
        minimum_scale: float, one or one per channel: no scale is made smaller. See `smallest_weight_scale`.

    Returns:
        One grid per channel.

    Raises:
        ValueError: NaN or infinity.
    """
    if axis is None:
        peaks = np.abs(weights).max(initial=0.0, keepdims=True).reshape(1)
    else:
        peaks = np.abs(np.moveaxis(weights, axis, 0)).reshape(weights.shape[axis], -1).max(axis=1, initial=0.0)
    scale, _ = grids(-peaks, peaks, dtype=dtype, symmetric=True)
    known = peaks / limits(dtype, symmetric=True)[1] >= TINY
    scale = np.where(known, scale, scale[known].min() if known.any() else np.float32(1.0))
    if minimum_scale is not None:
        scale = np.maximum(scale, _round_up(minimum_scale))
    return QuantParams(
        scale=tuple(float(value) for value in scale),
        zero_point=(0,) * len(scale),
        axis=axis,
        dtype=dtype,
        symmetric=True,
    )


def quantize(x: NDArray[Any], params: QuantParams) -> NDArray[Any]:
    """Integers of real values: saturate(round_half_to_even(x / scale) + zero_point), as ONNX QuantizeLinear.

    The division is in float32, as the runtimes do it.

    Args:
        x: float32, any shape; finite, or infinite (saturates).
        params: one grid, or one per index of `params.axis`.

    Returns:
        int8 (int4 too: -8..7) or int16, shape of `x`.

    Raises:
        ValueError: a grid per channel that does not fit the shape.
    """
    least, most = limits(params.dtype, symmetric=params.symmetric)
    scale, zero_point = _along_axis(x, params)
    with np.errstate(over="ignore"):  # far outside the range the quotient may be infinite; it saturates all the same
        steps = np.rint(np.asarray(x, np.float32) / scale)
    # Clipped before the zero point is added: float32 holds every integer of these limits exactly.
    steps = np.clip(steps, least - zero_point, most - zero_point) + zero_point
    integers: NDArray[Any] = steps.astype(np.int16 if params.dtype == "int16" else np.int8)
    return integers


def dequantize(integers: NDArray[Any], params: QuantParams) -> NDArray[np.float32]:
    """Real values of integers: (integer - zero_point) * scale in float32, as ONNX DequantizeLinear.

    Args:
        integers: as `quantize` gives them.
        params: the grid they are of.

    Returns:
        float32, same shape.

    Raises:
        ValueError: a grid per channel that does not fit the shape.
    """
    scale, zero_point = _along_axis(integers, params)
    with np.errstate(over="ignore"):  # the outermost point of a grid over all of float32 may lie beyond it
        return (integers.astype(np.float32) - zero_point) * scale


def fake_quantize(x: NDArray[Any], params: QuantParams) -> NDArray[np.float32]:
    """What is left of real values after a way through the integers: float32, shape of `x`.

    Within `range_of(params)` each is off by at most half a step and the rounding of float32 (a few parts in 10**7 of
    the value); beyond it by the distance to the range. 0 stays 0, order is kept, and a second time changes nothing.
    """
    return dequantize(quantize(x, params), params)


def range_of(params: QuantParams) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The real values of the smallest and the largest integer.

    Exact in float64, so `choose_params(*range_of(p), ...)` is `p` again: what a toolchain that takes only ranges needs.

    Args:
        params: the grid.

    Returns:
        (low, high): float64 [] where `params.axis` is None (`float()` takes them), else [C].
    """
    least, most = limits(params.dtype, symmetric=params.symmetric)
    scale, zero_point = np.array(params.scale, np.float64), np.array(params.zero_point, np.float64)
    low, high = scale * (least - zero_point), scale * (most - zero_point)
    return (low, high) if params.axis is not None else (low.reshape(()), high.reshape(()))


def bias_scale(x_scale: float, w_scale: ArrayLike) -> NDArray[np.float32]:
    """Scale of an int32 bias: input scale times weight scale (LiteRT specification), rounded to float32: [C]."""
    return np.float32(x_scale) * np.atleast_1d(np.asarray(w_scale, np.float32))


def smallest_weight_scale(bias: NDArray[Any], x_scale: float) -> NDArray[np.float32]:
    """The smallest weight scale of each channel with which its bias still fits int32 (within `BIAS_LIMIT`).

    A channel of tiny weights and a large bias (a batch norm folded into a dead channel makes such) otherwise wraps or
    saturates the bias, which ruins the channel, while coarser steps for tiny weights cost next to nothing.

    Args:
        bias: float, [C].
        x_scale: of the activation that is multiplied, float32 > 0.

    Returns:
        float32 [C], > 0; to be given to `weight_params` as `minimum_scale`.
    """
    needed = np.maximum(np.abs(np.asarray(bias, np.float64)) / BIAS_LIMIT, TINY)
    return np.maximum(_round_up(needed / float(np.float32(x_scale))), np.float32(TINY))


def int32_bias(bias: NDArray[Any], x_scale: float, w_scale: ArrayLike) -> NDArray[np.int32]:
    """round_half_to_even(bias / (x_scale * w_scale)), zero point 0 (LiteRT specification, bias).

    Args:
        bias: float, [C].
        x_scale: of the activation, float32.
        w_scale: of the weight, float32, one or [C].

    Returns:
        int32 [C].

    Raises:
        ValueError: a bias that does not fit into int32; names the first channel. `smallest_weight_scale` prevents it.
    """
    with np.errstate(divide="ignore", invalid="ignore"):  # a product of scales that underflows is refused below
        steps = np.rint(np.asarray(bias, np.float64) / bias_scale(x_scale, w_scale).astype(np.float64))
    bad = ~(np.abs(steps) <= np.iinfo(np.int32).max)
    if bad.any():
        channel = int(np.argmax(bad))
        raise ValueError(f"The bias of channel {channel} is {steps[channel]:.3g} steps: more than int32 holds")
    return steps.astype(np.int32)


def symmetric_twin(params: QuantParams) -> QuantParams:
    """The grid for runtimes that have no zero point (TensorRT): zero point 0, scale max(|low|, |high|) / 127.

    Its `symmetric` is False: TensorRT and ONNX saturate such a tensor at -128, not at -127, and `quantize` has to
    give the integers they give.

    Args:
        params: the asymmetric grid of an activation (int8 or int16).

    Returns:
        A grid that covers the same range with steps at most about twice as long (255 / 127).
    """
    low, high = range_of(params)
    scale, zero_point = grids(low, high, dtype=params.dtype, symmetric=True)
    return QuantParams(
        scale=tuple(float(value) for value in scale.ravel()),
        zero_point=tuple(int(value) for value in zero_point.ravel()),
        axis=params.axis,
        dtype=params.dtype,
        symmetric=False,
    )


def uint8_zero_point(params: QuantParams) -> tuple[int, ...]:
    """Zero points of the same int8 grid counted from 0 to 255: 128 more; the scale is the same.

    Raises:
        ValueError: the grid is not int8.
    """
    if params.dtype != "int8":
        raise ValueError(f"A {params.dtype} grid has no uint8 twin")
    return tuple(value + 128 for value in params.zero_point)


def as_uint8(integers: NDArray[np.int8]) -> NDArray[np.uint8]:
    """The same points counted from 0 to 255: each int8 plus 128."""
    return (integers.astype(np.int16) + 128).astype(np.uint8)


def _round_up(values: ArrayLike) -> NDArray[np.float32]:
    """The smallest float32 that is not below each value."""
    exact = np.asarray(values, np.float64)
    near = exact.astype(np.float32)
    return np.where(near < exact, np.nextafter(near, np.float32(np.inf)), near)


def _along_axis(x: NDArray[Any], params: QuantParams) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scale and zero point in a shape that broadcasts against `x`."""
    scale, zero_point = np.array(params.scale, np.float32), np.array(params.zero_point, np.float32)
    if params.axis is None:
        return scale.reshape(()), zero_point.reshape(())
    if not -x.ndim <= params.axis < x.ndim or x.shape[params.axis] != len(scale):
        raise ValueError(f"{len(scale)} scales along axis {params.axis} do not fit a tensor of shape {x.shape}")
    shape = [1] * x.ndim
    shape[params.axis] = len(scale)
    return scale.reshape(shape), zero_point.reshape(shape)
