"""What layers in float32 cost and buy, in words; the row that tells it is marked, and judged by nobody."""

import io
import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from edgesmith.report import render_html, render_junit, render_markdown
from edgesmith.report.checks import checks
from edgesmith.report.console import print_result
from edgesmith.report.figures import NOT_JUDGED
from edgesmith.report.float_layers import price_lines
from edgesmith.report.statement import headline, remarks
from edgesmith.types import Validity, Verdict

UNKNOWN = {"cost_ms": None, "cost_ms_reason": "it\ncrashed", "gain_pp": None, "uniform_verdict": None}


def test_one_line_says_what_they_cost_and_buy(priced: Any):
    (line,) = price_lines(priced.result)
    assert line == (
        "pi5-lab tflite: 2 layers in float32 cost 0.0213 ms (p50 0.123 against 0.102 ms, 1.21×, 95 % 1.18 to 1.24) "  # noqa: RUF001
        "and buy 1.80 pp of top1 here (95 % 1.10 to 2.50; drop 0.60 against 2.40 pp); without them the budget is "
        "broken here"
    )


ONE = {"kept": ("stem",)}
NO_INTERVAL = {"ratio_low": None, "ratio_high": None}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (ONE, "1 layer in float32 costs 0.0213 ms ("),
        (ONE, ") and buys 1.80 pp of top1"),
        ({"kept": ()}, "the layers in float32 cost 0.0213 ms"),
        ({"ratio_low": 0.99}, "2 layers in float32 cost no time that shows (p50 0.123 against"),
        (NO_INTERVAL, "cost 0.0213 ms (p50 0.123 against 0.102 ms, 1.21×) and"),  # noqa: RUF001
        ({**NO_INTERVAL, "ratio": 1.0, "cost_ms": 0.0}, "cost no time that shows"),
        (
            {"cost_ms": -0.02, "ratio": 0.8, "ratio_low": 0.7, "ratio_high": 0.9},
            "save 0.0200 ms (p50 0.123 against 0.102 ms, 0.800",
        ),
        ({"cost_ms": -0.02, "ratio": 0.98, "ratio_low": 0.9, "ratio_high": 1.01}, "cost no time that shows"),
        ({"gain_low_pp": -0.2}, "buy 1.80 pp of top1 here (95 % -0.20 to 2.50, so it may be chance; drop 0.60"),
        ({"gain_pp": 0.0, "gain_low_pp": -0.4, "gain_high_pp": 0.4}, "buy no top1 here (95 % -0.40 to 0.40; drop"),
        ({"gain_low_pp": None, "gain_high_pp": None}, "buy 1.80 pp of top1 here (drop 0.60 against 2.40 pp)"),
        ({"metric": "mae"}, "buy 0.0180 of mae here (95 %"),
        ({"metric": "mae"}, "0.9120 against 0.8940)"),
        ({"uniform_verdict": Verdict.PASS}, "2.40 pp); without them the budget holds here, too"),
        (
            {"uniform_verdict": Verdict.PASS, "verdict": Verdict.FAIL},
            "; without them the budget holds here, with them it does not",
        ),
        ({"uniform_verdict": Verdict.PASS, "verdict": Verdict.INCONCLUSIVE}, "; without them the budget holds here"),
        ({"uniform_verdict": None}, "2.40 pp)"),
        ({"uniform_verdict": Verdict.INCONCLUSIVE}, "2.40 pp)"),
        (
            {"cost_ms": None, "ratio": None, "cost_ms_reason": "the board is emulated"},
            "what 2 layers in float32 cost in time is not known: the board is emulated; they buy 1.80 pp of top1 here",
        ),
        (
            {**ONE, "cost_ms": None, "ratio": None, "cost_ms_reason": "the board is emulated"},
            "what 1 layer in float32 costs in time is not known: the board is emulated; it buys 1.80 pp",
        ),
        (UNKNOWN, "pi5-lab tflite: what 2 layers in float32 cost is not known: it crashed"),
    ],
)
def test_every_outcome_has_its_words(run_with_price: Callable[..., Any], changes: dict[str, Any], said: str):
    (line,) = price_lines(run_with_price(**changes).result)
    assert said in line
    if "without them" not in said and changes.get("uniform_verdict", "") in (None, Verdict.INCONCLUSIVE):
        assert "without them" not in line


def test_a_run_without_such_layers_says_nothing(planned_run: Any, passing_run: Any):
    assert price_lines(planned_run.result) == price_lines(passing_run.result) == ()
    assert "What the float layers cost" not in render_html(planned_run.result, planned_run.run_dir)


def test_the_console_marks_the_row_and_gives_it_no_verdict(priced: Any):
    stream = io.StringIO()
    print_result(priced.result, console=Console(file=stream, width=120))
    lines = stream.getvalue().splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith(" uniform"))
    assert not any(verdict.value in lines[at] for verdict in Verdict)
    assert lines[at + 1].strip() == NOT_JUDGED
    assert lines[at - 1].endswith("PASS")
    assert "2 layers in float32 cost 0.0213 ms" in stream.getvalue()


def test_the_page_marks_the_row_and_tells_the_price(priced: Any):
    text = render_html(priced.result, priced.run_dir)
    (row,) = re.findall(r'<tr class="uniform">.*?</tr>', text, re.DOTALL)
    assert NOT_JUDGED in row
    assert "chip" not in row
    assert "What the float layers cost</h3>" in text
    assert "2 layers in float32 cost 0.0213 ms" in text
    assert "tflite uniform</li>" in text


def test_a_comment_has_the_line_and_not_the_row(priced: Any):
    text = render_markdown(priced.result)
    assert "pi5-lab tflite: 2 layers in float32 cost 0.0213 ms" in text
    assert sum(line.startswith("| pi5-lab") for line in text.splitlines()) == 1


@pytest.mark.parametrize("verdict", [Verdict.INCONCLUSIVE, Verdict.ERROR])
def test_it_is_in_no_gate(priced: Any, verdict: Verdict):
    *others, uniform = priced.result.results
    uniform = uniform.model_copy(update={"verdict": verdict, "validity": Validity.NOISY})
    result = priced.result.model_copy(update={"results": (*others, uniform)})
    root = ET.fromstring(render_junit(result))  # noqa: S314 - our own document
    assert [suite.get("name") for suite in root] == ["run", "pi5-lab.tflite.float", "pi5-lab.tflite.compressed"]
    assert (root.get("failures"), root.get("errors")) == ("0", "0")
    assert checks(uniform, result) == ()
    assert headline(result).sentences[0] == "The compressed artifact on 1 device met the budget."


def test_the_table_tells_that_it_is_not_judged_and_the_findings_do_not_repeat_it(priced: Any):
    assert all(remark.finding.code != "not_judged" for remark in remarks(priced.result))
