"""What a judge looks at and what it says: figures of one artifact, and the outcome of one budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgesmith.result import LatencyRecord
from edgesmith.types import Accuracy, Finding, Validity, Verdict

Interval = tuple[float | None, float | None]
"""(low, high); an end is None where the samples are too few to give it."""
Outcome = tuple[Verdict, Finding]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedFigures:
    """What is known of one artifact on one device. None: it could not be had, `*_reason` says why.

    Attributes:
        latency: percentiles in ms with their intervals (`latency.summarise`).
        drop_interval_pp: paired 95 % interval of the drop against the baseline (`accuracy.drop_interval_pp`).
        agreement: 0..1, with the original model.
        size_bytes: of the artifact's file.
        emulated: an emulator ran it: its latency is emulation time.
        fake: a scripted board: its latency is made up, and judged.
    """

    latency: LatencyRecord | None
    accuracy: Accuracy | None
    agreement: float | None
    size_bytes: int
    peak_rss_bytes: int | None
    validity: Validity = Validity.VALID
    validity_reasons: tuple[str, ...] = ()
    emulated: bool = False
    fake: bool = False
    latency_reason: str | None = None
    accuracy_reason: str | None = None
    accuracy_next_step: str = ""
    agreement_reason: str | None = None
    peak_rss_reason: str | None = None
    drop_interval_pp: tuple[float, float] | None = None


Rule = Callable[[str, float, JudgedFigures, JudgedFigures | None], Outcome]
"""(budget key, limit, compressed, baseline) -> outcome."""

NO_BASELINE = "the float model was not measured on this board in this lease"
NEEDS_BASELINE = "Measure the float model in the same run, or set an absolute budget."


def kept(key: str, text: str) -> Outcome:
    """The budget is kept."""
    return Verdict.PASS, Finding(severity="info", code=key, text=f"{text}: kept.")


def broken(key: str, text: str, next_step: str) -> Outcome:
    """The budget is broken."""
    return Verdict.FAIL, Finding(severity="error", code=key, text=f"{text}: broken.", next_step=next_step)


def undecided(key: str, text: str, next_step: str = "") -> Outcome:
    """The budget cannot be judged; `text` says why."""
    return Verdict.INCONCLUSIVE, Finding(severity="warning", code=key, text=text, next_step=next_step)


def interval_text(interval: Interval, show: Callable[[float], str]) -> str:
    """`[low, high]`, a missing end as a question mark."""
    low, high = ("?" if end is None else show(end) for end in interval)
    return f"[{low}, {high}]"
