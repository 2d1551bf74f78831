"""When a warm-up ends, and what a window keeps apart."""

from __future__ import annotations

from device_tests.agent import timing


def test_median_is_a_value_that_was_seen():
    assert timing.median([5, 1, 9]) == 5
    assert timing.median([4, 1, 9, 5]) == 4


def test_flat_needs_three_block_medians_within_ten_percent():
    assert not timing.is_flat([100, 100])
    assert timing.is_flat([500, 100, 105, 110])
    assert not timing.is_flat([500, 100, 105, 111])
    assert not timing.is_flat([100, 100, 100, 120])


def test_warm_up_ends_when_the_median_stands_still():
    seen: list[int] = []

    def run(index: int) -> int:
        seen.append(index)
        return 1_000_000 if index < 10 else 1_000

    samples, flat = timing.warm_up(run, max_s=60.0)
    assert flat
    assert seen == list(range(len(samples)))
    assert samples[:10] == [1_000_000] * 10


def test_warm_up_gives_up_at_its_cap_and_says_so():
    samples, flat = timing.warm_up(lambda index: 1_000 * index, max_s=0.0)
    assert not flat
    assert len(samples) >= timing.BLOCK_RUNS


def test_a_window_keeps_its_first_runs_apart_and_meets_both_minima():
    rewarm, samples = timing.window(lambda index: index, first=100, runs=5, seconds=0.0)
    assert rewarm == [100, 101, 102]
    assert samples == [103, 104, 105, 106, 107]
    _, longer = timing.window(lambda index: index, first=0, runs=1, seconds=0.02)
    assert len(longer) > 1


def test_reading_the_clock_costs_something_small():
    assert 0 <= timing.overhead_ns() < 1_000_000
