"""summary.md: fits a pull-request comment and shows names as names."""

from collections.abc import Callable
from typing import Any

import pytest

from edgesmith.report import render_markdown


@pytest.mark.parametrize("name", ["passing_run", "mixed_run", "empty_run", "rack_run", "unchanged_run", "hostile_run"])
def test_under_sixty_lines_and_tables_are_whole(name: str, request: pytest.FixtureRequest):
    lines = render_markdown(request.getfixturevalue(name).result).splitlines()
    assert len(lines) < 60
    table = [line for line in lines if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in table} <= {11}


def test_the_verdict_is_first_and_the_worst_row_leads(mixed_run: Any):
    lines = render_markdown(mixed_run.result).splitlines()
    assert lines[0] == "### ❌ edgesmith: FAIL"
    rows = [line for line in lines if line.startswith("|")][2:]
    assert rows[0].startswith("| pi5-lab | onnxruntime | 3.68 → 2.60 |")
    assert rows[0].endswith("❌ FAIL |")
    assert "ERROR" in rows[1]
    assert "⚠️ INCONCLUSIVE (emulated) |" in rows[2]


def test_a_hundred_rows_are_cut_with_a_word(rack_run: Any):
    rows = rack_run.result.results
    more = [r.model_copy(update={"device": f"{r.device}-{n}"}) for n in range(5) for r in rows]
    text = render_markdown(rack_run.result.model_copy(update={"results": tuple(more)}))
    assert len(text.splitlines()) < 60
    assert "76 more rows, none worse than the last one here, are in report.html." in text


def test_findings_are_cut_with_a_word(mixed_run: Any):
    assert "- 1 more in report.html" in render_markdown(mixed_run.result)


def test_names_are_not_markup(hostile_run: Any):
    text = render_markdown(hostile_run.result)
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\|\\[red\\]\\`\\$x\\_1\\$?\\[31m?" in text


def test_a_float_row_without_a_compressed_one_is_shown(one_pair: Callable[..., Any]):
    made = one_pair()
    alone = made.result.model_copy(update={"results": made.result.results[:1]})
    assert "| pi5-lab | tflite | 2.96 | 3.15 | ref |" in render_markdown(alone)
