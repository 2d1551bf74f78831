"""The search for the layers to keep in float: on landscapes of every kind, and over kills."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.sensitivity import Drop
from edgesmith.errors import InfrastructureError
from optimizer.ptq.journal import FILE, Journal
from optimizer.ptq.search import SearchOutcome, search, smallest_prefix
from optimizer.ptq.trials import Keep, Trial

Evaluate = Callable[[Keep], Trial]
PLENTY = 100_000


def trial(pp: float, *, high: float | None = None, db: float = 20.0) -> Trial:
    return Trial(drop=Drop(pp=pp, low=None, high=high, n=100), sqnr_db=db)


def additive(losses: Mapping[str, float]) -> Evaluate:
    """Every layer that is quantized loses its own, whatever the others do."""
    return lambda keep: trial(math.fsum(loss for layer, loss in losses.items() if layer not in keep))


def table(losses: list[float], layers: list[str]) -> Evaluate:
    """Any landscape at all: one figure for each set of layers."""
    return lambda keep: trial(losses[sum(1 << i for i, layer in enumerate(layers) if layer in keep)])


def tried(outcome: SearchOutcome) -> list[Keep]:
    return [keep for keep, _ in outcome.trials]


# ---------------------------------------------------------------- what it finds


def test_nothing_is_kept_where_the_budget_holds_anyway():
    outcome = search(additive({"a": 0.3, "b": 0.2}), ["a", "b"], 0.5)
    assert (outcome.keep, outcome.met, outcome.over_pp, outcome.stopped) == ((), True, 0.0, "finished")
    assert tried(outcome) == [frozenset()]


def test_a_network_without_layers_to_keep_is_judged_as_it_is():
    outcome = search(lambda _keep: trial(2.0), [], 0.5)
    assert (outcome.keep, outcome.met, outcome.over_pp) == ((), False, 1.5)


def test_a_ranking_that_is_wrong_does_not_mislead():
    losses = {"a": 0.1, "b": 0.0, "c": 0.2, "d": 5.0, "e": 0.0, "f": 4.0}
    evaluate = additive(losses)
    plain = smallest_prefix(evaluate, list(losses), 1.0)
    outcome = search(evaluate, list(losses), 1.0)
    assert plain.keep == ("a", "b", "c", "d", "e", "f")
    assert outcome.keep == ("d", "f")
    assert outcome.met


def test_two_layers_that_only_help_together_are_found():
    def evaluate(keep: Keep) -> Trial:
        return trial(0.2 if {"b", "e"} <= keep else 30.0)

    outcome = search(evaluate, list("abcdef"), 1.0)
    assert outcome.keep == ("b", "e")


def test_one_layer_in_place_of_two():
    # Giving back ends at {a, b, d}; adding step by step starts with a, then b: alone, c gains least.
    def evaluate(keep: Keep) -> Trial:
        if {"a", "b", "d"} <= keep or {"c", "d"} <= keep:
            return trial(0.5)
        return trial(6.0 - 0.5 * ("a" in keep) - 0.4 * ("b" in keep) - 0.1 * ("c" in keep) - 0.3 * ("d" in keep))

    outcome = search(evaluate, list("abdc"), 1.0)
    assert outcome.keep == ("d", "c")


def test_of_two_sets_of_one_size_the_cheaper_is_kept():
    def evaluate(keep: Keep) -> Trial:
        return trial(0.0 if "a" in keep or "b" in keep else 5.0)

    assert search(evaluate, ["a", "b", "c"], 1.0, cost={"a": 9.0, "b": 1.0}).keep == ("b",)
    assert search(evaluate, ["a", "b", "c"], 1.0, cost={"a": 1.0, "b": 9.0}).keep == ("a",)


def test_a_dear_layer_is_exchanged_for_a_cheaper_one():
    def evaluate(keep: Keep) -> Trial:
        pairs = sum(bool({one, other} & keep) for one, other in (("a", "b"), ("c", "d")))
        return trial(4.0 - 2.0 * pairs)

    cost = {"a": 5.0, "b": 1.0, "c": 5.0, "d": 1.0}
    assert search(evaluate, list("acbd"), 1.0, cost=cost).keep == ("b", "d")


def test_a_budget_that_cannot_be_met_gives_the_closest_and_by_how_much():
    losses = {"a": 3.0, "b": 2.0}

    def evaluate(keep: Keep) -> Trial:
        return trial(1.5 + sum(loss for layer, loss in losses.items() if layer not in keep))

    outcome = search(evaluate, ["a", "b"], 1.0)
    assert not outcome.met
    assert outcome.keep == ("a", "b")
    assert outcome.over_pp == 0.5
    assert outcome.stopped == "finished"


def test_the_upper_end_of_the_interval_decides_where_one_wants_to_be_sure():
    def evaluate(keep: Keep) -> Trial:
        return trial(0.8 - 0.4 * len(keep), high=1.8 - 0.4 * len(keep))

    assert search(evaluate, ["a", "b", "c"], 1.0).keep == ()
    sure = search(evaluate, ["a", "b", "c"], 1.0, sure=True)
    assert len(sure.keep) == 2
    assert sure.met


def test_equal_drops_are_told_apart_by_sqnr():
    # The metric sees nothing of c and a single one of the pair: SQNR leads the greedy step to b.
    def evaluate(keep: Keep) -> Trial:
        return trial(0.0 if {"b", "d"} <= keep else 9.0, db=20.0 + 3.0 * ("b" in keep) + 2.0 * ("d" in keep))

    assert search(evaluate, list("abcd"), 1.0).keep == ("b", "d")


# ---------------------------------------------------------------- whatever the landscape


@settings(max_examples=150)
@given(
    losses=st.lists(st.floats(0.0, 5.0), min_size=1, max_size=9),
    budget=st.floats(0.0, 8.0),
    chance=st.randoms(use_true_random=False),
)
def test_additive_losses_are_solved_to_the_optimum(losses: list[float], budget: float, chance: random.Random):
    named = {f"layer{i}": loss for i, loss in enumerate(losses)}
    ranked = list(named)
    chance.shuffle(ranked)
    outcome = search(additive(named), ranked, budget, max_trials=PLENTY)
    worst_first = sorted(losses, reverse=True)
    fewest = next(k for k in range(len(losses) + 1) if math.fsum(worst_first[k:]) <= budget)
    assert outcome.met
    assert len(outcome.keep) == fewest


@st.composite
def landscapes(draw: st.DrawFn) -> tuple[list[str], Evaluate]:
    """Any figure for any set; about half of them fall with every layer kept."""
    layers = [f"layer{i}" for i in range(draw(st.integers(1, 5)))]
    losses = [float(draw(st.integers(0, 9))) for _ in range(2 ** len(layers))]
    if draw(st.booleans()):
        for index in range(len(losses)):
            below = [losses[index & ~(1 << bit)] for bit in range(len(layers)) if index >> bit & 1]
            losses[index] = min([losses[index], *below])
    return layers, table(losses, layers)


@settings(max_examples=400)
@given(landscape=landscapes(), budget=st.integers(0, 8), candidates=st.integers(0, 6))
def test_the_set_is_never_larger_than_the_prefix_and_every_layer_of_it_is_needed(
    landscape: tuple[list[str], Evaluate], budget: int, candidates: int
):
    layers, evaluate = landscape
    plain = smallest_prefix(evaluate, layers, budget)
    outcome = search(evaluate, layers, budget, max_trials=PLENTY, candidates=candidates)
    assert outcome.stopped == "finished"
    assert outcome.trial == evaluate(frozenset(outcome.keep))
    if plain.met:
        assert outcome.met
        assert len(outcome.keep) <= len(plain.keep)
    if outcome.met:
        assert outcome.trial.drop.pp <= budget
        for one in outcome.keep:
            assert evaluate(frozenset(outcome.keep) - {one}).drop.pp > budget
    else:
        assert outcome.over_pp == outcome.trial.drop.pp - budget > 0
        assert outcome.trial.drop.pp == min(t.drop.pp for _, t in outcome.trials)


@given(landscape=landscapes(), budget=st.integers(0, 8))
def test_the_plain_prefix_is_the_smallest_there_is(landscape: tuple[list[str], Evaluate], budget: int):
    layers, evaluate = landscape
    holds = [k for k in range(len(layers) + 1) if evaluate(frozenset(layers[:k])).drop.pp <= budget]
    plain = smallest_prefix(evaluate, layers, budget)
    assert plain.met == bool(holds)
    if holds:
        assert plain.keep == tuple(layers[: holds[0]])


@given(landscape=landscapes(), budget=st.integers(0, 8), max_trials=st.integers(1, 12))
def test_the_best_so_far_is_kept_when_trials_run_out(
    landscape: tuple[list[str], Evaluate], budget: int, max_trials: int
):
    layers, evaluate = landscape
    outcome = search(evaluate, layers, budget, max_trials=max_trials)
    assert len(outcome.trials) <= max_trials
    assert len(set(tried(outcome))) == len(outcome.trials)
    holding = [len(keep) for keep, t in outcome.trials if t.drop.pp <= budget]
    assert outcome.met == bool(holding)
    if holding:
        assert len(outcome.keep) == min(holding)
    if outcome.stopped == "trials":
        assert len(outcome.trials) == max_trials


def test_bisection_takes_few_trials():
    layers = [f"layer{i}" for i in range(64)]
    evaluate = additive({layer: 1.0 if i < 20 else 0.0 for i, layer in enumerate(layers)})
    outcome = search(evaluate, layers, 0.5, max_trials=8)
    assert outcome.met
    assert len(outcome.keep) == 20


# ---------------------------------------------------------------- budgets


class Ticking:
    """A clock that a landscape moves on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def taking(self, seconds: float, evaluate: Evaluate) -> Evaluate:
        def measured(keep: Keep) -> Trial:
            self.now += seconds
            return evaluate(keep)

        return measured


