"""What the choice of scales rests on: streamed statistics, and an estimate of noise that is held to the noise."""

from __future__ import annotations

import numpy as np
import pytest

from edgesmith.progress import Silent
from optimizer.ptq.channel_stats import observe
from optimizer.ptq.scale_choice import Choice
from optimizer.ptq.scale_noise import Measured, observed, terms
from targets.plan_graph import PlanGraph
from tests.scaled_networks import Array, Net, badly_scaled, groups_of, int8_outputs, mobile, outputs, pictures

X = pictures(96)


def measured(graph: PlanGraph, x: Array, *, per_channel: bool = True) -> Measured:
    groups = groups_of(graph, x)
    shapes = {name: channels.shape for name, channels in groups.tensors.items()}
    stats = observe(graph, x, observed(groups, groups.blocked), shapes, Silent())
    return Measured(
        groups=groups, constants=graph.constants, stats=stats, fixed=groups.blocked, per_channel=per_channel
    )


def test_statistics_are_those_of_all_samples():
    graph = mobile("relu", width=4, blocks=1)
    (values,) = (found["stem_relu"] for found in graph.run(X, ["stem_relu"], batch=len(X)))
    found = observe(
        graph, X, [("stem_relu", (1,)), ("x", (1, 3))], {"stem_relu": (1, 4, 8, 8), "x": (1, 3, 8, 8)}, Silent()
    )
    stats = found["stem_relu", (1,)]
    np.testing.assert_allclose(stats.low, values.min(axis=(0, 2, 3)))
    np.testing.assert_allclose(stats.high, values.max(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(stats.power, np.square(values).mean(axis=(0, 2, 3)), rtol=1e-5)
    assert stats.rows.shape[0] <= 1024 + 2
    assert np.isin(stats.rows[:, 0].round(4), values[:, 0].round(4)).all()
    by_place = found["x", (1, 3)]
    np.testing.assert_array_equal(by_place.high, X.max(axis=(0, 2)).ravel())


def test_rows_come_evenly_from_all_batches():
    graph = mobile("relu", width=4, blocks=1)
    x = np.broadcast_to(np.arange(200, dtype=np.float32).reshape(-1, 1, 1, 1), (200, 3, 8, 8)).copy()
    rows = observe(graph, x, [("x", (1,))], {"x": (1, 3, 8, 8)}, Silent())["x", (1,)].rows
    counts, _ = np.histogram(rows[:, 0], bins=4, range=(0, 200))
    assert counts.min() > 0.7 * counts.max()


def one_reader(kernel: Array) -> PlanGraph:
    """Two channels that reach 1 and 10, and a kernel that reads them."""
    net = Net(1, 2, 2)
    x = net.conv("x", "first", (1, 2), size=1, activation="relu", kernel=[[[[1]]], [[[10]]]], bias=[0, 0])
    return net.graph(net.conv(x, "last", (2, len(kernel)), size=1, kernel=kernel, bias=np.zeros(len(kernel))))


def test_the_estimate_by_hand():
    x = np.linspace(0, 1, 256, dtype=np.float32).reshape(64, 1, 2, 2)
    graph = one_reader(np.array([[1, 0.1]], np.float32).reshape(1, 2, 1, 1))
    found = measured(graph, x)
    scales = np.ones(found.groups.size)
    # One term is the tensor between them, whose step is 10 / 255; the other the kernel: 0.1 / step = 12.7 rounds to 13.
    activations, weights = (term.noise(scales) for term in terms(found))
    power = float(np.square(2 * x).mean())
    between = next(found["first_relu"] for found in graph.run(x, ["first_relu"]))
    step = 10 / 255
    error = np.square(np.rint(between / step) * step - between).mean(axis=(0, 2, 3))
    assert activations == pytest.approx((1 * error[0] + 0.01 * error[1]) / power, rel=0.02)
    off = (13 / 127 - 0.1) ** 2 * float(np.square(10 * x).mean())
    assert weights == pytest.approx(4 * off / power, rel=1e-3)


@pytest.mark.parametrize("per_channel", [True, False])
def test_scaling_never_raises_the_estimate(per_channel: bool):
    for octaves in (0.0, 3.0):
        found = measured(badly_scaled(mobile("relu", width=4), X, octaves=octaves), X, per_channel=per_channel)
        choice = Choice(found, np.zeros(found.groups.size))
        before, now = choice.noise()
        assert before == now
        for ids, _ in found.groups.chosen_together() * 2:
            choice.improve(ids)
            _, after = choice.noise()
            assert after <= now
            now = after
        assert sum(term.noise(choice.scales) for term in terms(found)) == pytest.approx(now)


def test_the_estimate_ranks_as_the_noise_does():
    ranked = []
    for octaves in (0.0, 2.0, 4.0):
        graph = badly_scaled(mobile("relu"), X, octaves=octaves)
        found = measured(graph, X)
        estimate = sum(term.noise(np.ones(found.groups.size)) for term in terms(found))
        exact = outputs(graph, X)
        noise = float(np.square(int8_outputs(graph, X, X) - exact).mean() / np.var(exact))
        ranked.append((estimate, noise))
    assert sorted(ranked) == ranked
    assert sorted(noise for _, noise in ranked) == [noise for _, noise in ranked]


def test_a_least_scale_is_kept():
    found = measured(badly_scaled(mobile("relu", width=4), X), X)
    least = np.random.default_rng(0).uniform(0, 3, found.groups.size)
    choice = Choice(found, least)
    for ids, _ in found.groups.chosen_together():
        choice.improve(ids)
        moved = ids[choice.scales[ids] != 1]
        assert (choice.scales[moved] >= least[moved] * (1 - 1e-12)).all()
    assert (choice.scales != 1).any()
