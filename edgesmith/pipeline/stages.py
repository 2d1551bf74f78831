"""The stages of a run as functions over one shared `Stage`; `run` calls them in order."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from calibration import checks
from device_tests.accuracy import agreement, evaluate
from device_tests.inventory import find_inventory, load_inventory
from device_tests.session import BoardSession
from edgesmith.config import LoadedConfig
from edgesmith.errors import BoardError, InfrastructureError
from edgesmith.pipeline import assemble, boards
from edgesmith.pipeline.build import Built, Variant, Wanted, build, wanted_for
from edgesmith.pipeline.compress import StepOutcome, compress, steps_are_kept
from edgesmith.pipeline.facts import model_facts
from edgesmith.pipeline.host import Outputs, host_outputs
from edgesmith.pipeline.prepare import Prepared, scheme_of
from edgesmith.pipeline.recorder import Recorder, compile_step_record, data_record, step_record
from edgesmith.pipeline.select import select_targets
from edgesmith.pipeline.workspace import Workspace
from edgesmith.result import StepRecord
from edgesmith.types import BoardInfo, Device
from optimizer import recipe as recipes


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
    def board(self, device: Device) -> Iterator[BoardSession]:
        """A board from connect to close; what was sent to it counts as work of this run."""
        local_root = self.work.store.root / "local-board"
        with BoardSession(device, local_root=local_root, progress=self.work.progress) as session:
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


def meet_boards(stage: Stage, wanted: Sequence[Device], prepared: Prepared) -> None:
    """Reaches every board before hours of work are spent, unless nothing is left to do but, maybe, measure.

    A dead board is remembered; the run goes on for the others, and ends here where none is left.
    """
    nothing_to_make = steps_are_kept(prepared, stage.work.store)
    for device in wanted:
        known = boards.remembered_info(device, stage.work.store)
        if known is not None and nothing_to_make:
            stage.infos[device.name] = known
            continue
        try:
            with stage.work.progress.task(f"reach {device.name}"), stage.board(device) as session:
                stage.infos[device.name] = session.info
                boards.remember_info(device, session.info, stage.work.store)
        except InfrastructureError as error:
            stage.dead[device.name] = error
            stage.work.progress.note(f"{device.name}: {error.what}")
    if wanted and len(stage.dead) == len(wanted):
        raise next(iter(stage.dead.values()))


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
    facts = model_facts(step.model, stage.work.store)
    return step_record(
        step,
        accuracy=assemble.accuracy_record(accuracy),
        agreement=agreement(outputs, reference),
        nonzero_parameters=facts.nonzero_parameters,
        sparsity=facts.sparsity,
    )


def compile_all(
    stage: Stage, wanted: Sequence[Device], prepared: Prepared, steps: Sequence[StepOutcome]
) -> Mapping[str, tuple[Built, ...]]:
    """Compiles and verifies what every device needs; what two devices share is made once.

    Returns:
        Device name -> its artifacts, float before compressed for each target.
    """
    plan = {device.name: _wanted(stage, device, prepared, steps) for device in wanted}
    made: dict[Wanted, Built] = {}
    here = load_inventory(None).get("local")
    with contextlib.ExitStack() as stack:

        @functools.cache
        def fresh_process() -> BoardSession:
            return stack.enter_context(stage.board(here))

        for item in dict.fromkeys(item for items in plan.values() for item in items):
            made[item] = build(item, prepared, stage.work, fresh_process)
    stage.recorder.add_work(
        compiled_artifacts=sum(not built.cached for built in made.values()),
        reused=[built.wanted.label for built in made.values() if built.cached],
    )
    quantize = next((step for step in prepared.recipe.steps if step.name == "quantize"), None)
    if quantize is not None:
        rows = [
            compile_step_record(quantize, built.artifact, built.comparison, built.seconds, cached=built.cached)
            for built in made.values()
            if built.wanted.variant == "compressed"
        ]
        stage.recorder.update(steps=(*stage.recorder.result.steps, *rows))
    return {name: tuple(made[item] for item in items) for name, items in plan.items()}


def _wanted(stage: Stage, device: Device, prepared: Prepared, steps: Sequence[StepOutcome]) -> tuple[Wanted, ...]:
    info = stage.infos.get(device.name)
    if info is None:
        return ()
    scheme = scheme_of(prepared.recipe)
    selection = select_targets(stage.loaded, device, prepared.model, scheme, info)
    for note in selection.notes:
        stage.work.progress.note(note)
    request = recipes.quant_request(prepared.recipe)
    return tuple(
        item
        for target in selection.names
        for item in wanted_for(
            target,
            info.machine,
            original=prepared.model,
            compressed=steps[-1].model,
            scheme=scheme,
            per_channel=request.per_channel,
            has_recipe=bool(prepared.recipe.steps),
        )
    )


def measure_device(
    stage: Stage, device: Device, built: tuple[Built, ...], prepared: Prepared, reference: Outputs
) -> None:
    """Measures one device, or takes its identical measurement from the store, and records its rows."""
    recorder = stage.recorder
    if error := stage.dead.get(device.name):
        names = select_targets(stage.loaded, device, prepared.model, scheme_of(prepared.recipe), None).names
        variants: tuple[Variant, ...] = ("float", "compressed") if prepared.recipe.steps else ("float",)
        recorder.add_results([assemble.failed(device, name, v, error) for name in names for v in variants])
        return
    label = f"measure-{device.name}"
    stage.work.replay.step(label, [f"artifact sha256 {item.artifact.sha256}" for item in built])
    outcome = boards.find_measured(device, built, prepared, stage.work.store)
    if outcome is not None:
        recorder.add_work(reused=[label])
    else:
        outcome = _measure_now(stage, device, built, prepared)
        measured = sum(not isinstance(item, InfrastructureError) for item in outcome.outcomes)
        recorder.add_work(measurements=measured)
    recorder.add_results(assemble.device_results(outcome, prepared, reference, recorder.folder))


def _measure_now(stage: Stage, device: Device, built: tuple[Built, ...], prepared: Prepared) -> boards.BoardOutcome:
    try:
        with stage.board(device) as session:
            boards.remember_info(device, session.info, stage.work.store)
            made_for = stage.infos[device.name].machine
            if session.info.machine != made_for:
                raise BoardError(
                    f"{device.name}: the board is {session.info.machine} now; the artifacts were made for {made_for}.",
                    next_step="Run again: they will be compiled for what the board is now.",
                )
            return boards.measure_board(session, built, prepared, stage.work.store, stage.work.progress)
    except InfrastructureError as error:
        stage.work.progress.note(f"{device.name}: {error.what}")
        return boards.unreachable(device, built, error)
