"""One row of a run against its baseline. Pure: no clock, no file, no board.

Size and accuracy are decided by their figures, as budgets are. Latency is decided by measuring both files in turns
(`device_tests.regression`); where the accepted file was not kept, by the recorded intervals with a wider tolerance,
since boards differ from day to day by more than from minute to minute.
"""

from __future__ import annotations

from collections.abc import Mapping

from device_tests.regression import Compared
from edgesmith.config import Gate
from edgesmith.gating.baseline import Baseline, Surroundings
from edgesmith.result import DeviceResult, GateCheckRecord, GateOutcome, GateRecord
from edgesmith.types import Validity, Verdict

ORDER: tuple[GateOutcome, ...] = (
    "MISSING",
    "NEWLY FAILING",
    "REGRESSION",
    "INCONCLUSIVE",
    "ENVIRONMENT CHANGED",
    "NO BASELINE",
    "IMPROVEMENT",
    "PASS",
)
"""As they are shown, and of a row's checks the first one decides. What is not there at all comes first."""

EXIT_CODES: Mapping[GateOutcome, int] = {
    "NEWLY FAILING": 1,
    "REGRESSION": 1,
    "MISSING": 3,
    "INCONCLUSIVE": 4,
    "ENVIRONMENT CHANGED": 4,
}
"""The others are 0. A regression (1) outranks infrastructure (3), which outranks the undecided (4)."""


def exit_code(rows: tuple[GateRecord, ...]) -> int:
    """Of the gate: 0, or the gravest row's."""
    codes = {EXIT_CODES.get(row.outcome, 0) for row in rows}
    return next((code for code in (1, 3, 4) if code in codes), 0)


def needs_turns(row: DeviceResult, baseline: Baseline, now: Surroundings) -> bool:
    """Whether both files have to be measured to tell anything of the latency."""
    return (
        row.artifact is not None
        and row.artifact.sha256 != baseline.artifact.sha256
        and baseline.latency_ms is not None
        and not row.emulated
        and not baseline.surroundings.differences(now)
    )


def judge(
    row: DeviceResult, baseline: Baseline, now: Surroundings, compared: Compared | None, gate: Gate, file: str
) -> GateRecord:
    """A measured row against its baseline.

    Args:
        row: of the run, its verdict PASS, FAIL or INCONCLUSIVE.
        baseline: what was accepted.
        now: the row's surroundings.
        compared: both files in turns; None where that was not needed, or could not be done.
        gate: tolerances.
        file: the baseline's, for the record.
    """
    if row.verdict is Verdict.FAIL:
        broken = "; ".join(finding.text for finding in row.findings if finding.severity == "error")
        return GateRecord(
            device=row.device, target=row.target, baseline=file, outcome="NEWLY FAILING",
            text=f"It met its budgets when it was accepted, and does not now: {broken}",
        )  # fmt: skip
    checks = tuple(
        check
        for check in (
            _latency(row, baseline, now, compared, gate),
            _size(row, baseline, gate),
            _accuracy(row, baseline, gate),
            _agreement(row, baseline, gate),
        )
        if check is not None
    )
    decisive = min(checks, key=lambda check: ORDER.index(check.outcome))
    steps: Mapping[GateOutcome, str] = {
        "REGRESSION": "Look at what changed since; if it is meant, `edgesmith baseline accept`.",
        "ENVIRONMENT CHANGED": "If the change is meant, accept this run: `edgesmith baseline accept`.",
        "INCONCLUSIVE": "Measure again on a quiet, cool board, or raise gate.looks.",
        "IMPROVEMENT": "`edgesmith baseline accept` holds on to it.",
    }
    return GateRecord(
        device=row.device,
        target=row.target,
        baseline=file,
        outcome=decisive.outcome,
        text=decisive.text,
        next_step=steps.get(decisive.outcome, ""),
        checks=checks,
    )


