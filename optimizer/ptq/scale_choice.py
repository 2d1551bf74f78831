"""Chooses scales of channels that are tied together: candidates of the literature, the least estimated noise wins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from optimizer.ptq.scale_groups import Ids, Kernel
from optimizer.ptq.scale_noise import Activations, Floats, Measured, Term, terms

STRENGTHS = (0.2, 0.35, 0.5, 0.65, 0.75, 0.85, 0.95, 1.0)
"""Alpha of SmoothQuant's equation 4: the share of an activation's imbalance that goes to the weights."""

_WORTH = 0.99
"""A candidate must leave at most this share of the noise; less is within the estimate's own error."""
_SPREAD = 2.0**20
"""Largest scale within a group, and its reciprocal the smallest."""


class Choice:
    """The scales so far.

    Attributes:
        scales: float64, of each id; they divide the channels. 1 at first.
    """

    def __init__(self, measured: Measured, least: Floats) -> None:
        """Starts without any scaling.

        Args:
            measured: the network.
            least: smallest scale that each id may have, float64 [size]; 0 where there is none.
        """
        self._measured, self._least = measured, least
        self.scales: Floats = np.ones(measured.groups.size)
        self._terms = terms(measured)
        self._first = [term.noise(self.scales) for term in self._terms]
        self._now = list(self._first)
        self._sets: dict[bytes, _Set] = {}

    def noise(self, ids: Ids | None = None) -> tuple[float, float]:
        """The estimate of `scale_noise` without any scaling, and with the scales so far.

        Args:
            ids: only what their scales change; None for all.
        """
        places = range(len(self._terms)) if ids is None else _touching(ids, self._terms)
        return sum(self._first[place] for place in places), sum(self._now[place] for place in places)

    def improve(self, ids: Ids) -> None:
        """Gives a set of ids the best of its candidates, where one is better than what it has."""
        known = self._known(ids)
        if not known.read:
            return
        least, scales, noises = _WORTH * sum(self._now[place] for place in known.terms), self.scales, None
        for candidate in self._candidates(known):
            trial = self.scales.copy()
            trial[ids] = self._allowed(known, candidate)
            found = [self._terms[place].noise(trial) for place in known.terms]
            if sum(found) < least:
                least, scales, noises = sum(found), trial, found
        if noises is not None:
            self.scales = scales
            for place, noise in zip(known.terms, noises, strict=True):
                self._now[place] = noise

    def _known(self, ids: Ids) -> _Set:
        key = ids.tobytes()
        if key not in self._sets:
            self._sets[key] = _Set.of(ids, self._terms, self._measured)
        return self._sets[key]

    def _candidates(self, known: _Set) -> Iterator[Floats]:
        """Scales of a set, up to a common factor; 0 where there is nothing to go by."""
        yield np.ones(len(known.ids))
        made, read = self._ranges(known)
        # Nagel et al. 2019, equation 11: s = sqrt(r1 r2) / r2, with r1 the rows that make and r2 the columns that read.
        yield np.sqrt(np.divide(made, read, out=np.zeros_like(made), where=read > 0))
        for strength in STRENGTHS:
            # Xiao et al. 2023, equation 4.
            weights = np.power(known.read_by, 1 - strength)
            yield np.divide(known.activity**strength, weights, out=np.zeros_like(weights), where=weights > 0)

    def _ranges(self, known: _Set) -> tuple[Floats, Floats]:
        """Largest magnitude of the weights that make each channel and of those that read it, other scales applied."""
        made, read = np.zeros(self._measured.groups.size), np.zeros(self._measured.groups.size)
        for constant in known.kernels:
            values = np.abs(self._measured.constants[constant.name])
            _largest(made, constant.over, values * self.scales[constant.times])
            _largest(read, constant.times, values / self.scales[constant.over])
        return made[known.ids], read[known.ids]

    def _allowed(self, known: _Set, wanted: Floats) -> Floats:
        """Candidates made into scales: silent channels filled in, the common factor set, limits kept."""
        living = (wanted > 0) & (known.activity > 0)
        if not living.any():
            return np.ones_like(wanted)
        wanted = np.where(living, wanted, np.median(wanted[living]))
        # A channel that no sample woke has no range to fit; its weights must not become the largest that are read.
        weight = np.median(known.read_by[living] * wanted[living])
        silent = ~living & (known.read_by * wanted > weight)
        wanted[silent] = weight / known.read_by[silent]
        least = self._least[known.ids]
        others = known.others(self.scales)
        if others > 0:
            # Channels that stay share the range: the largest that move get as large as the largest of those.
            wanted = np.maximum(wanted * ((known.activity / wanted).max() / others), least)
        else:
            wanted = wanted / np.exp(np.log(wanted[living]).mean())
            wanted = wanted * max(1.0, float((least / wanted).max()))
        return np.clip(wanted, np.maximum(least, 1 / _SPREAD), _SPREAD)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Set:
    """What does not change about a set of ids.

    Attributes:
        ids: in rising order.
        terms: places of those that their scales change.
        kernels: that make or read them.
        read: something reads them, so scaling may help.
        activity: largest magnitude of each, relative to the largest of all of them, in the tensor where it is largest.
        read_by: largest magnitude of the weights that read each, rows of an own int8 scale taken relative to theirs.
        neighbours: (columns' ids, their largest magnitudes, largest magnitude of the set's own) of tensors that hold
            other ids as well.
    """

    ids: Ids
    terms: tuple[int, ...]
    kernels: tuple[Kernel, ...]
    read: bool
    activity: Floats
    read_by: Floats
    neighbours: tuple[tuple[Ids, Floats, float], ...]

    @classmethod
    def of(cls, ids: Ids, every: list[Term], measured: Measured) -> _Set:
        size, found = measured.groups.size, _touching(ids, every)
        inside = np.zeros(size, bool)
        inside[ids] = True
        activity, read_by = np.zeros(size), np.zeros(size)
        neighbours = []
        touched = [every[place] for place in found]
        for tensor in (member for term in touched if isinstance(term, Activations) for member in term.members):
            own = inside[tensor.columns]
            largest = tensor.stats.largest
            if own.any() and (top := float(largest[own].max())) > 0:
                np.maximum.at(activity, tensor.columns[own], largest[own] / top)
                if not own.all():
                    neighbours.append((tensor.columns[~own], largest[~own], top))
        readers = [c for c in measured.groups.constants if inside[c.times].any()]
        for constant in readers:
            values = np.abs(measured.constants[constant.name]).astype(np.float64)
            if measured.per_channel and isinstance(constant, Kernel) and constant.weight_axis is not None:
                others = tuple(axis for axis in range(values.ndim) if axis != constant.weight_axis)
                rows = values.max(axis=others, keepdims=True)
                values = np.divide(values, rows, out=np.zeros_like(values), where=rows > 0)
            _largest(read_by, constant.times, values)
        return cls(
            ids=ids,
            terms=found,
            kernels=tuple(
                c
                for c in measured.groups.constants
                if isinstance(c, Kernel) and (inside[c.times].any() or inside[c.over].any())
            ),
            read=bool(readers),
            activity=activity[ids],
            read_by=read_by[ids],
            neighbours=tuple(neighbours),
        )

    def others(self, scales: Floats) -> float:
        """Largest magnitude of the other ids in the same tensors, relative to the set's own; 0 where there are none."""
        return max((float((size / scales[ids]).max()) / top for ids, size, top in self.neighbours), default=0.0)


def _touching(ids: Ids, every: list[Term]) -> tuple[int, ...]:
    """Places of the terms that the scales of some ids change."""
    members = frozenset(ids.tolist())
    return tuple(place for place, term in enumerate(every) if not members.isdisjoint(term.ids))


def _largest(into: Floats, ids: Ids, values: Floats) -> None:
    """The largest of the values of each id, never below what is there."""
    np.maximum.at(into, np.broadcast_to(ids, values.shape).ravel(), values.ravel())
