"""Figures as text: digits, units, and what stands where a figure is missing."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesmith.report import figures, statement


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.0412, "0.0412"),
        (4.2149, "4.21"),
        (9.996, "10.0"),
        (99.96, "100"),
        (0.09996, "0.100"),
        (1234.4, "1234"),
        (-0.5, "-0.500"),
    ],
)
def test_three_significant_digits(value: float | None, text: str):
    assert figures.significant(value) == text


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_significant_text_stays_within_half_a_digit_and_never_uses_an_exponent(value: float | None):
    text = figures.significant(value)
    assert "e" not in text
    assert float(text) == pytest.approx(value, rel=5.1e-3)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (73_128, "73.1 kB"), (999_600, "1.00 MB"), (2 * 10**12, "2000 GB")],
)
def test_sizes_are_decimal(size: int, text: str):
    assert figures.byte_size(size) == text


@pytest.mark.parametrize(("value", "text"), [(0.22, "0.22"), (-0.1, "-0.10"), (-0.001, "0.00"), (None, "n/a")])
def test_percentage_points_have_no_minus_zero(value: float | None, text: str):
    assert figures.points(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.0 s"), (41.74, "41.7 s"), (59.96, "1 min 00 s"), (185, "3 min 05 s")]
)
def test_durations(value: float | None, text: str):
    assert figures.seconds(value) == text


def test_control_characters_and_bidi_overrides_are_made_visible():
    assert figures.one_line("a\x1b[31mb\u202ec\n d\x00") == "a?[31mb?c d?"


def test_a_missing_figure_is_told_once_for_the_whole_board(mixed_run: Any):
    lines = figures.reasons(mixed_run.result, only=("latency", "accuracy"))
    assert lines == ("latency, accuracy n/a: jetson-nano was never reached (jetson-nano)",)


def test_a_percentile_without_a_reason_names_the_count(one_pair: Callable[..., Any]):
    made = one_pair()
    record = made.result.results[1]
    latency = record.latency_ms.model_copy(update={"p99": None, "n": 50})
    changed = made.result.model_copy(
        update={"results": (made.result.results[0], record.model_copy(update={"latency_ms": latency}))}
    )
    assert "p99 n/a: 50 runs cannot support it (pi5-lab tflite compressed)" in figures.reasons(changed)


def test_places_are_named_in_as_few_words_as_do(mixed_run: Any):
    rows = mixed_run.result.results
    assert figures.places(rows, mixed_run.result) == "all rows"
    assert figures.places(rows[:4], mixed_run.result) == "local"
    assert figures.places(rows[2:4], mixed_run.result) == "local onnxruntime"
    assert figures.places((rows[1], rows[4]), mixed_run.result) == "local tflite compressed, pi5-lab tflite float"
    assert figures.places((), mixed_run.result) == ""


def test_a_metric_that_is_no_fraction_is_not_a_percentage(one_pair: Callable[..., Any]):
    record = (
        one_pair()
        .result.results[0]
        .accuracy.model_copy(update={"metric": "mae", "value": 0.1234, "low": None, "high": None})
    )
    assert figures.accuracy_text(record) == "0.1234"


def test_headline_says_what_decided(mixed_run: Any, passing_run: Any, empty_run: Any):
    assert statement.headline(passing_run.result).sentences == (
        "All 2 compressed artifacts on 1 device met the budget.",
    )
    (sentence,) = statement.headline(mixed_run.result).sentences
    assert "1 broke the budget (pi5-lab onnxruntime)" in sentence
    assert "1 could not be measured (jetson-nano onnxruntime)" in sentence
    assert "2 could not be judged (pi4-emulated tflite, pi3-shelf tflite)" in sentence
    head = statement.headline(empty_run.result)
    assert (head.word, head.sentences) == ("NO VERDICT", ("Ctrl-C while training.",))


def test_headline_of_a_run_without_a_budget_claims_no_budget_was_met(one_pair: Callable[..., Any]):
    (sentence,) = statement.headline(one_pair(run={"budget": {}}).result).sentences
    assert sentence == (
        "The compressed artifact on 1 device measured well. No budget was set, so none could be broken."
    )


def test_an_unchanged_run_says_that_it_did_nothing(unchanged_run: Any, passing_run: Any):
    assert statement.work_sentence(unchanged_run.result) == (
        "no training, no compile, 0 bytes sent, nothing measured anew: everything was unchanged"
    )
    assert statement.work_sentence(passing_run.result) == (
        "1 step trained, 4 artifacts compiled, 8.41 MB sent, 4 measurements taken"
    )


def test_synthetic_data_is_named_with_its_consequence(mixed_run: Any, passing_run: Any):
    (alarm,) = statement.alarms(mixed_run.result)
    assert alarm.startswith("SYNTHETIC calibration data: the ranges")
    assert statement.alarms(passing_run.result) == ()


def test_findings_are_ordered_merged_and_without_what_the_table_says(mixed_run: Any):
    remarks = statement.remarks(mixed_run.result)
    assert [r.finding.severity for r in remarks] == sorted(
        (r.finding.severity for r in remarks), key=("error", "warning", "info").index
    )
    unreachable = [r for r in remarks if r.finding.code == "connection"]
    assert [r.where for r in unreachable] == ["jetson-nano"]
    assert not [r for r in remarks if "kept" in r.finding.text or r.finding.code == "reference"]


def test_budget_in_words(passing_run: Any):
    assert statement.budget_sentence(passing_run.result) == (
        "p95 latency ≤ 2 ms, p50 latency / float ≤ 0.9×, accuracy drop ≤ 1 pp, file size ≤ 100 kB"  # noqa: RUF001
    )
    assert statement.requirement("accuracy_min", 0.9, "top1") == "accuracy ≥ 90.00 %"
    assert statement.requirement("agreement_min", 0.97) == "agreement ≥ 97.00 %"
    assert statement.requirement("a_later_key", 3) == "a_later_key: 3"
