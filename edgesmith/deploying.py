"""`edgesmith deploy` and `rollback`: releases on many boards, each under its lease, canaries first."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from device_tests import releases
from device_tests.fleet import Fleet, Outcome
from device_tests.inventory import find_inventory, load_inventory
from device_tests.lease import owner
from device_tests.quarantine import BoardStates, boards_folder
from device_tests.release_board import ModelReleases, check_name
from device_tests.release_request import KEEP
from device_tests.releases import Deployed, State
from device_tests.session import BoardSession
from edgesmith.deploy_plan import DeployPlan
from edgesmith.errors import EXIT_OK, EdgesmithError, GateFailed, InfrastructureError, InputError
from edgesmith.progress import Progress
from edgesmith.report.live import board_row
from edgesmith.types import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of one board: a release that answers, an error, or neither: then it was not touched."""

    device: str
    name: str
    deployed: Deployed | None = None
    error: EdgesmithError | None = None

    @property
    def state(self) -> str:
        """One word or two."""
        if self.deployed is not None:
            return str(self.deployed.state)
        return "untouched" if self.error is None else "failed"

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        told: dict[str, Any] = {"device": self.device, "name": self.name, "state": self.state}
        if self.deployed is not None:
            engine = self.deployed.engine
            told |= asdict(self.deployed) | {"state": self.state, "engine": engine and engine.model_dump(mode="json")}
        if self.error is not None:
            told |= {
                "error": type(self.error).__name__,
                "text": self.error.what,
                "next_step": self.error.next_step,
            }
        return told

    @property
    def lines(self) -> tuple[str, ...]:
        """For people."""
        done = self.deployed
        if self.error is not None:
            return (f"{type(self.error).__name__}: {self.error}",)
        if done is None:
            return (f"{self.device}: untouched, since a canary failed",)
        was = {None: "", done.version: ""}.get(done.before, f"; before it: {done.before}")
        head = f"{self.device}: {self.name} {done.version} {done.state}, checked there twice"
        if done.state is State.SAME:
            head = f"{self.device}: {self.name} {done.version} was there already, checked again"
        sent = f", {done.bytes_sent:,} bytes sent" if done.bytes_sent else ""
        first = f"{head}: p50 {done.smoke.p50_ms:.3f} ms over {done.smoke.runs} runs, {done.smoke.runner}{sent}{was}"
        removed = [f"{self.device}: removed {version}: too old to be kept" for version in done.removed]
        other = [f"{self.device}: {done.engine.note}"] if done.engine is not None and done.engine.note else []
        mended = [f"{self.device}: found and mended: {text}" for text in done.recovered]
        return (first, *other, *mended, *removed)


def exit_code(rows: Sequence[Row]) -> int:
    """Of all boards: a release that is not good first, then infrastructure."""
    errors = [row.error for row in rows if row.error is not None]
    for kind in (GateFailed, InputError, InfrastructureError):
        if any(isinstance(error, kind) for error in errors):
            return kind.exit_code
    return errors[0].exit_code if errors else EXIT_OK


def deploy_run(
    run_folder: Path,
    *,
    devices: Sequence[str],
    inventory: Path | None,
    progress: Progress,
    name: str = "",
    target: str = "",
    variant: str = "",
    canary: int = 0,
    keep: int = KEEP,
    lease_wait_s: float = 600.0,
) -> tuple[Row, ...]:
    """Releases a run's artifacts to its boards.

    Args:
        run_folder: of a finished run.
        devices: which boards; none: all of the run.
        inventory: a devices.yaml; None: the one beside the run's config, then the user's.
        progress: where it tells how far it is.
        name: of the release; empty: the model's file name.
        target: only artifacts of this target.
        variant: "float" or "compressed"; empty: compressed where the run has one.
        canary: so many boards first; the others only where all of these pass.
        keep: releases kept on a board besides the current one.
        lease_wait_s: how long each board is waited for while somebody else holds it.

    Returns:
        One row per board, in their order. A board that fails is a row, not an exception.

    Raises:
        GateFailed: nothing of the run passed for one of the boards; none was touched.
        InputError: the run, a board's name, or a file.
    """
    plan = DeployPlan(run_folder, name=name, target=target, variant=variant)
    known = load_inventory(inventory or find_inventory(Path(plan.result.config_path)))
    boards = [known.get(device) for device in dict.fromkeys(devices or plan.devices)]
    requests = plan.requests(boards, keep)
    local_root = run_folder.resolve().parent / ".cache" / "local-board"
    fleet = _fleet(plan.result.run_id, local_root, progress, lease_wait_s)

    def work(session: BoardSession) -> Deployed:
        return releases.deploy(session, requests[session.device.name], session.progress)

    rows = {board.name: Row(device=board.name, name=plan.name) for board in boards}
    for group in (boards[:canary], boards[canary:]):
        rows |= _each(fleet, group, work, plan.name, judges=True)
        if any(rows[board.name].error for board in group):
            break
    return tuple(rows.values())


