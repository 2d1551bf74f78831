"""Measures which layers hurt: SQNR for every layer first, the task metric for the worst of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from calibration.sensitivity import Drop, LayerSensitivity, Sqnr, decibels, noise_shares, rank, rank_by_sqnr
from edgesmith.progress import Progress, Silent
from optimizer.ptq import layers as plan_layers
from optimizer.ptq.biases import Corrector, uncorrected
from optimizer.ptq.journal import Journal, Value
from optimizer.ptq.task import Task
from targets.plan_files import Planned
from targets.plan_graph import PlanGraph

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Samples = NDArray[Any] | Sequence[NDArray[Any]]


class Emulate(Protocol):
    """Runs a plan as the shipped artifact would; `targets.onnx_emulator.run` is one."""

    def __call__(
        self, planned: Planned, x: Samples, tensors: Sequence[str] | None = None, /
    ) -> Iterator[Mapping[str, NDArray[Any]]]:
        """Yields tensors of the plan (None: the outputs), float [n, ...], for n samples at a time."""


NOT_ASKED = "kept in float32 to measure the others"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivities:
    """What quantizing each layer of a network costs.

    Attributes:
        layers: most sensitive first (`calibration.sensitivity.rank`).
        int8_db: SQNR of the outputs where all of them are quantized.
        samples: that SQNR was measured on.
        metric: name of the task metric of `LayerSensitivity.drop`; empty where it was not measured.
    """

    layers: tuple[LayerSensitivity, ...]
    int8_db: float
    samples: int
    metric: str = ""

    @property
    def by_sqnr(self) -> tuple[str, ...]:
        """The plain ranking, which does not know the task."""
        return tuple(one.layer for one in rank_by_sqnr(self.layers))

    @property
    def ranked(self) -> tuple[str, ...]:
        """The layers, most sensitive first."""
        return tuple(one.layer for one in self.layers)

    def plain(self) -> list[dict[str, Any]]:
        """For the plan's figures and the report's bars: plain JSON values, most sensitive first."""
        shares = noise_shares(self.layers)
        return [
            {
                "layer": one.layer,
                "kinds": list(one.kinds),
                "alone_db": plan_layers.finite(one.alone_db),
                "tensor_db": plan_layers.finite(one.tensor_db),
                "rest_db": plan_layers.finite(one.rest_db),
                "noise_share": shares[one.layer],
                "drop_pp": one.drop.pp if one.drop else None,
                "drop_low_pp": one.drop.low if one.drop else None,
                "drop_high_pp": one.drop.high if one.drop else None,
                "n": one.drop.n if one.drop else None,
            }
            for one in self.layers
        ]


def only(planned: Planned, layer: str) -> Planned:
    """The plan with this layer quantized and every other one in float32."""
    others = (other for other in plan_layers.kinds_of_layers(planned) if other != layer)
    return plan_layers.with_float(planned, dict.fromkeys(others, NOT_ASKED))


def without(planned: Planned, layer: str) -> Planned:
    """The plan with this layer in float32 and every other one as it is."""
    return plan_layers.with_float(planned, {layer: NOT_ASKED})


def outputs_of(graph: PlanGraph, parts: Iterable[Mapping[str, NDArray[Any]]]) -> tuple[NDArray[Any], ...]:
    """The network's outputs out of what a run yields, [N, ...] each."""
    found = [tuple(part[name] for name in graph.outputs) for part in parts]
    return tuple(np.concatenate(arrays) for arrays in zip(*found, strict=True))


def judged_tensors(graph: PlanGraph) -> tuple[str, ...]:
    """What SQNR is measured on: the outputs, and what goes into a softmax in place of its result.

    A softmax hides the noise of what it is sure of, and its own grid is the same for every network.
    """
    makers = {name: graph.producer(name) for name in graph.outputs}
    return tuple(
        dict.fromkeys(
            op.inputs[0] if op is not None and op.kind == "Softmax" and len(op.inputs) == 1 else name
            for name, op in makers.items()
        )
    )