def test_no_trial_starts_after_the_deadline():
    clock = Ticking()
    evaluate = clock.taking(10.0, additive({"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}))
    outcome = search(evaluate, list("abcd"), 2.5, deadline_seconds=25.0, journal=Journal(clock=clock))
    assert len(outcome.trials) == 3
    assert outcome.stopped == "time"
    assert outcome.seconds == 30.0
    assert outcome.met


def test_the_first_trial_is_always_made():
    outcome = search(additive({"a": 1.0}), ["a"], 0.5, deadline_seconds=0.0)
    assert len(outcome.trials) == 1
    assert (outcome.met, outcome.stopped, outcome.over_pp) == (False, "time", 0.5)


@pytest.mark.parametrize(
    "wrong",
    [{"layers_ranked": ["a", "a"]}, {"max_trials": 0}, {"budget_pp": math.nan}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_what_cannot_be_searched_is_refused(wrong: dict[str, object]):
    given_values = {"layers_ranked": ["a"], "budget_pp": 1.0, **wrong}
    with pytest.raises(ValueError, match=r"twice|nothing can be searched"):
        search(additive({"a": 1.0}), **given_values)  # type: ignore[arg-type]


def test_a_trial_without_figures_is_refused():
    with pytest.raises(ValueError, match="finite drop"):
        search(lambda _keep: trial(math.nan), ["a"], 1.0)


# ---------------------------------------------------------------- kills


class Killed(BaseException):
    """As SIGTERM: nothing catches it on the way."""


@settings(max_examples=60)
@given(
    landscape=landscapes(),
    budget=st.integers(0, 8),
    max_trials=st.integers(1, 40),
    kills=st.lists(st.integers(0, 6), max_size=4),
)
def test_killed_anywhere_and_resumed_it_ends_the_same_and_repeats_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    landscape: tuple[list[str], Evaluate],
    budget: int,
    max_trials: int,
    kills: list[int],
):
    layers, evaluate = landscape
    whole = search(evaluate, layers, budget, max_trials=max_trials)
    folder = tmp_path_factory.mktemp("journal")
    finished: list[Keep] = []

    def run(until: float) -> SearchOutcome:
        left = itertools.count()

        def measured(keep: Keep) -> Trial:
            if next(left) >= until:
                raise Killed
            finished.append(keep)
            return evaluate(keep)

        return search(measured, layers, budget, max_trials=max_trials, journal=Journal(folder))

    for kill in kills:
        try:
            run(kill)
        except Killed:
            continue
    assert run(math.inf) == whole
    assert sorted(map(sorted, finished)) == sorted(map(sorted, tried(whole)))


def test_a_deadline_counts_the_seconds_before_the_kill(tmp_path: Path):
    losses = {f"layer{i}": float(i % 4) for i in range(8)}
    clock = Ticking()
    evaluate = clock.taking(10.0, additive(losses))
    whole = search(evaluate, list(losses), 2.0, deadline_seconds=95.0, journal=Journal(clock=clock))
    assert whole.stopped == "time"
    calls = 0

    def dying(keep: Keep) -> Trial:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise Killed
        return evaluate(keep)

    with pytest.raises(Killed):
        search(dying, list(losses), 2.0, deadline_seconds=95.0, journal=Journal(tmp_path, clock=clock))
    resumed = search(evaluate, list(losses), 2.0, deadline_seconds=95.0, journal=Journal(tmp_path, clock=clock))
    assert resumed == whole
    assert resumed.seconds == whole.seconds


def test_kill_9_at_a_random_moment(tmp_path: Path):
    program = f"""
import json, pathlib, time
from calibration.sensitivity import Drop
from optimizer.ptq.journal import Journal
from optimizer.ptq.search import search
from optimizer.ptq.trials import Trial
losses = {{f"layer{{i}}": float(i * 7 % 5) for i in range(12)}}
def evaluate(keep):
    with open({str(tmp_path / "made")!r}, "a") as made:
        made.write(",".join(sorted(keep)) + "\\n")
    time.sleep(0.01)
    pp = sum(loss for layer, loss in losses.items() if layer not in keep)
    return Trial(drop=Drop(pp=pp, low=None, high=None, n=9), sqnr_db=20.0)
outcome = search(evaluate, list(losses), 9.0, journal=Journal(pathlib.Path({str(tmp_path)!r})))
print(json.dumps([outcome.keep, [sorted(keep) for keep, _ in outcome.trials]]))
"""
    for moment in np.random.default_rng(4).uniform(0.0, 0.3, size=4):
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
            started = time.monotonic()
            while process.poll() is None and not (tmp_path / "made").exists() and time.monotonic() - started < 60:
                time.sleep(0.01)
            time.sleep(moment)
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
    ended = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True)
    keep, trials = json.loads(ended.stdout)
    losses = {f"layer{i}": float(i * 7 % 5) for i in range(12)}
    whole = search(additive(losses), list(losses), 9.0)
    assert tuple(keep) == whole.keep
    assert trials == [sorted(one) for one in tried(whole)]
    # Started twice was at most what each kill cut short.
    started = (tmp_path / "made").read_text().splitlines()
    assert len(started) <= len(trials) + 4


# ---------------------------------------------------------------- the journal


def test_the_journal_gives_back_what_was_measured(tmp_path: Path):
    journal = Journal(tmp_path, clock=itertools.count(0.0, 0.5).__next__)
    value = {"db": math.inf, "low": -math.inf, "exact": 0.1 + 0.2, "none": None, "text": "a\nb", "n": 3}
    assert journal.measured({"a": 1}, lambda: value) == (value, 0.5)
    again = Journal(tmp_path)
    assert again.measured({"a": 1}, lambda: pytest.fail("measured twice")) == (value, 0.5)
    assert len(again) == 1


def test_what_a_value_depends_on_is_its_key(tmp_path: Path):
    journal = Journal(tmp_path)
    found = [journal.measured({"plan": plan}, lambda plan=plan: {"of": plan})[0]["of"] for plan in ("a", "b", "a")]
    assert found == ["a", "b", "a"]
    assert len(journal) == 2


@pytest.mark.parametrize("context", ["plan", "samples"])
def test_another_plan_or_set_does_not_see_these_trials(tmp_path: Path, context: str):
    first = search(additive({"a": 3.0}), ["a"], 1.0, journal=Journal(tmp_path), about={context: "x"})
    second = search(additive({"a": 0.5}), ["a"], 1.0, journal=Journal(tmp_path), about={context: "y"})
    assert first.keep == ("a",)
    assert second.keep == ()


@given(cut=st.integers(0, 400), junk=st.binary(max_size=5))
def test_a_torn_journal_keeps_its_whole_lines(tmp_path_factory: pytest.TempPathFactory, cut: int, junk: bytes):
    folder = tmp_path_factory.mktemp("journal")
    journal = Journal(folder)
    for number in range(3):
        journal.measured({"number": number}, lambda number=number: {"value": number})
    file = folder / FILE
    whole = file.read_bytes()
    cut = min(cut, len(whole))
    file.write_bytes(whole[:cut] + junk)
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    # A line without its line feed, and nothing torn behind it, is whole as well.
    complete = sum(end <= cut or (end - 1 == cut and not junk.strip(b"\n")) for end in ends)
    torn = Journal(folder)
    assert len(torn) >= complete
    for number in range(3):
        assert torn.measured({"number": number}, lambda number=number: {"value": number})[0] == {"value": number}
    mended = Journal(folder)
    assert len(mended) == 3
    for number in range(3):
        assert mended.measured({"number": number}, lambda: pytest.fail("lost"))[0] == {"value": number}


@pytest.mark.parametrize(
    "line", ["", "[]", "null", '{"key": "a"}', '{"key": "a", "seconds": 1, "value": 3}', "\x00" * 40, '{"key": "a", "s']
)
def test_lines_that_are_no_trial_are_passed_over(tmp_path: Path, line: str):
    Journal(tmp_path).measured({"a": 1}, lambda: {"value": 1})
    file = tmp_path / FILE
    file.write_bytes(line.encode() + b"\n" + file.read_bytes())
    assert len(Journal(tmp_path)) == 1


def test_a_measurement_that_failed_is_not_written_down(tmp_path: Path):
    journal = Journal(tmp_path)

    def broken() -> dict[str, float]:
        raise KeyError("no such tensor")

    with pytest.raises(KeyError):
        journal.measured({"a": 1}, broken)
    with pytest.raises(ValueError, match="JSON compliant"):
        journal.measured({"a": 1}, lambda: {"db": math.nan})
    assert len(Journal(tmp_path)) == 0


def test_a_disk_that_takes_nothing_is_said_so(tmp_path: Path):
    journal = Journal(tmp_path / "journal")
    (tmp_path / "journal").write_text("not a folder")
    with pytest.raises(InfrastructureError, match="could not be written down"):
        journal.measured({"a": 1}, lambda: {"value": 1})
    with pytest.raises(InfrastructureError, match="cannot be read"):
        Journal(tmp_path / "journal")
