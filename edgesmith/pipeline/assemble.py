"""judge: outcomes -> the records of `result.json`. Measures nothing, decides nothing that `judge` does not decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from device_tests.accuracy import accuracy_drop_pp
from device_tests.judge import judge
from edgesmith import known_answers, power_rows
from edgesmith.errors import EXIT_OK, GateFailed, InfrastructureError, UnstableMeasurement
from edgesmith.files import safe_name
from edgesmith.pipeline import engine_rows, float_layers
from edgesmith.pipeline.boards import BoardOutcome
from edgesmith.pipeline.build import Built
from edgesmith.pipeline.host import Outputs
from edgesmith.pipeline.prepare import Prepared
from edgesmith.pipeline.row_figures import RowFigures, lost_interval_pp
from edgesmith.pipeline.run_folder import RunFolder
from edgesmith.result import (
    AccuracyRecord,
    ArtifactRecord,
    BoardRecord,
    DeviationRecord,
    DeviceResult,
    EnvironmentRecord,
    FindingRecord,
    LeaseHolderRecord,
    LeaseRecord,
    RecoveryRecord,
    Variant,
)
from edgesmith.types import (
    Accuracy,
    BoardInfo,
    Device,
    Environment,
    Finding,
    Judgement,
    Lease,
    Measurement,
    RecoveryStep,
    Validity,
    Verdict,
)

_NO_REFERENCE = "the model came ready, and no `reference:` names its float version"
_EMULATION_TIME = "the board is emulated: what an emulator is quick at, the real board may be slow at"
_UNREAD_WEIGHTS = "the package that reads the weights is not installed here"


def finding_record(finding: Finding) -> FindingRecord:
    """A finding as it stands in the document."""
    return FindingRecord(**asdict(finding))


def accuracy_record(accuracy: Accuracy) -> AccuracyRecord:
    """An accuracy as it stands in the document."""
    return AccuracyRecord(**asdict(accuracy))


def lease_record(lease: Lease) -> LeaseRecord:
    """A lease as it stands in the document; its token is nobody else's business."""
    before = lease.taken_over
    return LeaseRecord(
        device=lease.device,
        owner=lease.owner,
        run_id=lease.run_id,
        waited_s=lease.waited_s,
        taken_over=None
        if before is None
        else LeaseHolderRecord(kind=before.kind, owner=before.owner, run_id=before.run_id, held_s=before.held_s),
    )


def recovery_record(step: RecoveryStep) -> RecoveryRecord:
    """A rung that was climbed, as it stands in the document."""
    return RecoveryRecord(**asdict(step))


def lease_findings(lease: Lease | None) -> tuple[FindingRecord, ...]:
    """That somebody's lapsed lease was taken over: what they left running may have disturbed the figures."""
    if lease is None or lease.taken_over is None:
        return ()
    before = lease.taken_over
    run = f" (run {before.run_id})" if before.run_id else ""
    text = f"The board's lease was taken over from {before.owner}{run} after it had lapsed."
    return (FindingRecord(severity="warning", code="lease_taken_over", text=text),)


def artifact_record(built: Built, folder: RunFolder) -> ArtifactRecord:
    """An artifact as it stands in the document; its file is put into the run folder."""
    artifact = built.artifact
    relative = folder.keep(artifact.path, f"artifacts/{artifact.target}/{artifact.path.name}")
    return ArtifactRecord(
        path=relative,
        format=artifact.format,
        precision=artifact.precision,
        sha256=artifact.sha256,
        size_bytes=artifact.size_bytes,
        gzip_bytes=artifact.gzip_bytes,
        sparsity=artifact.sparsity,
        sparsity_reason=None if artifact.sparsity is not None else _UNREAD_WEIGHTS,
        signature_inputs=tuple(str(spec) for spec in artifact.signature.inputs),
        signature_outputs=tuple(str(spec) for spec in artifact.signature.outputs),
        toolchain=dict(artifact.toolchain),
        deviations=tuple(DeviationRecord(**asdict(deviation)) for deviation in artifact.deviations),
        build={name: value for name, value in artifact.build.items() if name != "onnx_sha256"},
    )


