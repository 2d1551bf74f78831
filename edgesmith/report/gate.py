"""What became of what was accepted, in words: for every report alike."""

from __future__ import annotations

from collections import Counter

from edgesmith.report.figures import one_line
from edgesmith.result import GateOutcome, GateRecord, Result

RED: frozenset[GateOutcome] = frozenset({"REGRESSION", "NEWLY FAILING"})
LOST: frozenset[GateOutcome] = frozenset({"MISSING"})
UNDECIDED: frozenset[GateOutcome] = frozenset({"INCONCLUSIVE", "ENVIRONMENT CHANGED"})


def word(result: Result) -> str | None:
    """The verdict that the gate forces on a run that met its budgets; None where it forces none."""
    outcomes = {record.outcome for record in result.gate}
    for these, told in ((RED, "FAIL"), (LOST, "ERROR"), (UNDECIDED, "INCONCLUSIVE")):
        if outcomes & these:
            return told
    return None


def sentence(result: Result) -> str:
    """All outcomes with their number, as the gate orders them: what is missing first. Empty where nothing was held."""
    if not result.gate:
        return ""
    tally = Counter(record.outcome for record in result.gate)
    return "Against the baselines: " + ", ".join(f"{count} {outcome.lower()}" for outcome, count in tally.items()) + "."


def where(record: GateRecord) -> str:
    """The pair, for people."""
    return f"{one_line(record.device)} · {one_line(record.target)}"


def texts(record: GateRecord) -> tuple[str, ...]:
    """What decided first, then what else was looked at, then what to do."""
    others = tuple(f"{check.what}: {check.text}" for check in record.checks if check.text != record.text)
    return (record.text, *others, *([record.next_step] if record.next_step else []))
