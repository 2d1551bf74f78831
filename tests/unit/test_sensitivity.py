"""Sensitivity: the order, the intervals, and that they are measured by quantizing one layer at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.sensitivity import (
    Drop,
    LayerSensitivity,
    noise_shares,
    pack,
    paired_drop,
    rank,
    rank_by_sqnr,
    unpack,
)


def layer(name: str, db: float, pp: float | None = None) -> LayerSensitivity:
    drop = None if pp is None else Drop(pp=pp, low=pp - 1, high=pp + 1, n=100)
    return LayerSensitivity(layer=name, kinds=("Conv",), alone_db=db, drop=drop)


def test_paired_drop_by_hand():
    reference = np.array([True] * 90 + [False] * 10)
    correct = reference.copy()
    correct[:6] = False
    correct[95:97] = True
    # Bonett and Price with 6 and 2 of 100: p1 = 7/102, p2 = 3/102, centre 4/102 = 0.039216,
    # variance (10/102 - 0.039216^2) / 102 = 0.00094612, half = 1.959964 * 0.030759 = 0.060287.
    drop = paired_drop(reference, correct)
    assert (drop.pp, drop.n) == (4.0, 100)
    assert drop.low == pytest.approx(-2.1071, abs=1e-3)
    assert drop.high == pytest.approx(9.9502, abs=1e-3)
    assert not drop.is_sure
    assert drop.of("top-1") == "4.0 pp of top-1 (95 % -2.1 to 10.0)"


def test_a_drop_that_excludes_nothing_lost_is_sure():
    reference = np.ones(1000, np.bool_)
    correct = reference.copy()
    correct[:18] = False
    drop = paired_drop(reference, correct)
    assert drop.pp == 1.8
    assert drop.is_sure
    assert Drop(pp=1.8, low=None, high=None, n=5).of("top-5") == "1.8 pp of top-5"
    assert Drop(pp=0.25, low=-0.1, high=0.6, n=400).of("agreement") == "0.25 pp of agreement (95 % -0.10 to 0.60)"


def test_the_drop_of_a_budget_is_exactly_that_size():
    # 0.91 - 0.90 is more than 0.01 in floats; 7 of 700 must be 1.0 pp.
    reference = np.ones(700, np.bool_)
    correct = reference.copy()
    correct[:7] = False
    assert paired_drop(reference, correct).pp == 1.0


def test_other_samples_cannot_be_paired():
    with pytest.raises(ValueError, match="not the same samples"):
        paired_drop(np.ones(3, np.bool_), np.ones(4, np.bool_))


def test_plain_ranking_is_by_sqnr_alone():
    layers = [layer("a", 30.0, 5.0), layer("b", 10.0, 0.0), layer("c", 20.0), layer("d", math.inf)]
    assert [one.layer for one in rank_by_sqnr(layers)] == ["b", "c", "a", "d"]


def test_the_task_metric_ranks_before_sqnr():
    layers = [layer("a", 30.0, 5.0), layer("b", 10.0, 0.0), layer("c", 20.0), layer("d", 25.0, 1.0)]
    assert [one.layer for one in rank(layers)] == ["a", "d", "b", "c"]


def test_a_gain_by_chance_does_not_put_a_layer_last():
    layers = [layer("a", 10.0, -0.3), layer("b", 20.0), layer("c", 15.0, 0.0)]
    assert [one.layer for one in rank(layers)] == ["a", "c", "b"]


@given(st.lists(st.tuples(st.floats(-50, 200), st.one_of(st.none(), st.floats(-5, 50))), max_size=12))
def test_rankings_keep_every_layer_once(figures: list[tuple[float, float | None]]):
    layers = [layer(str(i), db, pp) for i, (db, pp) in enumerate(figures)]
    for ranked in (rank(layers), rank_by_sqnr(layers)):
        assert sorted(one.layer for one in ranked) == sorted(one.layer for one in layers)


def test_noise_shares_by_hand():
    # 10 dB apart is ten times the power.
    shares = noise_shares([layer("a", 20.0), layer("b", 30.0), layer("c", math.inf)])
    assert shares == pytest.approx({"a": 10 / 11, "b": 1 / 11, "c": 0.0})


@given(st.lists(st.one_of(st.floats(-1e5, 1e5), st.just(math.inf), st.just(-math.inf)), max_size=8))
def test_noise_shares_add_up(decibels: list[float]):
    shares = noise_shares([layer(str(i), db) for i, db in enumerate(decibels)])
    expected = 1.0 if any(db < math.inf for db in decibels) else 0.0
    assert sum(shares.values()) == pytest.approx(expected)
    assert all(0.0 <= share <= 1.0 for share in shares.values())


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_packed_answers_come_back(answers: list[bool]):
    correct = np.array(answers, np.bool_)
    assert unpack(pack(correct), len(answers)).tolist() == answers


def test_packed_bits_by_hand():
    assert pack(np.array([True, False, False, False, False, False, False, True, True])) == "8180"
    with pytest.raises(ValueError, match="too few"):
        unpack("81", 9)