def _latency(
    row: DeviceResult, baseline: Baseline, now: Surroundings, compared: Compared | None, gate: Gate
) -> GateCheckRecord | None:
    if row.emulated or baseline.latency_ms is None:
        return None
    changed = baseline.surroundings.differences(now)
    if changed:
        return GateCheckRecord(
            what="latency",
            outcome="ENVIRONMENT CHANGED",
            text=f"Latency is not judged: not measured in what the baseline was ({'; '.join(changed)}).",
        )
    if row.artifact is not None and row.artifact.sha256 == baseline.artifact.sha256:
        return GateCheckRecord(what="latency", outcome="PASS", text="It is the very file that was accepted.")
    if compared is not None:
        return GateCheckRecord(what="latency", outcome=compared.change.value, text=compared.why)
    return _recorded(row, baseline, gate)


def _recorded(row: DeviceResult, baseline: Baseline, gate: Gate) -> GateCheckRecord:
    """By figures of two days. Never IMPROVEMENT or REGRESSION: nothing confirms them."""
    old, new, share = baseline.latency_ms, row.latency_ms, gate.recorded_percent / 100
    lacking = "the accepted file was not kept, so they were not measured in turns"
    if old is None or new is None or new.p50 is None or row.validity not in (Validity.VALID, Validity.UNKNOWN):
        why = "; ".join(row.validity_reasons) or row.latency_ms_reason or "no p50"
        return GateCheckRecord(what="latency", outcome="INCONCLUSIVE", text=f"Latency is not judged: {why}.")
    shown = f"p50 {old.p50:.4g} ms then, {new.p50:.4g} ms now ({lacking})"
    high = new.p50 if new.p50_high is None else new.p50_high
    low = old.p50 if old.p50_low is None else old.p50_low
    if high <= low * (1 + share):
        return GateCheckRecord(
            what="latency", outcome="PASS", text=f"{shown}: no slower than {gate.recorded_percent:g} % more."
        )
    return GateCheckRecord(
        what="latency", outcome="INCONCLUSIVE", text=f"{shown}: more than {gate.recorded_percent:g} % apart, or unsure."
    )


def _size(row: DeviceResult, baseline: Baseline, gate: Gate) -> GateCheckRecord | None:
    if row.artifact is None:
        return None
    old, new = baseline.artifact.size_bytes, row.artifact.size_bytes
    percent = 100 * (new - old) / old
    shown = f"The file has {new:,} bytes, {percent:+.2f} % (tolerance {gate.size_percent:g} %)"
    return GateCheckRecord(
        what="size", outcome="REGRESSION" if percent > gate.size_percent else "PASS", text=f"{shown}."
    )


def _accuracy(row: DeviceResult, baseline: Baseline, gate: Gate) -> GateCheckRecord | None:
    old, new = baseline.accuracy, row.accuracy
    if old is None:
        return None
    if new is None or (new.metric, new.n) != (old.metric, old.n):
        told = row.accuracy_reason or "there is none" if new is None else f"{new.metric} on {new.n:,} samples"
        why = f"Accuracy is not judged: {told}; accepted was {old.metric} on {old.n:,}."
        return GateCheckRecord(what="accuracy", outcome="INCONCLUSIVE", text=why)
    lost = 100 * (old.value - new.value) * (1 if new.higher_is_better else -1)
    shown = (
        f"{new.metric} {old.value:.4f} -> {new.value:.4f} on {new.n:,} samples (tolerance {gate.accuracy_drop_pp:g} pp)"
    )
    outcome: GateOutcome = "REGRESSION" if lost > gate.accuracy_drop_pp + 1e-9 else "PASS"
    return GateCheckRecord(what="accuracy", outcome=outcome, text=f"{shown} (tolerance {gate.accuracy_drop_pp:g} pp).")


def _agreement(row: DeviceResult, baseline: Baseline, gate: Gate) -> GateCheckRecord | None:
    """Only where there are no labels: what accuracy says of right and wrong, agreement says of the same samples."""
    if baseline.accuracy is not None or baseline.agreement is None or row.agreement is None:
        return None
    lost = 100 * (baseline.agreement - row.agreement)
    shown = f"Agreement with the original model {baseline.agreement:.4f} -> {row.agreement:.4f}"
    outcome: GateOutcome = "REGRESSION" if lost > gate.accuracy_drop_pp + 1e-9 else "PASS"
    return GateCheckRecord(what="agreement", outcome=outcome, text=f"{shown} (tolerance {gate.accuracy_drop_pp:g} pp).")
