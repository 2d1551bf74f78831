"""The smallest set of layers to keep in float so that a quantized network meets its accuracy budget.

The usual way is to quantize one layer at a time, sort, and keep the k most sensitive (Wu et al. 2020, "Integer
quantization for deep learning inference", section 5.1, "partial quantization"). That is where this search starts, not
where it ends: layers hide or magnify each other's noise, and the task may not care for a layer that SQNR puts first.
So, one after the other, as long as trials and time last:

    1. none and all of the layers kept: is there anything to do, and can it be done
    2. bisection over the length of the ranking's prefix
    3. each layer of the set given back, most costly first, for as long as the budget holds
    4. single layers ranked again by what keeping each really gains; bisection over that ranking
    5. greedy: the layer that gains most beside those chosen before, step by step
    6. exchange: two layers for one, and one for a cheaper one
    7. every shorter prefix of the ranking that bisection jumped over

Where steps 1 to 7 end by themselves, the set is not larger than the smallest prefix that meets the budget, and none of
its layers can be given back alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgesmith.progress import Progress, Silent
from optimizer.ptq.journal import Journal
from optimizer.ptq.trials import Keep, OutOfBudget, Stopped, Trial, Trials

_EXCHANGES = 32
"""Exchanges that are tried before a set is taken as it is; the most promising first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOutcome:
    """What the search found.

    Attributes:
        keep: the layers to keep, most sensitive first.
        met: whether the budget holds with them; where not, they are the set that comes closest.
        trial: what was measured with them.
        over_pp: by how much the budget is missed; 0 where it is met.
        trials: every set that was tried, in order.
        stopped: "finished", or what ran out.
        seconds: that all trials took, when each was measured.
    """

    keep: tuple[str, ...]
    met: bool
    trial: Trial
    over_pp: float
    trials: tuple[tuple[Keep, Trial], ...]
    stopped: Stopped
    seconds: float = field(compare=False)

    def trial_of(self, keep: Iterable[str]) -> Trial | None:
        """What was measured with exactly these layers kept; None where that was not tried."""
        wanted = frozenset(keep)
        return next((trial for tried, trial in self.trials if tried == wanted), None)


def search(
    evaluate: Callable[[Keep], Trial],
    layers_ranked: Sequence[str],
    budget_pp: float,
    *,
    max_trials: int = 200,
    deadline_seconds: float = math.inf,
    journal: Journal | None = None,
    about: Mapping[str, Any] | None = None,
    cost: Mapping[str, float] | None = None,
    candidates: int = 16,
    sure: bool = False,
    progress: Progress | None = None,
) -> SearchOutcome:
    """Finds the layers to keep; see the module's text for how.

    The same trials give the same outcome: a search that was killed and is started again with its journal repeats no
    finished trial, decides what it decided before, and ends where it would have ended. Time is therefore the seconds
    that the trials took when they were measured, not that of this process. (Where the time runs out, a trial that is
    measured for the first time after the kill may take longer or shorter than it would have, and the cut moves.)

    Args:
        evaluate: measures the network with these layers kept and all others quantized. Depends on nothing else.
        layers_ranked: the layers that may be kept, most sensitive first, each once.
        budget_pp: largest drop that is accepted.
        max_trials: at least 1; those found in the journal count as well.
        deadline_seconds: no trial is started once the trials took this long together. The first is always made.
        journal: of finished trials; None: in memory.
        about: what `evaluate` depends on beside the layers: hashes of the plan, the settings, the samples.
        cost: price of keeping a layer, in any one unit (latency measured on the board, or MACs); decides between sets
            of the same size. Layers without a price cost 0.
        candidates: this many of the most sensitive layers are measured one by one in steps 4 to 6.
        sure: the upper end of the drop's interval must hold the budget, not only the drop that was seen.
        progress: one task, a step for each trial.

    Raises:
        ValueError: a layer twice, no trials allowed, or a budget that is no number.
        InfrastructureError: the journal cannot be written.
    """
    if len(set(layers_ranked)) != len(layers_ranked):
        raise ValueError("a layer is ranked twice")
    if max_trials < 1 or math.isnan(budget_pp):
        raise ValueError(f"nothing can be searched with {max_trials} trials and a budget of {budget_pp}")
    with (progress or Silent()).task("search float layers", max_trials) as task:

        def told(keep: Keep, trial: Trial) -> None:
            task.advance(note=f"{len(keep)} in float: {trial.drop.pp:.2f} pp")

        return _Search(
            Trials(
                evaluate,
                budget_pp,
                max_trials=max_trials,
                deadline_seconds=deadline_seconds,
                journal=Journal() if journal is None else journal,
                about={} if about is None else about,
                sure=sure,
                told=told,
            ),
            tuple(layers_ranked),
            {} if cost is None else cost,
            candidates,
        ).run()


