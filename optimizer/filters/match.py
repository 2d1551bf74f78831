"""Which filters of a trained bank shall share a base: greedy, by correlation under the transforms allowed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.filters.bank import TransferredBank, as_filters
from optimizer.filters.transforms import IDENTITY, Transform


def matched(
    kernel: NDArray[Any], transforms: Sequence[Transform], *, members: int, least: float, scale: bool = False
) -> TransferredBank:
    """Groups the filters of a kernel and fits a base to each group.

    The correlation of two filters is the cosine between the one and the best transform of the other. The best pair that
    is left founds a group, which then takes the filters nearest to its founder, until it is full.

    Args:
        kernel: [*window, inputs, filters].
        transforms: what may take one filter to another; a group, or negation alone with two members.
        members: most filters of one base.
        least: correlation below which filters stay by themselves.
        scale: each member may have a size of its own.
    """
    filters = as_filters(kernel)
    alike, codes = _correlations(filters, transforms)
    groups = _groups(alike, members, least)
    owner = np.empty(len(filters), np.int32)
    code = np.zeros(len(filters), np.uint8)
    for index, group in enumerate(groups):
        for one in group:
            owner[one] = index
            # What takes `one` to the founder, undone, takes the founder to `one`.
            code[one] = IDENTITY.code if one == group[0] else transforms[codes[group[0], one]].inverse.code
    bank = TransferredBank(
        base=np.zeros((len(groups), *filters.shape[1:]), np.float32),
        members=owner,
        codes=code,
        scales=np.ones(len(filters), np.float32),
    )
    return bank.scaled_to(kernel) if scale else bank.fitted(kernel)


def _correlations(
    filters: NDArray[np.float64], transforms: Sequence[Transform]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """[i, j]: the cosine of filter i and the best transform of filter j, and which transform that is."""
    sizes = np.sqrt(np.sum(filters**2, axis=tuple(range(1, filters.ndim))))
    unit = filters / np.where(sizes > 0, sizes, 1).reshape(-1, *(1,) * (filters.ndim - 1))
    flat = unit.reshape(len(unit), -1)
    every = np.stack([flat @ one(unit).reshape(len(unit), -1).T for one in transforms])
    best = every.argmax(axis=0)
    return np.take_along_axis(every, best[None], axis=0)[0], best


def _groups(alike: NDArray[np.float64], members: int, least: float) -> list[list[int]]:
    """Filters by base, the founder first; groups in the order of their founders."""
    alike = alike.copy()
    np.fill_diagonal(alike, -np.inf)
    first, second = np.unravel_index(np.argsort(-alike, axis=None, kind="stable"), alike.shape)
    free = np.ones(len(alike), np.bool_)
    groups = []
    for one, other in zip(first.tolist(), second.tolist(), strict=True):
        if alike[one, other] < least or not free.any():
            break
        if not (free[one] and free[other]) or members < 2:
            continue
        free[one] = False
        order = np.argsort(-alike[one], kind="stable")
        near = [int(i) for i in order if free[i] and alike[one, i] >= least][: members - 1]
        free[near] = False
        groups.append([one, *near])
    groups += [[int(one)] for one in np.flatnonzero(free)]
    return sorted(groups, key=lambda group: group[0])
