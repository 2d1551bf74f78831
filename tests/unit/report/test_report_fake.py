"""A scripted board is called FAKE in every report, and never among the gains."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from edgesmith.report import render_html, render_junit, render_markdown
from edgesmith.report.console import print_result
from edgesmith.result import Result

SENTENCE = "FAKE: scripted figures. local is no board"


@pytest.fixture
def fake_run(passing_run: Any) -> tuple[Result, Path]:
    rows = tuple(
        row.model_copy(update={"fake": True, "board": row.board.model_copy(update={"fake": True})})
        for row in passing_run.result.results
    )
    return passing_run.result.model_copy(update={"results": rows}), passing_run.run_dir


def test_console(fake_run: tuple[Result, Path]):
    out = io.StringIO()
    print_result(*fake_run, console=Console(file=out, width=100, color_system=None))
    assert SENTENCE in " ".join(out.getvalue().split())
    assert out.getvalue().count("1 thread  FAKE") == 2


def test_markdown(fake_run: tuple[Result, Path]):
    text = render_markdown(fake_run[0])
    assert f"> **{SENTENCE}" in text
    assert text.count("PASS (FAKE) |") == 2


def test_junit(fake_run: tuple[Result, Path]):
    document = ET.fromstring(render_junit(fake_run[0]))  # noqa: S314
    told = [p.get("value") for p in document.iter("property") if p.get("name") == "fake"]
    assert set(told) == {"true"}


def test_html(fake_run: tuple[Result, Path]):
    html = render_html(*fake_run)
    assert f'<p class="alarm" role="alert">{SENTENCE}' in html
    assert '<span class="mark">FAKE: scripted figures</span>' in html
    assert "This board is FAKE: the times are scripted." in html
    assert "On a FAKE board the times are scripted" in html


def test_a_fake_speed_up_is_no_gain(fake_run: tuple[Result, Path], passing_run: Any):
    assert "at p50, " in render_html(passing_run.result, passing_run.run_dir)
    assert "at p50, " not in render_html(*fake_run)
