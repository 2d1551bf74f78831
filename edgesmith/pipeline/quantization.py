"""quantize: the one plan that the artifacts of every target follow, made once and kept under all it depends on."""

from __future__ import annotations

import functools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibration import inputs
from calibration.convergence import RangeConvergence
from edgesmith.errors import InternalError, ModelError
from edgesmith.pipeline.prepare import Prepared
from edgesmith.pipeline.store import Store
from edgesmith.pipeline.workspace import Workspace
from edgesmith.result import CalibrationPoint, LayerQuantization, QuantizationRecord, SearchRecord
from edgesmith.toolchain import versions
from edgesmith.types import Model, OpPlan, QuantPlan, SampleSet
from optimizer.ptq import accurate, enough, sensitivity
from optimizer.ptq.make import make_plan
from optimizer.recipe import PlanRequest, quant_request
from targets import onnx_emulator, plan_files
from targets.plan_export import make_plan_graph
from targets.plan_files import Planned
from targets.plan_graph import PlanGraph

LABEL = "quantization-plan"
PLAN_VERSION = 4
"""Raise it when the same inputs would be planned differently: older plans are then made again."""

UNIFORM = "uniform"
"""In a plan's folder: the folder of the same plan before the search's exceptions, where it made any."""

_TOOLCHAIN = ("tensorflow", "keras", "onnx", "onnxruntime", "tf2onnx", "numpy")
_SENSITIVITY_SAMPLES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedQuantization:
    """A plan in the store.

    Attributes:
        folder: of the plan; None where the runtimes' own quantizers have to do.
        key: names its content; part of every artifact's key.
        record: for the report; None where there is no plan.
        reason: why there is no plan.
        cached: taken from the store.
        uniform: folder of the same plan before the search kept layers in float32; None where it kept none.
    """

    folder: Path | None
    key: str
    record: QuantizationRecord | None
    reason: str = ""
    cached: bool = False
    uniform: Path | None = None

    @property
    def uniform_key(self) -> str:
        """Names the content of `uniform`."""
        return f"{self.key}/{UNIFORM}"


def kept_plan(prepared: Prepared, model: Model, store: Store) -> PlannedQuantization | None:
    """The plan that `plan_quantization` would take or make; its `folder` need not be there yet (`cached`)."""
    request = quant_request(prepared.recipe).plan
    if request is None or prepared.calibration is None:
        return None
    key = _plan_key(prepared, model, request, store)
    entry = store.find("plan", key, label=LABEL)
    if entry is None:
        return PlannedQuantization(folder=store.path("plan", key), key=key, record=None)
    record = QuantizationRecord.model_validate(entry.record["quantization"]).model_copy(update={"cached": True})
    uniform = entry.folder / UNIFORM if record.search is not None and record.search.kept else None
    return PlannedQuantization(folder=entry.folder, key=key, record=record, cached=True, uniform=uniform)


def may_keep_float(prepared: Prepared) -> bool:
    """Whether layers to keep in float32 are searched for."""
    request = quant_request(prepared.recipe).plan
    return request is not None and _search_inputs(prepared, request, prepared.tuning) is not None


def _plan_key(prepared: Prepared, model: Model, request: PlanRequest, store: Store) -> str:
    """Hash of everything a plan depends on."""
    calibration, tuning = prepared.calibration, prepared.tuning
    return store.key(
        "plan",
        {
            "version": PLAN_VERSION,
            "model": model.sha256,
            "calibration": calibration.sha256 if calibration else None,
            "settings": request.settings.plain(),
            "search": _search_inputs(prepared, request, tuning),
            "toolchain": versions(_TOOLCHAIN),
        },
    )


def _search_inputs(prepared: Prepared, request: PlanRequest, tuning: SampleSet | None) -> dict[str, Any] | None:
    budget_pp = prepared.loaded.config.budget.accuracy_drop_pp
    if not request.search or budget_pp is None or tuning is None:
        return None
    return {
        "budget_pp": budget_pp,
        "tuning": tuning.sha256,
        "metric": _metric(prepared, tuning),
        "max_trials": request.max_trials,
        "deadline_s": request.deadline_s,
    }


