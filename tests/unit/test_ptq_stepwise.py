"""Running a graph op by op gives what running it whole gives, in bounded memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgesmith.errors import ModelError
from optimizer.ptq.stepwise import spread, within
from targets.plan_graph import PlanGraph
from tests.tiny_plans import Floats, images, network


def pass_through(graph: PlanGraph, x: Any, **options: Any) -> tuple[dict[str, Any], int, int]:
    """Every output, the most bytes alive at once, and how many samples went through."""
    stepwise = within(graph, x, most=10_000, **options)
    found, peak = {}, 0
    for step, live, before in stepwise.float_pass():
        found[step.op.output] = live[step.op.output].copy()
        peak = max(peak, sum(array.nbytes for array in live.values()) + before.nbytes)
    return found, peak, stepwise.count


@pytest.mark.parametrize("batch", ["N", 1, 4])
def test_every_tensor_is_as_in_the_whole_graph(batch: int | str):
    graph, x = network(batch), images(8)
    names = [op.output for op in graph.ops]
    whole = {name: [] for name in names}
    for part in graph.run(x, names):
        for name in names:
            whole[name].append(part[name])
    found, _, count = pass_through(graph, x)
    assert count == 8
    for name in names:
        np.testing.assert_allclose(found[name], np.concatenate(whole[name]), rtol=1e-4, atol=1e-5)


def test_memory_is_bounded_by_fewer_samples():
    graph, x = network("N"), images(32)
    _, everything, count = pass_through(graph, x)
    assert count == 32
    _, peak, count = pass_through(graph, x, streams=1, budget=everything // 4)
    assert 1 <= count <= 8
    assert peak <= everything // 4
    # Also where not even one sample fits, one has to go through.
    assert pass_through(graph, x, budget=1)[2] == 1


def test_a_fixed_batch_is_never_cut():
    graph = network(4)
    assert within(graph, images(10), most=10).count == 8
    assert within(graph, images(3), most=10).count == 4  # filled up with the last one
    assert within(graph, images(32), most=32).few(10).count == 8


def test_what_nobody_reads_any_more_is_dropped():
    stepwise = within(network("N"), images(2), most=2)
    alive = [set(live) for _, live, _ in stepwise.float_pass()]
    assert "image" not in alive[1]
    assert "stem" not in alive[2]
    assert alive[-1] == {"hidden", "head"}


def test_shapes_that_are_computed_come_along():
    g = Floats()
    x = g.weighted("Conv", "image", "first", (4, 3, 1, 1), "Relu")
    shape = g.node("Shape", [x], "shape", start=0, end=1)
    g.constant("rest", np.array([-1], np.int64))
    target = g.node("Concat", [shape, "rest"], "target", axis=0)
    graph = g.graph(g.node("Reshape", [x, target], "flat"), ("N", 3, 8, 8))
    x = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)
    found, _, _ = pass_through(graph, x)
    (whole,) = graph.run(x)
    np.testing.assert_allclose(found["flat"], whole["flat"], rtol=1e-5)


def test_another_weight_and_bias_are_used():
    kernel = np.array([[[[2.0]]]], np.float32)
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Conv", ["x", "w", "b"], ["sum"], name="conv"),
                helper.make_node("Relu", ["sum"], ["y"], name="relu"),
            ],
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 1, 1])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1, 1, 1])],
            [numpy_helper.from_array(kernel, "w"), numpy_helper.from_array(np.zeros(1, np.float32), "b")],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    x = np.array([1.0, -1.0], np.float32).reshape(2, 1, 1, 1)
    stepwise = within(PlanGraph(model), x, most=2)
    (step,) = stepwise.steps
    assert stepwise.run(step, {"x": x})["y"].ravel().tolist() == [2.0, -2.0]  # before the ReLU
    changed = stepwise.run(step, {"x": x}, weight=kernel * 2, bias=np.array([0.5], np.float32))
    assert changed["y"].ravel().tolist() == [4.5, -3.5]


def test_a_network_that_answers_nan_is_refused_by_the_name_of_the_layer():
    g = Floats()
    x = g.node("Log", ["image"], "log")
    graph = g.graph(g.node("Relu", [x], "y"), ("N", 3, 8, 8))
    with pytest.raises(ModelError, match="log: its output is NaN or infinite"):
        within(graph, -np.ones((2, 3, 8, 8), np.float32), most=2)


def test_samples_are_evenly_spread():
    assert spread(10, 5).tolist() == [1, 3, 5, 7, 9]
    assert spread(3, 10).tolist() == [0, 1, 2]
    assert spread(7, 1).tolist() == [3]