def roll_back(
    name: str,
    *,
    devices: Sequence[str],
    inventory: Path | None,
    progress: Progress,
    runs_dir: Path,
    to: str | None = None,
    lease_wait_s: float = 600.0,
) -> tuple[Row, ...]:
    """Makes an earlier release answer on each board; `deploy_run` says the rest.

    A quarantined board is let in: it may have to go back all the more.
    """
    check_name(name)
    known = load_inventory(inventory or find_inventory(None))
    boards = [known.get(device) for device in dict.fromkeys(devices)]
    run_id = f"rollback-{secrets.token_hex(3)}"
    fleet = _fleet(run_id, runs_dir / ".cache" / "local-board", progress, lease_wait_s)

    def work(session: BoardSession) -> Deployed:
        return releases.rollback(session, name, session.progress, to)

    return tuple(_each(fleet, boards, work, name, judges=False).values())


def listing(models: Sequence[ModelReleases], tensorrt: str | None = None) -> tuple[str, ...]:
    """A board's releases as lines for people.

    Args:
        models: what is there.
        tensorrt: the version that the board has now, where it is known.
    """
    lines = []
    for model in models:
        if not model.releases and model.problem is None:
            continue
        lines.append(f"{model.name}: {model.path}/current" + (f" [{model.problem}]" if model.problem else ""))
        for release in reversed(model.releases):
            mark = {model.current: "* current", model.previous: "  previous"}.get(release.version, "")
            if release.version == model.current and model.unconfirmed:
                mark = "* current, never confirmed: the next deploy or rollback goes back"
            lines.append(f"  {release.version}  {_release_text(release.manifest, release.problem)}  {mark}".rstrip())
            if release.manifest is not None and (stale := release.manifest.stale_engine(tensorrt)):
                lines.append(f"    {stale}")
    return tuple(lines) or ("nothing is released there",)


def _release_text(manifest: Any, problem: str | None) -> str:
    if manifest is None:
        return f"damaged: {problem}"
    measured = manifest.measured
    accuracy = f" {measured.accuracy.metric} {measured.accuracy.value:.4g}" if measured.accuracy else ""
    runtime = ", ".join(f"{name} {version}" for name, version in manifest.runtime.items())
    emulated = " EMULATED" if measured.emulated else ""
    if manifest.engine is not None and not manifest.engine.is_measured:
        runtime += ", by another engine than the one that runs"
    return f"{manifest.format} {manifest.precision} p50 {measured.p50_ms:.3f} ms{emulated}{accuracy} ({runtime})"


def _fleet(run_id: str, local_root: Path, progress: Progress, lease_wait_s: float) -> Fleet:
    return Fleet(
        owner=owner(),
        run_id=run_id,
        local_root=local_root,
        states=BoardStates(boards_folder()),
        progress=progress,
        row=partial(board_row, progress),
        lease_wait_s=lease_wait_s,
    )


def _each(
    fleet: Fleet, boards: Sequence[Device], work: Callable[[BoardSession], Deployed], name: str, *, judges: bool
) -> dict[str, Row]:
    """One row per board. A release that is not good is that board's outcome; it disturbs no other."""
    rows = {board.name: Row(device=board.name, name=name) for board in boards}
    ready = []
    for board in boards:
        try:
            if judges:
                fleet.check(board)
            ready.append(board)
        except InfrastructureError as error:
            rows[board.name] = replace(rows[board.name], error=error)

    def attempt(session: BoardSession) -> Deployed | EdgesmithError:
        try:
            return work(session)
        except (GateFailed, InputError) as error:
            return error

    def done(ended: Outcome[Deployed | EdgesmithError]) -> None:
        found = ended.error or ended.value
        row = rows[ended.device.name]
        rows[ended.device.name] = (
            replace(row, deployed=found) if isinstance(found, Deployed) else replace(row, error=found)
        )

    fleet.each(ready, attempt, done, leased=True)
    for board in ready:
        fleet.settle(board)
    return rows