def _metric(prepared: Prepared, tuning: SampleSet) -> str:
    return prepared.loaded.config.task.metric if tuning.y is not None else "agreement"


def plan_quantization(prepared: Prepared, model: Model, work: Workspace) -> PlannedQuantization | None:
    """The plan of what the recipe made; None where it asks for none.

    Args:
        model: that the artifacts are compiled from.

    Raises:
        DataError: calibration samples that make the network answer NaN.
        ConfigError: `keep_float` names no layer.
        ModelError: there is no plan for this model, and the runtimes' own quantizers do not make what is asked for.
    """
    kept, request = kept_plan(prepared, model, work.store), quant_request(prepared.recipe).plan
    if kept is None or request is None:
        return None
    key = kept.key
    work.replay.step(LABEL, [f"model sha256 {model.sha256}", f"plan key {key}"])
    if kept.cached:
        return kept
    started = time.monotonic()
    try:
        with work.progress.task("quantization plan"):
            made = _make(prepared, model, request, key, work)
    except ModelError as error:
        if request.settings.scheme not in ("int8", "int8-float-io") or request.settings.keep_float:
            raise  # the runtimes' own quantizers make something else
        work.progress.note(f"No common plan: {error.what} Each runtime's own quantizer is used, with min-max ranges.")
        return PlannedQuantization(folder=None, key="", record=None, reason=error.what)
    record = _record(made, prepared, request, seconds=time.monotonic() - started)
    with work.store.making("plan", key) as draft:
        _write(made.planned, made.original, draft.folder)
        if made.uniform is not None:
            _write(made.uniform, made.original, draft.folder / UNIFORM)
        draft.record["quantization"] = json.loads(record.model_dump_json())
    work.store.drop_workdir("plan", key)
    folder = work.store.path("plan", key)
    uniform = None if made.uniform is None else folder / UNIFORM
    return PlannedQuantization(folder=folder, key=key, record=record, uniform=uniform)


def _write(planned: Planned, original: PlanGraph, folder: Path) -> None:
    plan_files.write(planned, folder)
    original.write(folder / plan_files.ORIGINAL)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Made:
    """A plan fresh from the maker.

    Attributes:
        uniform: the same before the search's exceptions; None where there are none.
        original: the plan graph before the repairs.
        sensitivities: of every layer that computes with integers.
        search: what the search for float layers found, as in the plan's figures; None where nothing was searched.
        curve: ranges against the number of calibration samples.
    """

    planned: Planned
    uniform: Planned | None
    original: PlanGraph
    sensitivities: list[dict[str, Any]]
    search: dict[str, Any] | None
    curve: RangeConvergence


def _make(prepared: Prepared, model: Model, request: PlanRequest, key: str, work: Workspace) -> Made:
    calibration, tuning = prepared.calibration, prepared.tuning
    if calibration is None:
        raise InternalError("a plan without calibration samples")
    graph = make_plan_graph(model, work.progress)
    x = inputs.split(calibration.x)
    make = functools.partial(make_plan, model_sha256=model.sha256, calibration_sha256=calibration.sha256)
    budget_pp = prepared.loaded.config.budget.accuracy_drop_pp
    search, uniform = None, None
    if request.search and budget_pp is not None and tuning is not None:
        found = accurate.accurate_plan(
            graph,
            x,
            inputs.split(tuning.x),
            tuning.y,
            request.settings,
            budget_pp,
            metric=_metric(prepared, tuning),
            root=prepared.loaded.root,
            effort=accurate.Effort(max_trials=request.max_trials, deadline_seconds=request.deadline_s),
            folder=work.store.workdir("plan", key),
            make=make,
            progress=work.progress,
        )
        planned, search = found.planned, dict(found.planned.plan.figures[accurate.SEARCH])
        uniform = found.uniform if found.kept else None
        sensitivities = None if found.sensitivities is None else found.sensitivities.plain()
    else:
        planned, sensitivities = make(graph, x, request.settings, progress=work.progress), None
    if sensitivities is None:
        samples = [array[:_SENSITIVITY_SAMPLES] for array in x]
        sensitivities = sensitivity.measure(planned, samples, emulate=onnx_emulator.run, progress=work.progress).plain()
    curve = enough.ranges_by_samples(graph, x)
    return Made(
        planned=planned, uniform=uniform, original=graph, sensitivities=sensitivities, search=search, curve=curve
    )


