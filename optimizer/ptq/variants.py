"""Several plans for one network, and which of them answers most like the float network on samples none was made with.

The default of every other tool, plain min-max, is among them: what is kept is never worse by this measure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.ptq.settings import ObserverChoice, PtqSettings, Rounding
from optimizer.ptq.stepwise import spread
from targets import onnx_emulator
from targets.plan_files import Planned
from targets.plan_graph import PlanGraph

Samples = NDArray[Any] | Sequence[NDArray[Any]]

_ENOUGH = 64
"""Samples, below which none are set aside to judge by; and the most that are."""
_MADE_WITH = 96


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """How one plan is made.

    Attributes:
        observer: what decides the ranges.
        equalize: cross-layer equalization.
        smooth: SmoothQuant's migration.
        fitted: weight scales by output error; else they cover the largest weight.
        correct: bias correction.
        rounding: of the weights.
    """

    observer: ObserverChoice = "minmax"
    equalize: bool = False
    smooth: bool = False
    fitted: bool = False
    correct: bool = False
    rounding: Rounding = "nearest"

    @property
    def name(self) -> str:
        """For the report."""
        parts = [f"{self.observer} ranges"]
        parts += ["equalized"] if self.equalize else []
        parts += ["smoothed"] if self.smooth else []
        parts += ["fitted weight scales"] if self.fitted else []
        parts += ["corrected biases"] if self.correct else []
        parts += ["learned rounding"] if self.rounding == "learned" else []
        return ", ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How far a plan's answers are from the float network's.

    Attributes:
        loss: what plans are ranked by, lower is better: noise over signal, summed over the outputs. Where an output
            comes from a softmax, the logits less their mean over the classes are compared: on few samples the KL
            divergence of the probabilities hangs on those few that are near a tie, and ranks plans half by chance.
        sqnr_db: of all outputs together (logits where there is a softmax), at most 200.
        agreement: share of samples with the same largest value, of the first output; 1 where it has one value.
    """

    loss: float
    sqnr_db: float
    agreement: float


def only(settings: PtqSettings) -> Variant:
    """The one plan of settings that leave nothing to choose."""
    return Variant(
        observer=settings.observer,
        equalize=settings.equalize,
        smooth=settings.smooth,
        fitted=settings.observer != "minmax" or settings.rounding == "learned",
        correct=settings.bias_correction,
        rounding=settings.rounding,
    )


def first_round(settings: PtqSettings) -> list[Variant]:
    """The repairs, all the ways they are combined; the default of other tools comes first."""
    repairs = [(False, False)]
    repairs += [(True, False)] if settings.equalize else []
    repairs += [(False, True)] if settings.smooth else []
    repairs += [(True, True)] if settings.equalize and settings.smooth else []
    return [Variant(equalize=equalize, smooth=smooth) for equalize, smooth in repairs]


def set_aside(x: Samples) -> tuple[Samples, Samples]:
    """Three of four samples to make plans with, the fourth to judge them by; both are all, where there are few.

    Of many samples 96 and 64 are taken, evenly spread: plans that are only compared need no more.
    """
    count = len(x) if isinstance(x, np.ndarray) else len(x[0])
    if count < _ENOUGH:
        return x, x
    judged = np.arange(count) % 4 == 3

    def part(of: NDArray[np.bool_], most: int) -> Samples:
        among = np.flatnonzero(of)
        kept = among[spread(len(among), most)]
        return x[kept] if isinstance(x, np.ndarray) else [array[kept] for array in x]

    return part(~judged, _MADE_WITH), part(judged, _ENOUGH)


class Judge:
    """Compares plans with the float network they were made for.

    Args:
        graph: the float network, before any repair.
        x: samples to judge by.
    """

    def __init__(self, graph: PlanGraph, x: Samples) -> None:
        self._x = x
        self._from_softmax = {}
        for name in graph.outputs:
            op = graph.producer(name)
            softmax = op is not None and op.kind == "Softmax" and len(op.inputs) == 1
            self._from_softmax[name] = op.inputs[0] if softmax and op is not None else None
        self._tensors = tuple(dict.fromkeys(source or name for name, source in self._from_softmax.items()))
        self._real = _joined(list(graph.run(x, self._tensors)))

    def score(self, planned: Planned) -> Score:
        """Runs a plan as ONNX Runtime would, and compares its outputs."""
        made = _joined(list(onnx_emulator.run(planned, self._x, self._tensors)))
        loss, signal, noise = 0.0, 0.0, 0.0
        for name, source in self._from_softmax.items():
            real, other = self._real[source or name], made[source or name]
            signal, noise = signal + _power(real), noise + _power(real - other)
            if source is not None:
                real, other = _centred(real), _centred(other)
            power, error = _power(real), _power(real - other)
            loss += error / power if power else error
        name = self._tensors[0]
        return Score(loss=loss, sqnr_db=_db(signal, noise), agreement=_agreement(self._real[name], made[name]))


def _centred(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """A softmax does not see what all classes have in common."""
    return np.asarray(logits - logits.mean(axis=-1, keepdims=True))


def _joined(parts: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[np.float64]]:
    return {name: np.concatenate([part[name] for part in parts]).astype(np.float64) for name in parts[0]}


def _power(values: NDArray[np.float64]) -> float:
    return float(np.square(values).sum())


def _db(signal: float, noise: float) -> float:
    """A figure of a plan is plain JSON, which has no infinity."""
    if noise == 0.0:
        return 200.0
    return float(np.clip(10.0 * math.log10(signal / noise), -200.0, 200.0)) if signal else -200.0


def _agreement(real: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    if real.ndim < 2 or real.shape[-1] < 2:
        return 1.0
    return float((real.argmax(axis=-1) == other.argmax(axis=-1)).mean())
