"""`edgesmith gate`: a finished run against its baselines, board by board."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.samples import load_samples, some
from device_tests.fleet import Fleet, Outcome
from device_tests.inventory import find_inventory, load_inventory
from device_tests.lease import owner
from device_tests.quarantine import BoardStates, boards_folder
from device_tests.regression import Compared
from device_tests.session import BoardSession
from edgesmith.config import LoadedConfig
from edgesmith.errors import EdgesmithError, InfrastructureError, UnstableMeasurement
from edgesmith.gating.accept import device_class, surroundings
from edgesmith.gating.baseline import Baseline, artifact_path, read_all
from edgesmith.gating.judge import ORDER, exit_code, judge, needs_turns
from edgesmith.gating.turns import SAMPLES, Pair, artifact_at, compared
from edgesmith.progress import Progress
from edgesmith.report.live import board_row
from edgesmith.result import DeviceResult, GateRecord, Result
from edgesmith.types import Device, PowerRequest, Verdict
from targets.found import float_inputs

if TYPE_CHECKING:
    from numpy.typing import NDArray


Key = tuple[str, str]
"""Device and target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """One row of the run and the baseline that it is held against."""

    row: DeviceResult
    baseline: Baseline
    file: str

    @property
    def key(self) -> Key:
        """Two boards of one class are held against one file."""
        return self.row.device, self.row.target


def lineage_of(loaded: LoadedConfig) -> str:
    """The name that versions of the model share."""
    return loaded.config.gate.lineage or Path(loaded.config.model).stem


def gate(
    loaded: LoadedConfig,
    result: Result,
    run_folder: Path,
    *,
    inventory: Path | None,
    runs_dir: Path,
    progress: Progress,
    lease_wait_s: float = 600.0,
) -> Result:
    """Holds a finished run against what was accepted.

    Args:
        loaded: the config of the run.
        result: the run.
        run_folder: holds its artifacts.
        inventory: a devices.yaml; None: as for a run.
        runs_dir: where what is sent to boards is kept.
        progress: where it tells how far it is.
        lease_wait_s: how long each board is waited for while somebody else holds it.

    Returns:
        The document with its gate and the exit code that both together have.

    Raises:
        ConfigError: a baseline that cannot be read, or whose own run was not valid.
    """
    baselines = loaded.resolve(loaded.config.gate.baselines)
    accepted = read_all(baselines, lineage_of(loaded))
    rows = [row for row in result.results if row.variant == "compressed"]
    found: list[GateRecord] = []
    measured: list[Against] = []
    seen: set[str] = set()
    for row in rows:
        against = _baseline_of(row, accepted)
        if against is None:
            found.append(_none(row))
            continue
        seen.add(against.file)
        if row.artifact is None or row.board is None or row.runner is None or row.verdict is Verdict.ERROR:
            found.append(_not_measured(against))
        else:
            measured.append(against)
    found += [_missing(baseline, file) for file, baseline in accepted.items() if file not in seen]
    turns = _in_turns(
        [one for one in measured if needs_turns(one.row, one.baseline, surroundings(one.row))],
        loaded=loaded,
        run_folder=run_folder,
        baselines=baselines,
        fleet=_fleet(runs_dir, progress, lease_wait_s),
        inventory=inventory,
        progress=progress,
    )
    for one in measured:
        taken = turns.get(one.key)
        if isinstance(taken, EdgesmithError):
            found.append(_undecided(one, taken))
        else:
            found.append(judge(one.row, one.baseline, surroundings(one.row), taken, loaded.config.gate, one.file))
    found.sort(key=lambda record: ORDER.index(record.outcome))
    records = tuple(found)
    codes = {result.exit_code or 0, exit_code(records)}
    code = next((code for code in (1, 3, 4) if code in codes), max(codes))
    return result.model_copy(update={"gate": records, "exit_code": code})


def _baseline_of(row: DeviceResult, accepted: Mapping[str, Baseline]) -> Against | None:
    """By the class of the board that was reached, else by the name of the device."""
    for file, baseline in accepted.items():
        same = baseline.device_class == device_class(row.board) if row.board else baseline.device == row.device
        if same and baseline.target == row.target:
            return Against(row=row, baseline=baseline, file=file)
    return None


Taken = Compared | EdgesmithError | None


