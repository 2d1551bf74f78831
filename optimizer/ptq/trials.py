"""Sets of layers that are kept in float, measured each once, until trials or time run out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from calibration.sensitivity import Drop
from optimizer.ptq.journal import Journal, Value

Keep = frozenset[str]
Stopped = Literal["finished", "trials", "time"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What was measured with some layers kept.

    Attributes:
        drop: task metric lost against the float network.
        sqnr_db: of the outputs; decides between sets that lose the same.
        correct: which samples were right, `calibration.sensitivity.pack`; empty where the metric cannot say.
    """

    drop: Drop
    sqnr_db: float
    correct: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.drop.pp) or math.isnan(self.sqnr_db):
            raise ValueError(f"a trial needs a finite drop and an SQNR: {self.drop.pp}, {self.sqnr_db}")


class OutOfBudget(Exception):
    """One trial more would be one too many.

    Attributes:
        what: ran out.
    """

    def __init__(self, what: Stopped) -> None:
        super().__init__(what)
        self.what = what


class Trials:
    """Measures sets of layers, each once, until trials or time run out."""

    def __init__(
        self,
        evaluate: Callable[[Keep], Trial],
        budget_pp: float,
        *,
        max_trials: int,
        deadline_seconds: float,
        journal: Journal,
        about: Mapping[str, Any],
        sure: bool,
        told: Callable[[Keep, Trial], None],
    ) -> None:
        self._evaluate = evaluate
        self._max_trials = max_trials
        self._deadline_seconds = deadline_seconds
        self._journal = journal
        self._about = about
        self._sure = sure
        self._told = told
        self.budget_pp = budget_pp
        self.made: dict[Keep, Trial] = {}
        self.seconds = 0.0

    def __call__(self, keep: Iterable[str]) -> Trial:
        """The trial of these layers.

        Raises:
            OutOfBudget: it would be one too many.
        """
        wanted = frozenset(keep)
        if wanted in self.made:
            return self.made[wanted]
        if len(self.made) >= self._max_trials:
            raise OutOfBudget("trials")
        if self.made and self.seconds >= self._deadline_seconds:
            raise OutOfBudget("time")
        about = {"what": "trial", "keep": sorted(wanted), **self._about}
        value, seconds = self._journal.measured(about, lambda: _to_value(self._evaluate(wanted)))
        trial = _from_value(value)
        self.seconds += seconds
        self.made[wanted] = trial
        self._told(wanted, trial)
        return trial

    def counted(self, trial: Trial) -> float:
        """The drop that is held against the budget."""
        return trial.drop.high if self._sure and trial.drop.high is not None else trial.drop.pp

    def meets(self, keep: Iterable[str]) -> bool:
        """Whether the budget holds with these layers kept."""
        return self.counted(self(keep)) <= self.budget_pp


def _to_value(trial: Trial) -> Value:
    drop = trial.drop
    return {
        "pp": drop.pp,
        "low": drop.low,
        "high": drop.high,
        "n": drop.n,
        "sqnr_db": trial.sqnr_db,
        "correct": trial.correct,
    }


def _from_value(value: Value) -> Trial:
    return Trial(
        drop=Drop(pp=value["pp"], low=value["low"], high=value["high"], n=value["n"]),
        sqnr_db=value["sqnr_db"],
        correct=value["correct"],
    )
