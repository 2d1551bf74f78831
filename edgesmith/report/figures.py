"""A figure of a result as text: one place decides digits, units, and what stands where a figure is missing.

Shared by every report, so that a number reads the same in the console, in HTML and in Markdown. Sizes are decimal
(1 kB = 1000 B), as every flash and memory data sheet has them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgesmith.result import AccuracyRecord, DeviceResult, Result, StepRecord
from edgesmith.types import Validity

NA = "n/a"
TIMES = "\N{MULTIPLICATION SIGN}"
_NO_REASON = "no reason was recorded"
_NO_TWIN = "the float artifact has no p50 from the same board and lease"
REFERENCE = "ref"
"""Stands where a float artifact would be compared with itself."""

NOT_JUDGED = "not judged: what the float layers cost"
"""Marks the row of a uniform artifact."""

FRACTION_METRICS = frozenset({"top1", "top5", "agreement"})
"""Metrics that lie in 0..1 and read better as a percentage."""

# C0 and C1 controls and bidirectional overrides: text from a board must not steer a terminal or break XML.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]"
)


def printable(text: str) -> str:
    """`text` without control characters; each becomes a question mark, so that it is seen."""
    return _UNPRINTABLE.sub("?", text)


def one_line(text: str) -> str:
    """`printable` with every run of white space as one blank."""
    return " ".join(printable(text).split())


def significant(value: float, digits: int = 3) -> str:
    """`value` to `digits` significant digits, never in scientific notation: 0.0412, 4.21, 1234."""
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{decimals}f}"
    # 9.996 rounds up to one digit more than asked for.
    if decimals and sum(c.isdigit() for c in text.lstrip("-0.")) > digits:
        text = f"{value:.{decimals - 1}f}"
    return text


def milliseconds(value: float | None) -> str:
    """Milliseconds without the unit."""
    return NA if value is None else significant(value)


def byte_size(value: int | None) -> str:
    """Bytes with a decimal unit: 812 B, 73.1 kB, 2.00 MB."""
    if value is None:
        return NA
    size = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 999.5 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{significant(size)} {unit}"
        size /= 1000
    raise AssertionError(value)


def count(value: int | None) -> str:
    """A whole number with thousands separators."""
    return NA if value is None else f"{value:,}"


def percent(fraction: float | None, decimals: int = 1) -> str:
    """A fraction 0..1 as a percentage without the sign."""
    return NA if fraction is None else f"{fraction * 100:.{decimals}f}"


def points(value: float | None) -> str:
    """Percentage points; below zero is a gain. Never a minus zero."""
    return NA if value is None else f"{round(value, 2) + 0.0:.2f}"


def decibels(value: float | None) -> str:
    """A ratio of powers without the unit: 38.4. Never a minus zero."""
    return NA if value is None else f"{round(value, 1) + 0.0:.1f}"


def factor(value: float | None) -> str:
    """A ratio with a times sign: 3.21x."""
    return NA if value is None else f"{significant(value)}{TIMES}"


def seconds(value: float) -> str:
    """A duration for people: 0.4 s, 12.3 s, 3 min 05 s."""
    if value >= 59.95:
        minutes, rest = divmod(round(value), 60)
        return f"{minutes} min {rest:02d} s"
    return f"{value:.1f} s"


def short_hash(value: str | None) -> str:
    """The first 12 digits: enough to tell two artifacts apart by eye."""
    return NA if value is None else value[:12]


def is_fraction(metric: str) -> bool:
    """Whether the metric is shown as a percentage."""
    return metric in FRACTION_METRICS


def accuracy_value(record: AccuracyRecord | None) -> str:
    """The metric with its unit: "91.52 %", or three digits for a metric that is no fraction."""
    if record is None:
        return NA
    return metric_value(record.metric, record.value)


def metric_value(metric: str, value: float) -> str:
    """A value in a metric's own unit, as it is shown."""
    return f"{percent(value, 2)} %" if is_fraction(metric) else significant(value, 4)


