"""How close one model's outputs are to another's, in numbers that do not depend on the task."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from device_tests.accuracy import agreement
from edgesmith.errors import ModelError
from edgesmith.types import Comparison

if TYPE_CHECKING:
    from numpy.typing import NDArray


def compare(reference: Sequence[NDArray[Any]], other: Sequence[NDArray[Any]]) -> Comparison:
    """Compares outputs over the same samples; all outputs of a model are taken as one long vector r and o.

        SQNR      10 log10(sum r^2 / sum (r - o)^2) dB, inf where r = o, -inf where r is all zeros and o is not
        cosine    r.o / (|r| |o|), 1 where both are all zeros, 0 where one of them is
        max_abs   max |r - o|
        top-1     see `device_tests.accuracy.agreement`

    Sums are float64 and scaled by their largest term, so neither large nor tiny outputs overflow or vanish.

    Args:
        reference: of the model that is right by definition: one array [N, ...] per output.
        other: of the model in question, dequantized.

    Raises:
        ModelError: no outputs or samples, a different number or shape of outputs, NaN or infinity.
    """
    if len(reference) != len(other):
        raise ModelError(f"The models have {len(reference)} and {len(other)} outputs: they cannot be compared.")
    if not reference or any(array.size == 0 for array in reference):
        raise ModelError("There are no outputs to compare.")
    for index, (r, o) in enumerate(zip(reference, other, strict=True)):
        if r.shape != o.shape:
            raise ModelError(f"Output {index} is {list(r.shape)} in the reference and {list(o.shape)} in the other.")
        for name, array in (("reference", r), ("other", o)):
            if not np.isfinite(array).all():
                bad = int(np.count_nonzero(~np.isfinite(array)))
                raise ModelError(f"{bad:,} values of output {index} of the {name} model are NaN or infinite.")
    right = np.concatenate([np.asarray(a, dtype=np.float64).ravel() for a in reference])
    given = np.concatenate([np.asarray(a, dtype=np.float64).ravel() for a in other])
    return Comparison(
        sqnr_db=_sqnr_db(right, given),
        cosine=_cosine(right, given),
        max_abs=float(np.abs(right - given).max()),
        top1_agreement=agreement(other, reference),
        n=len(reference[0]),
    )


def first_diverging(pairs: Iterable[tuple[str, NDArray[Any], NDArray[Any]]], min_sqnr_db: float) -> str | None:
    """The first tensor that is further from its reference than the bound allows.

    Args:
        pairs: (name, reference, other) in the order the model computes them; taken one at a time, and no further
            than needed.
        min_sqnr_db: the bound in dB.

    Returns:
        Its name, also where it is NaN, infinite or of another shape; None where all keep the bound.
    """
    for name, reference, other in pairs:
        if reference.shape != other.shape or not np.isfinite(other).all():
            return name
        right = np.asarray(reference, dtype=np.float64).ravel()
        # Not "below the bound": a NaN in the reference compares as false either way, and must not pass.
        if right.size and not _sqnr_db(right, np.asarray(other, dtype=np.float64).ravel()) >= min_sqnr_db:
            return name
    return None


def _sqnr_db(right: NDArray[np.float64], given: NDArray[np.float64]) -> float:
    error_power, error_scale = _power(right - given)
    if error_scale == 0.0:
        return math.inf
    power, scale = _power(right)
    if scale == 0.0:
        return -math.inf
    return 10.0 * math.log10(power / error_power) + 20.0 * (math.log10(scale) - math.log10(error_scale))


def _cosine(right: NDArray[np.float64], given: NDArray[np.float64]) -> float:
    power, scale = _power(right)
    given_power, given_scale = _power(given)
    if scale == 0.0 or given_scale == 0.0:
        return 1.0 if scale == given_scale else 0.0
    dot = float(np.dot(right / scale, given / given_scale))
    return max(-1.0, min(1.0, dot / math.sqrt(power * given_power)))


def _power(values: NDArray[np.float64]) -> tuple[float, float]:
    """(sum (v / scale)^2, scale) with scale the largest |v|: sum v^2 without overflow or underflow."""
    scale = float(np.abs(values).max())
    if scale == 0.0:
        return 0.0, 0.0
    unit = values / scale
    return float(np.dot(unit, unit)), scale
