"""Magnitude masks, and the proof that zeros stay zeros.

The rule is TF-MOT's (`pruning_impl.Pruning._update_mask`, 0.8.1), after Zhu & Gupta, "To prune, or not to prune"
(arXiv:1710.01878): within each kernel the k largest magnitudes stay, the rest becomes zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesmith.errors import InternalError
from optimizer.base import KerasModel
from optimizer.kernels import Kernel, prunable_kernels

Mask = NDArray[np.bool_]
"""True where the weight stays; the shape of its kernel."""


def kept(size: int, sparsity: float) -> int:
    """How many weights of a kernel stay at a sparsity.

    In float32 and with halves rounded to even, as TF-MOT computes it; at least one.
    """
    exact = np.float32(size) * (np.float32(1) - np.float32(sparsity))
    return max(int(np.round(exact)), 1)


def magnitude_mask(weights: NDArray[Any], sparsity: float) -> Mask:
    """TF-MOT's mask: everything at least as large as the k-th largest magnitude stays.

    Weights that tie with the k-th largest all stay, so that there may be fewer zeros than asked for.

    Args:
        weights: a kernel, any shape, float.
        sparsity: wanted share of zeros, in [0, 1).
    """
    magnitude = np.abs(weights)
    size = magnitude.size
    k = kept(size, sparsity)
    threshold = np.partition(magnitude, size - k, axis=None)[size - k]
    return np.asarray(magnitude >= threshold)


def exact_mask(weights: NDArray[Any], sparsity: float) -> Mask:
    """The mask with exactly k weights left: of those that tie, the first in memory order stay.

    Equal to `magnitude_mask` where nothing ties, and always a subset of it.
    """
    magnitude = np.abs(weights).ravel()
    # A stable sort of the negated magnitudes keeps memory order among equals, as tf.math.top_k does.
    order = np.argsort(-magnitude, kind="stable")
    mask = np.zeros(magnitude.size, dtype=np.bool_)
    mask[order[: kept(magnitude.size, sparsity)]] = True
    return mask.reshape(weights.shape)


@dataclass(frozen=True, slots=True)
class ZeroCount:
    """Zeros of one kernel."""

    zeros: int
    size: int


def zero_counts(model: KerasModel) -> dict[str, ZeroCount]:
    """Zeros of every prunable kernel, by kernel name; what an artifact made from the model has to show at least."""
    return {k.name: _count(k.value()) for k in prunable_kernels(model)}


def sparsity(counts: Mapping[str, ZeroCount]) -> float:
    """Zeros / weights over all kernels counted; 0 where there are none."""
    total = sum(count.size for count in counts.values())
    return sum(count.zeros for count in counts.values()) / total if total else 0.0


def _count(weights: NDArray[Any]) -> ZeroCount:
    return ZeroCount(zeros=int(weights.size - np.count_nonzero(weights)), size=int(weights.size))


def assert_sparsity(kernels: Sequence[Kernel], wanted: float) -> None:
    """Holds every kernel to its count of zeros.

    Raises:
        InternalError: a kernel has fewer zeros than `wanted` means for its size.
    """
    for kernel in kernels:
        count = _count(kernel.value())
        least = count.size - kept(count.size, wanted)
        if count.zeros < least:
            raise InternalError(
                f"After pruning, {kernel.name} has {count.zeros} zeros of {count.size}; "
                f"sparsity {wanted} means {least}."
            )


ZeroPattern = Mapping[str, Mask]
"""By kernel name, True where the weight is exactly zero. Only kernels with both zeros and other weights."""


def zero_pattern(model: KerasModel) -> ZeroPattern:
    """The zeros that a later step has to keep.

    A kernel that is zero throughout is left out: no technique makes one, it is a fresh initialisation.
    """
    patterns = {kernel.name: kernel.value() == 0 for kernel in prunable_kernels(model)}
    return {name: zeros for name, zeros in patterns.items() if zeros.any() and not zeros.all()}


def check_preserved(before: ZeroPattern, after: KerasModel, *, step: str) -> None:
    """Asserts that every zero of an earlier step is still zero.

    Kernels that the step removed or gave another shape are new ones: there is nothing to compare.

    Args:
        before: `zero_pattern` of the model the step was given.
        after: what it returned.
        step: its name, for the message.

    Raises:
        InternalError: names the kernel and how many zeros it lost.
    """
    for kernel in prunable_kernels(after):
        zeros = before.get(kernel.name)
        if zeros is None:
            continue
        weights = kernel.value()
        if weights.shape != zeros.shape:
            continue
        if lost := int(np.count_nonzero(weights[zeros])):
            raise InternalError(
                f"Step '{step}' gave {lost} of {int(zeros.sum())} zeros in {kernel.name} a value again; "
                f"an earlier step had pruned them."
            )
