"""Estimates the int8 rounding noise that a choice of channel scales leaves, without running the network again.

With x' = x / s and W' = W s, what a kernel reads gets the noise s (Q(x') - x') and its weights the error
(Q(W') - W') / s. Both are taken as independent between channels, so that powers add up: an activation's noise counts
with the squared weights that read it, a weight's error with the power of what it reads. Each reader's noise is told as
a share of the power of its output, output channels weighted by what reads them in turn; the sum over the readers is the
estimate. Everything is in the units of the network as it was given, so estimates of different scales compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from optimizer.ptq.channel_stats import ChannelStats, View
from optimizer.ptq.scale_groups import UNSCALED, Ids, Kernel, ScaledConstant, ScaleGroups

Floats = NDArray[np.float64]

_CLIPS = (1.0, 0.75, 0.5, 0.3)
"""Shares of the full range that are tried: whatever observer decides in the end does about as well as the best."""

_LASTING = 4.0
"""What a weight's error counts more than rounding noise of the same power: it is the same at every place and in every
sample, so sums and averages further on do not thin it out. Measured on seven trained networks, where any factor from 2
to 10 does about as well, 1 costs up to 1.5 dB, and 1/4 costs 5."""


class Term(Protocol):
    """One source of noise.

    Attributes:
        ids: whose scales change it.
    """

    ids: frozenset[int]

    def noise(self, scales: Floats) -> float:
        """Its share of the estimate, for the scale of each id."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """What the estimate is made from.

    Attributes:
        groups: the channels of the network.
        constants: its initializers.
        stats: of what `observed` names.
        fixed: ids whose scale stays 1.
        per_channel: a kernel has an int8 scale for each output channel, or one.
    """

    groups: ScaleGroups
    constants: Mapping[str, NDArray[Any]]
    stats: Mapping[View, ChannelStats]
    fixed: frozenset[int]
    per_channel: bool


def observed(groups: ScaleGroups, fixed: frozenset[int]) -> tuple[View, ...]:
    """The tensors whose channels have to be measured, and the axes that tell the channels apart."""
    views = dict.fromkeys(_view(groups, name) for names in _grids(groups, fixed) for name in names)
    for constant in groups.constants:
        if isinstance(constant, Kernel) and _touched(constant, fixed, per_channel=False):
            views[constant.source, (constant.axis,)] = None
            views[constant.output, (constant.axis,)] = None
        elif _touched(constant, fixed, per_channel=False):
            views[_view(groups, constant.output)] = None
    return tuple(views)


def _view(groups: ScaleGroups, name: str) -> View:
    return name, groups.tensors[name].axes


def terms(measured: Measured) -> list[Term]:
    """Every source of noise that a scale can change."""
    weight = _importance(measured)
    groups, stats = measured.groups, measured.stats
    found: list[Term] = [
        Activations([Member(stats[_view(groups, name)], _columns(groups, name), weight) for name in names])
        for names in _grids(groups, measured.fixed)
    ]
    for constant in groups.constants:
        if isinstance(constant, Kernel) and _touched(constant, measured.fixed, per_channel=measured.per_channel):
            found.append(_Weights(constant, measured, weight))
        elif constant.role in ("gain", "offset") and _touched(constant, measured.fixed, per_channel=False):
            found.append(_PerTensor(constant, measured, weight))
    return found


def _touched(constant: ScaledConstant, fixed: frozenset[int], *, per_channel: bool) -> bool:
    """Whether scales change the error of rounding a constant: with a scale per output channel, `over` does not."""
    ids = set(constant.times.ravel().tolist())
    if not (per_channel and isinstance(constant, Kernel) and constant.weight_axis is not None):
        ids.update(constant.over.ravel().tolist())
    return not fixed.issuperset(ids)


def _columns(groups: ScaleGroups, name: str) -> Ids:
    """The id of each column of its view."""
    channels = groups.tensors[name]
    return np.broadcast_to(channels.ids.reshape(-1), (int(np.prod([channels.shape[axis] for axis in channels.axes])),))


def _grids(groups: ScaleGroups, fixed: frozenset[int]) -> list[list[str]]:
    """Tensors that must have one int8 scale together, copies left out: their numbers are on the grid already."""
    root: dict[str, str] = {}

    def find(name: str) -> str:
        while root.get(name, name) != name:
            name = root[name]
        return name

    for name, sources in groups.copies.items():
        for source in sources:
            root[find(source)] = find(name)
    members: dict[str, list[str]] = {}
    for name in groups.tensors:
        if name not in groups.copies:
            members.setdefault(find(name), []).append(name)
    free = {name for name, found in groups.tensors.items() if not fixed.issuperset(found.ids.ravel().tolist())}
    return [names for names in members.values() if free.intersection(names)]


def _importance(measured: Measured) -> Floats:
    """How much noise of unit power on each id adds to the estimate, float64 [groups.size]; from the outputs backwards.

    An output channel of a kernel counts as much as what reads it makes of it; where nothing is known to, all count the
    same. A channel that the following kernel ignores is worth no bits.
    """
    weight = np.zeros(measured.groups.size)
    for constant in reversed(measured.groups.constants):
        if measured.fixed.issuperset(constant.times.ravel().tolist()):
            continue
        values = measured.constants[constant.name].astype(np.float64)
        if isinstance(constant, Kernel):
            passed = _output_weight(constant, measured, weight)[constant.writes]
        else:
            passed = _later(constant, measured, weight)
        gain = passed * np.square(values)
        ids = np.broadcast_to(constant.times, values.shape)
        weight += np.bincount(ids.ravel(), weights=gain.ravel(), minlength=len(weight))
    return weight


def _output_weight(constant: Kernel, measured: Measured, weight: Floats) -> Floats:
    """Of each output channel of a kernel, so that the power of its output counts 1."""
    ids = measured.groups.tensors[constant.output].along(constant.axis)
    power = measured.stats[constant.output, (constant.axis,)].power
    later = np.ones(len(power)) if ids is None or not weight[ids].any() else weight[ids]
    signal = float(later @ power)
    return later / signal if signal > 0 else np.zeros(len(power))


def _later(constant: ScaledConstant, measured: Measured, weight: Floats) -> Floats:
    """The weight of what an elementwise op gives out, for each element of its constant."""
    found = weight[constant.over]
    if found.any():
        return found
    # Nothing known reads it: as a share of the power of the tensor.
    power = measured.stats[_view(measured.groups, constant.output)].power
    return np.full(found.shape, 1.0 / (float(power.sum()) or 1.0))


def _reciprocal(values: Floats) -> Floats:
    return np.divide(1.0, values, out=np.zeros_like(values), where=values != 0)


class Member:
    """One of the tensors with a common int8 scale."""

    def __init__(self, stats: ChannelStats, columns: Ids, weight: Floats) -> None:
        self.stats, self.columns, self.weight = stats, columns, weight[columns]


class Activations:
    """Tensors with one int8 scale: asymmetric, its range holding 0."""

    def __init__(self, members: Sequence[Member]) -> None:
        self.members = members
        self.ids = frozenset(channel for member in members for channel in member.columns.tolist())

    def noise(self, scales: Floats) -> float:
        """See `Term.noise`."""
        low = min(0.0, *(float((m.stats.low / scales[m.columns]).min()) for m in self.members))
        high = max(0.0, *(float((m.stats.high / scales[m.columns]).max()) for m in self.members))
        if high <= low:
            return 0.0
        scaled = [m.stats.rows / scales[m.columns].astype(np.float32) for m in self.members]
        best = np.inf
        for clip in _CLIPS:
            step = np.float32(clip * (high - low) / 255)
            floor, ceiling = np.rint(clip * low / step), np.rint(clip * high / step)
            total = 0.0
            for member, x in zip(self.members, scaled, strict=True):
                error = np.clip(np.rint(x / step), floor, ceiling) * step - x
                power = np.einsum("rc,rc->c", error, error).astype(np.float64) / len(error)
                total += float((power * scales[member.columns] ** 2) @ member.weight)
            best = min(best, total)
        return best


class _Weights:
    """Weights in int8, symmetric, -127..127."""

    def __init__(self, constant: Kernel, measured: Measured, weight: Floats) -> None:
        self._values = measured.constants[constant.name]
        self._times, self._over = constant.times, constant.over
        axis = constant.weight_axis if measured.per_channel else None
        self._others = tuple(place for place in range(self._values.ndim) if place != axis)
        power = measured.stats[constant.source, (constant.axis,)].power[constant.reads]
        self._weight = power * _output_weight(constant, measured, weight)[constant.writes]
        self.ids = _ids(constant)

    def noise(self, scales: Floats) -> float:
        factor = (scales[self._times] / scales[self._over]).astype(np.float32)
        scaled = self._values * factor
        step = np.abs(scaled).max(axis=self._others, keepdims=True) / np.float32(127)
        step[step == 0] = 1
        error = (np.rint(scaled / step) * step - scaled) / factor
        return _LASTING * float(np.sum(np.square(error, dtype=np.float64) * self._weight))


class _PerTensor:
    """The constant of an elementwise op: int8 with one scale."""

    def __init__(self, constant: ScaledConstant, measured: Measured, weight: Floats) -> None:
        self._values = measured.constants[constant.name].astype(np.float64)
        self._times, self._over = constant.times, constant.over
        self._weight = later = _later(constant, measured, weight)
        if constant.role == "gain":
            # Its error counts with the power of what it multiplies: that of the product, gain taken out.
            columns = _columns(measured.groups, constant.output)
            power = measured.stats[_view(measured.groups, constant.output)].power
            total = np.bincount(columns, weights=power, minlength=len(weight))
            mean = total / np.maximum(np.bincount(columns, minlength=len(weight)), 1)
            self._weight = later * mean[constant.over] * np.square(_reciprocal(self._values))
        self.ids = _ids(constant)

    def noise(self, scales: Floats) -> float:
        factor = scales[self._times] / scales[self._over]
        scaled = self._values * factor
        step = float(np.abs(scaled).max()) / 127 or 1.0
        error = (np.rint(scaled / step) * step - scaled) / factor
        return _LASTING * float(np.sum(np.square(error) * self._weight))


def _ids(constant: ScaledConstant) -> frozenset[int]:
    return frozenset((*constant.times.ravel().tolist(), *constant.over.ravel().tolist())) - {UNSCALED}
