"""meet and measure: what a run does on its boards, side by side, and what of it goes into the document.

Boards are worked with in threads of their own; everything is recorded in the calling one, in the config's order of
devices, whichever board is done first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import targets
from device_tests.fleet import Fleet, Outcome
from device_tests.lease import owner
from device_tests.quarantine import BoardStates, boards_folder
from device_tests.session import BoardSession
from edgesmith.errors import BoardError, InfrastructureError
from edgesmith.pipeline import assemble, boards, engines, tensorrt_settings
from edgesmith.pipeline.boards import BoardOutcome
from edgesmith.pipeline.build import Built, checked_here
from edgesmith.pipeline.compress import steps_are_kept
from edgesmith.pipeline.host import Outputs
from edgesmith.pipeline.parity import Parity
from edgesmith.pipeline.prepare import Prepared, scheme_of
from edgesmith.pipeline.run_folder import RunFolder
from edgesmith.pipeline.select import select_targets
from edgesmith.pipeline.stages import Stage
from edgesmith.pipeline.workspace import Workspace
from edgesmith.report.live import board_row
from edgesmith.result import DeviceResult, Variant
from edgesmith.types import BoardInfo, Device
from targets.board_runtime import runtime_facts


def make_fleet(folder: RunFolder, work: Workspace, lease_wait_s: float) -> Fleet:
    """The boards of one run; nothing is reached."""
    return Fleet(
        owner=owner(),
        run_id=folder.run_id,
        local_root=work.store.root / "local-board",
        states=BoardStates(boards_folder()),
        progress=work.progress,
        row=partial(board_row, work.progress),
        lease_wait_s=lease_wait_s,
        logs=folder.board_log,
    )


def meet_boards(stage: Stage, fleet: Fleet, wanted: Sequence[Device], prepared: Prepared) -> None:
    """Reaches every board before hours of work are spent, unless nothing is left to do but, maybe, measure.

    A dead or quarantined board is remembered; the run goes on for the others, and ends here where none is left.

    Raises:
        InfrastructureError: no board is left.
    """
    nothing_to_make = steps_are_kept(prepared, stage.work.store)
    to_meet = []
    for device in wanted:
        try:
            fleet.check(device)
        except InfrastructureError as error:
            _lost(stage, device, error)
            continue
        known = boards.remembered_info(device, stage.work.store)
        if known is not None and nothing_to_make and not boards.own_mode_counts(known, prepared):
            stage.infos[device.name] = known
        else:
            to_meet.append(device)

    def done(met: Outcome[BoardInfo]) -> None:
        if met.error is not None:
            _lost(stage, met.device, met.error)
        elif met.value is not None:
            stage.infos[met.device.name] = met.value
            boards.remember_info(met.device, met.value, stage.work.store)

    with _recorded(stage, fleet):
        look = partial(_look, stage=stage, prepared=prepared)
        fleet.each(to_meet, look, done, leased=False)
        if wanted and len(stage.dead) == len(wanted):
            _settle(fleet, wanted)
            raise stage.dead[wanted[0].name]


def _look(session: BoardSession, *, stage: Stage, prepared: Prepared) -> BoardInfo:
    """What a board is.

    Raises:
        BoardError: it has no runtime for this model, with the commands that bring one: nothing is made in vain.
        ConfigError: it cannot do what is asked of it.
    """
    if prepared.ready:
        tensorrt_settings.refuse_ready(stage.loaded, prepared.ready, session.device, session.info)
        return session.info
    selection = select_targets(
        stage.loaded, session.device, prepared.model, scheme_of(prepared.recipe), session.info, installed=False
    )
    lacking = [session.no_runtime(targets.get(name).capabilities().runner) for name in selection.names]
    if None not in lacking:
        raise next(error for error in lacking if error is not None)
    return session.info


def measure_boards(
    stage: Stage,
    fleet: Fleet,
    wanted: Sequence[Device],
    built: Mapping[str, tuple[Built, ...]],
    prepared: Prepared,
    reference: Outputs | None,
) -> None:
    """Measures every device, or takes its identical measurement from the store, and records its rows."""
    rows: dict[str, Sequence[DeviceResult]] = {}
    made = {
        device.name: tuple(
            engines.as_learned(item, prepared, stage.work, stage.this_machine) for item in built.get(device.name, ())
        )
        for device in wanted
    }
    answers = Parity()

    def record(device: Device, found: Sequence[DeviceResult]) -> None:
        rows[device.name] = found
        stage.recorder.update(results=tuple(row for one in wanted for row in rows.get(one.name, ())))

    def judge(outcome: BoardOutcome) -> None:
        record(outcome.device, assemble.device_results(outcome, prepared, reference, stage.recorder.folder))
        answers.add(outcome)

    to_measure = []
    for device in wanted:
        if error := stage.dead.get(device.name):
            record(device, _dead_rows(stage, device, made[device.name], prepared, error))
            continue
        items = made[device.name]
        label = f"measure-{device.name}"
        stage.work.replay.step(label, [f"artifact sha256 {item.artifact.sha256}" for item in items])
        kept = boards.find_measured(device, items, prepared, stage.work.store, stage.infos[device.name])
        if kept is None:
            to_measure.append(device)
        else:
            stage.recorder.add_work(reused=[label])
            judge(kept)

    def measure(session: BoardSession) -> BoardOutcome:
        name = session.device.name
        boards.remember_info(session.device, session.info, stage.work.store)  # the next run goes by it
        _still_as_met(session, stage.infos[name], made[name])
        return boards.measure_board(session, made[name], prepared, stage.work, stage.this_machine)

    def done(measured: Outcome[BoardOutcome]) -> None:
        device, outcome = measured.device, measured.value
        if measured.error is not None:
            stage.work.progress.note(_told(device, measured.error))
            outcome = boards.unreachable(device, made[device.name], measured.error)
        if outcome is not None:
            _count(stage, outcome)
            judge(outcome)

    with _recorded(stage, fleet):
        fleet.each(to_measure, measure, done, leased=True)
        _settle(fleet, wanted)
    checked = partial(checked_here, prepared=prepared, store=stage.work.store)
    stage.recorder.update(parity=answers.records([device.name for device in wanted], checked))


@contextlib.contextmanager
def _recorded(stage: Stage, fleet: Fleet) -> Iterator[None]:
    """However it ends, the document knows what was sent, which leases there were and what was done about failures."""
    before = fleet.bytes_sent
    try:
        yield
    finally:
        stage.recorder.add_work(bytes_sent=fleet.bytes_sent - before)
        stage.recorder.update(
            leases=tuple(assemble.lease_record(lease) for lease in fleet.leases()),
            recovery=tuple(assemble.recovery_record(step) for step in fleet.steps()),
        )


def _settle(fleet: Fleet, wanted: Sequence[Device]) -> None:
    for device in wanted:
        fleet.settle(device)


def _lost(stage: Stage, device: Device, error: InfrastructureError) -> None:
    stage.dead[device.name] = error
    stage.work.progress.note(_told(device, error))


def _told(device: Device, error: InfrastructureError) -> str:
    return f"{device.name}: {error.what.removeprefix(f'{device.name}: ')}"


def _dead_rows(
    stage: Stage, device: Device, items: Sequence[Built], prepared: Prepared, error: InfrastructureError
) -> tuple[DeviceResult, ...]:
    """A board that could not be met: an ERROR for everything that would have been measured on it."""
    if items:
        folder = stage.recorder.folder
        return tuple(
            assemble.failed(
                device, item.wanted.target, item.wanted.variant, error, assemble.artifact_record(item, folder)
            )
            for item in items
        )
    names = select_targets(stage.loaded, device, prepared.model, scheme_of(prepared.recipe), None).names
    variants: tuple[Variant, ...] = ("float", "compressed") if prepared.recipe.steps else ("float",)
    return tuple(assemble.failed(device, name, variant, error) for name in names for variant in variants)


def _still_as_met(session: BoardSession, met: BoardInfo, items: Sequence[Built]) -> None:
    """Raises BoardError where the board is not the one that the artifacts were made for, or runs them otherwise."""
    if session.info.machine != met.machine:
        raise BoardError(
            f"{session.device.name}: the board is {session.info.machine} now; the artifacts were made for "
            f"{met.machine}.",
            next_step="Run again: they will be compiled for what the board is now.",
        )
    for wanted in (item.wanted for item in items if item.wanted.runtime is not None):
        runner = targets.get(wanted.target).capabilities().runner
        now = runtime_facts(session.device, session.info, runner)
        if now is not None and now != wanted.runtime:
            raise BoardError(
                f"{session.device.name}: the board has {runner} {now.version} now; the artifacts were made for "
                f"{wanted.runtime and wanted.runtime.version}.",
                next_step="Run again: they will be compiled for what the board has now.",
            )


def _count(stage: Stage, outcome: BoardOutcome) -> None:
    measured = [one for one in outcome.outcomes if not isinstance(one, InfrastructureError)]
    stage.recorder.add_work(measurements=len(measured))
    if outcome.info is not None and not all(map(boards.is_final, measured)):
        stage.work.progress.note(
            f"{outcome.device.name}: not every measurement is valid: it will be taken again in the next run"
        )
