"""Scaling channels before rounding: the function stays, int8 fits better, and what must not be touched is not."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.ptq import equalize as module
from optimizer.ptq.equalize import HEADROOM, equalize
from targets.divergence import sqnr_db
from targets.plan_graph import PlanGraph
from tests.scaled_networks import (
    Array,
    Net,
    as_trained,
    badly_scaled,
    groups_of,
    int8_sqnr,
    mobile,
    outputs,
    pictures,
)

X, FRESH = pictures(64), pictures(64, seed=9)


def relative(first: Array, second: Array) -> float:
    return float(np.abs(first - second).max() / np.abs(first).max())


def falls_by(notes: tuple[str, ...]) -> float:
    found = re.search(r"falls by ([\d.]+) dB", notes[0])
    assert found
    return float(found[1])


def two_channels() -> PlanGraph:
    net = Net(1, 1, 1)
    made = net.conv("x", "first", (1, 2), size=1, activation="relu", kernel=[[[[1]]], [[[100]]]], bias=[0.5, 50])
    return net.graph(net.conv(made, "second", (2, 1), size=1, kernel=[[[[1]], [[0.01]]]], bias=[3]))


def test_two_channels_by_hand():
    # Ranges 1 : 100 where they are made and 100 : 1 where they are read: s = 0.1 and 10 make all of them 10 and 0.1.
    x = np.linspace(0, 1, 50, dtype=np.float32).reshape(50, 1, 1, 1)
    found, notes = equalize(two_channels(), x, smooth=False)
    np.testing.assert_allclose(found.constants["first_w"].ravel(), [10, 10], rtol=1e-6)
    np.testing.assert_allclose(found.constants["first_b"], [5, 5], rtol=1e-6)
    np.testing.assert_allclose(found.constants["second_w"].ravel(), [0.1, 0.1], rtol=1e-6)
    np.testing.assert_array_equal(found.constants["second_b"], [3])
    assert len(notes) == 1
    assert notes[0].startswith("Cross-layer equalization scaled 2 channels in 1 group: ")


@pytest.mark.parametrize("per_channel", [True, False])
def test_badly_scaled_channels_are_mended(per_channel: bool):
    plain = mobile("relu")
    bad = badly_scaled(plain, X)
    mended, notes = equalize(bad, X, smooth=False, per_channel=per_channel)
    before, spoilt, after = (int8_sqnr(graph, X, FRESH, per_channel=per_channel) for graph in (plain, bad, mended))
    assert spoilt < 10
    assert before > 15
    assert after > before - 1.5
    assert falls_by(notes) > 10
    assert relative(outputs(bad, FRESH), outputs(mended, FRESH)) < 1e-5


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 1000),
    activation=st.sampled_from(["relu", ""]),
    octaves=st.floats(0, 8),
    per_channel=st.booleans(),
)
def test_the_function_stays_whatever_the_network(seed: int, activation: str, octaves: float, per_channel: bool):
    graph = badly_scaled(mobile(activation, width=4, seed=seed), X, octaves=octaves, seed=seed)
    found, _ = equalize(graph, X, smooth=True, per_channel=per_channel)
    assert relative(outputs(graph, FRESH), outputs(found, FRESH)) < 1e-5


def test_a_second_time_little_is_left_to_do():
    once, _ = equalize(badly_scaled(mobile("relu"), X), X, smooth=False)
    twice, notes = equalize(once, X, smooth=False)
    assert not notes or falls_by(notes) < 1
    assert abs(int8_sqnr(once, X, FRESH) - int8_sqnr(twice, X, FRESH)) < 1.5


def test_depthwise_kernels_part_the_scale_before_from_the_scale_behind():
    net = Net(3, 8, 8)
    x = net.conv("x", "first", (3, 4), activation="relu")
    x = net.conv(x, "depthwise", (4, 8), groups=4, activation="relu")
    graph = net.graph(net.conv(x, "last", (8, 2)))
    groups = groups_of(graph, X)
    assert [len(ids) for ids, _ in groups.chosen_together()] == [4, 8]
    kernel = next(constant for constant in groups.constants if constant.name == "depthwise_w")
    first, second = (ids for ids, _ in groups.chosen_together())
    np.testing.assert_array_equal(kernel.times.ravel(), np.repeat(first, 2))
    np.testing.assert_array_equal(kernel.over.ravel(), second)
    bad = badly_scaled(graph, X)
    assert relative(outputs(graph, X), outputs(bad, X)) < 1e-5


@pytest.mark.parametrize(("kind", "shape"), [("Conv", (6, 2, 3, 3)), ("ConvTranspose", (4, 3, 3, 3))])
def test_grouped_convolutions_take_scales_up_on_both_sides(kind: str, shape: tuple[int, ...]):
    net = Net(3, 8, 8)
    x = net.conv("x", "first", (3, 4), activation="relu")
    ends = [net.constant("w", net.random.normal(size=shape)), net.constant("b", net.random.normal(size=6))]
    x = net.node("Relu", [net.node(kind, [x, *ends], "middle", group=2, pads=[1, 1, 1, 1])], "middle_relu")
    graph = net.graph(net.conv(x, "last", (6, 2)))
    assert [len(ids) for ids, _ in groups_of(graph, X).chosen_together()] == [4, 6]
    assert relative(outputs(graph, X), outputs(badly_scaled(graph, X), X)) < 1e-5


def test_tensors_of_a_residual_stream_have_one_scale():
    graph = mobile("relu", width=8, blocks=2)
    groups = groups_of(graph, X)
    names = ["stem_relu", "project0", "project1", "add0", "add1", "pooled", "flat"]
    first = groups.tensors["stem_relu"].along(1)
    for name in names:
        np.testing.assert_array_equal(groups.tensors[name].ids.ravel(), first, err_msg=name)
    assert [len(ids) for ids, _ in groups.chosen_together()] == [8, 32, 32, 32, 32]


def relu6_network() -> PlanGraph:
    """Channels that reach 12, 5.5, 3 and 0.02 before their ceiling, for inputs in 0..1."""
    net = Net(1, 2, 2)
    kernel = np.array([12, 5.5, 3, 0.02]).reshape(4, 1, 1, 1)
    x = net.conv("x", "first", (1, 4), size=1, activation="relu6", kernel=kernel, bias=np.zeros(4))
    return net.graph(net.conv(x, "last", (4, 3), size=1))


def test_channels_that_a_relu6_cuts_off_are_left_alone():
    x = np.random.default_rng(0).random((200, 1, 2, 2), np.float32)
    graph = relu6_network()
    found, notes = equalize(graph, x, smooth=False)
    kernel = found.constants["first_w"].ravel()
    np.testing.assert_array_equal(kernel[:2], [12, 5.5])
    assert kernel[2] > 3
    assert kernel[3] > 0.2
    assert (kernel[2:] * x.max() <= HEADROOM * 6 * (1 + 1e-6)).all()
    np.testing.assert_array_equal(found.constants["last_w"][:, :2], graph.constants["last_w"][:, :2])
    assert relative(outputs(graph, x), outputs(found, x)) < 1e-6
    assert any(note.startswith("2 channels come within 20 % of the ceiling of their ReLU6") for note in notes)


def test_relu6_can_be_left_alone_altogether():
    x = np.random.default_rng(0).random((20, 1, 2, 2), np.float32)
    graph = relu6_network()
    found, notes = equalize(graph, x, smooth=False, relu6=False)
    assert found is graph
    assert notes == ()


def test_networks_with_relu6_keep_their_function_on_the_samples():
    graph = mobile("relu6")
    found, _ = equalize(graph, X, smooth=False)
    assert found is not graph
    assert sqnr_db(outputs(graph, X), outputs(found, X)) > 100


def transformer(outlier: float = 60.0) -> PlanGraph:
    """LayerNormalization -> attention -> add -> LayerNormalization -> MLP; one channel is inflated."""
    net, width = Net(6, 16), 16
    gamma = np.ones(width)
    gamma[3] = outlier

    def norm(x: str, name: str) -> str:
        ends = [
            net.constant(f"{name}_g", gamma),
            net.constant(f"{name}_b", net.random.normal(size=width) * gamma * 0.1),
        ]
        return net.node("LayerNormalization", [x, *ends], name, axis=-1)

    def reading(columns: int) -> Array:
        return (net.random.normal(size=(width, columns)) / np.sqrt(width) / gamma[:, None]).astype(np.float32)

    n = norm("x", "norm1")
    q, k, v = (net.dense(n, name, (width, width), kernel=reading(width)) for name in "qkv")
    scores = net.node("MatMul", [q, net.node("Transpose", [k], "kt", perm=[0, 2, 1])], "scores")
    mixed = net.node("MatMul", [net.node("Softmax", [scores], "weights", axis=-1), v], "mixed")
    x = net.node("Add", ["x", net.dense(mixed, "out", (width, width))], "attended")
    n = norm(x, "norm2")
    hidden = net.node("Sigmoid", [net.dense(n, "up", (width, 32), kernel=reading(32))], "hidden")
    return net.graph(net.node("Add", [x, net.dense(hidden, "down", (32, width))], "y"))


def test_outliers_behind_normalizations_go_to_the_weights():
    x = np.random.default_rng(0).normal(size=(64, 6, 16)).astype(np.float32)
    graph = transformer()
    found, notes = equalize(graph, x, smooth=True, cross_layer=False)
    np.testing.assert_array_equal(found.constants["v_w"] != graph.constants["v_w"], True)
    np.testing.assert_array_equal(found.constants["out_w"], graph.constants["out_w"])
    assert np.abs(found.constants["norm1_g"]).max() < 10 * np.median(np.abs(found.constants["norm1_g"]))
    assert int8_sqnr(found, x, x) > int8_sqnr(graph, x, x) + 6
    assert relative(outputs(graph, x), outputs(found, x)) < 1e-5
    assert notes[0].startswith("SmoothQuant's migration scaled 32 channels behind normalizations, in 2 groups: ")


def test_without_smoothing_normalizations_stay():
    x = np.random.default_rng(0).normal(size=(32, 6, 16)).astype(np.float32)
    graph = transformer()
    found, _ = equalize(graph, x, smooth=False)
    for name in ("norm1_g", "norm1_b", "norm2_g", "q_w", "up_w"):
        np.testing.assert_array_equal(found.constants[name], graph.constants[name], err_msg=name)
    # Attention's values and the projection that reads them are like two convolutions.
    assert len(groups_of(graph, x).chosen_together()) == 3


def test_zeros_stay_zeros():
    graph = mobile("relu")
    names = [op.weight for op in graph.ops if op.weight is not None]
    masks = {name: np.random.default_rng(0).random(graph.constants[name].shape) < 0.5 for name in names}
    pruned = graph.with_constants({name: np.where(masks[name], graph.constants[name], 0) for name in names})
    found, _ = equalize(badly_scaled(pruned, X), X, smooth=False)
    for name in names:
        np.testing.assert_array_equal(found.constants[name] == 0, pruned.constants[name] == 0)


def test_clustered_kernels_are_left_alone_and_named():
    graph = mobile("relu")
    kernel = graph.constants["expand1_w"]
    levels = np.linspace(kernel.min(), kernel.max(), 16, dtype=np.float32)
    shared = levels[np.abs(kernel[..., None] - levels).argmin(axis=-1)]
    graph = badly_scaled(graph, X).with_constants({"expand1_w": shared})
    found, notes = equalize(graph, X, smooth=False)
    np.testing.assert_array_equal(found.constants["expand1_w"], shared)
    np.testing.assert_array_equal(found.constants["expand1_b"], graph.constants["expand1_b"])
    assert (found.constants["depthwise0_w"] != graph.constants["depthwise0_w"]).any()
    assert notes[-1] == "Equalization left expand1 alone: shared weights would not stay shared."


def test_dead_channels_do_no_harm():
    graph = badly_scaled(mobile("relu"), X)
    bias = graph.constants["expand0_b"].copy()
    bias[[2, 5]] = -1e6
    graph = graph.with_constants({"expand0_b": bias})
    found, _ = equalize(graph, X, smooth=False)
    for name, values in found.constants.items():
        assert np.isfinite(values).all(), name
    assert int8_sqnr(found, X, FRESH) > 15


def test_two_inputs_are_given_as_a_tuple():
    net = Net(3, 8, 8)
    net.inputs.append(type(net.inputs[0])())
    net.inputs[1].CopyFrom(net.inputs[0])
    net.inputs[1].name = "z"
    both = [net.conv(name, f"first_{name}", (3, 8), activation="relu") for name in ("x", "z")]
    graph = net.graph(net.head(net.conv(net.node("Add", both, "sum"), "last", (8, 8)), 8))
    bad = badly_scaled(graph, (X, FRESH))
    found, notes = equalize(bad, (X, FRESH), smooth=False)
    assert falls_by(notes) > 5
    assert relative(outputs(bad, (FRESH, X)), outputs(found, (FRESH, X))) < 1e-5


def test_a_scaling_that_would_move_the_outputs_is_taken_back(monkeypatch: pytest.MonkeyPatch):
    graph = badly_scaled(mobile("relu"), X)
    wrong = graph.with_constants({"head_b": graph.constants["head_b"] + 1})
    monkeypatch.setattr(module, "_scaled", lambda *_: wrong)
    found, notes = equalize(graph, X, smooth=False)
    assert found is graph
    assert len(notes) == 1
    assert notes[0].startswith("Equalization was taken back: it moved the float outputs by ")


def test_nothing_to_scale_is_nothing_done():
    net = Net(3, 8, 8)
    graph = net.graph(net.conv("x", "only", (3, 4), activation="relu"))
    found, notes = equalize(graph, X, smooth=True)
    assert found is graph
    assert notes == ()


def test_trained_looking_networks_are_not_made_worse():
    plain = as_trained(mobile("relu", blocks=3), X, seed=2)
    found, _ = equalize(plain, X, smooth=False)
    assert int8_sqnr(found, X, FRESH) > int8_sqnr(plain, X, FRESH) - 0.5
