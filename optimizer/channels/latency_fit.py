"""Measured networks of one layer -> the rows of a latency table.

A layer takes what its network takes, less what a call and the way of the samples in and out take. That is told by
networks that only pass their input on: a straight line through what they take by the size of their input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer import cost
from optimizer.base import KerasModel
from optimizer.channels import latency_table
from optimizer.channels.latency_probe import Kind, Probe


@dataclass(frozen=True, slots=True)
class Overhead:
    """What a network takes besides its layers.

    Attributes:
        call_ms: of a call.
        value_ms: of every value that goes in or comes out.
    """

    call_ms: float
    value_ms: float

    def of(self, read: int, made: int) -> float:
        """Of a network that reads and makes so many values."""
        return self.call_ms + self.value_ms * (read + made)


def overhead(passing: Mapping[int, float]) -> Overhead:
    """The line through networks that pass their input on.

    Args:
        passing: values that they read -> milliseconds.
    """
    sizes, taken = np.array(list(passing), np.float64), np.array(list(passing.values()), np.float64)
    spread = float(((sizes - sizes.mean()) ** 2).sum())
    slope = float(((sizes - sizes.mean()) * taken).sum()) / spread if spread else 0.0
    slope = max(slope, 0.0)
    # No line is above what was measured: then a layer would take less than nothing.
    return Overhead(call_ms=max(float((taken - slope * sizes).min()), 0.0), value_ms=slope / 2)


def row(kind: Kind, taken_ms: Mapping[str, float], beside: Overhead) -> dict[str, Any]:
    """A kind of layer as the table's file has it.

    Args:
        kind: which.
        taken_ms: of its probes, by name.
        beside: what to take off.
    """
    alone = [max(taken_ms[probe.name] - beside.of(*values(probe)), 0.0) for probe in kind.probes()]
    shape = (len(kind.inputs),) if kind.outputs is None else (len(kind.inputs), len(kind.outputs))
    latency = rising(np.array(alone).reshape(shape))
    found = {"layer": kind.name, "step": kind.step, "inputs": list(kind.inputs)}
    if kind.outputs is not None:
        found["outputs"] = list(kind.outputs)
    return {**found, "latency_ms": np.round(latency, 6).tolist()}


def sum_of(model: KerasModel, document: Mapping[str, Any]) -> float:
    """Milliseconds that the layers of a network add up to by a table."""
    rows = latency_table.parse(document).rows
    total = 0.0
    for layer, inputs, outputs in cost.calls(model):
        if (row := rows.get(latency_table.layer_kind(layer, inputs) or "")) is not None:
            total += row.at(int(inputs[0][-1] or 0), int(outputs[0][-1] or 0))
    return total


def rising(latency_ms: NDArray[np.float64]) -> NDArray[np.float64]:
    """The middle between the least table above and the largest below that rise along every axis."""
    above, below = latency_ms, latency_ms
    for axis in range(latency_ms.ndim):
        above = np.maximum.accumulate(above, axis)
        below = np.flip(np.minimum.accumulate(np.flip(below, axis), axis), axis)
    return np.asarray((above + below) / 2)


def values(probe: Probe) -> tuple[int, int]:
    """How many values a probe reads and makes for one sample."""
    made = probe.network().output_shape[1:]
    return math.prod(probe.shape), math.prod(made)


def passing_of(probes: Sequence[Probe], taken_ms: Mapping[str, float]) -> dict[int, float]:
    """Of those that were measured and only pass their input on."""
    return {math.prod(p.shape): taken_ms[p.name] for p in probes if p.place is None}
