"""How each line of the budget was met by each compressed artifact, as the judge found it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgesmith.report.figures import (
    NA,
    byte_size,
    factor,
    float_twin,
    metric_value,
    milliseconds,
    percent,
    points,
    significant,
)
from edgesmith.report.statement import AT_LEAST, requirement
from edgesmith.result import DeviceResult, FindingRecord, Result
from edgesmith.types import Verdict

Outcome = Literal["met", "broken", "not judged", "not measured"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the budget for one artifact.

    Attributes:
        key: as in the config.
        requirement: "p95 latency ≤ 20 ms".
        measured: the figure it is held against, with its unit.
        outcome: what became of it; only the judge's own finding makes it "broken".
        finding: the judge's words; None where it said nothing.
    """

    record: DeviceResult
    key: str
    requirement: str
    measured: str
    outcome: Outcome
    finding: FindingRecord | None


def checks(record: DeviceResult, result: Result) -> tuple[Check, ...]:
    """Each set budget against one artifact. One that is only the reference, or uniform, is held against none."""
    if record.variant == "uniform":
        return ()
    if record.variant == "float" and not any(finding.code in result.budget for finding in record.findings):
        return ()
    return tuple(_check(record, key, limit, result) for key, limit in result.budget.items() if limit is not None)


def _check(record: DeviceResult, key: str, limit: float, result: Result) -> Check:
    value = budget_value(record, key, result)
    finding = _decisive(record, key)
    return Check(
        record=record,
        key=key,
        requirement=requirement(key, limit, record.accuracy.metric if record.accuracy else None),
        measured=NA if value is None else _shown(key, value, record),
        outcome=_outcome(record, key, value, limit, finding),
        finding=finding,
    )


# What the judge says about a budget key: see device_tests/judge.py.
_JUDGED: dict[str, Outcome] = {"error": "broken", "warning": "not judged", "info": "met"}


def _decisive(record: DeviceResult, key: str) -> FindingRecord | None:
    found = [f for f in record.findings if f.code == key]
    return next((f for f in found if f.severity == "error"), found[0] if found else None)


def _outcome(
    record: DeviceResult, key: str, value: float | None, limit: float, finding: FindingRecord | None
) -> Outcome:
    if record.verdict is Verdict.ERROR:
        return "not measured"
    if finding is not None:
        return _JUDGED[finding.severity]
    if value is None:
        return "not measured"
    if key.startswith("latency"):
        return "not judged"
    # The judge said nothing of this key. A bare figure may show that it was met, but breaks no budget by itself.
    inside = value >= limit if key in AT_LEAST else value <= limit
    return "met" if inside else "not judged"


def _shown(key: str, value: float, record: DeviceResult) -> str:
    if key.endswith("_ms"):
        return f"{milliseconds(value)} ms"
    if key.endswith("_bytes"):
        return byte_size(int(value))
    if key.endswith("_pp"):
        return f"{points(value)} pp"
    if key.endswith("_ratio"):
        return factor(value)
    if key == "accuracy_min" and record.accuracy is not None:
        return metric_value(record.accuracy.metric, value)
    return f"{percent(value, 2)} %" if key == "agreement_min" else significant(value)


def budget_value(record: DeviceResult, key: str, result: Result) -> float | None:
    """The figure that a budget key is held against; None where it was not measured or the key is not known.

    A ratio is against the float artifact of the same target on the same device.
    """
    if key.endswith("_ratio"):
        twin = float_twin(record, result)
        mine = _absolute(record, key.removesuffix("_ratio"))
        theirs = _absolute(twin, key.removesuffix("_ratio")) if twin else None
        return None if mine is None or not theirs else mine / theirs
    return _absolute(record, key.removesuffix("_ms").removesuffix("_bytes"))


def _absolute(record: DeviceResult, key: str) -> float | None:
    latency, accuracy, artifact = record.latency_ms, record.accuracy, record.artifact
    return {
        "latency_p50": latency.p50 if latency else None,
        "latency_p95": latency.p95 if latency else None,
        "accuracy_min": accuracy.value if accuracy else None,
        "accuracy_drop_pp": record.accuracy_drop_pp,
        "agreement_min": record.agreement,
        "size": artifact.size_bytes if artifact else None,
        "peak_rss": record.peak_rss_bytes,
    }.get(key)
