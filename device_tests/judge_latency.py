"""Latency budgets: decided by the interval of the percentile, not by its point.

* Wholly at or below the limit passes, wholly above fails, a limit inside is INCONCLUSIVE: the same artifact does not
  pass today and fail tomorrow.
* A ratio runs from compressed.low / baseline.high to compressed.high / baseline.low. Both intervals hold at once with
  at least 90 % (two times 5 % spared), and in practice far above 95 %, since both have to miss in opposite directions
  for the ratio to miss.
* Not judged on an emulated board, nor where the measurement was throttled, noisy or busy: INCONCLUSIVE. UNKNOWN
  validity (the board has no sensor that could tell) is judged, and the text says so.
"""

from __future__ import annotations

import math
from typing import Literal

from device_tests.outcome import (
    NEEDS_BASELINE,
    NO_BASELINE,
    Interval,
    JudgedFigures,
    Outcome,
    broken,
    interval_text,
    kept,
    undecided,
)
from edgesmith.types import Validity

_MOST_RUNS_ADVISED = 100_000
_TOO_SLOW = (
    "Structured pruning, int8 and a smaller input make a model faster, zeros alone do not; else raise the budget."
)


def latency(key: str, limit: float, compressed: JudgedFigures, baseline: JudgedFigures | None) -> Outcome:
    """Judges latency_p50_ms or latency_p95_ms."""
    del baseline
    name = _percentile_of(key)
    if reason := why_not_judged(compressed, name, "latency"):
        return undecided(key, f"{name} latency is not judged: {reason}.", _remedy(compressed))
    value, interval = _figures(compressed, name)
    shown = (
        f"{name} latency is {_ms(value)} ms {interval_text(interval, _ms)}, limit {_ms(limit)} ms{_unsure(compressed)}"
    )
    return _by_interval(key, value, interval, limit, shown, _runs(compressed))


def latency_ratio(key: str, limit: float, compressed: JudgedFigures, baseline: JudgedFigures | None) -> Outcome:
    """Judges latency_p50_ratio or latency_p95_ratio."""
    name = _percentile_of(key)
    if baseline is None:
        return undecided(key, f"{name} latency ratio is not judged: {NO_BASELINE}.", NEEDS_BASELINE)
    for figures, who in ((compressed, "latency"), (baseline, "the float model's latency")):
        if reason := why_not_judged(figures, name, who):
            return undecided(key, f"{name} latency ratio is not judged: {reason}.", _remedy(figures))
    value, (low, high) = _figures(compressed, name)
    base, (base_low, base_high) = _figures(baseline, name)
    if base <= 0.0:
        return undecided(key, f"{name} latency ratio is not judged: the float model's {name} is {_ms(base)} ms.")
    interval = (
        None if low is None or not base_high else low / base_high,
        None if high is None or not base_low else high / base_low,
    )
    shown = (
        f"{name} latency is {value / base:.3f} of the float model's {interval_text(interval, _plain)} "
        f"({_ms(value)} ms against {_ms(base)} ms), limit {limit:g}{_unsure(compressed)}"
    )
    return _by_interval(key, value / base, interval, limit, shown, min(_runs(compressed), _runs(baseline)))


def _by_interval(key: str, value: float, interval: Interval, limit: float, shown: str, runs: int) -> Outcome:
    low, high = interval
    if low is not None and low > limit:
        return broken(key, shown, _TOO_SLOW)
    if high is not None and high <= limit:
        return kept(key, shown)
    return undecided(key, f"{shown}: the limit lies inside the interval.", _more_runs(value, interval, limit, runs))


def _more_runs(value: float, interval: Interval, limit: float, runs: int) -> str:
    """How many runs would settle it: an interval shrinks with the square root of their number."""
    edge = interval[1] if value <= limit else interval[0]
    gap = abs(value - limit)
    if edge is None:
        return f"Raise measure.min_runs (now {runs} runs): too few for that end of the interval."
    need = runs * (abs(edge - value) / gap) ** 2 * 1.2 if gap > 0.0 else math.inf
    if need <= _MOST_RUNS_ADVISED:
        advised = math.ceil(round(need / 100, 6)) * 100
        return f"Raise measure.min_runs: about {advised:,} runs should settle it (there are {runs})."
    return (
        f"The latency is too near the limit for measure.min_runs to settle (there are {runs} runs): leave more room "
        "in the budget."
    )


def why_not_judged(figures: JudgedFigures, name: Literal["p50", "p95"], what: str) -> str | None:
    """Why nothing may be said of a percentile; None where it may.

    Args:
        figures: of the artifact.
        name: the percentile.
        what: words for its latency.
    """
    if figures.emulated:
        return "the board is emulated"
    if figures.validity not in (Validity.VALID, Validity.UNKNOWN):
        reasons = "; ".join(figures.validity_reasons) or "no reason given"
        return f"{what} was measured while {figures.validity.value} ({reasons})"
    if figures.latency is None:
        return f"no {what}: {figures.latency_reason or 'it was not measured'}"
    if getattr(figures.latency, name) is None:
        return getattr(figures.latency, f"{name}_reason") or f"no {name}"
    return None


def _remedy(figures: JudgedFigures) -> str:
    if figures.emulated:
        return "Judge latency on a real board."
    return {
        Validity.THROTTLED: "Cool the board or give it a stronger supply, then measure again.",
        Validity.NOISY: "Fix the CPU governor, stop other work on the board, or raise measure.min_runs.",
        Validity.BUSY: "Stop other work on the board, then measure again.",
    }.get(figures.validity, "Raise measure.min_runs.")


def _figures(figures: JudgedFigures, name: Literal["p50", "p95"]) -> tuple[float, Interval]:
    """Value and interval; only after `why_not_judged` said there is one."""
    record = figures.latency
    value = None if record is None else getattr(record, name)
    if record is None or value is None:
        raise ValueError(f"there is no {name}")
    return value, (getattr(record, f"{name}_low"), getattr(record, f"{name}_high"))


def _percentile_of(key: str) -> Literal["p50", "p95"]:
    return "p50" if "_p50_" in key else "p95"


def _runs(figures: JudgedFigures) -> int:
    return 0 if figures.latency is None else figures.latency.n


def _unsure(figures: JudgedFigures) -> str:
    return "" if figures.validity is Validity.VALID else " (the board has no sensor to rule out throttling)"


def _ms(value: float) -> str:
    return f"{value:.4g}"


def _plain(value: float) -> str:
    return f"{value:.3f}"