def _in_turns(
    pairs: Sequence[Against],
    *,
    loaded: LoadedConfig,
    run_folder: Path,
    baselines: Path,
    fleet: Fleet,
    inventory: Path | None,
    progress: Progress,
) -> dict[Key, Taken]:
    """What measuring in turns told of each, by the baseline's file; nothing of those whose file was not kept."""
    kept = [one for one in pairs if artifact_path(baselines, one.baseline).is_file()]
    if not kept:
        return {}
    known = load_inventory(inventory or find_inventory(loaded.path))
    by_device: dict[str, list[Against]] = {}
    for one in kept:
        by_device.setdefault(one.row.device, []).append(one)
    found: dict[Key, Taken] = {}
    x: dict[Key, NDArray[Any]] = {}
    measure = partial(_measure, by_device=by_device, loaded=loaded, run_folder=run_folder, baselines=baselines, x=x)
    for one in kept:
        _samples(one, loaded, run_folder, x, progress)
    devices = [known.get(name) for name in by_device]
    ready: list[Device] = []
    for device in devices:
        try:
            fleet.check(device)
            ready.append(device)
        except InfrastructureError as error:
            found |= {one.key: error for one in by_device[device.name]}

    def done(ended: Outcome[dict[Key, Taken]]) -> None:
        if ended.value is not None:
            found.update(ended.value)
        elif ended.error is not None:
            found.update({one.key: ended.error for one in by_device[ended.device.name]})

    fleet.each(ready, measure, done, leased=True)
    for device in ready:
        fleet.settle(device)
    return found


def _measure(
    session: BoardSession,
    *,
    by_device: Mapping[str, Sequence[Against]],
    loaded: LoadedConfig,
    run_folder: Path,
    baselines: Path,
    x: Mapping[Key, NDArray[Any]],
) -> dict[Key, Taken]:
    settings = loaded.config.measure
    found: dict[Key, Taken] = {}
    for one in by_device[session.device.name]:
        pair = _pair(one, run_folder, baselines)
        power = PowerRequest(mode=settings.power_mode, lock_clocks=settings.lock_clocks)
        try:
            for artifact in (pair.accepted, pair.candidate):
                session.push(artifact.path, artifact.sha256)
            found[one.key] = compared(
                session, pair, x[one.key], loaded.config.gate, threads=settings.threads, power=power
            )
        except UnstableMeasurement as error:
            found[one.key] = error
    return found


def _pair(one: Against, run_folder: Path, baselines: Path) -> Pair:
    if one.row.artifact is None:
        raise ValueError(f"{one.file}: nothing was made")
    build, target = one.row.artifact.build, one.row.target
    return Pair(
        accepted=artifact_at(artifact_path(baselines, one.baseline), target=target, build=build),
        candidate=artifact_at(run_folder / one.row.artifact.path, target=target, build=build),
    )


def _samples(
    one: Against, loaded: LoadedConfig, run_folder: Path, x: dict[Key, NDArray[Any]], progress: Progress
) -> None:
    """The samples that both files are timed on, as their float inputs take them."""
    if one.row.artifact is None:
        return
    specs = float_inputs(artifact_at(run_folder / one.row.artifact.path, target=one.row.target, build={}))
    source = loaded.config.data.evaluation
    held = load_samples(source, role="evaluation", specs=specs, root=loaded.root, seed=0, progress=progress)
    x[one.key] = some(held, SAMPLES, 0).x if len(held) > SAMPLES else held.x


def _fleet(runs_dir: Path, progress: Progress, lease_wait_s: float) -> Fleet:
    row: Callable[[str], Any] = partial(board_row, progress)
    return Fleet(
        owner=owner(),
        run_id=f"gate-{secrets.token_hex(3)}",
        local_root=runs_dir / ".cache" / "local-board",
        states=BoardStates(boards_folder()),
        progress=progress,
        row=row,
        lease_wait_s=lease_wait_s,
    )


def _none(row: DeviceResult) -> GateRecord:
    return GateRecord(
        device=row.device, target=row.target, baseline=None, outcome="NO BASELINE",
        text="Nothing was accepted for it yet: only its budgets are judged.",
        next_step="`edgesmith baseline accept` writes one.",
    )  # fmt: skip


def _missing(baseline: Baseline, file: str) -> GateRecord:
    return GateRecord(
        device=baseline.device, target=baseline.target, baseline=file, outcome="MISSING",
        text=f"It was accepted on {baseline.device_class}, and this run has no such pair.",
        next_step=f"Run it on {baseline.device}, or remove {file}.",
    )  # fmt: skip


def _not_measured(one: Against) -> GateRecord:
    why = next((finding.text for finding in one.row.findings if finding.severity == "error"), "")
    reason = why or one.row.latency_ms_reason or one.row.artifact_reason or "it was not measured"
    return GateRecord(
        device=one.row.device, target=one.row.target, baseline=one.file, outcome="MISSING",
        text=f"It was measured when it was accepted, and could not be now: {reason}",
        next_step="`edgesmith doctor` tells what the board lacks.",
    )  # fmt: skip


def _undecided(one: Against, error: EdgesmithError) -> GateRecord:
    return GateRecord(
        device=one.row.device,
        target=one.row.target,
        baseline=one.file,
        outcome="MISSING" if isinstance(error, InfrastructureError) else "INCONCLUSIVE",
        text=f"Not measured in turns with the accepted file: {error.what}",
        next_step=error.next_step,
    )
