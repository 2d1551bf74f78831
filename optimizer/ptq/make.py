"""Makes the plan of a quantization: repairs, ranges, integers, biases, and the best of several ways to get them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.observers import RangeObserver
from edgesmith.errors import DataError
from edgesmith.progress import Progress, Silent
from edgesmith.types import OpPlan, QuantPlan, TensorPlan
from optimizer.ptq import biases, fit, ranges, rules, stepwise, variants
from optimizer.ptq.settings import ObserverChoice, PtqSettings
from optimizer.ptq.variants import Judge, Samples, Score, Variant
from targets.plan_files import Planned
from targets.plan_graph import PlanGraph

_MAY_BE_SMOOTHED = frozenset({"LayerNormalization", "LayerNorm", "Mul", "Div"})
"""Ops that SmoothQuant's factors can be put into; without one it is not looked at closer."""
_MEASURED = 16
"""Samples that the error of a range is measured on."""
_LEARNED = 96
"""Samples that go through both networks to decide weights and biases."""
_TRIED = 32
"""The same for variants that are only judged."""


def make_plan(
    graph: PlanGraph,
    x: Samples,
    settings: PtqSettings,
    *,
    model_sha256: str = "",
    calibration_sha256: str = "",
    progress: Progress | None = None,
) -> Planned:
    """Decides ranges, integers and exceptions. The same arguments give the same plan.

    Where `settings.observer` is "auto", several plans are made from three quarters of the samples and judged on the
    rest by emulation (`optimizer.ptq.variants`); the best way is then taken with all samples. The repairs that are
    judged are those of all samples.

    Args:
        graph: the float network.
        x: calibration samples: [N, ...], or one such array per input.
        settings: what to do.
        model_sha256: of the model, for the record.
        calibration_sha256: of the samples, for the record.
        progress: told what is tried.

    Returns:
        The plan, the graph after its repairs, and the integer weights. `plan.figures` holds "chosen", the name of the
        variant taken, and "variants", each with its name, output_sqnr_db, agreement and loss on the samples set aside.

    Raises:
        ConfigError: `keep_float` or `precision_of` name nothing of this network.
        DataError: no samples, or as many arrays as the network has no inputs.
        ModelError: the network answers NaN, or cannot be run op by op.
    """
    progress = progress or Silent()
    _check(graph, x)
    rules.decide(graph, settings)  # refuses unknown names before anything is computed
    tried: dict[Variant, Score] = {}
    maker = _Maker(graph, x, settings, progress, learned=_LEARNED)
    if settings.observer != "auto":
        chosen = variants.only(settings)
    else:
        chosen, tried, trial = _best(graph, x, settings, progress)
        maker.take_over(trial, chosen)
    planned = maker.make(chosen)
    figures: dict[str, Any] = {"chosen": chosen.name}
    if tried:
        figures["variants"] = [_plain(variant, score) for variant, score in tried.items()]
        figures["output_sqnr_db"] = round(tried[chosen].sqnr_db, 3)
    plan = dataclasses.replace(
        planned.plan,
        model_sha256=model_sha256,
        calibration_sha256=calibration_sha256,
        settings=settings.plain(),
        figures=figures,
    )
    return Planned(plan=plan, graph=planned.graph, integers=planned.integers)


def _check(graph: PlanGraph, x: Samples) -> None:
    arrays: Sequence[NDArray[Any]] = [x] if isinstance(x, np.ndarray) else x
    if len(arrays) != len(graph.inputs):
        raise DataError(
            f"The calibration samples have {len(arrays)} arrays, the network {len(graph.inputs)} inputs "
            f"({', '.join(graph.inputs)})."
        )
    if not len(arrays[0]) or any(len(array) != len(arrays[0]) for array in arrays):
        raise DataError(
            f"The calibration arrays hold {', '.join(str(len(array)) for array in arrays)} samples.",
            next_step="Give each input at least one, and all inputs equally many.",
        )


def _plain(variant: Variant, score: Score) -> dict[str, Any]:
    return {
        "name": variant.name,
        "output_sqnr_db": round(score.sqnr_db, 3),
        "agreement": round(score.agreement, 6),
        "loss": float(f"{score.loss:.6g}"),
    }