def _record(made: Made, prepared: Prepared, request: PlanRequest, *, seconds: float) -> QuantizationRecord:
    plan, curve = made.planned.plan, made.curve.percentile_95
    calibration, tuning = prepared.calibration, prepared.tuning
    budget_pp = prepared.loaded.config.budget.accuracy_drop_pp
    search, why_not = None, None
    if made.search is not None and budget_pp is not None and tuning is not None:
        told = {"met", "drop_pp", "drop_low_pp", "drop_high_pp", "over_pp", "full_drop_pp", "trials", "stopped", "kept"}
        figures = {name: value for name, value in made.search.items() if name in told}
        search = SearchRecord(
            budget_pp=budget_pp,
            metric=str(made.search["metric"]),
            samples=int(made.search["samples"]),
            source=tuning.source,
            **figures,
        )
    elif budget_pp is None:
        why_not = "the budget names no accuracy_drop_pp"
    elif not request.search:
        why_not = "switched off: quantize: {search: false}"
    return QuantizationRecord(
        scheme=request.settings.scheme,
        chosen=str(plan.figures.get("chosen", "")),
        variants=tuple(plan.figures.get("variants", ())),
        repairs=plan.repairs,
        layers=_layers(made.sensitivities, plan),
        kept_float=plan.kept_float,
        search=search,
        search_reason=why_not,
        calibration_samples=len(calibration) if calibration is not None else 0,
        calibration_curve=tuple(
            CalibrationPoint(samples=n, distance=value) for n, value in zip(curve.samples, curve.values, strict=True)
        ),
        enough_samples=curve.enough,
        enough_samples_reason=None if curve.enough is not None else "the ranges still moved with the last samples",
        seconds=seconds,
        cached=False,
    )


def _layers(rows: list[dict[str, Any]], plan: QuantPlan) -> tuple[LayerQuantization, ...]:
    """The layers that were measured; then what stays float32 without having been, with its reason: one row a layer."""
    measured = tuple(_layer(row, plan) for row in rows)
    told = {row.layer for row in measured if row.precision == "float32"}
    known = {(row.layer, kind) for row in measured for kind in row.kinds}
    others: dict[str, list[OpPlan]] = {}
    for op in plan.ops:
        if op.precision == "float32" and op.reason and op.layer not in told and (op.layer, op.kind) not in known:
            others.setdefault(op.layer, []).append(op)
    return measured + tuple(
        LayerQuantization(
            layer=layer,
            kinds=tuple(dict.fromkeys(op.kind for op in ops)),
            precision="float32",
            reason=ops[0].reason,
            alone_db=None,
            alone_db_reason="it is not quantized",
        )
        for layer, ops in others.items()
    )


def _layer(row: dict[str, Any], plan: QuantPlan) -> LayerQuantization:
    ops = [op for op in plan.ops if op.layer == row["layer"] and op.kind in row["kinds"]]
    kept = next((op for op in ops if op.reason), ops[0])
    return LayerQuantization(
        layer=row["layer"],
        kinds=tuple(row["kinds"]),
        precision=kept.precision,
        reason=kept.reason,
        alone_db=row["alone_db"],
        alone_db_reason=None if row["alone_db"] is not None else "quantizing it changes nothing",
        tensor_db=row["tensor_db"],
        drop_pp=row["drop_pp"],
        drop_low_pp=row["drop_low_pp"],
        drop_high_pp=row["drop_high_pp"],
    )
