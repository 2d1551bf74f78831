"""The stages of a run as functions over one shared `Stage`; `run` calls them in order."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import targets
from calibration import checks
from device_tests.accuracy import agreement, evaluate
from device_tests.inventory import find_inventory, load_inventory
from device_tests.session import BoardSession
from edgesmith.config import LoadedConfig
from edgesmith.errors import InfrastructureError, ModelError
from edgesmith.pipeline import assemble, tensorrt_settings
from edgesmith.pipeline.build import Built, Wanted, build, wanted_for
from edgesmith.pipeline.compress import StepOutcome, compress
from edgesmith.pipeline.facts import model_facts
from edgesmith.pipeline.host import Outputs, host_outputs
from edgesmith.pipeline.prepare import Prepared, scheme_of
from edgesmith.pipeline.quantization import LABEL, PlannedQuantization, plan_quantization
from edgesmith.pipeline.recorder import Recorder, compile_step_record, data_record, step_record
from edgesmith.pipeline.select import select_targets
from edgesmith.pipeline.workspace import Workspace
from edgesmith.result import FindingRecord, StepRecord
from edgesmith.types import BoardInfo, Device, Finding
from optimizer import recipe as recipes
from targets.board_runtime import runtime_facts
from targets.instruction_set import instruction_set


@dataclass(slots=True)
class Stage:
    """What every stage of one run shares.

    Attributes:
        infos: what each board said of itself, now or the last time.
        dead: boards that could not be reached in this run, and why.
    """

    loaded: LoadedConfig
    recorder: Recorder
    work: Workspace
    infos: dict[str, BoardInfo] = field(default_factory=dict)
    dead: dict[str, InfrastructureError] = field(default_factory=dict)

    @contextlib.contextmanager
    def this_machine(self) -> Iterator[BoardSession]:
        """A fresh process here that runs artifacts to check them; nothing is timed, so no lease is needed."""
        here = load_inventory(None).get("local")
        local_root = self.work.store.root / "local-board"
        with BoardSession(here, local_root=local_root, progress=self.work.progress) as session:
            try:
                yield session
            finally:
                self.recorder.add_work(bytes_sent=session.bytes_sent)


def devices(loaded: LoadedConfig, named: Sequence[str], inventory: Path | None) -> tuple[Device, ...]:
    """The devices of a run: those named on the command line, else the config's.

    Raises:
        ConfigError: a name that the inventory does not have.
    """
    known = load_inventory(inventory or find_inventory(loaded.path))
    return tuple(known.get(name) for name in dict.fromkeys(named or loaded.config.devices))


def record_inputs(prepared: Prepared, recorder: Recorder) -> None:
    """Writes down what the run works from."""
    sets = (prepared.train, prepared.calibration, prepared.evaluation)
    recorder.update(
        model=prepared.model.origin,
        model_sha256=prepared.model.sha256,
        data=tuple(data_record(samples) for samples in sets if samples is not None),
    )
    recorder.add_findings([assemble.finding_record(finding) for finding in prepared.findings])


def hint_at_wrong_range(stage: Stage, prepared: Prepared, reference: Outputs) -> None:
    """Says so where the float model itself does no better than chance: nearly always the input's range."""
    if prepared.n_classes is None or prepared.loaded.config.task.metric != "top1":
        return
    accuracy = evaluate("top1", reference, prepared.evaluation.y, reference_outputs=reference)
    hint = checks.range_hint(prepared.evaluation, accuracy.value, prepared.n_classes)
    if hint is not None:
        stage.work.progress.note(hint.text)
        stage.recorder.add_findings([assemble.finding_record(hint)])


def compress_steps(stage: Stage, prepared: Prepared, reference: Outputs) -> tuple[StepOutcome, ...]:
    """Runs the recipe and records it as an ablation: what each step cost and brought."""
    steps = compress(prepared, stage.work)
    stage.recorder.add_work(
        trained_steps=sum(not step.cached for step in steps[1:]),
        reused=[f"step {step.label}" for step in steps[1:] if step.cached],
    )
    stage.recorder.update(steps=tuple(_ablation_row(stage, prepared, step, reference) for step in steps))
    return steps


def _ablation_row(stage: Stage, prepared: Prepared, step: StepOutcome, reference: Outputs) -> StepRecord:
    outputs = host_outputs(step.model, prepared.evaluation, stage.work)
    accuracy = evaluate(
        prepared.loaded.config.task.metric,
        outputs,
        prepared.evaluation.y,
        reference_outputs=reference,
        root=prepared.loaded.root,
    )
    return step_record(
        step,
        accuracy=assemble.accuracy_record(accuracy),
        agreement=agreement(outputs, reference),
        facts=model_facts(step.model, stage.work.store),
    )