def _best(
    graph: PlanGraph, x: Samples, settings: PtqSettings, progress: Progress
) -> tuple[Variant, dict[Variant, Score], _Maker]:
    """Repairs first, judged with plain min-max, which costs little; then ranges, weights and biases on the best.

    Returns:
        The best variant, the score of each, and what made them.
    """
    made_with, judged_by = variants.set_aside(x)
    maker = _Maker(graph, made_with, settings, progress, learned=_TRIED, repaired_with=x)
    judge = Judge(graph, judged_by)
    tried: dict[Variant, Score] = {}

    def attempt(variant: Variant) -> None:
        if variant not in tried:
            tried[variant] = judge.score(maker.make(variant))

    def best() -> Variant:
        return min(tried, key=lambda variant: tried[variant].loss)

    for variant in variants.first_round(settings):
        # Smoothing that is worse than nothing alone is not tried again beside equalization.
        alone = tried.get(dataclasses.replace(variant, equalize=False))
        hopeless = variant.equalize and alone is not None and alone.loss > tried[Variant()].loss
        if maker.differs(variant) and not hopeless:
            attempt(variant)
    repaired = best()
    refined = dataclasses.replace(repaired, observer="auto", fitted=True, correct=settings.bias_correction)
    attempt(refined)
    if refined.correct and tried[refined].loss > tried[repaired].loss:
        attempt(dataclasses.replace(refined, correct=False))
    if settings.rounding == "learned":
        attempt(dataclasses.replace(best(), rounding="learned"))
    return best(), tried, maker


class _Maker:
    """Makes variants from one set of samples; what they have in common is computed once."""

    def __init__(
        self,
        graph: PlanGraph,
        x: Samples,
        settings: PtqSettings,
        progress: Progress,
        *,
        learned: int,
        repaired_with: Samples | None = None,
    ) -> None:
        self._graph, self._x, self._settings, self._progress = graph, x, settings, progress
        self._repaired_with = x if repaired_with is None else repaired_with
        self._learned = learned
        self._settled: Mapping[str, str] = {}
        self._sessions: stepwise.Sessions = {}
        self._prepared: dict[tuple[bool, bool], _Prepared] = {}
        self._repairs: dict[tuple[bool, bool], tuple[PlanGraph, tuple[str, ...]]] = {}

    def make(self, variant: Variant) -> Planned:
        """One plan; its records of model, samples, settings and figures are left empty."""
        key = (variant.equalize, variant.smooth)
        if key not in self._prepared:
            self._prepared[key] = self._prepare(*key)
        return self._prepared[key].plan(variant)

    def differs(self, variant: Variant) -> bool:
        """Whether each repair of a variant changes something in this network: else it is another variant again."""
        if variant.smooth and not any(op.kind in _MAY_BE_SMOOTHED for op in self._graph.ops):
            return False
        one_by_one = [(True, False)] * variant.equalize + [(False, True)] * variant.smooth
        return all(self._repaired(*one)[0] is not self._graph for one in one_by_one)

    def take_over(self, trial: _Maker, chosen: Variant) -> None:
        """Does not decide again what a trial did: the observer of each range, and the repairs."""
        self._settled = trial._prepared[chosen.equalize, chosen.smooth].observers(chosen)
        self._repairs, self._sessions = trial._repairs, trial._sessions

    def _prepare(self, equalize: bool, smooth: bool) -> _Prepared:
        graph, repairs = self._repaired(equalize, smooth)
        learned_from = stepwise.within(graph, self._x, most=self._learned, sessions=self._sessions)
        return _Prepared(graph, repairs, self._x, self._settings, self._progress, learned_from, self._settled)

    def _repaired(self, equalize: bool, smooth: bool) -> tuple[PlanGraph, tuple[str, ...]]:
        """The network after repairs (itself, where there is nothing to repair), and what they say."""
        if not (equalize or smooth):
            return self._graph, ()
        if (equalize, smooth) not in self._repairs:
            from optimizer.ptq.equalize import equalize as repair

            self._repairs[equalize, smooth] = repair(
                self._graph,
                self._repaired_with,
                smooth=smooth,
                cross_layer=equalize,
                per_channel=self._settings.per_channel,
                progress=self._progress,
            )
        return self._repairs[equalize, smooth]