def measure(
    planned: Planned,
    x: Samples,
    *,
    emulate: Emulate,
    settle: Callable[[Planned], Planned] | None = None,
    task: Task | None = None,
    x_task: Samples | None = None,
    worst: int = 8,
    journal: Journal | None = None,
    about: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Sensitivities:
    """Measures every layer that computes with integers, one at a time.

    First SQNR against the float network: of the outputs and of the layer's own output with only this layer quantized,
    and of the outputs with only this layer in float. Then, for the layers of lowest SQNR alone, what the task loses
    with only this layer quantized.

    Args:
        planned: the plan with every layer quantized that can be.
        x: samples for SQNR: [N, ...], or one array per input. A hundred are enough: each gives an error per output.
        emulate: runs a plan as the shipped artifact would.
        settle: adapts a plan to what it leaves in float; None: where biases are corrected, that is done anew for each
            plan, with the samples `x` (`optimizer.ptq.biases.Corrector`).
        task: the metric on `x_task`; None: only SQNR.
        x_task: samples of the task.
        worst: how many layers the metric is measured for.
        journal: finished measurements, which are not repeated.
        about: hashes of what the measurements depend on: plan, samples, task.
        progress: one task, a step for each measurement.

    Raises:
        InfrastructureError: the journal cannot be written.
    """
    journal = Journal() if journal is None else journal
    about = {} if about is None else about
    kinds = plan_layers.kinds_of_layers(planned)
    asked = None if task is None or x_task is None else (task, x_task)
    total = 1 + 2 * len(kinds) + (min(worst, len(kinds)) if asked else 0)

    real = uncorrected(planned.graph)
    if settle is None:
        settle = as_it_is if real is planned.graph else Corrector(planned, x)
    judged = judged_tensors(real)
    written = plan_layers.output_of_layers(planned)

    def sqnr(plan: Planned, tensor: str = "") -> Value:
        meters = {name: Sqnr() for name in (*judged, *([tensor] if tensor else []))}
        for right, given in zip(real.run(x, tuple(meters)), emulate(plan, x, tuple(meters)), strict=True):
            for name, meter in meters.items():
                meter.add(right[name], given[name])
        db = decibels(sum(meters[name].noise for name in judged) / len(judged))
        return {"db": db, "tensor_db": meters[tensor].db if tensor else None}

    with (progress or Silent()).task("sensitivity of the layers", total) as steps:

        def figure(what: str, layer: str, compute: Callable[[], Value]) -> Value:
            value, _ = journal.measured({"what": what, "layer": layer, **about}, compute)
            steps.advance(note=layer)
            return value

        def alone_and_rest(layer: str) -> LayerSensitivity:
            alone = figure("alone", layer, lambda: sqnr(settle(only(planned, layer)), written[layer]))
            rest = figure("rest", layer, lambda: sqnr(settle(without(planned, layer))))
            return LayerSensitivity(
                layer=layer,
                kinds=kinds[layer],
                alone_db=alone["db"],
                tensor_db=alone["tensor_db"],
                rest_db=rest["db"],
            )

        def with_drop(one: LayerSensitivity) -> LayerSensitivity:
            if asked is None:
                return one
            drop = figure("drop", one.layer, lambda: _lost(emulate, settle(only(planned, one.layer)), *asked))
            return dataclasses.replace(one, drop=Drop(**drop))

        int8_db = figure("all", "", lambda: sqnr(planned))["db"]
        ordered = rank_by_sqnr([alone_and_rest(layer) for layer in kinds])
        measured = [*map(with_drop, ordered[:worst]), *ordered[worst:]]
    return Sensitivities(
        layers=rank(measured),
        int8_db=int8_db,
        samples=len(x if isinstance(x, np.ndarray) else x[0]),
        metric="" if asked is None else asked[0].name,
    )


def as_it_is(planned: Planned) -> Planned:
    """The plan itself: where no bias is corrected, nothing has to be adapted."""
    return planned


def _lost(emulate: Emulate, planned: Planned, task: Task, x: Samples) -> Value:
    drop, _ = task.lost(outputs_of(planned.graph, emulate(planned, x)))
    return dataclasses.asdict(drop)
