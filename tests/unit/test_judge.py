"""Every budget: kept, broken, not judged; and how they add up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_tests.judge import _RULES, JudgedFigures, judge
from edgesmith.config import Budget
from edgesmith.result import LatencyRecord
from edgesmith.types import Accuracy, Validity, Verdict


def latency(p50: float = 5.0, p95: float = 8.0, half: float = 0.5, n: int = 200, **fields: Any):
    values = {
        "p50": p50, "p50_low": p50 - half, "p50_high": p50 + half,
        "p95": p95, "p95_low": p95 - half, "p95_high": p95 + half,
        "p90": None, "p99": None, "n": n,
    } | fields  # fmt: skip
    return LatencyRecord(**values)


def accuracy(value: float, n: int = 1000, metric: str = "top1", better: bool = True, **interval: float | None):
    ends = {"low": value - 0.02, "high": value + 0.02} | interval
    return Accuracy(metric=metric, value=value, n=n, higher_is_better=better, **ends)


COMPRESSED = JudgedFigures(
    latency=latency(),
    accuracy=accuracy(0.90),
    agreement=0.97,
    size_bytes=30_000,
    peak_rss_bytes=50_000_000,
    drop_interval_pp=(0.2, 1.8),
)
BASELINE = replace(COMPRESSED, latency=latency(p50=10.0, p95=16.0), accuracy=accuracy(0.91), size_bytes=100_000)


def verdict(
    budget: dict[str, float], compressed: JudgedFigures = COMPRESSED, baseline: JudgedFigures | None = BASELINE
):
    judgement = judge(Budget(**budget), compressed=compressed, baseline=baseline)
    (finding,) = [f for f in judgement.findings if f.code in budget]
    return judgement.verdict, finding


def test_every_budget_has_a_rule():
    assert set(_RULES) == set(Budget.model_fields)


def test_no_budget_passes_and_says_so():
    judgement = judge(Budget(), compressed=COMPRESSED, baseline=None)
    assert judgement.verdict is Verdict.PASS
    (finding,) = judgement.findings
    assert (finding.severity, finding.code, finding.text) == (
        "info",
        "no_budget",
        "No budget is set: everything passes.",
    )


@pytest.mark.parametrize(
    ("key", "limit", "text"),
    [
        ("latency_p50_ms", 5.5, "p50 latency is 5 ms [4.5, 5.5], limit 5.5 ms: kept."),
        ("latency_p95_ms", 9, "p95 latency is 8 ms [7.5, 8.5], limit 9 ms: kept."),
        (
            "latency_p50_ratio",
            0.58,
            "p50 latency is 0.500 of the float model's [0.429, 0.579] (5 ms against 10 ms), limit 0.58: kept.",
        ),
        (
            "latency_p95_ratio",
            0.6,
            "p95 latency is 0.500 of the float model's [0.455, 0.548] (8 ms against 16 ms), limit 0.6: kept.",
        ),
        ("accuracy_min", 0.9, "top1 is 0.9000 [0.8800, 0.9200] on 1,000 samples, at least 0.9: kept."),
        (
            "accuracy_drop_pp",
            1.0,
            "top1 dropped by 1.00 pp [+0.20, +1.80]: 0.9100 -> 0.9000 on 1,000 samples, limit 1 pp: kept.",
        ),
        ("agreement_min", 0.97, "Agreement with the original model is 0.9700, at least 0.97: kept."),
        ("size_bytes", 30_000, "The file has 30,000 bytes, limit 30,000: kept."),
        (
            "size_ratio",
            0.3,
            "The file has 0.300 of the float model's size (30,000 of 100,000 bytes), limit 0.3: kept.",
        ),
        ("peak_rss_bytes", 50_000_000, "Peak memory of the process is 50,000,000 bytes, limit 50,000,000: kept."),
    ],
)
def test_kept(key: str, limit: float, text: str):
    outcome, finding = verdict({key: limit})
    assert outcome is Verdict.PASS
    assert (finding.severity, finding.text) == ("info", text)


@pytest.mark.parametrize(
    ("key", "limit", "next_step"),
    [
        ("latency_p50_ms", 4.4, "Structured pruning"),
        ("latency_p95_ms", 7.4, "Structured pruning"),
        ("latency_p50_ratio", 0.42, "Structured pruning"),
        ("latency_p95_ratio", 0.45, "Structured pruning"),
        ("accuracy_min", 0.901, "Prune less"),
        ("accuracy_drop_pp", 0.999, "Prune less"),
        ("agreement_min", 0.971, "Prune less"),
        ("size_bytes", 29_999, "Quantize to int8"),
        ("size_ratio", 0.2999, "Quantize to int8"),
        ("peak_rss_bytes", 49_999_999, "The runtime itself"),
    ],
)
def test_broken(key: str, limit: float, next_step: str):
    outcome, finding = verdict({key: limit})
    assert outcome is Verdict.FAIL
    assert finding.severity == "error"
    assert finding.text.endswith(": broken.")
    assert finding.next_step.startswith(next_step)


def test_a_limit_inside_the_interval_is_not_judged():
    outcome, finding = verdict({"latency_p95_ms": 8.2})
    assert outcome is Verdict.INCONCLUSIVE
    assert finding.severity == "warning"
    assert finding.text == "p95 latency is 8 ms [7.5, 8.5], limit 8.2 ms: the limit lies inside the interval."
    # 200 runs * (0.5 / 0.2)^2 * 1.2 = 1,500.
    assert finding.next_step == "Raise measure.min_runs: about 1,500 runs should settle it (there are 200)."


def test_a_limit_at_the_value_cannot_be_settled_by_more_runs():
    outcome, finding = verdict({"latency_p95_ms": 8.0})
    assert outcome is Verdict.INCONCLUSIVE
    assert "leave more room in the budget" in finding.next_step


def test_too_few_runs_for_the_upper_end_never_pass_but_can_fail():
    few = replace(COMPRESSED, latency=latency(n=50, p95_high=None))
    outcome, finding = verdict({"latency_p95_ms": 100}, few)
    assert outcome is Verdict.INCONCLUSIVE
    assert finding.text.startswith("p95 latency is 8 ms [7.5, ?], limit 100 ms")
    assert finding.next_step.startswith("Raise measure.min_runs (now 50 runs)")
    assert verdict({"latency_p95_ms": 7}, few)[0] is Verdict.FAIL


def test_an_unsupported_percentile_is_not_judged():
    record = latency().model_copy(update={"p95": None, "p95_reason": "p95 needs 40 samples"})
    few = replace(COMPRESSED, latency=record)
    outcome, finding = verdict({"latency_p95_ms": 100}, few)
    assert outcome is Verdict.INCONCLUSIVE
    assert finding.text == "p95 latency is not judged: p95 needs 40 samples."
    assert finding.next_step == "Raise measure.min_runs."


def test_ratio_is_conservative_at_both_ends():
    # Points: 0.5. The ratio's interval is [4.5 / 10.5, 5.5 / 9.5] = [0.429, 0.579].
    assert verdict({"latency_p50_ratio": 0.578})[0] is Verdict.INCONCLUSIVE
    assert verdict({"latency_p50_ratio": 0.429})[0] is Verdict.INCONCLUSIVE
    assert verdict({"latency_p50_ratio": 0.428})[0] is Verdict.FAIL


@pytest.mark.parametrize("key", ["latency_p50_ratio", "latency_p95_ratio", "accuracy_drop_pp", "size_ratio"])
def test_relative_budgets_need_a_baseline(key: str):
    outcome, finding = verdict({key: 1}, baseline=None)
    assert outcome is Verdict.INCONCLUSIVE
    assert "the float model was not measured on this board in this lease" in finding.text
    assert finding.next_step == "Measure the float model in the same run, or set an absolute budget."


@pytest.mark.parametrize("key", ["latency_p50_ms", "latency_p95_ms", "latency_p50_ratio", "latency_p95_ratio"])
@pytest.mark.parametrize("limit", [0.001, 1000])
def test_emulated_latency_is_never_judged(key: str, limit: float):
    emulated = replace(COMPRESSED, emulated=True)
    outcome, finding = verdict({key: limit}, emulated)
    assert outcome is Verdict.INCONCLUSIVE
    assert "is not judged: the board is emulated." in finding.text
    assert finding.next_step == "Judge latency on a real board."


def test_emulated_board_still_judges_the_rest():
    judgement = judge(Budget(size_bytes=40_000), compressed=replace(COMPRESSED, emulated=True), baseline=None)
    assert judgement.verdict is Verdict.PASS
    assert judgement.findings[0].text == (
        "Emulated board: latency is emulation time, and memory holds the emulator: neither is judged."
    )


def test_an_emulators_memory_is_not_the_models():
    outcome, finding = verdict({"peak_rss_bytes": 10**12}, replace(COMPRESSED, emulated=True))
    assert outcome is Verdict.INCONCLUSIVE
    assert finding.text == "Peak memory is not judged: the board is emulated, the emulator's own memory is in it."
    assert finding.next_step == "Judge peak memory on a real board."


@pytest.mark.parametrize("validity", [Validity.THROTTLED, Validity.NOISY, Validity.BUSY])
def test_invalid_latency_is_not_judged_but_the_rest_is(validity: Validity):
    shaky = replace(COMPRESSED, validity=validity, validity_reasons=("82 C", "1.5 GHz of 2.4 GHz"))
    judgement = judge(Budget(latency_p95_ms=100, size_bytes=1), compressed=shaky, baseline=BASELINE)
    assert judgement.verdict is Verdict.FAIL
    latency_finding, size_finding = judgement.findings
    assert f"measured while {validity.value} (82 C; 1.5 GHz of 2.4 GHz)" in latency_finding.text
    assert latency_finding.next_step
    assert size_finding.severity == "error"


def test_invalid_baseline_stops_the_ratio_only():
    shaky = replace(BASELINE, validity=Validity.NOISY, validity_reasons=("drift of 12 %",))
    outcome, finding = verdict({"latency_p50_ratio": 5}, baseline=shaky)
    assert outcome is Verdict.INCONCLUSIVE
    assert "the float model's latency was measured while NOISY (drift of 12 %)" in finding.text
    assert verdict({"latency_p50_ms": 50}, baseline=shaky)[0] is Verdict.PASS


def test_unknown_validity_is_judged_and_told():
    outcome, finding = verdict({"latency_p50_ms": 50}, replace(COMPRESSED, validity=Validity.UNKNOWN))
    assert outcome is Verdict.PASS
    assert "(the board has no sensor to rule out throttling)" in finding.text


@pytest.mark.parametrize(
    ("key", "missing", "says"),
    [
        ("latency_p95_ms", {"latency": None, "latency_reason": "crashed"}, "no latency: crashed"),
        ("accuracy_min", {"accuracy": None, "accuracy_reason": "no labels"}, "Accuracy is not judged: no labels."),
        ("accuracy_drop_pp", {"accuracy": None, "accuracy_reason": "no labels"}, "of the artifact: no labels"),
        ("agreement_min", {"agreement": None, "agreement_reason": "no scores"}, "Agreement is not judged: no scores."),
        ("peak_rss_bytes", {"peak_rss_bytes": None, "peak_rss_reason": "no /proc"}, "memory is not judged: no /proc."),
    ],
)  # fmt: skip
def test_missing_figures_are_not_judged(key: str, missing: dict[str, Any], says: str):
    outcome, finding = verdict({key: 1}, replace(COMPRESSED, **missing))
    assert outcome is Verdict.INCONCLUSIVE
    assert says in finding.text


@pytest.mark.parametrize("key", ["accuracy_min", "accuracy_drop_pp", "agreement_min"])
def test_where_there_are_no_outputs_it_is_told_what_brings_them(key: str):
    none = {"accuracy": None, "agreement": None, "accuracy_next_step": "Install the binding."}
    outcome, finding = verdict({key: 1}, replace(COMPRESSED, **none))
    assert (outcome, finding.next_step) == (Verdict.INCONCLUSIVE, "Install the binding.")


def test_drop_needs_the_same_samples():
    outcome, finding = verdict({"accuracy_drop_pp": 1}, baseline=replace(BASELINE, accuracy=accuracy(0.9, n=10)))
    assert outcome is Verdict.INCONCLUSIVE
    assert "top1 on 1,000 samples against top1 on 10" in finding.text


def test_errors_are_judged_the_other_way_round():
    worse = replace(COMPRESSED, accuracy=accuracy(0.025, metric="mae", better=False), drop_interval_pp=None)
    before = replace(BASELINE, accuracy=accuracy(0.020, metric="mae", better=False))
    outcome, finding = verdict({"accuracy_min": 0.025}, worse, before)
    assert outcome is Verdict.PASS
    assert "at most 0.025" in finding.text
    outcome, finding = verdict({"accuracy_drop_pp": 0.4}, worse, before)
    assert outcome is Verdict.FAIL
    assert finding.text == (
        "mae rose by 0.005: 0.0200 -> 0.0250 on 1,000 samples, limit 0.004 (accuracy_drop_pp / 100): broken."
    )


def test_fail_wins_over_inconclusive_wins_over_pass():
    def total(**budget: float) -> Verdict:
        return judge(Budget(**budget), compressed=COMPRESSED, baseline=BASELINE).verdict

    assert total(size_bytes=40_000, latency_p95_ms=8.2) is Verdict.INCONCLUSIVE
    assert total(size_bytes=1, latency_p95_ms=8.2) is Verdict.FAIL
    assert total(size_bytes=40_000, latency_p95_ms=9) is Verdict.PASS


@given(limit=st.floats(0.01, 100), p95=st.floats(0.1, 50), half=st.floats(0, 20))
def test_latency_verdict_is_where_the_limit_lies(limit: float, p95: float, half: float):
    figures = replace(COMPRESSED, latency=latency(p95=p95, half=half))
    outcome, finding = verdict({"latency_p95_ms": limit}, figures)
    low, high = figures.latency.p95_low, figures.latency.p95_high
    expected = Verdict.FAIL if low > limit else Verdict.PASS if high <= limit else Verdict.INCONCLUSIVE
    assert outcome is expected
    assert finding.next_step or outcome is Verdict.PASS


@given(good=st.integers(0, 1000), base=st.integers(0, 1000), limit=st.integers(0, 1000))
def test_drop_decides_exactly_by_counts(good: int, base: int, limit: float):
    budget = {"accuracy_drop_pp": limit / 10}
    mine = replace(COMPRESSED, accuracy=accuracy(good / 1000))
    theirs = replace(BASELINE, accuracy=accuracy(base / 1000))
    assert (verdict(budget, mine, theirs)[0] is Verdict.PASS) == (base - good <= limit)


@given(size=st.integers(1, 10**6), base=st.integers(1, 10**6), percent=st.integers(1, 300))
def test_size_ratio_decides_exactly(size: int, base: int, percent: int):
    mine, theirs = replace(COMPRESSED, size_bytes=size), replace(BASELINE, size_bytes=base)
    kept = verdict({"size_ratio": percent / 100}, mine, theirs)[0] is Verdict.PASS
    assert kept == (size * 100 <= base * percent)