def compile_all(
    stage: Stage, wanted: Sequence[Device], prepared: Prepared, steps: Sequence[StepOutcome]
) -> Mapping[str, tuple[Built, ...]]:
    """Compiles and verifies what every device needs; what two devices share is made once.

    Returns:
        Device name -> its artifacts, float before compressed before uniform for each target. A uniform one that cannot
        be made is left out.
    """
    quantization = plan_quantization(prepared, steps[-1].model, stage.work)
    if quantization is not None:
        _record_plan(stage, quantization)
    plan = {device.name: _wanted(stage, device, prepared, steps, quantization) for device in wanted}
    made: dict[Wanted, Built] = {}
    with contextlib.ExitStack() as stack:

        @functools.cache
        def fresh_process() -> BoardSession:
            return stack.enter_context(stage.this_machine())

        for item in dict.fromkeys(item for items in plan.values() for item in items):
            try:
                made[item] = build(item, prepared, stage.work, fresh_process)
            except ModelError as error:
                if item.variant != "uniform":
                    raise
                _record_no_uniform(stage, item, error)
    stage.recorder.add_work(
        compiled_artifacts=sum(not built.cached for built in made.values()),
        reused=[built.wanted.label for built in made.values() if built.cached],
    )
    quantize = next((step for step in prepared.recipe.steps if step.name == "quantize"), None)
    if quantize is not None:
        rows = [
            compile_step_record(quantize, built.artifact, built.comparison, built.seconds, cached=built.cached)
            for built in made.values()
            if built.wanted.variant == "compressed" and built.comparison is not None
        ]
        stage.recorder.update(steps=(*stage.recorder.result.steps, *rows))
    return {name: tuple(made[item] for item in items if item in made) for name, items in plan.items()}


def record_settings(stage: Stage, built: Mapping[str, Sequence[Built]]) -> None:
    """Says what the section `tensorrt:` means for what is judged, or that it means nothing."""
    judged = {item.artifact.target for items in built.values() for item in items}
    found = tensorrt_settings.findings(stage.loaded.config, judged)
    stage.recorder.add_findings([assemble.finding_record(finding) for finding in found])
    for finding in found:
        stage.work.progress.note(finding.text)


def _record_no_uniform(stage: Stage, wanted: Wanted, error: ModelError) -> None:
    """What it would have told is missing in the report; nothing is judged by it."""
    text = f"What the layers in float32 cost on {wanted.target} is not known: without them, {error.what}"
    stage.work.progress.note(text)
    stage.recorder.add_findings([FindingRecord(severity="warning", code="no_uniform", text=text)])


def _record_plan(stage: Stage, quantization: PlannedQuantization) -> None:
    """Writes down the plan, or why each runtime quantizes by itself."""
    stage.recorder.update(quantization=quantization.record)
    if quantization.cached:
        stage.recorder.add_work(reused=[LABEL])
    if quantization.folder is None:
        text = f"Each runtime's own quantizer was used, with min-max ranges: {quantization.reason}"
        finding = Finding(severity="warning", code="no_common_plan", text=text)
        stage.recorder.add_findings([assemble.finding_record(finding)])


def _wanted(
    stage: Stage,
    device: Device,
    prepared: Prepared,
    steps: Sequence[StepOutcome],
    quantization: PlannedQuantization | None,
) -> tuple[Wanted, ...]:
    info = stage.infos.get(device.name)
    if info is None:
        return ()
    scheme = scheme_of(prepared.recipe)
    has_plan = quantization is not None and quantization.folder is not None
    selection = select_targets(stage.loaded, device, prepared.model, scheme, info, has_plan=has_plan)
    for note in selection.notes:
        stage.work.progress.note(note)
    request = recipes.quant_request(prepared.recipe)
    return tuple(
        item
        for target in selection.names
        for item in wanted_for(
            target,
            instruction_set(info),
            original=prepared.model,
            compressed=steps[-1].model,
            scheme=scheme,
            per_channel=request.per_channel,
            has_recipe=bool(prepared.recipe.steps),
            plan=quantization,
            runtime=runtime_facts(device, info, targets.get(target).capabilities().runner),
            opset=tensorrt_settings.opset(stage.loaded.config, target),
        )
    )