def smallest_prefix(
    evaluate: Callable[[Keep], Trial], layers_ranked: Sequence[str], budget_pp: float, **options: Any
) -> SearchOutcome:
    """Keeps the k first of a ranking, for the smallest k that meets the budget: what this search is compared with.

    Args:
        evaluate, layers_ranked, budget_pp: as for `search`.
        options: `max_trials`, `deadline_seconds`, `journal`, `about` and `sure` of `search`.
    """
    everything = {
        "max_trials": len(layers_ranked) + 1,
        "deadline_seconds": math.inf,
        "journal": Journal(),
        "about": {},
        "sure": False,
        "told": lambda _keep, _trial: None,
        **options,
    }
    trials = Trials(evaluate, budget_pp, **everything)
    return _Search(trials, tuple(layers_ranked), {}, 0).run_prefixes()


class _Search:
    """The steps, and which of two sets is better."""

    def __init__(self, trials: Trials, ranked: tuple[str, ...], cost: Mapping[str, float], candidates: int) -> None:
        self._trials = trials
        self._ranked = ranked
        self._place = {layer: place for place, layer in enumerate(ranked)}
        self._cost = cost
        self._candidates = candidates

    def run(self) -> SearchOutcome:
        return self._until_out(self._steps)

    def run_prefixes(self) -> SearchOutcome:
        return self._until_out(self._shorter_prefixes)

    def _until_out(self, steps: Callable[[], None]) -> SearchOutcome:
        stopped: Stopped = "finished"
        try:
            steps()
        except OutOfBudget as out:
            stopped = out.what
        keep, trial = self._best()
        over = self._trials.counted(trial) - self._trials.budget_pp
        return SearchOutcome(
            keep=self._sorted(keep),
            met=over <= 0.0,
            trial=trial,
            over_pp=max(0.0, over),
            trials=tuple(self._trials.made.items()),
            stopped=stopped,
            seconds=self._trials.seconds,
        )

    def _steps(self) -> None:
        if self._trials.meets(()) or not self._ranked:
            return
        if not self._trials.meets(self._ranked):
            # No prefix is known to hold; one in between may, where layers help each other by chance.
            self._shorter_prefixes()
            if not self._is_met():
                return
        else:
            self._bisect(self._ranked, 0, len(self._ranked))
        self._give_back()
        pool = self._pool()
        if self._size() == 1:
            self._cheaper_single(pool)
            return
        by_gain = sorted(pool, key=lambda layer: self._merit((layer,)))
        self._bisect(by_gain, 0, min(len(by_gain), self._size() - 1))
        self._give_back()
        self._greedy(pool)
        self._give_back()
        while self._exchange(pool):
            self._give_back()
        self._shorter_prefixes()
        self._give_back()

    def _bisect(self, order: Sequence[str], fails: int, holds: int) -> None:
        """Narrows down the shortest prefix of `order` that meets the budget: `fails` layers do not, `holds` may."""
        if holds <= fails or not self._trials.meets(order[:holds]):
            return
        while holds - fails > 1:
            middle = (fails + holds) // 2
            if self._trials.meets(order[:middle]):
                holds = middle
            else:
                fails = middle

    def _give_back(self) -> None:
        """Drops layers of the best set one at a time until each is needed: most costly first, then least sensitive."""
        if not self._is_met():
            return
        keep, _ = self._best()
        left = True
        while left:
            left = False
            for layer in sorted(keep, key=lambda layer: (-self._price((layer,)), -self._place[layer])):
                if self._trials.meets(keep - {layer}):
                    keep -= {layer}
                    left = True

    def _pool(self) -> tuple[str, ...]:
        """The layers worth measuring one by one: the most sensitive, and those of the best set."""
        keep, _ = self._best()
        wanted = {*self._ranked[: self._candidates], *(keep if self._is_met() else ())}
        return self._sorted(wanted)

    def _greedy(self, pool: Sequence[str]) -> None:
        """Adds the layer that gains most, again and again, as long as a smaller set than the best may come of it."""
        keep: Keep = frozenset()
        while len(keep) + 1 < self._size():
            beside = [keep | {layer} for layer in pool if layer not in keep]
            if not beside:
                return
            keep = min(beside, key=self._merit)
            if self._trials.meets(keep):
                return

    def _cheaper_single(self, pool: Sequence[str]) -> None:
        for layer in pool:
            if self._price((layer,)) < self._price(self._best()[0]):
                self._trials((layer,))

    def _exchange(self, pool: Sequence[str]) -> bool:
        """Tries sets that have one layer for two of the best set, or one for a dearer one; whether one was better.

        Those come first that would lose least if gains just added up.
        """
        best, _ = self._best()
        lost = {keep: self._trials.counted(trial) for keep, trial in self._trials.made.items()}
        gain = {layer: lost[frozenset()] - lost.get(frozenset((layer,)), lost[frozenset()]) for layer in pool}
        loss = {layer: lost.get(best - {layer}, lost[best]) - lost[best] for layer in best}
        guesses = sorted(
            (sum(loss[layer] for layer in out) - gain[into], -len(out), number, (best - set(out)) | {into})
            for number, (out, into) in enumerate(self._exchanges(best, pool))
        )
        for *_, keep in guesses[:_EXCHANGES]:
            self._trials(keep)
            if self._best()[0] != best:
                return True
        return False

    def _exchanges(self, best: Keep, pool: Sequence[str]) -> Iterator[tuple[tuple[str, ...], str]]:
        members = self._sorted(best)
        for into in pool:
            if into in best:
                continue
            yield from ((pair, into) for pair in itertools.combinations(members, 2))
            yield from (((one,), into) for one in members if self._price((into,)) < self._price((one,)))

    def _shorter_prefixes(self) -> None:
        """Measures every prefix of the ranking that is shorter than the best set, shortest first."""
        for length in range(len(self._ranked) + 1):
            if length >= self._size() or self._trials.meets(self._ranked[:length]):
                return

    def _merit(self, keep: Iterable[str]) -> tuple[float, float, float, list[int]]:
        """Smaller is better, of sets of one size."""
        layers = frozenset(keep)
        trial = self._trials(layers)
        places = sorted(self._place[layer] for layer in layers)
        return self._trials.counted(trial), -trial.sqnr_db, self._price(layers), places

    def _best(self) -> tuple[Keep, Trial]:
        """Of all sets tried: fewest layers, then cheapest, of those that meet the budget; else the least drop."""

        def order(keep: Keep) -> tuple[bool, float, float, tuple[Any, ...]]:
            merit = self._merit(keep)
            if merit[0] <= self._trials.budget_pp:
                return False, len(keep), self._price(keep), merit
            return True, merit[0], len(keep), merit

        best = min(self._trials.made, key=order)
        return best, self._trials.made[best]

    def _is_met(self) -> bool:
        return self._trials.counted(self._best()[1]) <= self._trials.budget_pp

    def _size(self) -> int:
        """Of the best set; one more than there are layers where nothing meets the budget yet."""
        if not self._trials.made or not self._is_met():
            return len(self._ranked) + 1
        return len(self._best()[0])

    def _price(self, layers: Iterable[str]) -> float:
        # fsum: the same sum in whatever order a set gives its layers.
        return math.fsum(self._cost.get(layer, 0.0) for layer in layers)

    def _sorted(self, layers: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(layers, key=self._place.__getitem__))