def device_results(
    outcome: BoardOutcome, prepared: Prepared, reference: Outputs | None, folder: RunFolder
) -> tuple[DeviceResult, ...]:
    """One record per artifact of a device.

    Args:
        reference: outputs of the original model on this machine, for the agreement; None where there is none.
    """
    figures = {
        (built.wanted.target, built.wanted.variant): RowFigures(measured, built, prepared, reference)
        for built, measured in zip(outcome.built, outcome.outcomes, strict=True)
        if isinstance(measured, Measurement)
    }
    records = []
    for built, measured in zip(outcome.built, outcome.outcomes, strict=True):
        target, variant = built.wanted.target, built.wanted.variant
        if isinstance(measured, InfrastructureError):
            severity: Literal["error", "warning"] = "warning" if variant == "uniform" and figures else "error"
            artifact = artifact_record(built, folder)
            records.append(failed(outcome.device, target, variant, measured, artifact, severity))
            continue
        mine, baseline = figures[target, variant], figures.get((target, "float"))
        record = _measured(outcome, built, mine, baseline, prepared, folder)
        uniform = _uniform(outcome, target, figures) if variant == "compressed" else None
        if uniform is not None:
            paid = float_layers.price(mine, uniform, baseline, prepared)
            record = record.model_copy(update={"float_layers": paid})
        records.append(record)
    return tuple(records)


def _uniform(
    outcome: BoardOutcome, target: str, figures: Mapping[tuple[str, Variant], RowFigures]
) -> RowFigures | InfrastructureError | None:
    """What the artifact without layers in float32 gave, or why it gave nothing; None where there is none."""
    for built, measured in zip(outcome.built, outcome.outcomes, strict=True):
        if (built.wanted.target, built.wanted.variant) == (target, "uniform"):
            return measured if isinstance(measured, InfrastructureError) else figures[target, "uniform"]
    return None


def _measured(
    outcome: BoardOutcome,
    built: Built,
    mine: RowFigures,
    baseline: RowFigures | None,
    prepared: Prepared,
    folder: RunFolder,
) -> DeviceResult:
    measured = mine.measured
    judgement = _judge(built, mine, baseline, prepared)
    is_reference = mine is baseline
    drop, drop_reason = None, None
    if is_reference:
        drop_reason = "this is the float artifact the others are compared with"
    elif baseline is None and prepared.ready and not prepared.reference:
        drop_reason = _NO_REFERENCE
    elif baseline is None:
        drop_reason = "the float artifact could not be measured on this board"
    elif baseline.accuracy is None or mine.accuracy is None:
        drop_reason = mine.accuracy_reason or baseline.accuracy_reason
    else:
        drop = accuracy_drop_pp(baseline.accuracy, mine.accuracy)
    speedup, speedup_reason = None, _NO_REFERENCE if drop_reason == _NO_REFERENCE else None
    if measured.board.emulated and not is_reference:
        speedup_reason = _EMULATION_TIME
    elif baseline is not None and not is_reference and baseline.latency.p50 and mine.latency.p50:
        speedup = baseline.latency.p50 / mine.latency.p50
    samples = f"samples/{safe_name(outcome.device.name)}-{built.wanted.target}-{built.wanted.variant}.npy"
    _save(folder, samples, measured.samples_ns)
    mine_is = (outcome.device.name, built.wanted.target, built.wanted.variant)
    if measured.outputs is not None:
        known_answers.keep(folder.path, *mine_is, prepared.evaluation.x, measured.outputs)
    return DeviceResult(
        device=outcome.device.name,
        emulated=measured.board.emulated,
        fake=measured.fake,
        target=built.wanted.target,
        variant=built.wanted.variant,
        artifact=artifact_record(built, folder),
        latency_ms=mine.latency.model_copy(update={"samples_path": samples}),
        accuracy=None if mine.accuracy is None else accuracy_record(mine.accuracy),
        accuracy_reason=mine.accuracy_reason,
        accuracy_drop_pp=drop,
        accuracy_drop_pp_reason=drop_reason,
        agreement=mine.agreement,
        agreement_reason=_why_no_agreement(mine, prepared),
        speedup_p50=speedup,
        speedup_p50_reason=speedup_reason,
        peak_rss_bytes=measured.peak_rss_bytes,
        peak_rss_bytes_reason=measured.peak_rss_reason,
        **power_rows.figures(measured),
        engine=engine_rows.record(measured),
        validity=measured.validity,
        validity_reasons=measured.validity_reasons,
        verdict=judgement.verdict,
        findings=(
            *map(finding_record, (*judgement.findings, *power_rows.findings(measured))),
            *map(finding_record, engine_rows.findings(built, measured)),
            *lease_findings(outcome.lease),
        ),
        outputs_sha256=measured.outputs_sha256,
        runner=measured.runner,
        threads=measured.protocol.threads,
        timer_overhead_ns=measured.timer_overhead_ns,
        board=_board(measured.board),
        environment_before=_environment(measured.environment_before),
        environment_after=_environment(measured.environment_after),
        measured_at=measured.taken_at,
        reused=outcome.reused,
    )


