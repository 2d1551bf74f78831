"""What a result says in words: the verdict, the work done, the findings."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from edgesmith.report import gate
from edgesmith.report.figures import TIMES, byte_size, metric_value, one_line, percent, places
from edgesmith.result import DeviceResult, FindingRecord, RecoveryRecord, Result
from edgesmith.types import Rung, Validity, Verdict

NO_VERDICT = "NO VERDICT"
_WORST_FIRST = (Verdict.FAIL, Verdict.ERROR, Verdict.INCONCLUSIVE, Verdict.PASS)


@dataclass(frozen=True, slots=True)
class Headline:
    """The first thing a reader sees.

    Attributes:
        word: PASS, FAIL, INCONCLUSIVE, ERROR or NO VERDICT.
        sentences: why, in order of weight.
    """

    word: str
    sentences: tuple[str, ...]


def headline(result: Result) -> Headline:
    """The verdict with what decided it."""
    word = NO_VERDICT if result.verdict is None else str(result.verdict.value)
    sentences = []
    if result.state != "finished":
        sentences.append(_sentence(result.verdict_reason) if result.verdict_reason else _STATE[result.state])
    if result.results:
        sentences.append(_tally(result))
    elif result.state == "finished":
        # Counted here where there are rows; the reason on record says the same in fewer words.
        sentences.append(_sentence(result.verdict_reason or "Nothing was measured"))
    if result.gate:
        # A budget that is broken stays the verdict; one that is met is not all that counts.
        word = gate.word(result) or word if result.verdict is Verdict.PASS else word
        sentences.append(gate.sentence(result))
    return Headline(word, tuple(sentences))


_STATE = {
    "running": "The run has not finished: these are the figures so far.",
    "interrupted": "The run was interrupted; what was done is kept, and `edgesmith run --resume` finishes it.",
    "failed": "The run stopped before its end.",
}


def _sentence(text: str) -> str:
    plain = one_line(text)
    return plain[:1].upper() + plain[1:] + ("" if plain.endswith((".", "!", "?")) else ".")


def judged(result: Result) -> tuple[DeviceResult, ...]:
    """The rows that a verdict is about: the compressed artifacts, or all where there is none."""
    compressed = tuple(r for r in result.results if r.variant == "compressed")
    return compressed or result.results


def _tally(result: Result) -> str:
    rows = judged(result)
    tally = Counter(r.verdict for r in rows)
    noun = "compressed artifact" if rows[0].variant == "compressed" else "artifact"
    where = len({r.device for r in rows})
    nouns = f"{noun}{'' if len(rows) == 1 else 's'}"
    devices = f"on {where} device{'' if where == 1 else 's'}"
    has_budget = any(limit is not None for limit in result.budget.values())
    did = {
        Verdict.PASS: "met the budget" if has_budget else "measured well",
        Verdict.FAIL: "broke the budget",
        Verdict.INCONCLUSIVE: "could not be judged",
        Verdict.ERROR: "could not be measured",
    }
    no_budget = "" if has_budget else " No budget was set, so none could be broken."
    if len(tally) == 1:
        all_of_them = f"All {len(rows)}" if len(rows) > 1 else "The"
        return f"{all_of_them} {nouns} {devices} {did[rows[0].verdict]}.{no_budget}"
    parts = []
    for verdict in _WORST_FIRST:
        if tally[verdict]:
            names = [f"{one_line(r.device)} {one_line(r.target)}" for r in rows if r.verdict is verdict]
            listed = f" ({', '.join(names)})" if verdict is not Verdict.PASS and len(names) <= 4 else ""
            parts.append(f"{tally[verdict]} {did[verdict]}{listed}")
    return f"{len(rows)} {nouns} {devices}: {', '.join(parts)}.{no_budget}"


def work_sentence(result: Result) -> str:
    """What this run really did: "no training, no compile, 0 bytes sent: everything was unchanged"."""
    work = result.work
    did = ", ".join(
        (
            f"{work.trained_steps} step{'' if work.trained_steps == 1 else 's'} trained"
            if work.trained_steps
            else "no training",
            f"{work.compiled_artifacts} artifact{'' if work.compiled_artifacts == 1 else 's'} compiled"
            if work.compiled_artifacts
            else "no compile",
            f"{byte_size(work.bytes_sent)} sent" if work.bytes_sent else "0 bytes sent",
            f"{work.measurements} measurement{'' if work.measurements == 1 else 's'} taken"
            if work.measurements
            else "nothing measured anew",
        )
    )
    idle = not (work.trained_steps or work.compiled_artifacts or work.bytes_sent or work.measurements)
    if idle and result.state == "finished" and work.reused:
        return f"{did}: everything was unchanged"
    return f"{did}; reused: {', '.join(map(one_line, work.reused))}" if work.reused else did


AT_LEAST = frozenset({"accuracy_min", "agreement_min"})
"""Budgets that are a floor; all others are a ceiling."""
_TOLD_BY_THE_TABLE = ("reference", "not_judged")
WHAT = {
    "latency_p50_ms": "p50 latency",
    "latency_p95_ms": "p95 latency",
    "latency_p50_ratio": "p50 latency / float",
    "latency_p95_ratio": "p95 latency / float",
    "accuracy_min": "accuracy",
    "accuracy_drop_pp": "accuracy drop",
    "agreement_min": "agreement",
    "size_bytes": "file size",
    "size_ratio": "file size / float",
    "peak_rss_bytes": "peak RSS",
}
"""Budget keys, which are also the codes of the findings about them, in words."""


def requirement(key: str, limit: float, metric: str | None = None) -> str:
    """A budget line in words: "p95 latency ≤ 20 ms". An unknown key is shown as it was written."""
    if key not in WHAT:
        return f"{one_line(key)}: {limit:g}"
    sign = "≥" if key in AT_LEAST else "≤"
    return f"{WHAT[key]} {sign} {_limit(key, limit, metric)}"


def _limit(key: str, limit: float, metric: str | None) -> str:
    if key.endswith("_ms"):
        return f"{limit:g} ms"
    if key.endswith("_bytes"):
        return byte_size(int(limit))
    if key.endswith("_pp"):
        return f"{limit:g} pp"
    if key.endswith("_ratio"):
        return f"{limit:g}{TIMES}"
    if key == "accuracy_min":
        return f"{limit:g}" if metric is None else metric_value(metric, limit)
    return f"{percent(limit, 2)} %" if key == "agreement_min" else f"{limit:g}"


def budget_sentence(result: Result) -> str:
    """Every budget that is set: "p95 latency ≤ 20 ms, accuracy drop ≤ 1 pp"; empty where none is."""
    metric = next((r.accuracy.metric for r in result.results if r.accuracy), None)
    return ", ".join(requirement(key, limit, metric) for key, limit in result.budget.items() if limit is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """A finding with the rows it holds for; the same words about ten boards are said once.

    Attributes:
        where: "pi5-lab tflite compressed, pi4-lab"; empty where it is about the whole run.
    """

    finding: FindingRecord
    where: str


_MAY_BE_JUDGED = (Validity.VALID, Validity.UNKNOWN)
_SEVERITIES = ("error", "warning", "info")
_FindingKey = tuple[Literal["error", "warning", "info"], str, str, str]


def remarks(result: Result) -> tuple[Remark, ...]:
    """Findings, the deciding ones first; what made a measurement invalid is among them.

    A budget that was kept, and that a row is the reference or not judged, is told by the table and left out here.
    """
    found: dict[_FindingKey, list[DeviceResult]] = {}
    for finding in result.findings:
        found.setdefault(_key(finding), [])
    for record in result.results:
        reported = " ".join(one_line(f.text) for f in record.findings)
        severity: Literal["warning", "info"] = "info" if record.validity in _MAY_BE_JUDGED else "warning"
        invalid = [
            FindingRecord(severity=severity, code=f"validity_{record.validity.value.lower()}", text=reason)
            for reason in record.validity_reasons
            if one_line(reason) not in reported
        ]
        told = [f for f in record.findings if not (f.severity == "info" and f.code in (*WHAT, *_TOLD_BY_THE_TABLE))]
        for finding in (*told, *invalid):
            found.setdefault(_key(finding), []).append(record)
    all_remarks = [
        Remark(
            finding=FindingRecord(severity=key[0], code=key[1], text=key[2], next_step=key[3]),
            where=places(rows, result),
        )
        for key, rows in found.items()
    ]
    all_remarks += _recovery_remarks(result)
    return tuple(sorted(all_remarks, key=lambda r: _SEVERITIES.index(r.finding.severity)))


def _recovery_remarks(result: Result) -> list[Remark]:
    """One for each board that failed: what was done about it, and whether it helped."""
    by_device: dict[str, list[RecoveryRecord]] = {}
    for step in result.recovery:
        by_device.setdefault(step.device, []).append(step)
    found = []
    for device, steps in by_device.items():
        quarantined = any(step.rung is Rung.QUARANTINE for step in steps)
        done = [f"{step.rung.value} {step.outcome}" for step in steps if _was_done(step)]
        text = f"The board failed: {steps[0].reason}" + (f" Done about it: {', '.join(done)}." if done else "")
        finding = FindingRecord(
            severity="warning",
            code="quarantined" if quarantined else "recovered",
            text=one_line(text + (" It is quarantined now." if quarantined else "")),
            next_step=f"When it is mended: `edgesmith devices health {device}`." if quarantined else "",
        )
        found.append(Remark(finding=finding, where=one_line(device)))
    return found


def _was_done(step: RecoveryRecord) -> bool:
    return step.rung is not Rung.QUARANTINE and not step.outcome.startswith("not possible")


def _key(finding: FindingRecord) -> _FindingKey:
    return finding.severity, finding.code, one_line(finding.text), one_line(finding.next_step)


def alarms(result: Result) -> tuple[str, ...]:
    """What a report must say in red, one sentence each; empty where samples and boards are real."""
    texts = (_fake_warning(result), _stand_in_warning(result), _synthetic_warning(result))
    return tuple(text for text in texts if text)


def _fake_warning(result: Result) -> str:
    boards = list(dict.fromkeys(one_line(r.device) for r in result.results if r.fake and not is_stand_in(r)))
    if not boards:
        return ""
    is_one = len(boards) == 1
    return (
        f"FAKE: scripted figures. {', '.join(boards)} {'is no board' if is_one else 'are no boards'}: the latency and "
        "the sensors come from a script. They try a gate out and say nothing about a model."
    )


def is_stand_in(record: DeviceResult) -> bool:
    """Whether a row was run by a stand-in for its runtime."""
    return record.engine is not None and record.engine.fake


def _stand_in_warning(result: Result) -> str:
    boards = list(dict.fromkeys(one_line(r.device) for r in result.results if is_stand_in(r)))
    if not boards:
        return ""
    return (
        f"FAKE: {', '.join(boards)}: what ran there is a stand-in for TensorRT, on a CPU. It tries out the way to a "
        "Jetson; its latency and power say nothing about one."
    )


def _synthetic_warning(result: Result) -> str:
    made_up = [d for d in result.data if d.synthetic]
    if not made_up:
        return ""
    roles = " and ".join(d.role for d in made_up)
    consequence = (
        "the ranges of the quantized model are made up, and its accuracy may be far below what real samples give."
        if any(d.role == "calibration" for d in made_up)
        else "figures that rest on it say nothing about real use."
    )
    return f"SYNTHETIC {roles} data: {consequence} Do not ship this model."
