"""Sensitivity: the order, the intervals, and that they are measured by quantizing one layer at a time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.sensitivity import (
    Drop,
    LayerSensitivity,
    Sqnr,
    noise_shares,
    pack,
    paired_drop,
    rank,
    rank_by_sqnr,
    unpack,
)
from device_tests.accuracy import top1_correct
from edgesmith.errors import DataError, InternalError
from optimizer.ptq import biases
from optimizer.ptq import layers as plan_layers
from optimizer.ptq.accurate import SEARCH, accurate_plan
from optimizer.ptq.journal import FILE, Journal
from optimizer.ptq.make import make_plan
from optimizer.ptq.search import SearchOutcome, smallest_prefix
from optimizer.ptq.sensitivity import measure, only, outputs_of
from optimizer.ptq.settings import PtqSettings
from optimizer.ptq.task import Task
from optimizer.ptq.trials import Trial
from targets import onnx_emulator, onnx_qdq, plan_files
from targets.plan_files import Planned
from tests.digits_networks import DAMAGED, SIDE, Digits, digits

MINMAX = PtqSettings(observer="minmax", equalize=False, bias_correction=False)
LAYERS = ("first", "second", "third", "fourth", "head", *SIDE)


@pytest.fixture(scope="module")
def net() -> Digits:
    return digits()


@pytest.fixture(scope="module")
def planned(net: Digits) -> Planned:
    return make_plan(net.graph, net.calibration, MINMAX)


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


def test_sqnr_by_hand_in_pieces():
    meter = Sqnr()
    assert meter.db == math.inf
    meter.add(np.array([[3.0, 4.0]], np.float32), np.array([[3.0, 4.0]], np.float32))
    assert meter.db == math.inf
    meter.add(np.array([0.0, 5.0]), np.array([0.5, 5.0]))
    # 25 + 25 of signal, 0.25 of noise: a factor of 200.
    assert meter.db == pytest.approx(23.0103, abs=1e-4)


def test_sqnr_of_nothing_right_and_of_nothing_comparable():
    meter = Sqnr()
    meter.add(np.zeros(2), np.ones(2))
    assert meter.db == -math.inf
    with pytest.raises(ValueError, match="compared"):
        meter.add(np.zeros(2), np.ones(3))
    with pytest.raises(ValueError, match="NaN"):
        meter.add(np.zeros(2), np.array([1.0, np.nan]))


def test_packed_bits_by_hand():
    assert pack(np.array([True, False, False, False, False, False, False, True, True])) == "8180"
    with pytest.raises(ValueError, match="too few"):
        unpack("81", 9)


# ---------------------------------------------------------------- plans with layers in float


def test_every_layer_that_computes_can_be_kept(planned: Planned):
    assert plan_layers.kinds_of_layers(planned) == dict.fromkeys(LAYERS, ("Gemm",))
    assert plan_layers.output_of_layers(planned) == {one: f"{one}_output" for one in LAYERS}


def test_a_layer_in_float_leaves_every_other_number_as_it_is(planned: Planned):
    kept = plan_layers.with_float(planned, {"second": "costs too much"})
    for before, after in zip(planned.plan.ops, kept.plan.ops, strict=True):
        if after.layer == "second":
            assert (after.precision, after.weights, after.reason) == ("float32", None, "costs too much")
        else:
            assert after == before
    # Its neighbours still compute with integers, so that the tensors between stay on their grids.
    assert kept.plan.tensors == planned.plan.tensors
    assert set(planned.integers) - set(kept.integers) == {"second_output"}
    assert kept.graph is planned.graph
    assert kept.plan.kept_float == ("second",)


def test_a_tensor_between_float_layers_is_not_quantized(planned: Planned):
    kept = plan_layers.with_float(planned, dict.fromkeys(("second", "third"), "why"))
    between = kept.plan.tensor("second_output")
    assert between is not None
    assert (between.params, between.low, between.reason) == (None, None, plan_layers.SURROUNDED)
    assert [t.name for t in kept.plan.tensors if t.params is None] == ["second_output"]


def test_int16_layers_have_the_grid_of_the_same_range(planned: Planned):
    wide = plan_layers.with_precision(planned, {"third": "why"}, "int16")
    before, after = planned.plan.tensor("third_output"), wide.plan.tensor("third_output")
    assert before is not None
    assert after is not None
    assert after.params is not None
    assert (after.low, after.high) == (before.low, before.high)
    assert (after.params.dtype, after.params.zero_point, after.params.symmetric) == ("int16", (0,), True)
    assert after.params.scale[0] == pytest.approx(float(after.high or 0.0) / 32767)
    assert wide.integers["third_output"] is planned.integers["third_output"]


def test_an_unknown_layer_is_our_mistake(planned: Planned):
    with pytest.raises(InternalError, match="no layer fifth"):
        plan_layers.with_float(planned, {"fifth": "why"})


def test_all_layers_in_float_is_the_float_network(net: Digits, planned: Planned):
    nothing = plan_layers.with_float(planned, dict.fromkeys(LAYERS, "why"))
    assert all(tensor.params is None for tensor in nothing.plan.tensors)
    assert not nothing.integers
    real = outputs_of(net.graph, net.graph.run(net.tuning))
    for right, given_one in zip(real, outputs_of(net.graph, onnx_emulator.run(nothing, net.tuning)), strict=True):
        np.testing.assert_allclose(given_one, right, rtol=1e-5, atol=1e-4)


def test_a_float_layer_between_int8_layers_is_float_in_the_artifact(net: Digits, planned: Planned):
    # ONNX Runtime quantizes a float kernel between integers with one scale, unless the file keeps it from doing so:
    # the weight of 60 would then make steps of 0.47, and this layer's output would be off by more than 1.
    kept = plan_layers.with_float(planned, {"second": "why"})
    names = ("first_output", "second_output")
    (found,) = onnx_emulator.run(kept, net.tuning[:64], names)
    weight, bias = (net.graph.constants[f"second_{part}"] for part in "wb")
    expected = np.maximum(found["first_output"] @ weight + bias, 0.0)
    grid = kept.plan.tensor("second_output")
    assert grid is not None
    assert grid.params is not None
    high = grid.params.scale[0] * 255
    step = grid.params.scale[0]
    assert np.abs(found["second_output"] - np.minimum(expected, high)).max() <= 0.501 * step


def test_operations_by_hand(net: Digits):
    found = plan_layers.operations(net.graph, net.tuning)
    # second: 33 inputs (one of them dead) to 32 units, and 32 numbers written.
    assert found["second"] == 33 * 32 + 32
    assert found["head"] == 24 * 10 + 10
    assert set(found) == set(LAYERS)


def test_a_digest_is_of_the_numbers_and_of_nothing_else(planned: Planned):
    noted = dataclasses.replace(planned.plan, figures={"seconds": 3.5})
    same = Planned(plan=noted, graph=planned.graph, integers=planned.integers)
    assert plan_layers.digest(same) == plan_layers.digest(planned)
    changed = {**planned.integers, "head_output": planned.integers["head_output"] ^ 1}
    other = Planned(plan=planned.plan, graph=planned.graph, integers=changed)
    assert plan_layers.digest(other) != plan_layers.digest(planned)
    kept = plan_layers.with_float(planned, {"head": "why"})
    assert plan_layers.digest(kept) != plan_layers.digest(planned)


# ---------------------------------------------------------------- the task


def task_of(net: Digits, metric: str = "top1") -> Task:
    return Task(metric=metric, reference=outputs_of(net.graph, net.graph.run(net.tuning)), y=net.labels)


def test_the_drop_is_that_of_the_same_samples(net: Digits):
    task = task_of(net)
    worse = (np.roll(task.reference[0], 1, axis=1), task.reference[1])
    drop, packed = task.lost(worse)
    right, left = top1_correct(task.reference, net.labels), top1_correct(worse, net.labels)
    assert drop == paired_drop(right, left)
    assert unpack(packed, drop.n).tolist() == left.tolist()
    assert task.lost(task.reference)[0].pp == 0.0


def test_agreement_needs_no_labels(net: Digits):
    task = Task(metric="agreement", reference=task_of(net).reference)
    changed = task.reference[0].copy()
    changed[:8] = np.roll(changed[:8], 1, axis=1)
    assert task.lost((changed,))[0].pp == pytest.approx(100.0 * 8 / len(changed))


def test_top5_knows_each_sample(net: Digits):
    task = task_of(net, "top5")
    reversed_scores = (-task.reference[0], task.reference[1])
    drop, packed = task.lost(reversed_scores)
    assert unpack(packed, drop.n).mean() < 0.1
    assert drop.pp > 90.0
    assert drop.is_sure


def test_a_metric_without_right_and_wrong_has_no_interval(net: Digits):
    (_, side) = task_of(net).reference
    task = Task(metric="mae", reference=(side,), y=side)
    drop, packed = task.lost((side + np.float32(0.5),))
    assert drop.pp == pytest.approx(50.0, rel=1e-5)
    assert (drop.low, drop.high, packed) == (None, None, "")


def test_labels_that_do_not_fit_are_refused(net: Digits):
    task = Task(metric="top1", reference=task_of(net).reference, y=net.labels[:-1])
    with pytest.raises(DataError, match="class indices"):
        task.lost(task.reference)


# ---------------------------------------------------------------- measured


class Counting:
    """The emulator; counts plans, and stops after some."""

    def __init__(self, until: float = math.inf) -> None:
        self.runs = 0
        self.until = until

    def __call__(self, planned: Planned, x: Any, tensors: Sequence[str] | None = None, /) -> Iterator[dict[str, Any]]:
        if self.runs >= self.until:
            raise KeyboardInterrupt
        self.runs += 1
        return onnx_emulator.run(planned, x, tensors)


def test_the_damaged_layers_are_named(net: Digits, planned: Planned):
    found = measure(planned, net.tuning[:128], emulate=onnx_emulator.run, task=task_of(net), x_task=net.tuning, worst=4)
    assert set(found.ranked) == set(LAYERS)
    assert set(found.ranked[:2]) == set(DAMAGED)
    by_name = {one.layer: one for one in found.layers}
    # Of the trunk, the damaged ones make the noise themselves; the side's is larger still, and nobody's task.
    own = {name: one.tensor_db or 0.0 for name, one in by_name.items()}
    assert max(own[name] for name in DAMAGED) < 20.0 < min(own[name] for name in ("first", "third", "head"))
    assert found.by_sqnr[0] in SIDE
    assert sum(one.drop is not None for one in found.layers) == 4
    for name in DAMAGED:
        drop = by_name[name].drop
        assert drop is not None
        assert drop.is_sure
        # Without it, less noise than with everything quantized.
        assert (by_name[name].rest_db or 0.0) > found.int8_db


def test_sqnr_alone_is_that_of_the_plan_with_one_layer_quantized(net: Digits, planned: Planned):
    x = net.tuning[:96]
    found = measure(planned, x, emulate=onnx_emulator.run)
    assert found.metric == ""
    plan = only(planned, "third")
    assert [op.layer for op in plan.plan.ops if op.precision == "int8"] == ["third"]
    real, given_ones = outputs_of(net.graph, net.graph.run(x)), outputs_of(net.graph, onnx_emulator.run(plan, x))
    noise = [
        np.square(right.astype(np.float64) - other).sum() / np.square(right.astype(np.float64)).sum()
        for right, other in zip(real, given_ones, strict=True)
    ]
    third = next(one for one in found.layers if one.layer == "third")
    assert third.alone_db == pytest.approx(-10 * np.log10(np.mean(noise)), abs=1e-6)


def test_measurements_are_not_repeated(tmp_path: Path, net: Digits, planned: Planned):
    x, emulate = net.tuning[:32], Counting(until=5)

    def run(until: float, **about: str) -> tuple[Any, int]:
        emulate = Counting(until)
        found = measure(planned, x, emulate=emulate, journal=Journal(tmp_path), about=about)
        return found, emulate.runs

    with pytest.raises(KeyboardInterrupt):
        measure(planned, x, emulate=emulate, journal=Journal(tmp_path), about={"plan": "a"})
    resumed, runs = run(math.inf, plan="a")
    assert runs == 1 + 2 * len(LAYERS) - 5
    again, runs = run(math.inf, plan="a")
    assert runs == 0
    assert again == resumed
    _, runs = run(math.inf, plan="b")
    assert runs == 1 + 2 * len(LAYERS)


# ---------------------------------------------------------------- the whole way


def test_the_search_names_the_damaged_layers_and_keeps_fewer_than_sqnr_does(tmp_path: Path, net: Digits):
    found = accurate_plan(
        net.graph, net.calibration, net.tuning, net.labels, MINMAX, 1.0, folder=tmp_path, emulate=onnx_emulator.run
    )
    full = found.outcome.trial_of(())
    assert full is not None
    assert full.drop.pp > 5.0
    assert found.outcome.met
    assert found.kept == DAMAGED
    assert found.drop.pp <= 1.0
    assert found.planned.plan.kept_float == DAMAGED
    assert found.uniform.plan.kept_float == ()
    for op in found.planned.plan.ops:
        assert (op.precision == "float32") == (op.layer in DAMAGED)
        if op.layer in DAMAGED:
            assert op.reason.startswith("costs ")
            assert "pp of top-1 (95 % " in op.reason
    figures = found.planned.plan.figures[SEARCH]
    assert (figures["met"], figures["kept"], figures["full_drop_pp"]) == (True, list(DAMAGED), full.drop.pp)
    # The plan itself, and not only the trial, holds the budget.
    outputs = outputs_of(found.planned.graph, onnx_emulator.run(found.planned, net.tuning))
    assert task_of(net).lost(outputs)[0] == found.drop

    plain = plain_search(net, found.sensitivities.by_sqnr if found.sensitivities else ())
    assert plain.met
    assert len(plain.keep) > len(found.kept)


def plain_search(net: Digits, ranked: Sequence[str]) -> SearchOutcome:
    base, task = make_plan(net.graph, net.calibration, MINMAX), task_of(net)

    def evaluate(keep: frozenset[str]) -> Trial:
        plan = plan_layers.with_float(base, dict.fromkeys(keep, "tried"))
        drop, _ = task.lost(outputs_of(plan.graph, onnx_emulator.run(plan, net.tuning)))
        return Trial(drop=drop, sqnr_db=0.0)

    return smallest_prefix(evaluate, ranked, 1.0)


CORRECTED = dataclasses.replace(MINMAX, bias_correction=True)


def test_a_layer_in_float_takes_its_corrected_bias_back(net: Digits):
    planned = make_plan(net.graph, net.calibration, CORRECTED)
    before = net.graph.constants
    assert not np.array_equal(planned.graph.constants["second_b"], before["second_b"])
    kept = plan_layers.with_float(planned, {"second": "why"})
    np.testing.assert_array_equal(kept.graph.constants["second_b"], before["second_b"])
    np.testing.assert_array_equal(kept.graph.constants["third_b"], planned.graph.constants["third_b"])
    everything = biases.uncorrected(planned.graph)
    for name in (f"{one}_{part}" for one in LAYERS for part in "wb"):
        np.testing.assert_array_equal(everything.constants[name], before[name])


def test_the_biases_behind_a_float_layer_are_corrected_anew(net: Digits):
    # third makes up for the damage in second: where second is float, that would be damage of its own.
    planned = make_plan(net.graph, net.calibration, CORRECTED)
    task = task_of(net)
    kept = plan_layers.with_float(planned, dict.fromkeys(DAMAGED, "why"))
    settled = biases.Corrector(planned, net.calibration)(kept)
    assert settled.plan == kept.plan
    asked = dataclasses.replace(CORRECTED, precision_of={f"{one}_output": "float32" for one in DAMAGED})
    made_so = make_plan(net.graph, net.calibration, asked)

    def noise(plan: Planned) -> float:
        outputs = outputs_of(plan.graph, onnx_emulator.run(plan, net.tuning))
        return float(np.square(outputs[0] - task.reference[0]).mean())

    assert noise(settled) < 0.2 * noise(kept)
    assert noise(settled) == pytest.approx(noise(made_so), rel=0.2)


def test_old_biases_are_not_shipped(tmp_path: Path, net: Digits):
    planned = make_plan(net.graph, net.calibration, CORRECTED)
    assert "second_b/uncorrected" in planned.graph.constants
    plan_files.write(planned, tmp_path)
    assert "second_b/uncorrected" in plan_files.read(tmp_path).graph.constants
    proto, _ = onnx_qdq.lower(planned, activations="uint8")
    assert not [tensor.name for tensor in proto.graph.initializer if "uncorrected" in tensor.name]


def test_with_corrected_biases_the_search_ends_within_the_budget_too(net: Digits):
    found = accurate_plan(net.graph, net.calibration, net.tuning, net.labels, CORRECTED, 0.3)
    full = found.outcome.trial_of(())
    assert full is not None
    assert full.drop.pp > 0.3
    assert found.outcome.met
    assert set(found.kept) <= set(DAMAGED)
    assert found.drop.pp <= 0.3


def test_a_budget_that_holds_anyway_ranks_nothing(net: Digits):
    emulate = Counting()
    found = accurate_plan(net.graph, net.calibration, net.tuning, net.labels, MINMAX, 50.0, emulate=emulate)
    assert (found.kept, found.outcome.met, found.sensitivities, emulate.runs) == ((), True, None, 1)
    assert found.planned.plan.figures[SEARCH]["sensitivity"] == []


def by_agreement(net: Digits, folder: Path, emulate: Counting) -> tuple[Planned, tuple[str, ...], int]:
    found = accurate_plan(net.graph, net.calibration, net.tuning, None, MINMAX, 1.0, folder=folder, emulate=emulate)
    return found.planned, found.kept, emulate.runs


@pytest.fixture(scope="module")
def whole(net: Digits, tmp_path_factory: pytest.TempPathFactory) -> tuple[Planned, tuple[str, ...], int]:
    return by_agreement(net, tmp_path_factory.mktemp("whole"), Counting())


@pytest.mark.parametrize("moment", [1, 9, 24])
def test_killed_and_resumed_it_ends_in_the_same_plan(
    tmp_path: Path, net: Digits, whole: tuple[Planned, tuple[str, ...], int], moment: int
):
    with pytest.raises(KeyboardInterrupt):
        by_agreement(net, tmp_path, Counting(until=moment))
    with (tmp_path / FILE).open("ab") as torn:
        torn.write(b'{"key": "0123')
    resumed, kept, runs = by_agreement(net, tmp_path, Counting())
    assert kept == whole[1]
    assert resumed.plan == whole[0].plan
    assert plan_layers.digest(resumed) == plan_layers.digest(whole[0])
    assert runs == whole[2] - moment
