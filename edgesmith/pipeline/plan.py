"""`edgesmith plan`: the steps `run` would take, and which of them are kept already. Makes nothing, reaches no board."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import targets
from edgesmith.config import LoadedConfig
from edgesmith.pipeline import boards, stages, tensorrt_settings
from edgesmith.pipeline.build import Wanted, artifact_inputs, kept_artifact, wanted_for
from edgesmith.pipeline.compress import step_key
from edgesmith.pipeline.prepare import Prepared, prepare, scheme_of
from edgesmith.pipeline.quantization import LABEL, PlannedQuantization, kept_plan, may_keep_float
from edgesmith.pipeline.ready_built import board_artifact
from edgesmith.pipeline.select import select_targets
from edgesmith.pipeline.store import Store
from edgesmith.progress import Silent
from edgesmith.types import Artifact, Device, Model
from optimizer import recipe as recipes
from optimizer import techniques
from targets import tensorrt_asked
from targets.board_runtime import runtime_facts
from targets.instruction_set import instruction_set

KEPT = "kept"
TO_DO = "to do"
NOTE = "note"


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One line of a plan.

    Attributes:
        state: "kept" or "to do"; "note" where it is no step.
    """

    label: str
    state: str
    detail: str = ""

    def as_dict(self) -> dict[str, str]:
        """For --json."""
        return {"label": self.label, "state": self.state, "detail": self.detail}


def make_plan(
    loaded: LoadedConfig,
    runs_dir: Path,
    *,
    devices: Sequence[str] = (),
    inventory: Path | None = None,
    allow_synthetic: bool = False,
) -> tuple[PlannedStep, ...]:
    """Reads model and data, checks the recipe, and looks every step up in the store.

    Raises:
        InputError: whatever `run` would refuse before any work.
    """
    store = Store(runs_dir / ".cache")
    prepared = prepare(loaded, store, Silent(), allow_synthetic=allow_synthetic)
    wanted = stages.devices(loaded, devices, inventory)
    return tuple(_steps(prepared, wanted, store))


def _steps(prepared: Prepared, wanted: Sequence[Device], store: Store) -> Iterator[PlannedStep]:
    settings = prepared.loaded.config.tensorrt
    if prepared.ready is not None:
        yield PlannedStep("load", KEPT, prepared.model.origin)
        files = [artifact for artifact in (prepared.reference, prepared.ready) if artifact is not None]
        files = [tensorrt_asked.as_asked(artifact, settings) for artifact in files]
        for device in wanted:
            info = boards.remembered_info(device, store)
            tensorrt_settings.refuse_ready(prepared.loaded, prepared.ready, device, info)
            yield _measure_step(device, [board_artifact(one, device, info)[0] for one in files], prepared, store)
        yield from _notes(prepared, {artifact.target for artifact in files})
        return
    yield PlannedStep("load", KEPT, f"{prepared.model.origin}, {prepared.model.parameters} parameters")
    model, known = prepared.model, True
    for spec in prepared.recipe.steps:
        if techniques.get(spec.name).COMPILE_TIME:
            continue
        key = step_key(store, spec, model, prepared)
        known = known and store.find("step", key) is not None
        model = replace(model, sha256=key)
        shown = ", ".join(f"{name}={value}" for name, value in spec.params.items() if value not in (None, [], ()))
        yield PlannedStep(spec.name, KEPT if known else TO_DO, shown)
    quantization = kept_plan(prepared, model, store)
    if quantization is not None:
        yield PlannedStep(LABEL, KEPT if quantization.cached else TO_DO, _plan_detail(prepared, quantization))
    seen: dict[Wanted, PlannedStep] = {}
    measured = []
    for device in wanted:
        items = _artifacts(prepared, device, model, quantization, store)
        for item in items:
            seen.setdefault(item, _artifact_step(item, prepared, store))
        kept = [kept_artifact(item, prepared.calibration, store) for item in items]
        asked = [artifact and tensorrt_asked.as_asked(artifact, settings) for artifact in kept]
        on_tensorrt = any(item.target == tensorrt_asked.TARGET for item in items)
        measured.append(_measure_step(device, asked, prepared, store, on_tensorrt=on_tensorrt))
    yield from seen.values()
    yield from measured
    yield from _notes(prepared, {item.target for item in seen})


def _notes(prepared: Prepared, judged: Collection[str]) -> Iterator[PlannedStep]:
    for finding in tensorrt_settings.findings(prepared.loaded.config, judged):
        yield PlannedStep(tensorrt_asked.TARGET, NOTE, finding.text)


def _plan_detail(prepared: Prepared, quantization: PlannedQuantization) -> str:
    detail = "ranges, repairs and exceptions, once for all"
    if quantization.cached or not may_keep_float(prepared):
        return detail
    return f"{detail}; layers kept in float32 add an artifact without them, which tells what they cost"


def _artifacts(
    prepared: Prepared, device: Device, compressed: Model, quantization: PlannedQuantization | None, store: Store
) -> tuple[Wanted, ...]:
    info = boards.remembered_info(device, store)
    scheme = scheme_of(prepared.recipe)
    has_plan = quantization is not None and quantization.folder is not None
    selection = select_targets(prepared.loaded, device, prepared.model, scheme, info, has_plan=has_plan)
    return tuple(
        item
        for target in selection.names
        for item in wanted_for(
            target,
            instruction_set(info) if info else "",
            original=prepared.model,
            compressed=compressed,
            scheme=scheme,
            per_channel=recipes.quant_request(prepared.recipe).per_channel,
            has_recipe=bool(prepared.recipe.steps),
            plan=quantization,
            runtime=runtime_facts(device, info, targets.get(target).capabilities().runner) if info else None,
            opset=tensorrt_settings.opset(prepared.loaded.config, target),
        )
    )


def _artifact_step(item: Wanted, prepared: Prepared, store: Store) -> PlannedStep:
    key = store.key("artifact", artifact_inputs(item, prepared.calibration))
    state = KEPT if store.find("artifact", key) else TO_DO
    there = f"{item.target} {item.runtime.version}" if item.runtime else item.isa
    opset = f", opset {item.opset} at most" if item.opset else ""
    return PlannedStep(item.label, state, f"{item.scheme.precision}{f' for {there}' if there else ''}{opset}")


def _measure_step(
    device: Device,
    artifacts: Sequence[Artifact | None],
    prepared: Prepared,
    store: Store,
    *,
    on_tensorrt: bool | None = None,
) -> PlannedStep:
    """`on_tensorrt`: whether it has a TensorRT file among these; None to look."""
    label = f"measure-{device.name}"
    if on_tensorrt is None:
        on_tensorrt = any(artifact is not None and artifact.target == tensorrt_asked.TARGET for artifact in artifacts)
    config = prepared.loaded.config
    runs = config.measure
    detail = (
        f"{len(artifacts)} artifacts in turns, {len(prepared.evaluation)} samples, {runs.min_runs}+ timed runs each"
    )
    detail += f", power mode {runs.power_mode}" if runs.power_mode else ""
    detail += ", clocks held" if runs.lock_clocks else ""
    asked = tensorrt_settings.shown(config.tensorrt) if on_tensorrt else ""
    detail += f"; tensorrt: {asked}" if asked else ""
    known = [artifact for artifact in artifacts if artifact is not None]
    if len(known) < len(artifacts):
        return PlannedStep(label, TO_DO, detail)
    key = boards.measurement_key(device, known, prepared, store)
    return PlannedStep(label, KEPT if store.find("measurement", key) else TO_DO, detail)