def accuracy_interval(record: AccuracyRecord | None) -> str:
    """Half the width of the 95 % interval, "±0.55"; empty where the metric has none."""
    if record is None or record.low is None or record.high is None:
        return ""
    half = (record.high - record.low) / 2
    return f"±{percent(half, 2)}" if is_fraction(record.metric) else f"±{significant(half)}"


def accuracy_text(record: AccuracyRecord | None) -> str:
    """Value and interval without the unit: "91.52 ±0.55"."""
    return f"{accuracy_value(record).removesuffix(' %')} {accuracy_interval(record)}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One artifact on one device as text; see `DeviceResult` for what each figure means.

    Attributes:
        record: where the figures come from.
        accuracy: value and interval, "91.52 ±0.55"; also apart.
        verdict: empty where the row is not judged.
        marks: what changes how the row is read: "emulated", "FAKE", "reused", "THROTTLED", `NOT_JUDGED`.
    """

    record: DeviceResult
    p50: str
    p95: str
    speedup: str
    size: str
    gzip: str
    accuracy: str
    accuracy_value: str
    accuracy_interval: str
    drop: str
    agreement: str
    peak_rss: str
    verdict: str
    marks: tuple[str, ...]

    @property
    def name(self) -> str:
        """Device, target and variant: enough to find the row again."""
        return f"{one_line(self.record.device)} {one_line(self.record.target)} {self.record.variant}"


def row(record: DeviceResult) -> Row:
    """The figures of one record."""
    latency, artifact, accuracy = record.latency_ms, record.artifact, record.accuracy
    is_reference = record.variant == "float"
    marks = [NOT_JUDGED] if record.variant == "uniform" else []
    if record.emulated:
        marks.append("emulated")
    if record.fake:
        marks.append("FAKE")
    if record.reused:
        marks.append("reused")
    if record.validity not in (Validity.VALID, Validity.UNKNOWN):
        marks.append(str(record.validity.value))
    return Row(
        record=record,
        p50=milliseconds(latency.p50 if latency else None),
        p95=milliseconds(latency.p95 if latency else None),
        speedup=REFERENCE if is_reference and latency else factor(record.speedup_p50),
        size=byte_size(artifact.size_bytes if artifact else None),
        gzip=byte_size(artifact.gzip_bytes if artifact else None),
        accuracy=accuracy_text(accuracy),
        accuracy_value=accuracy_value(accuracy).removesuffix(" %"),
        accuracy_interval=accuracy_interval(accuracy),
        drop=REFERENCE if is_reference and accuracy else points(record.accuracy_drop_pp),
        agreement=percent(record.agreement),
        peak_rss=byte_size(record.peak_rss_bytes),
        verdict="" if record.variant == "uniform" else str(record.verdict.value),
        marks=tuple(marks),
    )


def rows_by_device(result: Result) -> dict[str, tuple[Row, ...]]:
    """Rows in the order of the result, under the device they ran on."""
    devices: dict[str, list[Row]] = {}
    for record in result.results:
        devices.setdefault(record.device, []).append(row(record))
    return {device: tuple(rows) for device, rows in devices.items()}


def float_twin(record: DeviceResult, result: Result) -> DeviceResult | None:
    """The float artifact of the same target on the same device; None where there is none."""
    for other in result.results:
        if (other.device, other.target, other.variant) == (record.device, record.target, "float"):
            return other
    return None


def reasons(result: Result, *, only: Sequence[str] | None = None) -> tuple[str, ...]:
    """One line for each figure that could not be had: what, why, and for which rows.

    Args:
        result: the result.
        only: names of the figures that a report shows; None for all.
    """
    by_cause: dict[tuple[str, str], list[DeviceResult]] = {}
    for record in result.results:
        for figure, reason in _missing(record):
            if only is None or figure in only:
                by_cause.setdefault((figure, one_line(reason)), []).append(record)
    by_place: dict[tuple[str, str], list[str]] = {}
    for (figure, reason), records in by_cause.items():
        by_place.setdefault((reason, places(records, result)), []).append(figure)
    return tuple(f"{', '.join(names)} n/a: {reason} ({where})" for (reason, where), names in by_place.items())


def places(records: Sequence[DeviceResult], result: Result) -> str:
    """Rows in as few words as name them: "all rows", a device, a device and target, or the row itself."""
    wanted = set(map(_place, records))
    if not wanted:
        return ""
    if len(result.results) > 1 and wanted == set(map(_place, result.results)):
        return "all rows"
    words = []
    for record in records:
        for depth in (1, 2, 3):
            part = _place(record)[:depth]
            if all(place in wanted for place in map(_place, result.results) if place[:depth] == part):
                break
        words.append(" ".join(map(one_line, part)))
    return ", ".join(dict.fromkeys(words))


def _place(record: DeviceResult) -> tuple[str, str, str]:
    return record.device, record.target, record.variant


def _missing(record: DeviceResult) -> list[tuple[str, str]]:
    missing = []
    latency = record.latency_ms
    if record.artifact is None:
        missing.append(("size", record.artifact_reason or _NO_REASON))
    if latency is None:
        missing.append(("latency", record.latency_ms_reason or _NO_REASON))
    else:
        if latency.p50 is None:
            missing.append(("p50", f"{latency.n} runs cannot support it"))
        for name, value, reason in (
            ("p90", latency.p90, latency.p90_reason),
            ("p95", latency.p95, latency.p95_reason),
            ("p99", latency.p99, latency.p99_reason),
        ):
            if value is None:
                missing.append((name, reason or f"{latency.n} runs cannot support it"))
    if record.variant != "float" and record.speedup_p50 is None and latency is not None:
        missing.append(("speed-up", record.speedup_p50_reason or _NO_TWIN))
    if record.accuracy is None:
        missing.append(("accuracy", record.accuracy_reason or _NO_REASON))
    elif record.variant != "float" and record.accuracy_drop_pp is None:
        missing.append(("accuracy drop", record.accuracy_drop_pp_reason or _NO_REASON))
    for name, figure, reason in (
        ("agreement", record.agreement, record.agreement_reason),
        ("peak RSS", record.peak_rss_bytes, record.peak_rss_bytes_reason),
        ("energy", record.energy_mj, record.energy_mj_reason),
    ):
        if figure is None:
            missing.append((name, reason or _NO_REASON))
    return missing


def has_packed(steps: Sequence[StepRecord]) -> bool:
    """Whether anything is known of packed files: older results say nothing of them."""
    return any(step.packed_bytes is not None or step.packed_bytes_reason for step in steps)


def step_reasons(steps: Sequence[StepRecord]) -> tuple[str, ...]:
    """One line for each figure of the recipe's steps that could not be had."""
    by_cause: dict[tuple[str, str], list[str]] = {}
    for step in steps:
        missing: dict[str, list[str]] = {}
        for name, figure, reason in (
            ("size", step.size_bytes, step.size_bytes_reason),
            ("gzip", step.gzip_bytes, step.gzip_bytes_reason),
            *([("packed", step.packed_bytes, step.packed_bytes_reason)] if has_packed(steps) else []),
            ("MACs", step.macs, step.macs_reason),
            ("parameters", step.parameters, step.parameters_reason),
            ("zeros", step.sparsity, step.sparsity_reason),
            ("accuracy", step.accuracy, step.accuracy_reason),
            ("agreement", step.agreement, step.agreement_reason),
        ):
            if figure is None:
                missing.setdefault(one_line(reason or _NO_REASON), []).append(name)
        for reason, names in missing.items():
            by_cause.setdefault((reason, ", ".join(names)), []).append(one_line(step.name))
    return tuple(f"{names} n/a: {reason} ({', '.join(where)})" for (reason, names), where in by_cause.items())
