"""Schedules are TF-MOT's; what is planned around them always reaches the final sparsity, or is refused."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesmith.errors import ConfigError
from optimizer.schedules import Kind, SchedulePlan, build_schedule, plan_schedule, rounds_to

OPEN = {"begin_step": None, "end_step": None, "frequency": None}


def plan(kind: Kind = "polynomial", total_steps: int = 100, **steps: int | None) -> SchedulePlan:
    wanted = {**OPEN, **steps}
    return plan_schedule(
        kind=kind, initial_sparsity=0.0, final_sparsity=0.8, power=3.0, total_steps=total_steps, **wanted
    )


def test_polynomial_by_hand():
    schedule = build_schedule(plan(begin_step=0, end_step=4, frequency=2))
    # 0.8 * (1 - (1 - t)^3) at t = 1/4, 1/2, 1.
    assert [schedule(step)[0] for step in range(1, 7)] == [False, True, False, True, False, False]
    assert schedule(1)[1] == pytest.approx(0.4625)
    assert schedule(2)[1] == pytest.approx(0.7)
    assert schedule(4)[1] == schedule(99)[1] == pytest.approx(0.8)


def test_constant_by_hand():
    schedule = build_schedule(plan("constant", begin_step=3, frequency=2))
    assert [step for step in range(1, 9) if schedule(step)[0]] == [3, 5, 7]
    assert schedule(1)[1] == pytest.approx(0.8)


def test_defaults_leave_a_quarter_for_recovery():
    made = plan(total_steps=400)
    assert (made.begin_step, made.end_step, made.frequency, made.settled_step, made.notes) == (0, 300, 6, 300, ())


def test_an_end_step_between_two_renewals_moves_down_and_says_so():
    made = plan(begin_step=10, end_step=37, frequency=10)
    assert made.end_step == made.settled_step == 30
    (note,) = made.notes
    assert note == (
        "end_step 37 is no step at which masks are renewed (every 10 from 10): the schedule ends at 30, "
        "so that the final sparsity is reached."
    )


@given(
    st.sampled_from(["polynomial", "constant"]),
    st.integers(1, 300),
    st.none() | st.integers(0, 300),
    st.none() | st.integers(1, 300),
    st.none() | st.integers(1, 300),
)
def test_a_plan_that_is_accepted_renews_at_its_settled_step(
    kind: Kind, total: int, begin: int | None, end: int | None, frequency: int | None
):
    try:
        made = plan(kind, total, begin_step=begin, end_step=end, frequency=frequency)
    except ConfigError:
        return
    assert 1 <= made.settled_step <= total
    assert (made.settled_step - made.begin_step) % made.frequency == 0
    assert made.end_step == -1 or made.settled_step <= made.end_step
    if kind == "polynomial":
        assert made.end_step == made.settled_step > made.begin_step


@given(st.sampled_from(["polynomial", "constant"]), st.integers(1, 10_000))
def test_the_defaults_are_never_refused(kind: Kind, total: int):
    assert plan(kind, total).settled_step <= total


@pytest.mark.parametrize(
    ("kind", "steps", "text"),
    [
        (
            "polynomial",
            {"end_step": 200},
            "would be reached at step 200, and training has only 100 steps",
        ),
        ("polynomial", {"begin_step": 5, "end_step": 5}, "schedule's end_step 5 must come after its begin_step 5"),
        (
            "polynomial",
            {"end_step": 9, "frequency": 10},
            "A pruning frequency of 10 leaves no step",
        ),
        ("constant", {"end_step": 9, "frequency": 10}, "No step from begin_step 0 to end_step 9 falls on a pruning"),
        ("constant", {"begin_step": 101}, "would be reached at step 101, and training has only 100 steps"),
    ],
)
def test_a_schedule_that_cannot_finish_is_refused(kind: Kind, steps: dict[str, int], text: str):
    with pytest.raises(ConfigError, match=text):
        plan(kind, **steps)


@pytest.mark.slow
def test_tfmot_leaves_no_trace_in_the_process_and_tflite_still_converts():
    script = """
import os, warnings
from edgesmith.frameworks import import_keras, import_tensorflow
from optimizer.schedules import build_schedule, plan_schedule
build_schedule(plan_schedule(kind="constant", initial_sparsity=0.0, final_sparsity=0.5, begin_step=None,
                             end_step=None, frequency=None, power=3.0, total_steps=10))(1)
keras, tf = import_keras(), import_tensorflow()
assert "TF_USE_LEGACY_KERAS" not in os.environ
assert tf.keras.Model is keras.Model
net = keras.Sequential([keras.Input((9,)), keras.layers.Dense(64)])
flat = tf.lite.TFLiteConverter.from_keras_model(net).convert()
parameters = net.count_params()
assert len(flat) > 4 * parameters, (len(flat), parameters)
"""
    environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=240, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_rounds_each_take_the_same_share_of_what_is_left():
    assert rounds_to(0.875, 3) == pytest.approx((0.5, 0.75, 0.875))
    assert rounds_to(0.9, 2)[-1] == 0.9
