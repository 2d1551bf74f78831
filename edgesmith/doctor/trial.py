"""What the self-test finds: one record for each trial, and what it came to."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from edgesmith.types import Engine, Measurement


class Outcome(enum.StrEnum):
    """What came of a trial."""

    OK = "ok"
    FAILED = "FAILED"
    SKIPPED = "--"
    """Not tried, or not to be judged; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial:
    """One thing that was tried on a board.

    Attributes:
        text: what was found, for people.
        next_step: what to do about a failure.
        seconds: that it took.
        largest_error: of all answers, as a share of the largest expected value; None where nothing was compared, or
            where an answer is no number.
        tolerance: for that.
        same_class: share of the samples whose largest answer is the expected one.
        engine: where one was built or found without being measured.
    """

    name: str
    outcome: Outcome
    text: str
    next_step: str = ""
    seconds: float = 0.0
    largest_error: float | None = None
    tolerance: float | None = None
    same_class: float | None = None
    measurement: Measurement | None = None
    engine: Engine | None = None

    def as_dict(self) -> dict[str, Any]:
        """For --json and the bundle; raw samples are left out."""
        engine = self.measurement.engine if self.measurement is not None else self.engine
        return {
            "name": self.name,
            "outcome": str(self.outcome),
            "text": self.text,
            "next_step": self.next_step or None,
            "seconds": round(self.seconds, 1),
            "largest_error": self.largest_error,
            "tolerance": self.tolerance,
            "same_class": self.same_class,
            "engine": None if engine is None else asdict(engine),
            "measured": None if self.measurement is None else _measured(self.measurement),
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SelfTest:
    """The trials of one board, in order.

    Attributes:
        fake: a scripted board, or a stand-in for one of its runtimes: nothing here says anything of a real one.
        emulated: its latency is emulation time.
        log: the last lines of the agent's stderr.
        files: name -> content of what was fetched from the board: build logs, engines' layers.
    """

    trials: tuple[Trial, ...]
    fake: bool = False
    emulated: bool = False
    log: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Nothing that was tried failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the trials that did."""
        return tuple(trial.name for trial in self.trials if trial.outcome is Outcome.FAILED)

    def as_dict(self) -> dict[str, Any]:
        """For --json and the bundle."""
        return {
            "ok": self.ok,
            "fake": self.fake,
            "emulated": self.emulated,
            "trials": [trial.as_dict() for trial in self.trials],
        }

    def verdict(self) -> str:
        """In one line."""
        marks = "".join(f"{mark}: " for mark, so in (("FAKE", self.fake), ("EMULATED", self.emulated)) if so)
        done = [trial for trial in self.trials if trial.outcome is not Outcome.SKIPPED]
        if not done:
            return f"{marks}nothing could be tried"
        if self.failed:
            return f"{marks}{len(self.failed)} of {len(done)} trials FAILED: {', '.join(self.failed)}"
        return f"{marks}all {len(done)} trials passed"


def _measured(taken: Measurement) -> dict[str, Any]:
    import numpy as np

    p50, p95 = np.percentile(taken.samples_ns, [50, 95]) / 1e6
    return {
        "runner": taken.runner,
        "latency_ms": {"p50": float(p50), "p95": float(p95), "n": len(taken.samples_ns)},
        "timer_overhead_ns": taken.timer_overhead_ns,
        "peak_rss_bytes": taken.peak_rss_bytes,
        "validity": str(taken.validity),
        "validity_reasons": list(taken.validity_reasons),
        "environment_before": asdict(taken.environment_before),
        "environment_after": asdict(taken.environment_after),
        "power": None if taken.power is None else asdict(taken.power),
        "outputs_sha256": taken.outputs_sha256,
        "outputs": _answers(taken),
    }


def _answers(taken: Measurement) -> list[Any] | None:
    """As they came; texts in place of what is no number, which JSON does not have."""
    import numpy as np

    if taken.outputs is None:
        return None
    return [(one if np.isfinite(one).all() else one.astype(str)).tolist() for one in taken.outputs]