def _why_no_agreement(mine: RowFigures, prepared: Prepared) -> str | None:
    if mine.agreement is not None or mine.outputs is None:
        return mine.accuracy_reason
    return _NO_REFERENCE if prepared.ready and not prepared.reference else "the outputs are no class scores"


def _judge(built: Built, mine: RowFigures, baseline: RowFigures | None, prepared: Prepared) -> Judgement:
    if built.wanted.variant == "float" and prepared.compares:
        text = "the float model: what the compressed one is compared with; the budget is not applied to it"
        return Judgement(verdict=Verdict.PASS, findings=(Finding(severity="info", code="reference", text=text),))
    if built.wanted.variant == "uniform":
        return float_layers.NOT_JUDGED
    judged = mine.judged
    if baseline is not None:
        judged = replace(judged, drop_interval_pp=lost_interval_pp(baseline, mine, prepared))
    return judge(
        prepared.loaded.config.budget, compressed=judged, baseline=None if baseline is None else baseline.judged
    )


def failed(
    device: Device,
    target: str,
    variant: Variant,
    error: InfrastructureError,
    artifact: ArtifactRecord | None = None,
    severity: Literal["error", "warning"] = "error",
) -> DeviceResult:
    """The record of an artifact that could not be measured: no figures, and why."""
    why = error.what.splitlines()[0]
    return DeviceResult(
        device=device.name,
        emulated=None,
        fake=device.transport == "fake",
        target=target,
        variant=variant,
        artifact=artifact,
        artifact_reason=None if artifact else f"nothing was compiled for this device: {why}",
        latency_ms=None,
        latency_ms_reason=why,
        accuracy=None,
        accuracy_reason=why,
        accuracy_drop_pp_reason=why,
        agreement=None,
        agreement_reason=why,
        peak_rss_bytes=None,
        peak_rss_bytes_reason=why,
        energy_mj=None,
        energy_mj_reason=why,
        validity=Validity.UNKNOWN,
        validity_reasons=(why,),
        verdict=Verdict.ERROR,
        findings=(
            FindingRecord(severity=severity, code=type(error).__name__, text=error.what, next_step=error.next_step),
        ),
    )


def fastest_passing(results: Sequence[DeviceResult]) -> tuple[FindingRecord, ...]:
    """For each device, the fastest artifact that passed: what the user came for. Emulated, none is fast or slow."""
    findings = []
    results = _decisive(results)
    for device in dict.fromkeys(result.device for result in results if not result.emulated):
        passing = [r for r in results if r.device == device and r.verdict is Verdict.PASS and _p50(r) is not None]
        judged = [r for r in passing if r.variant == "compressed"]
        if not passing:
            continue
        best = min(judged or passing, key=lambda r: _p50(r) or 0.0)
        faster = f", {best.speedup_p50:.2f}x the float model" if best.speedup_p50 else ""
        accuracy = f", {best.accuracy.metric} {best.accuracy.value:.4g}" if best.accuracy else ""
        path = f" ({best.artifact.path})" if best.artifact else ""
        text = f"{device}: fastest that passes is {best.target} {best.variant}{path}: "
        text += f"p50 {_p50(best):.3f} ms{faster}{accuracy}"
        findings.append(FindingRecord(severity="info", code="best", text=text))
    return tuple(findings)


def overall(results: Sequence[DeviceResult]) -> tuple[Verdict, int, str]:
    """Verdict, exit code and reason of the run: a broken budget first, then infrastructure, then the undecided.

    What was measured only to tell what the float layers cost decides nothing.
    """
    results = _decisive(results)
    for verdict, exit_code in (
        (Verdict.FAIL, GateFailed.exit_code),
        (Verdict.ERROR, InfrastructureError.exit_code),
        (Verdict.INCONCLUSIVE, UnstableMeasurement.exit_code),
    ):
        hit = [f"{r.device} {r.target} {r.variant}" for r in results if r.verdict is verdict]
        if hit:
            return verdict, exit_code, f"{len(hit)} of {len(results)}: {', '.join(hit)}"
    return Verdict.PASS, EXIT_OK, f"all {len(results)} measured artifacts pass"


def _decisive(results: Sequence[DeviceResult]) -> Sequence[DeviceResult]:
    return [result for result in results if result.variant != "uniform"]


def _p50(result: DeviceResult) -> float | None:
    return None if result.latency_ms is None else result.latency_ms.p50


def _save(folder: RunFolder, relative: str, array: NDArray[np.int64]) -> None:
    place = folder.path / relative
    place.parent.mkdir(parents=True, exist_ok=True)
    np.save(place, array)


def _board(info: BoardInfo) -> BoardRecord:
    return BoardRecord(**asdict(info))


def _environment(environment: Environment) -> EnvironmentRecord:
    return EnvironmentRecord(**asdict(environment))
