"""Budget lines: only the judge's words decide; a figure that is not there is never met."""

from collections.abc import Callable
from typing import Any

import pytest

from edgesmith.report.checks import budget_value, checks
from edgesmith.result import FindingRecord
from edgesmith.types import Verdict


def outcomes(made: Any):
    return {c.key: c.outcome for c in checks(made.result.results[-1], made.result)}


def test_all_met(one_pair: Callable[..., Any]):
    assert set(outcomes(one_pair()).values()) == {"met"}


def test_unset_budgets_and_the_reference_have_no_line(one_pair: Callable[..., Any]):
    made = one_pair()
    assert "agreement_min" not in outcomes(made)
    assert checks(made.result.results[0], made.result) == ()


@pytest.mark.parametrize(("severity", "outcome"), [("error", "broken"), ("warning", "not judged"), ("info", "met")])
def test_the_judge_decides(one_pair: Callable[..., Any], severity: str, outcome: str):
    finding = FindingRecord(severity=severity, code="latency_p95_ms", text="said")
    made = one_pair(verdict=Verdict.FAIL, findings=(finding,))
    assert outcomes(made)["latency_p95_ms"] == outcome


def test_an_unreachable_board_met_nothing(mixed_run: Any):
    assert set(outcomes(mixed_run).values()) == {"not measured"}


def test_a_key_that_the_judge_never_spoke_of_is_not_called_met_without_a_figure(one_pair: Callable[..., Any]):
    made = one_pair(run={"budget": {"a_later_key": 1, "peak_rss_bytes": 1000, "agreement_min": 0.9}})
    assert outcomes(made) == {"a_later_key": "not measured", "peak_rss_bytes": "not judged", "agreement_min": "met"}


def test_values(one_pair: Callable[..., Any]):
    made = one_pair()
    record = made.result.results[1]
    assert budget_value(record, "size_ratio", made.result) == pytest.approx(73_128 / 214_332)
    assert budget_value(record, "latency_p50_ratio", made.result) == pytest.approx(1 / record.speedup_p50, rel=0.05)
    assert budget_value(record, "size_bytes", made.result) == 73_128
    assert budget_value(record, "peak_rss_bytes", made.result) == 18_300_000
    assert budget_value(record, "accuracy_drop_pp", made.result) == pytest.approx(0.22)


def test_a_ratio_without_a_float_artifact_is_missing(one_pair: Callable[..., Any]):
    made = one_pair()
    alone = made.result.model_copy(update={"results": made.result.results[1:]})
    assert budget_value(alone.results[0], "latency_p95_ratio", alone) is None
