"""Which channels can be scaled: through every op that passes a factor on, and not past one that does not.

Each network here has its free channels scaled at random, and must compute what it did.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto, helper

from optimizer.ptq.scale_groups import Channels
from targets.plan_graph import PlanGraph
from tests.scaled_networks import Net, badly_scaled, groups_of, outputs, pictures

X = pictures(4)


def first(net: Net, channels: int = 4) -> str:
    return net.conv("x", "first", (3, channels), activation="relu")


def through(*steps: Callable[[Net, str], str], channels: int = 4, made: int = 4) -> PlanGraph:
    """A convolution, what is tested, a convolution."""
    net = Net(3, 8, 8)
    x = first(net, channels)
    for step in steps:
        x = step(net, x)
    return net.graph(net.conv(x, "last", (made, 2)))


def pad(net: Net, x: str) -> str:
    return net.node("Pad", [x, net.integers("pads", 0, 0, 1, 1, 0, 0, 1, 1)], "padded")


def pad_channels(net: Net, x: str) -> str:
    return net.node("Pad", [x, net.integers("pads", 0, 1, 0, 0, 0, 1, 0, 0)], "padded")


def split_and_concat(net: Net, x: str) -> str:
    net.nodes.append(helper.make_node("Split", [x], ["one", "two"], name="split", axis=1))
    return net.node("Concat", ["two", "one"], "swapped", axis=1)


def slice_channels(net: Net, x: str) -> str:
    ends = [net.integers(name, value) for name, value in (("start", 1), ("end", 3), ("axis", 1))]
    return net.node("Slice", [x, *ends], "sliced")


def shuffle(net: Net, x: str) -> str:
    x = net.node("Reshape", [x, net.integers("parts", -1, 2, 2, 8, 8)], "parted")
    x = net.node("Transpose", [x], "turned", perm=[0, 2, 1, 3, 4])
    return net.node("Reshape", [x, net.integers("whole", -1, 4, 8, 8)], "shuffled")


def prelu(net: Net, x: str) -> str:
    return net.node("PRelu", [x, net.constant("slope", net.random.random((4, 1, 1)))], "prelu")


def gain(net: Net, x: str) -> str:
    return net.node("Mul", [x, net.constant("gain", net.random.normal(size=(1, 4, 1, 1)))], "gained")


def offset(net: Net, x: str) -> str:
    return net.node("Sub", [net.constant("offset", net.random.normal(size=(4, 1, 1))), x], "moved")


def single(net: Net, x: str) -> str:
    return net.node("Mul", [x, net.constant("half", np.float32(0.5))], "halved")


def gate(net: Net, x: str) -> str:
    """Squeeze and excitation: the gate reads the channels, its sigmoid stops every factor."""
    pooled = net.node("ReduceMean", [x], "pooled", axes=[2, 3], keepdims=1)
    return net.node("Mul", [x, net.node("Sigmoid", [net.conv(pooled, "squeeze", (4, 4), size=1)], "gate")], "gated")


def resize(net: Net, x: str) -> str:
    return net.node("Resize", [x, "", net.constant("sizes", [1, 1, 2, 2])], "resized", mode="linear")


def pool(kind: str) -> Callable[[Net, str], str]:
    return lambda net, x: net.node(kind, [x], "pooled", kernel_shape=[2, 2], strides=[2, 2])


@pytest.mark.parametrize(
    ("graph", "sizes"),
    [
        (through(), [4]),
        (through(pad), [4]),
        (through(pad_channels, made=6), [4]),
        (through(split_and_concat), [4]),
        (through(slice_channels, made=2), [4]),
        (through(shuffle), [4]),
        (through(prelu), [4]),
        (through(gain), [4, 4]),
        (through(offset), [4]),
        (through(single), [4]),
        (through(gate), [4]),
        (through(resize), [4]),
        (through(pool("MaxPool")), [4]),
        (through(pool("AveragePool")), [4]),
        (through(lambda net, x: net.node("LeakyRelu", [x], "leaky", alpha=0.2)), [4]),
        (through(lambda net, x: net.node("Abs", [net.node("Neg", [x], "minus")], "plus")), [4]),
        (through(lambda net, x: net.node("Add", [x, x], "twice")), [4]),
        (through(lambda net, x: net.node("Sigmoid", [x], "sigmoid")), []),
        (through(lambda net, x: net.node("Mul", [x, x], "square")), []),
        (through(lambda net, x: net.node("HardSwish", [x], "swish")), []),
        (through(lambda net, x: net.node("Softmax", [x], "softmax", axis=1)), []),
        (through(lambda net, x: net.node("Add", [x, net.node("ReduceMean", [x], "m", axes=[1])], "mixed")), []),
    ],
)
def test_scaling_what_is_free_keeps_the_function(graph: PlanGraph, sizes: list[int]):
    assert [len(ids) for ids, _ in groups_of(graph, X).chosen_together()] == sizes
    scaled = badly_scaled(graph, X)
    before, after = outputs(graph, X), outputs(scaled, X)
    np.testing.assert_allclose(after, before, atol=1e-5 * float(np.abs(before).max()))
    assert (scaled.constants["first_w"] != graph.constants["first_w"]).any() == bool(sizes)


def dense_after(net: Net, x: str, features: int) -> PlanGraph:
    ends = [net.constant("d_w", net.random.normal(size=(features, 3))), net.constant("d_b", np.ones(3))]
    return net.graph(net.node("Gemm", [x, *ends], "logits"))


def test_flattened_pictures_repeat_each_channel():
    net = Net(3, 8, 8)
    graph = dense_after(net, net.node("Flatten", [first(net)], "flat"), 4 * 64)
    groups = groups_of(graph, X)
    kernel = next(constant for constant in groups.constants if constant.name == "d_w")
    ids = groups.tensors["first_relu"].along(1)
    np.testing.assert_array_equal(kernel.times.ravel(), np.repeat(ids, 64))
    before, after = outputs(graph, X), outputs(badly_scaled(graph, X), X)
    np.testing.assert_allclose(after, before, atol=1e-5 * float(np.abs(before).max()))


def test_pictures_flattened_channels_last_as_keras_does():
    net = Net(3, 8, 8)
    turned = net.node("Transpose", [first(net)], "turned", perm=[0, 2, 3, 1])
    graph = dense_after(net, net.node("Reshape", [turned, net.integers("to", -1, 256)], "flat"), 256)
    groups = groups_of(graph, X)
    kernel = next(constant for constant in groups.constants if constant.name == "d_w")
    np.testing.assert_array_equal(kernel.times.ravel(), np.tile(groups.tensors["first_relu"].along(1), 64))
    before, after = outputs(graph, X), outputs(badly_scaled(graph, X), X)
    np.testing.assert_allclose(after, before, atol=1e-5 * float(np.abs(before).max()))


def test_joined_tensors_keep_their_own_scales():
    net = Net(3, 8, 8)
    both = [net.conv("x", name, (3, count), activation="relu") for name, count in (("a", 2), ("b", 3))]
    graph = net.graph(net.conv(net.node("Concat", both, "joined", axis=1), "last", (5, 2)))
    assert [len(ids) for ids, _ in groups_of(graph, X).chosen_together()] == [2, 3]
    before, after = outputs(graph, X), outputs(badly_scaled(graph, X), X)
    np.testing.assert_allclose(after, before, atol=1e-5 * float(np.abs(before).max()))


def test_what_is_seen_from_outside_cannot_be_scaled():
    net = Net(3, 8, 8)
    x = first(net)
    graph = net.graph(net.conv(x, "last", (4, 2)), x)
    assert groups_of(graph, X).chosen_together() == []


def test_what_an_op_outside_of_the_plan_reads_cannot_be_scaled():
    net = Net(3, 8, 8)
    x = first(net)
    last = net.conv(x, "last", (4, 2))
    net.nodes.append(helper.make_node("ArgMax", [x], ["best"], name="best", axis=1))
    net.nodes.append(helper.make_node("Cast", ["best"], ["index"], name="cast", to=TensorProto.FLOAT))
    assert groups_of(net.graph(last, "index"), X).chosen_together() == []


def test_a_kernel_that_two_ops_share_is_left_alone():
    net = Net(3, 8, 8)
    x = first(net)
    x = net.conv(x, "middle", (4, 4), activation="relu")
    x = net.node("Relu", [net.node("Conv", [x, "middle_w", "middle_b"], "again", pads=[1] * 4)], "again_relu")
    graph = net.graph(net.conv(x, "last", (4, 2)))
    assert groups_of(graph, X).chosen_together() == []


def test_channels_of_signals():
    net = Net(3, 16)
    ends = [net.constant("w", net.random.normal(size=(4, 3, 5))), net.constant("b", np.ones(4))]
    x = net.node("Relu", [net.node("Conv", ["x", *ends], "first")], "first_relu")
    x = net.node("MaxPool", [x], "pooled", kernel_shape=[2], strides=[2])
    ends = [net.constant("w2", net.random.normal(size=(2, 4, 3))), net.constant("b2", np.ones(2))]
    graph = net.graph(net.node("Conv", [x, *ends], "last"))
    signals = np.random.default_rng(0).normal(size=(4, 3, 16)).astype(np.float32)
    assert [len(ids) for ids, _ in groups_of(graph, signals).chosen_together()] == [4]
    before, after = outputs(graph, signals), outputs(badly_scaled(graph, signals), signals)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


def test_a_normalization_that_is_spelt_out_gives_scales_at_its_last_factor():
    """As Keras exports it: x * (gamma / sqrt(variance + e)) + (beta - mean * gamma / sqrt(variance + e))."""
    net = Net(6, 16)
    mean = net.node("ReduceMean", ["x"], "mean", axes=[-1], keepdims=1)
    centred = net.node("Sub", ["x", mean], "centred")
    variance = net.node("ReduceMean", [net.node("Mul", [centred, centred], "squared")], "variance", axes=[-1])
    spread = net.node("Sqrt", [net.node("Add", [variance, net.constant("e", [1e-3])], "safe")], "spread")
    factor = net.node(
        "Mul", [net.node("Reciprocal", [spread], "inverse"), net.constant("g", np.arange(1, 17))], "factor"
    )
    beta = net.constant("beta", net.random.normal(size=16))
    shift = net.node("Sub", [beta, net.node("Mul", [mean, factor], "mean_factor")], "shift")
    normed = net.node("Add", [net.node("Mul", ["x", factor], "x_factor"), shift], "normed")
    graph = net.graph(net.dense(normed, "read", (16, 4)))
    x = np.random.default_rng(0).normal(size=(4, 6, 16)).astype(np.float32)
    ((ids, normalized),) = groups_of(graph, x).chosen_together()
    assert len(ids) == 16
    assert normalized
    before, after = outputs(graph, x), outputs(badly_scaled(graph, x), x)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


def test_channels_know_the_axes_they_change_on():
    found = Channels.of(np.broadcast_to(np.arange(3).reshape(1, 3, 1), (1, 3, 5)).copy())
    assert found.ids.shape == (1, 3, 1)
    assert found.axes == (1,)
    np.testing.assert_array_equal(found.along(1), [0, 1, 2])
    assert found.along(2) is None
    same = Channels.constant(7, (1, 4))
    np.testing.assert_array_equal(same.along(1), [7, 7, 7, 7])
    np.testing.assert_array_equal(same.full(), np.full((1, 4), 7))
