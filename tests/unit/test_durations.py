"""Spans of time: what is understood, what is refused, and how they are shown."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesmith.durations import parse_duration, show_duration
from edgesmith.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("45m", 2700), ("2h", 7200), ("1h30m", 5400), ("2d", 172800), (" 1d2h3m4s ", 93784)],
)
def test_spans_are_understood(text: str, seconds: float):
    assert parse_duration(text, option="--for") == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "2x", "1.5h", "-2h", "30m1h", "2 h", "٢h", "1e3s"])
def test_anything_else_is_refused_with_an_example(text: str):
    with pytest.raises(ConfigError) as error:
        parse_duration(text, option="--for")
    assert str(error.value) == f"--for: {text!r} is no span of time.\nWrite 90s, 45m, 2h, 1h30m or 2d."


def test_no_time_is_refused():
    with pytest.raises(ConfigError, match="--wait: '0s' is no time at all"):
        parse_duration("0s", option="--wait")


@given(st.text())
def test_any_text_is_seconds_or_refused(text: str):
    with contextlib.suppress(ConfigError):
        assert parse_duration(text, option="--for") > 0


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.2, "0 s"), (59.4, "59 s"), (60, "1 min"), (5400, "1 h 30 min"), (93784, "1 d 2 h")]
)
def test_two_units_are_shown(seconds: float, shown: str):
    assert show_duration(seconds) == shown
