"""`edgesmith baseline accept`: a run's compressed artifacts become what later runs are held against."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgesmith.errors import ConfigError
from edgesmith.gating.baseline import (
    ARTIFACTS,
    AcceptedArtifact,
    AcceptedLatency,
    Baseline,
    Surroundings,
    artifact_path,
    folder_of,
    read,
    read_all,
    write,
)
from edgesmith.result import BoardRecord, DeviceResult, LatencyRecord, Result
from edgesmith.types import Validity, Verdict

_GIT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """One file that was written.

    Attributes:
        changes: "p50: 1.2 -> 1.1 ms"; empty where nothing changed, or nothing was there.
        new: there was none before.
    """

    path: Path
    changes: tuple[str, ...]
    new: bool


def accept(
    result: Result,
    run_folder: Path,
    baselines: Path,
    lineage: str,
    *,
    devices: Sequence[str] = (),
    keep_artifact: bool = True,
) -> tuple[Accepted, ...]:
    """Writes a baseline for every compressed artifact of a run that passed.

    Args:
        result: of the run.
        run_folder: holds its artifacts.
        baselines: folder of the user's repository.
        lineage: of the model.
        devices: only these; empty: all.
        keep_artifact: the files too, so that later runs measure in turns with them.

    Raises:
        ConfigError: nothing in it may be accepted; says why, row by row.
    """
    rows = [row for row in result.results if row.variant == "compressed" and (not devices or row.device in devices)]
    reasons = {f"{row.device}, {row.target}": why_not(row) for row in rows}
    refused = [f"{where}: {why}" for where, why in reasons.items() if why]
    if refused or not rows:
        raise ConfigError(
            f"Run {result.run_id} is not accepted. " + ("; ".join(refused) or "It has no compressed artifact."),
            next_step="Run again on a quiet, cool board, or leave a device out with --device.",
        )
    commit = git_commit(baselines)
    made = [(row, baseline_of(row, result, lineage, commit)) for row in rows]
    written = tuple(_accept(row, now, run_folder, baselines, keep=keep_artifact) for row, now in made)
    _drop_unused(baselines, lineage)
    return written


def why_not(row: DeviceResult) -> str:
    """Why a row is nothing to hold others against; empty where it is."""
    if row.verdict is not Verdict.PASS:
        return f"its verdict is {row.verdict.value}"
    if row.artifact is None or row.board is None or row.runner is None:
        return row.artifact_reason or "it was not measured"
    judged = row.emulated or row.validity in (Validity.VALID, Validity.UNKNOWN)
    return "" if judged else f"{row.validity.value}: {'; '.join(row.validity_reasons)}"


def baseline_of(row: DeviceResult, result: Result, lineage: str, commit: str | None) -> Baseline:
    """The file for one row that `why_not` lets pass."""
    if row.artifact is None or row.board is None or row.runner is None:
        raise ValueError(f"{row.device}, {row.target} was not measured")
    latency = None if row.emulated else row.latency_ms
    return Baseline(
        lineage=lineage,
        device_class=device_class(row.board),
        device=row.device,
        target=row.target,
        artifact=AcceptedArtifact(
            sha256=row.artifact.sha256,
            format=row.artifact.format,
            precision=row.artifact.precision,
            size_bytes=row.artifact.size_bytes,
        ),
        surroundings=surroundings(row),
        latency_ms=_latency(latency),
        latency_ms_reason="the board is emulated" if row.emulated else row.latency_ms_reason,
        accuracy=row.accuracy,
        agreement=row.agreement,
        peak_rss_bytes=None if row.emulated else row.peak_rss_bytes,
        energy_mj=row.energy_mj,
        validity=row.validity,
        run_id=result.run_id,
        measured_at=row.measured_at,
        git_commit=commit,
    )


def device_class(board: BoardRecord) -> str:
    """Boards that are the same product: the device tree's model without its revision, else the processor."""
    name = re.sub(r"\s+Rev\s+\S+$", "", board.model) if board.model else f"{board.cpu or board.machine} x{board.cores}"
    return f"{name} (emulated)" if board.emulated else name


def surroundings(row: DeviceResult) -> Surroundings:
    """Of a measured row."""
    if row.board is None or row.runner is None:
        raise ValueError(f"{row.device}, {row.target} was not measured")
    before, engine = row.environment_before, row.engine
    return Surroundings(
        runtime=row.runner,
        engine=None if engine is None else f"TensorRT {engine.tensorrt}, CUDA {engine.cuda}",
        system=row.board.system,
        kernel=row.board.kernel,
        governor=None if before is None else before.governor,
        power_mode=None if before is None else before.power_mode,
        threads=row.threads or 1,
    )


def git_commit(where: Path) -> str | None:
    """The commit that is checked out there; None where there is no git, or no repository."""
    place = where if where.is_dir() else where.parent
    try:
        told = subprocess.run(
            ["git", "-C", str(place), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=_GIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return told.stdout.strip() or None if told.returncode == 0 else None


def _accept(row: DeviceResult, now: Baseline, run_folder: Path, baselines: Path, *, keep: bool) -> Accepted:
    path = folder_of(baselines, now.lineage) / now.name
    before = _before(path)
    if keep and row.artifact is not None:
        place = artifact_path(baselines, now)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run_folder / row.artifact.path, place)
    write(baselines, now)
    return Accepted(path=path, changes=() if before is None else _changes(before, now), new=before is None)


def _before(path: Path) -> Baseline | None:
    """What is replaced; None where there is nothing that could be read, whatever is there."""
    try:
        return read(path)
    except ConfigError:
        return None


def _drop_unused(baselines: Path, lineage: str) -> None:
    """Removes kept artifacts that no baseline of the model names any more."""
    used = {artifact_path(baselines, each).name for each in read_all(baselines, lineage).values()}
    for path in (folder_of(baselines, lineage) / ARTIFACTS).glob("*"):
        if path.name not in used:
            path.unlink()


def _latency(found: LatencyRecord | None) -> AcceptedLatency | None:
    if found is None or found.p50 is None:
        return None
    return AcceptedLatency(
        p50=found.p50,
        p50_low=found.p50_low,
        p50_high=found.p50_high,
        p95=found.p95,
        p95_low=found.p95_low,
        p95_high=found.p95_high,
        runs=found.n,
    )


def _changes(before: Baseline, now: Baseline) -> tuple[str, ...]:
    told = list(before.surroundings.differences(now.surroundings))
    if before.artifact.sha256 != now.artifact.sha256:
        told.append(f"artifact: {before.artifact.sha256[:12]} -> {now.artifact.sha256[:12]}")
    if before.artifact.size_bytes != now.artifact.size_bytes:
        told.append(f"size: {before.artifact.size_bytes:,} -> {now.artifact.size_bytes:,} bytes")
    if before.latency_ms and now.latency_ms:
        old, new = (f"{each.latency_ms.p50:.4g}" for each in (before, now) if each.latency_ms)
        told += [f"p50: {old} -> {new} ms"] if old != new else []
    if before.accuracy and now.accuracy and before.accuracy.value != now.accuracy.value:
        told.append(f"{now.accuracy.metric}: {before.accuracy.value:.4f} -> {now.accuracy.value:.4f}")
    return tuple(told)
