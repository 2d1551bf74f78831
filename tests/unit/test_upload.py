"""What an upload tells on its way."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_tests.upload import Meter


class Bar:
    """A task that remembers."""

    def __init__(self) -> None:
        self.done = 0.0
        self.notes: list[str] = []

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        self.done += amount
        self.notes.append(note)


class Clock:
    """Moves by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bar() -> Bar:
    return Bar()


def test_bytes_and_rate_stand_beside_the_bar(bar: Bar, clock: Clock):
    meter = Meter(bar, 50_000_000, clock=clock)
    for _ in range(4):
        clock.now += 0.5
        meter.went(4_050_000, 4_050_000)
    assert bar.notes[-1] == "16.2 / 50.0 MB, 8.1 MB/s"
    assert bar.done == 16_200_000


def test_small_files_are_told_in_kilobytes(bar: Bar, clock: Clock):
    meter = Meter(bar, 340_000, clock=clock)
    clock.now += 1
    meter.went(170_000, 170_000)
    assert bar.notes == ["170.0 / 340.0 kB, 0.2 MB/s"]


def test_what_was_there_already_moves_the_bar_and_not_the_rate(bar: Bar, clock: Clock):
    meter = Meter(bar, 50_000_000, clock=clock)
    meter.skip(40_000_000)
    assert bar.notes == ["40.0 / 50.0 MB"]
    clock.now += 1
    meter.went(1_000_000, 1_000_000)
    assert bar.notes[-1] == "41.0 / 50.0 MB, 1.0 MB/s"


def test_the_rate_is_that_of_the_last_seconds(bar: Bar, clock: Clock):
    meter = Meter(bar, 100_000_000, clock=clock)
    for speed in [10_000_000] * 4 + [1_000_000] * 5:
        clock.now += 1
        meter.went(speed, speed)
    assert bar.notes[-1].endswith(", 1.0 MB/s")


def test_compressed_bytes_stand_for_more(bar: Bar, clock: Clock):
    """The bar is about the files; the rate, and what is counted as sent, about the link."""
    counted: list[int] = []
    meter = Meter(bar, 8_000_000, counted.append, clock)
    clock.now += 1
    meter.went(1_000_000, 4_000_000.0)
    assert bar.notes == ["4.0 / 8.0 MB, 1.0 MB/s"]
    assert counted == [1_000_000]


def test_what_has_to_be_sent_again_goes_back(bar: Bar, clock: Clock):
    meter = Meter(bar, 2_000_000, clock=clock)
    meter.skip(2_000_000)
    meter.skip(-2_000_000)
    assert bar.done == 0
    assert bar.notes[-1] == "0.0 / 2.0 MB"


@given(steps=st.lists(st.tuples(st.floats(0, 5), st.integers(0, 10**9), st.floats(0, 1e9))))
def test_any_pace_can_be_told(steps: list[tuple[float, int, float]]):
    bar, clock, counted = Bar(), Clock(), []
    meter = Meter(bar, 10**9, counted.append, clock)
    for seconds, wire, content in steps:
        clock.now += seconds
        meter.went(wire, content)
        assert " / 1000.0 MB" in bar.notes[-1]
    assert sum(counted) == sum(wire for _, wire, _ in steps)
    assert math.isclose(bar.done, sum(content for *_, content in steps), abs_tol=1e-3)