class _Prepared:
    """A network after its repairs, its activations observed."""

    def __init__(
        self,
        graph: PlanGraph,
        repairs: Sequence[str],
        x: Samples,
        settings: PtqSettings,
        progress: Progress,
        learned_from: stepwise.Stepwise,
        settled: Mapping[str, str],
    ) -> None:
        self._settled = settled
        self._graph, self._repairs, self._settings = graph, tuple(repairs), settings
        self._x, self._progress = x, progress
        self._rules = rules.decide(graph, settings)
        self._learned_from = learned_from
        self._measured_on = learned_from.few(_MEASURED)
        self._ranges: dict[str, dict[str, ranges.Range]] = {}
        self._fitted: dict[Variant, fit.Numbers] = {}

    def plan(self, variant: Variant) -> Planned:
        """One variant's plan."""
        if variant.observer not in self._ranges:
            observers = self._observed(variant.observer)
            self._ranges[variant.observer] = ranges.choose(
                observers, self._rules, variant.observer, self._measured_on, self._settled
            )
        found = self._ranges[variant.observer]
        how = fit.How(
            per_channel=self._settings.per_channel,
            fitted=variant.fitted,
            correct=variant.correct,
            learn=variant.rounding == "learned",
            seed=self._settings.seed,
        )
        before = self._fitted.get(dataclasses.replace(variant, correct=False))
        numbers = fit.fit(
            self._learned_from,
            self._rules,
            ranges.grids(self._rules, found),
            how,
            given=before if variant.rounding == "nearest" else None,
        )
        self._fitted[variant] = numbers
        return Planned(
            plan=QuantPlan(
                model_sha256="",
                calibration_sha256="",
                ops=self._ops(numbers),
                tensors=self._tensors(found),
                repairs=(*self._repairs, *numbers.sentences),
            ),
            graph=biases.corrected(self._graph, numbers.biases),
            integers=numbers.integers,
        )

    def _observed(self, observer: ObserverChoice) -> dict[str, RangeObserver]:
        """Sees all samples. Values are counted where more than the ends is asked for: that is most of the time."""
        firsts = [group.tensors[0] for group in self._rules.groups]
        settled = self._settled if observer == "auto" else dict.fromkeys(firsts, observer)
        ends_only = {first for first in firsts if settled.get(first) == "minmax"}
        count = len(self._x) if isinstance(self._x, np.ndarray) else len(self._x[0])
        with self._progress.task("ranges", total=count) as task:
            return ranges.observe(self._graph, self._x, self._rules, task, ends_only=ends_only)

    def observers(self, variant: Variant) -> dict[str, str]:
        """Which observer decided each range of a variant that was made; by the first tensor of each group."""
        decided = self._ranges[variant.observer].items()
        return {first: one.observer for first, one in decided if one.observer != "fixed"}

    def _ops(self, numbers: fit.Numbers) -> tuple[OpPlan, ...]:
        return tuple(
            OpPlan(
                name=op.name,
                layer=op.layer,
                kind=op.kind,
                precision=self._rules.ops[op.name].precision,
                weights=numbers.grids.get(op.name),
                reason=self._rules.ops[op.name].reason,
            )
            for op in self._graph.ops
        )

    def _tensors(self, found: dict[str, ranges.Range]) -> tuple[TensorPlan, ...]:
        groups = {name: group for group in self._rules.groups for name in group.tensors}
        plans = []
        for name in self._graph.tensors:
            op = self._graph.producer(name)
            layer = op.layer if op is not None else name
            if name not in groups:
                reason = "only float32 ops around it"
                plans.append(TensorPlan(name=name, layer=layer, params=None, reason=reason))
                continue
            first = groups[name].tensors[0]
            one = found[first]
            shared = name != first and one.observer != "fixed"
            plans.append(
                TensorPlan(
                    name=name,
                    layer=layer,
                    params=one.params,
                    low=one.low,
                    high=one.high,
                    observer="shared" if shared else one.observer,
                    reason=f"the scale of {first}" if shared else "",
                )
            )
        return tuple(plans)
