"""Bias correction keeps what holds on other samples, channel by channel; plans are judged on samples set aside."""

from __future__ import annotations

import numpy as np
import pytest

from optimizer.ptq.bias import along_channels, correction, halves
from optimizer.ptq.settings import PtqSettings
from optimizer.ptq.variants import Judge, Variant, first_round, only, set_aside
from targets.plan_ops import PlanOp
from tests.tiny_plans import Floats, images, network, plan


def op(kind: str = "Conv", activation: str = "") -> PlanOp:
    return PlanOp(
        name="y",
        kind=kind,
        layer="y",
        inputs=("x",),
        output="y",
        nodes=("y",),
        main="y",
        weight="w",
        bias="b",
        weight_axis=0,
        activation=activation,
    )


def test_the_mean_error_of_each_channel_over_samples_and_space_is_taken_back():
    real = np.random.default_rng(0).normal(size=(16, 3, 5, 4)).astype(np.float32)
    shift = np.array([0.5, -0.25, 0.0], np.float32)
    made = real + shift.reshape(1, 3, 1, 1)
    np.testing.assert_allclose(correction(op(), real, made), -shift, atol=1e-6)
    tokens = np.moveaxis(real[..., 0], 1, 2)
    np.testing.assert_allclose(correction(op("MatMul"), tokens, tokens + shift), -shift, atol=1e-6)


def test_a_shift_that_other_samples_do_not_have_is_left_alone():
    real = np.zeros((16, 2, 1, 1), np.float32)
    made = real.copy()
    fit, held = halves(16)
    made[fit, 0] = 1.0  # by chance: the samples to judge by have none of it
    made[:, 1] = 1.0
    assert correction(op(), real, made).tolist() == [0.0, -1.0]
    assert sorted([*fit, *held]) == list(range(16))
    assert len(held) == 4


def test_what_the_activation_hides_needs_no_correction():
    real = np.full((16, 1, 1, 1), -5.0, np.float32)
    assert correction(op(), real, real + 1).tolist() == [-1.0]
    assert correction(op(activation="relu"), real, real + 1).tolist() == [0.0]


def test_few_samples_both_teach_and_judge():
    fit, held = halves(3)
    assert fit.tolist() == held.tolist() == [0, 1, 2]


def test_numbers_of_channels_are_laid_along_them():
    values = np.arange(3, dtype=np.float32)
    assert along_channels(op(), values, 4).shape == (1, 3, 1, 1)
    assert along_channels(op("Gemm"), values, 2).shape == (1, 3)
    assert along_channels(op("MatMul"), values, 3).shape == (1, 1, 3)


@pytest.mark.parametrize("count", [64, 100])
def test_a_quarter_is_set_aside(count: int):
    x = np.arange(count, dtype=np.float32).reshape(count, 1)
    learn, judge = set_aside([x, 2 * x])
    assert len(judge[0]) == count // 4
    assert sorted([*learn[0].ravel(), *judge[0].ravel()]) == list(range(count))
    np.testing.assert_array_equal(judge[1], 2 * judge[0])


def test_few_samples_are_not_set_aside():
    x = np.zeros((63, 1), np.float32)
    learn, judge = set_aside(x)
    assert len(learn) == len(judge) == 63


def test_the_default_of_other_tools_is_always_among_the_plans():
    for settings in (PtqSettings(), PtqSettings(equalize=False, bias_correction=False), PtqSettings(smooth=True)):
        assert first_round(settings)[0] == Variant()
    assert first_round(PtqSettings(equalize=False)) == [Variant()]
    assert [(v.equalize, v.smooth) for v in first_round(PtqSettings(smooth=True))] == [
        (False, False),
        (True, False),
        (False, True),
        (True, True),
    ]
    assert only(PtqSettings(observer="minmax", equalize=False, bias_correction=False)) == Variant()


def test_a_plan_is_judged_by_noise_over_signal():
    graph, x = network("N"), images(16)
    judge = Judge(graph, x)
    score, worse = (judge.score(plan(graph, x, precision=precision)) for precision in ("int8", "int4"))
    np.testing.assert_allclose(score.loss, 10 ** (-score.sqnr_db / 10), rtol=1e-9)
    assert worse.loss > 3 * score.loss
    exact = judge.score(plan(graph, x, floats=[one.name for one in graph.ops]))
    assert exact.sqnr_db > 100.0
    assert exact.agreement == 1.0


def test_behind_a_softmax_the_logits_are_compared():
    g = Floats()
    head = g.weighted("Gemm", "image", "head", (8, 4))
    graph = g.graph(g.node("Softmax", [head], "y"), ("N", 8))
    x = 30 * np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    score = Judge(graph, x).score(plan(graph, x))
    # The probabilities of the samples are all next to 0 or 1: there is nothing to be seen in them.
    (logits,) = (part["head"] for part in graph.run(x, ["head"]))
    assert np.sort(logits, axis=1)[:, -1].min() > 1.0
    assert 20.0 < score.sqnr_db < 60.0
