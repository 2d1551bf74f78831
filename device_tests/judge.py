"""Budget + figures + baseline -> verdict. Pure: no clock, no file, no board.

Size, accuracy, agreement and memory are decided by the figure itself: the evaluation set is the user's own choice of
what counts, so its figure is not a guess at another; the interval is told beside it. Latency is decided by its
interval (`device_tests.judge_latency`).

One broken budget makes FAIL; else one that could not be judged makes INCONCLUSIVE; else PASS.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from device_tests.accuracy import accuracy_drop_pp
from device_tests.judge_latency import latency, latency_ratio
from device_tests.outcome import (
    NEEDS_BASELINE,
    NO_BASELINE,
    JudgedFigures,
    Outcome,
    Rule,
    broken,
    interval_text,
    kept,
    undecided,
)
from edgesmith.config import Budget
from edgesmith.types import Accuracy, Finding, Judgement, Verdict

__all__ = ["JudgedFigures", "judge"]


def judge(budget: Budget, *, compressed: JudgedFigures, baseline: JudgedFigures | None) -> Judgement:
    """Judges one artifact on one device.

    Args:
        budget: limits; None = not set.
        compressed: figures of the artifact.
        baseline: figures of the float model on the same board in the same lease; None where there are none.

    Returns:
        The verdict, with one finding for every budget that is set: "error" broken, "warning" not judged, "info" kept.
    """
    findings: list[Finding] = []
    if compressed.emulated:
        text = "Emulated board: latency is emulation time, and memory holds the emulator: neither is judged."
        findings.append(Finding(severity="info", code="emulated", text=text))
    if compressed.fake:
        findings.append(
            Finding(severity="warning", code="fake", text="FAKE board: its latency is scripted, not measured.")
        )
    outcomes: list[Verdict] = []
    for key in Budget.model_fields:
        limit = getattr(budget, key)
        if limit is None:
            continue
        outcome, finding = _RULES[key](key, float(limit), compressed, baseline)
        outcomes.append(outcome)
        findings.append(finding)
    if not outcomes:
        findings.append(
            Finding(
                severity="info",
                code="no_budget",
                text="No budget is set: everything passes.",
                next_step="Set `budget:` in the config, e.g. latency_p95_ms, accuracy_drop_pp, size_bytes.",
            )
        )
    for worst in (Verdict.FAIL, Verdict.INCONCLUSIVE):
        if worst in outcomes:
            return Judgement(verdict=worst, findings=tuple(findings))
    return Judgement(verdict=Verdict.PASS, findings=tuple(findings))


def _accuracy_min(key: str, limit: float, compressed: JudgedFigures, baseline: JudgedFigures | None) -> Outcome:
    del baseline
    accuracy = compressed.accuracy
    if accuracy is None:
        why = compressed.accuracy_reason or "there is none"
        return undecided(key, f"Accuracy is not judged: {why}.", compressed.accuracy_next_step)
    # The least accuracy of a metric where less is better (an error) is the most error.
    good = accuracy.value >= limit if accuracy.higher_is_better else accuracy.value <= limit
    word = "least" if accuracy.higher_is_better else "most"
    shown = f"{_accuracy(accuracy)}, at {word} {limit:g}"
    return _by_value(key, good, shown, _LOST_ACCURACY)


def _accuracy_drop(key: str, limit: float, compressed: JudgedFigures, baseline: JudgedFigures | None) -> Outcome:
    if baseline is None:
        return undecided(key, f"The accuracy drop is not judged: {NO_BASELINE}.", NEEDS_BASELINE)
    now, before = compressed.accuracy, baseline.accuracy
    if now is None or before is None:
        without, who = (compressed, "the artifact") if now is None else (baseline, "the float model")
        why = f"no accuracy of {who}: {without.accuracy_reason or 'no reason given'}"
        return undecided(key, f"The accuracy drop is not judged: {why}.", without.accuracy_next_step)
    if now.metric != before.metric or now.n != before.n:
        return undecided(
            key,
            f"The accuracy drop is not judged: {now.metric} on {now.n:,} samples against {before.metric} on "
            f"{before.n:,}.",
            "Measure both on the same evaluation set.",
        )
    drop = accuracy_drop_pp(before, now)
    interval = "" if compressed.drop_interval_pp is None else f" {interval_text(compressed.drop_interval_pp, _signed)}"
    moved = f"{before.value:.4f} -> {now.value:.4f} on {now.n:,} samples"
    shown = f"{now.metric} dropped by {drop:.2f} pp{interval}: {moved}, limit {limit:g} pp"
    if not now.higher_is_better:
        # An error has no percentage points: the key's hundredths are told in the metric's own unit.
        shown = f"{now.metric} rose by {drop / 100:.4g}: {moved}, limit {limit / 100:g} (accuracy_drop_pp / 100)"
    return _by_value(key, drop <= limit, shown, _LOST_ACCURACY)


def _agreement_min(key: str, limit: float, compressed: JudgedFigures, baseline: JudgedFigures | None) -> Outcome:
    del baseline
    if compressed.agreement is None:
        why = compressed.agreement_reason or "there is none"
        return undecided(key, f"Agreement is not judged: {why}.", compressed.accuracy_next_step)
    shown = f"Agreement with the original model is {compressed.agreement:.4f}, at least {limit:g}"
    return _by_value(key, compressed.agreement >= limit, shown, _LOST_ACCURACY)


def _size(key: str, limit: float, compressed: JudgedFigures, baseline: JudgedFigures | None) -> Outcome:
    del baseline
    shown = f"The file has {compressed.size_bytes:,} bytes, limit {limit:,.0f}"
    return _by_value(key, compressed.size_bytes <= limit, shown, _TOO_LARGE)


def _size_ratio(key: str, limit: float, compressed: JudgedFigures, baseline: JudgedFigures | None) -> Outcome:
    if baseline is None:
        return undecided(key, f"The size ratio is not judged: {NO_BASELINE}.", NEEDS_BASELINE)
    # Compared as a product: 30 / 100 <= 0.3 must not hang on how a quotient is rounded.
    good = compressed.size_bytes <= limit * baseline.size_bytes * (1 + 1e-12)
    ratio = compressed.size_bytes / baseline.size_bytes if baseline.size_bytes else math.inf
    shown = (
        f"The file has {ratio:.3f} of the float model's size ({compressed.size_bytes:,} of {baseline.size_bytes:,} "
        f"bytes), limit {limit:g}"
    )
    return _by_value(key, good, shown, _TOO_LARGE)


def _peak_rss(key: str, limit: float, compressed: JudgedFigures, baseline: JudgedFigures | None) -> Outcome:
    del baseline
    if compressed.emulated:
        text = "Peak memory is not judged: the board is emulated, the emulator's own memory is in it."
        return undecided(key, text, "Judge peak memory on a real board.")
    if compressed.peak_rss_bytes is None:
        return undecided(key, f"Peak memory is not judged: {compressed.peak_rss_reason or 'it was not measured'}.")
    shown = f"Peak memory of the process is {compressed.peak_rss_bytes:,} bytes, limit {limit:,.0f}"
    return _by_value(
        key,
        compressed.peak_rss_bytes <= limit,
        shown,
        "The runtime itself takes most of it for small models: compare with the float model's figure, then shrink "
        "the activations (smaller input, fewer channels) or raise the budget.",
    )


_RULES: Mapping[str, Rule] = {
    "latency_p50_ms": latency,
    "latency_p95_ms": latency,
    "latency_p50_ratio": latency_ratio,
    "latency_p95_ratio": latency_ratio,
    "accuracy_min": _accuracy_min,
    "accuracy_drop_pp": _accuracy_drop,
    "agreement_min": _agreement_min,
    "size_bytes": _size,
    "size_ratio": _size_ratio,
    "peak_rss_bytes": _peak_rss,
}

_TOO_LARGE = "Quantize to int8 (a quarter of float32), prune whole channels, or raise the budget."
_LOST_ACCURACY = (
    "Prune less or fine-tune longer, give calibration more samples of every class, keep the layers that hurt in float."
)


def _by_value(key: str, good: bool, shown: str, next_step: str) -> Outcome:
    return kept(key, shown) if good else broken(key, shown, next_step)


def _accuracy(accuracy: Accuracy) -> str:
    interval = (
        ""
        if accuracy.low is None or accuracy.high is None
        else f" {interval_text((accuracy.low, accuracy.high), _four)}"
    )
    return f"{accuracy.metric} is {accuracy.value:.4f}{interval} on {accuracy.n:,} samples"


def _four(value: float) -> str:
    return f"{value:.4f}"


def _signed(value: float) -> str:
    return f"{value:+.2f}"
