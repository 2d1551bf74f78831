"""Scales and integers of one op's constant weight, chosen by what the op computes from its real inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration import rounding
from calibration.affine import limits, smallest_weight_scale, weight_params
from edgesmith.types import QuantParams
from optimizer.ptq import shared_values
from targets.plan_graph import PlanGraph
from targets.plan_ops import PlanOp

Array = NDArray[np.float32]
Float = NDArray[np.float64]

CLIPS = {"int8": (1.0, 0.98, 0.96, 0.94, 0.92, 0.9, 0.85), "int4": tuple(np.linspace(1.0, 0.6, 17).tolist())}
"""Parts of a channel's largest weight that its scale may cover: of few steps more are worth giving up."""

_MOST_INPUTS = 2304
"""Of a row, 256 channels by 3 by 3; moments of longer ones cost gigabytes and minutes: all inputs count alike."""

_VALUES = 8_000_000
"""Of a stream's rows at once: 32 MB."""

_REMEMBERED = 4096
_found_factors: dict[bytes, Float | None] = {}
"""Kernels by their content: the factors of `shared_values`, or None."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Moments:
    """What an op's inputs are like, by group.

    Attributes:
        second: [G, K, K] E[x' x'^T] of the quantized network's inputs.
        cross: [G, K, K] E[x x'^T] with x of the float network.
    """

    second: Float
    cross: Float


def rows(op: PlanOp, weight: NDArray[Any]) -> NDArray[Any]:
    """A kernel as [G, C, K]: groups, output channels of a group, weights of a channel.

    Transposed convolutions and products with more than two dimensions have one group here.
    """
    if op.kind == "Conv":
        return weight.reshape(op.groups, weight.shape[0] // op.groups, -1)
    moved = np.moveaxis(weight, op.weight_axis or 0, 0)
    return moved.reshape(1, moved.shape[0], -1)


def from_rows(op: PlanOp, values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The inverse of `rows`."""
    axis = 0 if op.kind == "Conv" else (op.weight_axis or 0)
    moved = (shape[axis], *shape[:axis], *shape[axis + 1 :])
    return np.ascontiguousarray(np.moveaxis(values.reshape(moved), 0, axis))


def input_rows(
    graph: PlanGraph, op: PlanOp, inputs: Mapping[str, NDArray[Any]], *, most: int, seed: int
) -> tuple[Array, ...] | None:
    """What each row of the kernel is multiplied with: im2col at a random choice of positions.

    Args:
        graph: of the op.
        op: with a weight.
        inputs: activations of the same shape [N, ...], one or several streams, by any name.
        most: positions; fewer for large kernels.
        seed: of the choice, which is the same for all streams.

    Returns:
        For each stream [G, M, K]; None for kinds whose rows are not products with the input (transposed convolutions,
        kernels with more than two dimensions in a MatMul) and for rows that are too long.
    """
    if op.weight is None:
        return None
    weight = graph.constants[op.weight]
    length = rows(op, weight).shape[-1]
    if length > _MOST_INPUTS:
        return None
    most = max(min(most, _VALUES // (length * op.groups)), 256)
    if op.kind in ("Gemm", "MatMul") and weight.ndim == 2:
        node = next(node for node in graph.proto.graph.node if node.name == op.main)
        if any(a.name == "transA" and a.i for a in node.attribute):
            return None
        chosen = None
        found = []
        for array in inputs.values():
            flat = array.reshape(-1, array.shape[-1])
            if chosen is None:
                chosen = _choice(len(flat), most, seed)
            found.append(flat[chosen][None])
        return tuple(found)
    if op.kind == "Conv":
        return _patches(graph, op, weight, list(inputs.values()), most, seed)
    return None


def moments(quantized: Array, real: Array | None, *, centred: bool) -> Moments:
    """Second moments of the two streams that `input_rows` gave.

    Args:
        quantized: float32 [G, M, K].
        real: float32 [G, M, K]; None: the same, where `cross` will not be asked for.
        centred: leave the means out: a bias correction follows, which takes care of them.
    """
    if centred:
        quantized = quantized - quantized.mean(axis=1, keepdims=True)
        real = None if real is None else real - real.mean(axis=1, keepdims=True)
    turned = np.swapaxes(quantized, 1, 2) / np.float32(quantized.shape[1])
    second = (turned @ quantized).astype(np.float64)
    cross = second if real is None else np.swapaxes(turned @ real, 1, 2).astype(np.float64)
    return Moments(second=second, cross=cross)


def choose_scale(
    op: PlanOp,
    weight: NDArray[Any],
    bias: NDArray[Any] | None,
    *,
    dtype: str,
    per_channel: bool,
    x_scale: float | None,
    found: Moments | None,
    fitted: bool,
) -> QuantParams:
    """The symmetric grid of a kernel.

    A kernel of shared values gets one scale (or, where batch normalization was folded into it, scales in the ratio of
    the factors it was folded with), so that equal values become equal integers.

    Args:
        op: the op.
        weight: float32.
        bias: [C]; no scale is made so small that it overflows int32; None where it is not int32.
        dtype: "int8" or "int4".
        per_channel: a scale for each output channel.
        x_scale: of the op's input; None as for `bias`.
        found: of its inputs; None: all inputs count the same.
        fitted: choose among `CLIPS` by expected output error; else the scale covers the largest weight.
    """
    least = np.zeros(1, np.float32)
    if bias is not None and x_scale is not None:
        least = smallest_weight_scale(bias, x_scale)
    kind: Any = dtype
    if not per_channel:
        return weight_params(weight, None, kind, minimum_scale=least.max())
    factors = shared_factors(op, weight)
    peaks = np.abs(rows(op, weight)).max(axis=-1).ravel()
    if factors is not None:
        # In units of a channel's factor, one grid for all. It grows as a whole, so that no ratio changes.
        whole = float((peaks / factors).max()) / limits(dtype, symmetric=True)[1] * factors
        whole = whole * max(1.0, float((least / whole).max()))
        return _per_channel(whole, op, kind)
    params = weight_params(weight, op.weight_axis, kind, minimum_scale=least)
    if not fitted:
        return params
    scale = _fitted(op, weight, np.array(params.scale), limits(dtype, symmetric=True)[1], found)
    return _per_channel(np.maximum(scale, least), op, kind)


def _per_channel(scale: Float, op: PlanOp, dtype: Any) -> QuantParams:
    return QuantParams(
        scale=tuple(float(value) for value in scale.astype(np.float32)),
        zero_point=(0,) * len(scale),
        axis=op.weight_axis,
        dtype=dtype,
        symmetric=True,
    )


def _fitted(op: PlanOp, weight: NDArray[Any], scale: Float, limit: int, found: Moments | None) -> Float:
    """Per channel the clip with the least e H e^T; the largest weight is covered unless clipping it gains 1 %."""
    w = rows(op, weight).astype(np.float64)
    base = scale.reshape(w.shape[0], w.shape[1], 1)
    best, least = base.copy(), np.full(w.shape[:2], np.inf)
    for clip in CLIPS["int8" if limit > 7 else "int4"]:
        tried = (base * clip).astype(np.float32).astype(np.float64)
        error = (rounding.nearest(w / tried, limit) * tried - w).astype(np.float32)
        seen = error if found is None else error @ found.second.astype(np.float32)
        cost = (seen * error).sum(axis=-1, dtype=np.float64)
        better = cost < 0.99 * least
        least = np.where(better, cost, least)
        best = np.where(better[..., None], tried, best)
    return np.asarray(best.ravel())


def integers(
    op: PlanOp, weight: NDArray[Any], params: QuantParams, *, found: Moments | None = None
) -> NDArray[np.int8]:
    """The weight's integers, in its own layout.

    Args:
        op: the op.
        weight: float32.
        params: per channel.
        found: round as these inputs ask for, see `calibration.rounding`; None: to nearest.
    """
    limit = limits(params.dtype, symmetric=True)[1]
    w = rows(op, weight).astype(np.float64)
    scale = np.resize(np.array(params.scale), (*w.shape[:2], 1))  # one scale is repeated
    units = w / scale
    if found is not None:
        drift = w @ (found.second - found.cross) / scale
        q = rounding.learned(units, found.second, limit, drift)
    else:
        if shared_factors(op, weight) is not None:
            units = shared_values.merged(units)
        q = rounding.nearest(units, limit)
    return from_rows(op, q, weight.shape)


def shared_factors(op: PlanOp, weight: NDArray[Any]) -> Float | None:
    """The factor of each output channel, [C], of a kernel with shared values; None for others: see `shared_values`."""
    flat = rows(op, weight).reshape(weight.shape[op.weight_axis or 0], -1)
    if len(np.unique(flat[0])) > shared_values.MOST + 1:  # zero counts here; most kernels are told by one channel
        return None
    # A plan asks for the same kernels many times, and the answer takes longer than all else about a small one.
    key = hashlib.blake2b(flat.tobytes(), digest_size=16, key=str(flat.shape).encode()).digest()
    if key not in _found_factors:
        if len(_found_factors) >= _REMEMBERED:
            _found_factors.clear()
        _found_factors[key] = shared_values.factors(flat.astype(np.float64))
    return _found_factors[key]


def _choice(count: int, most: int, seed: int) -> NDArray[np.intp]:
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def _patches(
    graph: PlanGraph, op: PlanOp, weight: NDArray[Any], streams: list[NDArray[Any]], most: int, seed: int
) -> tuple[Array, ...]:
    """Im2col of a convolution over any number of spatial axes, at a choice of output positions."""
    node = next(node for node in graph.proto.graph.node if node.name == op.main)
    attributes = {a.name: a for a in node.attribute}

    def ints(name: str, default: int) -> list[int]:
        return list(attributes[name].ints) if name in attributes else [default] * (weight.ndim - 2)

    strides, dilations = ints("strides", 1), ints("dilations", 1)
    kernel = weight.shape[2:]
    spans = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    auto = attributes["auto_pad"].s.decode() if "auto_pad" in attributes else "NOTSET"
    pads = _pads(
        streams[0].shape[2:], strides, spans, auto, list(attributes["pads"].ints) if "pads" in attributes else []
    )
    found = []
    for array in streams:
        padded = np.pad(array, [(0, 0), (0, 0), *pads])
        windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=tuple(range(2, array.ndim)))
        steps = tuple(slice(None, None, stride) for stride in strides)
        inner = tuple(slice(None, None, dilation) for dilation in dilations)
        windows = windows[(slice(None), slice(None), *steps, *inner)]
        windows = np.moveaxis(windows, 1, len(spans) + 1)  # [N, *out, C, *kernel]
        outer = windows.shape[: len(spans) + 1]
        chosen = np.unravel_index(_choice(int(np.prod(outer)), most, seed), outer)
        taken = windows[chosen].reshape(len(chosen[0]), op.groups, -1)
        found.append(np.ascontiguousarray(np.swapaxes(taken, 0, 1)))
    return tuple(found)


def _pads(
    sizes: tuple[int, ...], strides: list[int], spans: list[int], auto: str, given: list[int]
) -> list[tuple[int, int]]:
    """(before, after) of each spatial axis; ONNX Conv, attributes `pads` and `auto_pad`."""
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pads = []
        for size, stride, span in zip(sizes, strides, spans, strict=True):
            total = max((-(-size // stride) - 1) * stride + span - size, 0)
            small, large = total // 2, total - total // 2
            pads.append((small, large) if auto == "SAME_UPPER" else (large, small))
        return pads
    if auto == "VALID" or not given:
        return [(0, 0)] * len(sizes)
    return list(zip(given[: len(sizes)], given[len(sizes) :], strict=True))
