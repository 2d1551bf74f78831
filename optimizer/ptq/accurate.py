"""A plan that meets an accuracy budget: quantized as far as that allows, and named layers kept in float."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.sensitivity import Drop, LayerSensitivity, paired_drop, unpack
from edgesmith.errors import ModelError
from edgesmith.files import sha256_json
from edgesmith.progress import Progress, Silent
from edgesmith.types import Precision
from optimizer.compare import compare
from optimizer.ptq import layers as plan_layers
from optimizer.ptq import rules
from optimizer.ptq.biases import Corrector
from optimizer.ptq.journal import Journal
from optimizer.ptq.make import make_plan
from optimizer.ptq.search import SearchOutcome, search
from optimizer.ptq.sensitivity import Emulate, Sensitivities, as_it_is, measure, outputs_of
from optimizer.ptq.settings import PtqSettings
from optimizer.ptq.task import Task
from optimizer.ptq.trials import Keep, Trial
from targets import onnx_emulator, plan_files
from targets.plan_files import Planned
from targets.plan_graph import PlanGraph

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Samples = NDArray[Any] | Sequence[NDArray[Any]]

SQNR_SAMPLES = 128
"""That the layers are ranked on before the task decides: each gives an error for every output."""

SEARCH = "accuracy_search"
"""In `QuantPlan.figures`: what the search measured, as plain JSON values."""

NUMBERS = "numbers"
"""The folder, beside the journal, of the plan before any exception; one below it for each thing it was made from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How far a search goes.

    Attributes:
        max_trials: sets of layers whose accuracy is measured.
        deadline_seconds: that these measurements may take together. Ranking the layers beforehand takes about two runs
            of `SQNR_SAMPLES` for each layer, and is not counted.
        worst: layers whose own cost to the task is measured beforehand.
        candidates: see `optimizer.ptq.search.search`.
        sure: see there.
        precision: of the layers that are kept: float32, or int16 where the runtime has it.
    """

    max_trials: int = 200
    deadline_seconds: float = 1800.0
    worst: int = 8
    candidates: int = 16
    sure: bool = False
    precision: Precision = "float32"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Accurate:
    """A plan, and how it came to its exceptions.

    Attributes:
        planned: to be lowered; the layers kept carry their reason, `plan.figures` what was measured.
        uniform: the plan before any exception; its numbers are those of `planned` where nothing is kept.
        kept: the layers kept, in the order they are computed.
        outcome: of the search.
        sensitivities: of every layer; None where the budget held without exceptions.
        drop: what the task loses with `planned`.
    """

    planned: Planned
    uniform: Planned
    kept: tuple[str, ...]
    outcome: SearchOutcome
    sensitivities: Sensitivities | None
    drop: Drop


def accurate_plan(
    graph: PlanGraph,
    x: Samples,
    x_tuning: Samples,
    y_tuning: NDArray[Any] | None,
    settings: PtqSettings,
    budget_pp: float,
    *,
    metric: str = "",
    root: Path | None = None,
    effort: Effort | None = None,
    cost: Mapping[str, float] | None = None,
    folder: Path | None = None,
    make: Callable[..., Planned] = make_plan,
    emulate: Emulate = onnx_emulator.run,
    progress: Progress | None = None,
) -> Accurate:
    """Makes a plan, and keeps the fewest layers in float with which the task loses no more than a budget.

    Ranges and integers are decided once, for the network quantized throughout; exceptions leave numbers out, and have
    biases corrected for what is left. When they are known, the plan is made once more with them, from all calibration
    samples, and without what was done for the sake of layers that now stay float. Of the two the one that holds the
    budget is kept, the second where both do.

    Everything measured is written down at once: killed and started again with the same folder, this ends in the same
    plan, and no finished measurement is repeated.

    Args:
        graph: the float network.
        x: calibration samples, [N, ...] or one array per input.
        x_tuning: samples that the task is measured on; neither those of the calibration nor those of the evaluation.
        y_tuning: their labels; None: agreement with the float network.
        settings: what the plan is made with.
        budget_pp: percentage points that the task may lose.
        metric: as in `device_tests.accuracy.evaluate`; empty: top1, or agreement where there are no labels.
        root: the config's folder, where a metric of the user's own is found.
        effort: how far to search.
        cost: layer -> what it costs to keep it, in any one unit; None: the operations it computes.
        folder: of the journal; None: nothing outlives the process.
        make: as `make_plan`; bind the hashes of its record to it (`functools.partial`) where they are known.
        emulate: runs a plan as the shipped artifact would.
        progress: of every step.

    Raises:
        ConfigError, DataError, ModelError: samples, labels or outputs that do not go with the metric.
        InfrastructureError: the journal cannot be written.
    """
    progress, effort = progress or Silent(), effort or Effort()
    metric = metric or ("agreement" if y_tuning is None else "top1")
    journal = Journal(folder)
    base = _numbers(graph, x, settings, folder, make, progress)
    task = Task(metric=metric, reference=outputs_of(graph, graph.run(x_tuning)), y=y_tuning, root=root)
    about = {"plan": plan_layers.digest(base), "samples": _sha256(x_tuning, y_tuning), "metric": metric}
    if effort.precision != "float32":
        about["kept"] = effort.precision
    if 100.0 / task.count > budget_pp:
        progress.note(
            f"One of the {task.count:,} tuning samples is {100.0 / task.count:.2g} pp, more than the budget of "
            f"{budget_pp:g} pp: give more samples for a finer answer."
        )

    settle = Corrector(base, x) if settings.bias_correction else as_it_is

    def kept(layers: Mapping[str, str]) -> Planned:
        return settle(plan_layers.with_precision(base, layers, effort.precision)) if layers else base

    def trial_of(planned: Planned) -> Trial:
        outputs = outputs_of(planned.graph, emulate(planned, x_tuning))
        drop, correct = task.lost(outputs)
        return Trial(drop=drop, sqnr_db=compare(task.reference, outputs).sqnr_db, correct=correct)

    def evaluate(keep: Keep) -> Trial:
        return trial_of(kept(dict.fromkeys(keep, "tried")))

    options: dict[str, Any] = {"journal": journal, "about": about, "sure": effort.sure, "progress": progress}
    # All quantized, on its own: where that holds, nothing has to be ranked. Out of the journal, it costs nothing below.
    outcome, sensitivities = search(evaluate, (), budget_pp, **options), None
    if not outcome.met and not effort.sure and _may_be_chance(outcome.trial.drop):
        progress.note(
            f"With everything quantized {outcome.trial.drop} are lost, more than the budget of {budget_pp:g} pp, but "
            "that may be chance: no layer is kept in float for it. More tuning samples would tell."
        )
    elif not outcome.met:
        sensitivities = measure(
            base,
            _first(x_tuning, SQNR_SAMPLES),
            emulate=emulate,
            settle=settle,
            task=task,
            x_task=x_tuning,
            worst=effort.worst,
            journal=journal,
            about=about,
            progress=progress,
        )
        outcome = search(
            evaluate,
            sensitivities.ranked,
            budget_pp,
            max_trials=effort.max_trials,
            deadline_seconds=effort.deadline_seconds,
            candidates=effort.candidates,
            cost=plan_layers.operations(base.graph, x_tuning) if cost is None else cost,
            **options,
        )
    planned, found = base, outcome.trial
    if outcome.keep and sensitivities is not None:
        reasons = reasons_of(outcome, sensitivities, task)
        planned = kept(reasons)
        again = _made_again(graph, x, settings, effort.precision, planned, make, progress)
        with_again = trial_of(again)
        if _counted(with_again, effort) <= max(budget_pp, _counted(outcome.trial, effort)):
            planned, found = again, with_again
    layers = plan_layers.in_order(base, outcome.keep)
    chance = sensitivities is None and not effort.sure and _may_be_chance(found.drop)
    over = 0.0 if chance else max(0.0, _counted(found, effort) - budget_pp)
    figures = _figures(outcome, sensitivities, task, found, over) | {"budget_pp": budget_pp, "kept": list(layers)}
    plan = dataclasses.replace(planned.plan, figures={**planned.plan.figures, SEARCH: figures})
    return Accurate(
        planned=Planned(plan=plan, graph=planned.graph, integers=planned.integers),
        uniform=base,
        kept=layers,
        outcome=outcome,
        sensitivities=sensitivities,
        drop=found.drop,
    )


def _may_be_chance(drop: Drop) -> bool:
    """Whether so many samples cannot tell the drop from none at all."""
    return drop.low is not None and drop.low <= 0.0


def reasons_of(outcome: SearchOutcome, sensitivities: Sensitivities, task: Task) -> dict[str, str]:
    """Why each layer is kept: what the task loses when it alone is given back.

    Where that was not tried, what it loses with this layer alone quantized; and where the metric was not measured for
    the layer at all, SQNR.
    """
    alone = {one.layer: one for one in sensitivities.layers}
    return {layer: _reason(layer, alone[layer], outcome, task) for layer in outcome.keep}


def _reason(layer: str, alone: LayerSensitivity, outcome: SearchOutcome, task: Task) -> str:
    given_back = outcome.trial_of(set(outcome.keep) - {layer})
    if given_back is not None:
        return f"costs {_between(outcome.trial, given_back).of(task.name)}"
    if alone.drop is not None:
        return f"alone costs {alone.drop.of(task.name)}"
    return f"alone gives {alone.alone_db:.1f} dB SQNR"


def _between(kept: Trial, given_back: Trial) -> Drop:
    if kept.correct and given_back.correct:
        n = kept.drop.n
        return paired_drop(unpack(kept.correct, n), unpack(given_back.correct, n))
    return Drop(pp=given_back.drop.pp - kept.drop.pp, low=None, high=None, n=kept.drop.n)


def _counted(trial: Trial, effort: Effort) -> float:
    return trial.drop.high if effort.sure and trial.drop.high is not None else trial.drop.pp


def _numbers(
    graph: PlanGraph,
    x: Samples,
    settings: PtqSettings,
    folder: Path | None,
    make: Callable[..., Planned],
    progress: Progress,
) -> Planned:
    """The plan before any exception: as it was left in the folder, or made now and left there."""
    if folder is None:
        return make(graph, x, settings, progress=progress)
    graph_sha256 = hashlib.sha256(graph.proto.SerializeToString(deterministic=True)).hexdigest()
    key = sha256_json({"graph": graph_sha256, "samples": _sha256(x, None), "settings": settings.plain()})
    place = folder / NUMBERS / key[:32]
    if (place / plan_files.PLAN).is_file():
        try:
            return plan_files.read(place)
        except ModelError as error:
            progress.note(f"{error.what} It is made again.")
    planned = make(graph, x, settings, progress=progress)
    plan_files.write(planned, place)
    # As read: figures and settings come back from JSON in the run that made them as in the run that resumes.
    return plan_files.read(place)


def _made_again(
    graph: PlanGraph,
    x: Samples,
    settings: PtqSettings,
    precision: Precision,
    kept: Planned,
    make: Callable[..., Planned],
    progress: Progress,
) -> Planned:
    """The plan made with the exceptions in its settings."""
    exceptions = {
        op.name: plan.reason
        for op, plan in zip(kept.graph.ops, kept.plan.ops, strict=True)
        if plan.reason and plan.precision == precision and op.kind not in rules.MOVES
    }
    asked = dataclasses.replace(
        settings,
        precision_of={**settings.precision_of, **dict.fromkeys(exceptions, precision)},
        reasons={**settings.reasons, **exceptions},
    )
    return make(graph, x, asked, progress=progress)


def _first(x: Samples, n: int) -> Samples:
    return x[:n] if isinstance(x, np.ndarray) else [array[:n] for array in x]


def _sha256(x: Samples, y: NDArray[Any] | None) -> str:
    hashed = hashlib.sha256()
    for array in [*([x] if isinstance(x, np.ndarray) else x), *([] if y is None else [np.asarray(y)])]:
        hashed.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()


def _figures(
    outcome: SearchOutcome, sensitivities: Sensitivities | None, task: Task, found: Trial, over_pp: float
) -> dict[str, Any]:
    """For the plan's record and the report. No seconds: a plan that was resumed is the same plan."""
    full = outcome.trial_of(())
    return {
        "metric": task.metric,
        "samples": task.count,
        "met": over_pp == 0.0,
        "over_pp": over_pp,
        "drop_pp": found.drop.pp,
        "drop_low_pp": found.drop.low,
        "drop_high_pp": found.drop.high,
        "full_drop_pp": None if full is None else full.drop.pp,
        "trials": len(outcome.trials),
        "stopped": outcome.stopped,
        "sensitivity": [] if sensitivities is None else sensitivities.plain(),
    }
