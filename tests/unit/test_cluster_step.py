"""The `cluster` step: how many values are left, that zeros stay, what training does to them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from edgesmith.errors import DataError, InternalError, ModelError
from edgesmith.frameworks import import_keras
from edgesmith.types import SampleSet
from optimizer.base import Context
from optimizer.clustering import codebook, shared
from optimizer.clustering.training import TrainedCentroids
from optimizer.kernels import Kernel, prunable_kernels
from optimizer.techniques import cluster, prune

KERNELS = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=1, max_dims=3, max_side=6), elements=st.sampled_from([0, 0, 0.5, -1, 2, 2.5])
)


def _net() -> Any:
    keras = import_keras()
    keras.utils.set_random_seed(5)
    layers = keras.layers
    image = keras.Input((6, 6, 1))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, name="stem")(image))
    x = layers.Conv2DTranspose(8, 2, activation="relu", name="up")(x)
    inner = keras.Sequential([keras.Input((200,)), layers.Dense(12, activation="relu", name="hidden")], name="inner")
    return keras.Model(image, layers.Dense(3, activation="softmax", name="head")(inner(layers.Flatten()(x))))


def _train(count: int = 96) -> SampleSet:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, count)
    x = (rng.normal(size=(count, 6, 6, 1)) + y[:, None, None, None]).astype(np.float32)
    return SampleSet(role="train", x=x, y=y, sha256="", source="made.npz")


def _values(model: Any) -> dict[str, int]:
    return {kernel.name: len(np.unique(kernel.value())) for kernel in prunable_kernels(model)}


@settings(deadline=None)
@given(KERNELS, st.integers(2, 5), st.sampled_from(["float32", "float16", "int8"]), st.booleans())
def test_no_more_values_than_asked_and_zeros_stay(weights: Any, count: int, kind: codebook.Codebook, channels: bool):
    channels = channels and weights.ndim > 1
    axis = -1 if channels else None
    clusters = shared.cluster(weights, count, "optimal", 0, axis=axis)
    for kept in (clusters.projected(weights), clusters.rounded(weights, kind)):
        assert kept.shape == weights.shape
        assert not kept[weights == 0].any()
        rows = np.moveaxis(kept, -1, 0) if channels else kept[None]
        assert max(len(np.unique(row)) for row in rows) <= count
    if len(np.unique(weights)) <= count and not channels:
        assert clusters.projected(weights).tolist() == weights.tolist()


def test_values_by_hand():
    weights = np.array([[0.0, 1.0, 2.0], [9.0, 11.0, 0.0]], np.float32)
    clusters = shared.cluster(weights, 3, "optimal", 0)
    assert clusters.projected(weights).tolist() == [[0.0, 1.5, 1.5], [10.0, 10.0, 0.0]]
    # One step of an optimizer moves each member; their mean is the new value, and zero is not moved.
    moved = np.array([[5.0, 1.0, 4.0], [10.0, 13.0, -5.0]], np.float32)
    assert clusters.projected(moved).tolist() == [[0.0, 2.5, 2.5], [11.5, 11.5, 0.0]]
    # 2.5 is 28 steps of 11.5 / 127.
    int8 = clusters.rounded(moved, "int8").ravel().tolist()
    assert int8 == pytest.approx([0.0, 28 * 11.5 / 127, 28 * 11.5 / 127, 11.5, 11.5, 0.0])


def test_a_step_of_sgd_moves_a_value_by_the_mean_gradient_of_its_members():
    keras = import_keras()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, use_bias=False, name="d")])
    (kernel,) = prunable_kernels(model)
    kernel.assign(np.array([[1.0], [1.1], [0.0], [3.0]]))
    clusters = shared.cluster(kernel.value(), 3, "optimal", 0)
    kernel.assign(clusters.projected(kernel.value()))
    trained = TrainedCentroids([(kernel, clusters)], [kernel.value()], "fixed")
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=lambda _, given_: given_)
    # The loss is the output, so the gradient of each weight is its input: 1, 3, 5, 7.
    model.fit(np.array([[1.0, 3.0, 5.0, 7.0]]), np.zeros(1), callbacks=[trained.callback()], verbose=0)
    assert kernel.value().ravel().tolist() == pytest.approx([1.05 - 0.2, 1.05 - 0.2, 0.0, 3.0 - 0.7])


@pytest.mark.parametrize("channels", [False, True])
def test_a_weight_that_training_takes_to_another_value_comes_to_share_it(channels: bool):
    keras = import_keras()
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2, use_bias=False, name="d")])
    (kernel,) = prunable_kernels(model)
    own = np.array([[1.0, -50.0], [1.2, 0.0], [0.0, 0.0], [3.0, 70.0], [3.2, 70.0]], np.float32)
    kernel.assign(own)
    clusters = shared.cluster(kernel.value(), 5, "optimal", 0, axis=-1 if channels else None)
    kernel.assign(clusters.projected(kernel.value()))
    trained = TrainedCentroids([(kernel, clusters)], [own], "trained")
    for _ in range(5):  # 1.2 + 5 * 0.3 = 2.7 is nearer to 3.1 than to the mean with the weight that stays behind
        stepped = kernel.value()
        stepped[1, 0] += 0.3
        stepped[2] += 0.3
        kernel.assign(stepped)
        trained.after_step()
    first = kernel.value()[:, 0].tolist()
    if channels:  # 1, 1.2, 3 and 3.2 had a value each
        assert first == pytest.approx([1.0, 2.7, 0.0, 3.0, 3.2])
    else:
        mean = (2.7 + 3.0 + 3.2) / 3
        assert first == pytest.approx([1.0, mean, 0.0, mean, mean])
    assert kernel.value()[:, 1].tolist() == [-50.0, 0.0, 0.0, 70.0, 70.0]
    # A training that was killed goes on with the same weights and values.
    again = TrainedCentroids([(kernel, clusters)], [own], "trained")
    again.restore(trained.state())
    both = []
    for each in (trained, again):
        kernel.assign(each.state()["shared/0"] + np.float32(0.4))
        each.after_step()
        both.append(kernel.value().tolist())
    assert both[0] == both[1]


def test_the_step_leaves_few_values_in_every_layer(tmp_path: Path):
    applied = cluster.apply(_net(), cluster.Params(epochs=0, clusters=6, codebook="int8"), Context(workdir=tmp_path))
    assert _values(applied.model) == {"stem/kernel": 6, "up/kernel": 6, "inner/hidden/kernel": 6, "head/kernel": 6}
    assert applied.notes[-1].startswith("6 values in each of 4 weight arrays, before training off by ")
    assert list(tmp_path.iterdir()) == []


def test_training_keeps_values_shared_and_zeros_zero_and_lowers_the_loss(tmp_path: Path):
    context = Context(workdir=tmp_path, train=_train())
    model = prune.apply(_net(), prune.Params(epochs=0, final_sparsity=0.6), context).model
    zeros = {kernel.name: kernel.value() == 0 for kernel in prunable_kernels(model)}
    params = cluster.Params(epochs=3, clusters={"head": 4, "*": 9}, biases=3, batch_size=16, learning_rate=0.01)
    applied = cluster.apply(model, params, context)
    assert _values(applied.model) == {"stem/kernel": 9, "up/kernel": 9, "inner/hidden/kernel": 9, "head/kernel": 4}
    for kernel in prunable_kernels(applied.model):
        assert not kernel.value()[zeros[kernel.name]].any()
    (said,) = [note for note in applied.notes if note.startswith("fine-tuned")]
    first, last = said.rpartition(": ")[2].split(" to ")
    assert float(last) < float(first)
    # Biases are fresh, all zero: they are not made one value that could never become several.
    assert any("stem/bias" in note for note in applied.notes)
    applied.model.save(tmp_path / "net.keras")
    assert _values(import_keras().saving.load_model(tmp_path / "net.keras")) == _values(applied.model)


def test_a_channel_is_the_output_of_its_layer(tmp_path: Path):
    params = cluster.Params(epochs=0, clusters=2, granularity="channel")
    model = cluster.apply(_net(), params, Context(workdir=tmp_path)).model
    for layer, axis in (("stem", -1), ("up", 2), ("head", -1)):
        rows = np.moveaxis(model.get_layer(layer).kernel.numpy(), axis, 0)
        assert [len(np.unique(row)) for row in rows] == [2] * len(rows), layer
    assert shared.distinct_values(model)["up/kernel"][1] == 2


def test_biases_are_found_once_and_rounded_too(tmp_path: Path):
    model = _net()
    model.get_layer("up").bias.assign(np.arange(8))
    cluster.apply(model, cluster.Params(epochs=0, biases=2, include=["up"]), Context(workdir=tmp_path))
    assert model.get_layer("up").bias.numpy().tolist() == [0.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0]
    names = [bias.name for bias in shared.biases(model, prunable_kernels(model))]
    assert names == ["stem/bias", "up/bias", "inner/hidden/bias", "head/bias"]


def test_more_values_than_an_earlier_step_left_are_an_internal_error(tmp_path: Path):
    model = cluster.apply(_net(), cluster.Params(epochs=0, clusters=4), Context(workdir=tmp_path)).model
    before = shared.distinct_values(model)
    assert before["inner/hidden/kernel"][0] == 4
    shared.check_preserved(before, model, step="noise")
    head: Kernel = next(kernel for kernel in prunable_kernels(model) if kernel.layer == "inner/hidden")
    head.assign(head.value() + np.arange(12) / 64)
    with pytest.raises(InternalError, match=r"Step 'noise' left \d+ distinct values in inner/hidden/kernel"):
        shared.check_preserved(before, model, step="noise")


@pytest.mark.parametrize("wrong", [{"clusters": 1}, {"clusters": {"a": 300}}, {"clusters": {}}, {"init": "best"}])
def test_parameters_out_of_range_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ValidationError):
        cluster.Params(**wrong)


def test_what_matches_nothing_or_has_no_data_is_refused(tmp_path: Path):
    context = Context(workdir=tmp_path)
    with pytest.raises(ModelError, match="The layer pattern 'hed' matches no"):
        cluster.check(_net(), cluster.Params(epochs=0, clusters={"hed": 4}), context)
    with pytest.raises(ModelError, match="leave no layer to cluster"):
        cluster.check(_net(), cluster.Params(epochs=0, clusters={"head": 4}, exclude=["head"]), context)
    with pytest.raises(DataError, match="there is no training data"):
        cluster.check(_net(), cluster.Params(), context)
