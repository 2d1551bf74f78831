"""The layer that was damaged in the compiled file is the first one that is called bad, and its repro shows it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import targets
from calibration import inputs
from edgesmith.frameworks import import_keras, third_party_warnings
from edgesmith.progress import Silent
from edgesmith.types import Model, Scheme
from optimizer.per_layer import PerLayer, compare_layers, float_tensors
from optimizer.per_layer_repro import write_repro
from optimizer.tensor_sums import TensorSums, decibels
from targets import onnx_file
from targets.artifact_tensors import Grid, open_tensors
from targets.base import CompileRequest
from targets.found import read_artifact
from targets.plan_cut import cut
from targets.plan_export import make_plan_graph
from targets.plan_graph import PlanGraph
from targets.tensor_pairs import pair_tensors
from tests import damaged_artifacts, tiny_networks

pytestmark = pytest.mark.slow

X = tiny_networks.pictures(12, seed=5)
BOUND = 20.0
"""The sound int8 files keep 36 dB in every tensor."""


@dataclass(frozen=True, slots=True)
class Compiled:
    model: Model
    graph: PlanGraph
    tflite: Path
    onnx: Path
    float_onnx: Path


def compiled(name: str, model: Model, scheme: Scheme, folder: Path) -> Path:
    calibration = tiny_networks.samples(tiny_networks.pictures(32))
    request = CompileRequest(scheme=scheme, calibration=calibration, out_dir=folder, name="net", board_isa="x86_64")
    return targets.get(name).compile(model, request, Silent()).path


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    folder = tmp_path_factory.mktemp("per_layer")
    model = tiny_networks.record(tiny_networks.network(), folder / "net.keras")
    return Compiled(
        model=model,
        graph=make_plan_graph(model, Silent()),
        tflite=compiled("tflite", model, Scheme.INT8, folder / "tflite"),
        onnx=compiled("onnxruntime", model, Scheme.INT8, folder / "onnx"),
        float_onnx=compiled("onnxruntime", model, Scheme.NONE, folder / "float"),
    )


def compared(graph: PlanGraph, path: Path, bound: float = BOUND) -> PerLayer:
    return compare_layers(graph, open_tensors(read_artifact(path)), X, bound, Silent())


LAYERS = ["stem", "separable", "separable", "depthwise", "residual", "add", "flatten", "hidden", "head", "head"]


@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_a_sound_file_has_every_layer_and_no_bad_one(kind: str, net: Compiled):
    found = compared(net.graph, getattr(net, kind))
    assert found.first_bad is None
    assert not any(row.rescaled for row in found.rows)
    assert [row.layer for row in found.rows if row.layer != "image" and row.kind != "Transpose"] == LAYERS
    assert all(36.0 < row.sqnr_db < 80.0 for row in found.rows)
    assert all(row.own_sqnr_db >= row.sqnr_db - 1.0 for row in found.rows if row.own_sqnr_db is not None)
    assert all(row.grid is not None and row.grid.low <= 0.0 <= row.grid.high for row in found.rows)


def test_the_float_file_is_the_same_network(net: Compiled):
    """Its tensors inside an op (a convolution before its bias and its ReLU) are taken for none of the plan's."""
    found = compared(net.graph, net.float_onnx)
    assert [row.layer for row in found.rows if row.layer != "image" and row.kind != "Transpose"] == LAYERS
    assert all(row.sqnr_db > 100.0 and row.grid is None for row in found.rows)


def test_an_integer_input_is_compared_as_the_interpreter_gets_it(net: Compiled):
    wide = 2.0 * X
    opened = open_tensors(read_artifact(net.tflite))
    row = compare_layers(net.graph, opened, wide, BOUND, Silent()).rows[0]
    assert (row.layer, row.kind) == ("image", "Input")
    assert row.grid is not None
    np.testing.assert_allclose(row.artifact_range, (row.grid.low, row.grid.high), rtol=1e-6)
    half = row.grid.scale / 2
    assert row.saturated == np.count_nonzero((wide > row.grid.high + half) | (wide < row.grid.low - half)) > 0


OUTPUT_OF = {
    "stem": "stem_relu",
    "depthwise": "depthwise_relu",
    "residual": "residual_bn",
    "hidden": "/hidden_",
    "head": "/head_",
}


@pytest.mark.parametrize("layer", OUTPUT_OF)
def test_tflite_the_layer_with_wrong_weights_is_named(layer: str, net: Compiled, tmp_path: Path):
    bad = damaged_artifacts.tflite(
        net.tflite, tmp_path / "bad.tflite", OUTPUT_OF[layer], weights=damaged_artifacts.shifted
    )
    found = compared(net.graph, bad)
    assert found.first_bad is not None
    assert found.first_bad.layer == layer
    assert found.noisiest is not None
    assert found.noisiest.layer == layer
    before = [row for row in found.rows if found.rows.index(row) < found.rows.index(found.first_bad)]
    assert all(row.sqnr_db > 36.0 for row in before)


def test_tflite_one_wrong_scale_of_a_channel_is_found(net: Compiled, tmp_path: Path):
    def one_channel(scales):  # noqa: ANN001, ANN202
        return np.where(np.arange(scales.size) == 3, 8 * scales, scales)

    bad = damaged_artifacts.tflite(net.tflite, tmp_path / "bad.tflite", "residual_bn", scales=one_channel)
    found = compared(net.graph, bad)
    assert found.first_bad is not None
    assert found.first_bad.layer == "residual"


def test_tflite_a_clipped_range_shows_as_saturation(net: Compiled, tmp_path: Path):
    bad = damaged_artifacts.tflite(
        net.tflite, tmp_path / "bad.tflite", "stem_relu", output_scale=lambda scale: scale / 8
    )
    found = compared(net.graph, bad)
    row, sound = found.first_bad, compared(net.graph, net.tflite).rows[1]
    assert row is not None
    assert row.layer == sound.layer == "stem"
    assert row.saturated_share > 0.05 > sound.saturated_share
    assert row.artifact_range[1] == pytest.approx(sound.artifact_range[1] / 8)


@pytest.mark.parametrize(("layer", "rank"), [("stem", 4), ("residual", 4), ("hidden", 2), ("head", 2)])
def test_onnx_the_layer_with_wrong_weights_is_named(layer: str, rank: int, net: Compiled, tmp_path: Path):
    bad = damaged_artifacts.onnx(
        net.onnx, tmp_path / "bad.onnx", layer, damaged_artifacts.shifted, rank=rank, dtype="int8"
    )
    found = compared(net.graph, bad)
    assert found.first_bad is not None
    assert found.first_bad.layer == layer
    assert found.noisiest is not None
    assert found.noisiest.layer == layer


def test_onnx_a_channel_without_weights_is_dead(net: Compiled, tmp_path: Path):
    def without(weights):  # noqa: ANN001, ANN202
        return np.where(np.arange(len(weights))[:, None, None, None] == 5, 0, weights)

    bad = damaged_artifacts.onnx(net.onnx, tmp_path / "bad.onnx", "residual", without, rank=4, dtype="int8")
    (row,) = [row for row in compared(net.graph, bad).rows if row.layer == "residual"]
    assert (row.dead_channels, row.channels) == (1, 16)
    (sound,) = [row for row in compared(net.graph, net.onnx).rows if row.layer == "residual"]
    assert sound.dead_channels == 0


def test_a_float_onnx_is_a_reference_too(net: Compiled, tmp_path: Path):
    """Its layers are its own nodes."""
    signature = onnx_file.signature(onnx_file.read(net.float_onnx))
    model = Model(
        kind="onnx", path=net.float_onnx, sha256="0" * 64, signature=signature, origin="net.onnx", parameters=0
    )
    graph = make_plan_graph(model, Silent())
    assert compared(graph, net.onnx).first_bad is None
    bad = damaged_artifacts.onnx(
        net.onnx, tmp_path / "bad.onnx", "hidden", damaged_artifacts.shifted, rank=2, dtype="int8"
    )
    found = compared(graph, bad).first_bad
    assert found is not None
    assert "hidden" in found.layer


def rescaled(factors: np.ndarray, *, undone: bool, folder: Path) -> Path:
    """The network with the channels of `hidden` multiplied; `head` takes the factors out again, or not."""
    network = tiny_networks.network()
    with third_party_warnings():
        kernel, bias = (np.array(variable) for variable in network.get_layer("hidden").weights)
        head = np.array(network.get_layer("head").kernel)
        network.get_layer("hidden").set_weights([kernel * factors, bias * factors])
        if undone:
            network.get_layer("head").kernel.assign(head / factors[:, None])
    model = tiny_networks.record(network, folder / "rescaled.keras")
    return compiled("onnxruntime", model, Scheme.NONE, folder)


@pytest.mark.parametrize("undone", [True, False])
def test_channels_that_the_next_layer_scales_back_are_no_damage(undone: bool, net: Compiled, tmp_path: Path):
    factors = np.geomspace(0.1, 10.0, 24).astype(np.float32)
    found = compared(net.graph, rescaled(factors, undone=undone, folder=tmp_path))
    (hidden,) = [row for row in found.rows if row.layer == "hidden"]
    assert hidden.sqnr_db < BOUND
    assert hidden.rescaled is undone
    assert hidden.bad is not undone
    assert (found.first_bad is None) is undone
    assert undone is False or hidden.own_sqnr_db is None


def test_tensors_are_paired_without_names(net: Compiled, tmp_path: Path):
    """By value; behind the damage, where no value fits, by their place in the order of computing."""
    bad = damaged_artifacts.tflite(net.tflite, tmp_path / "bad.tflite", "/hidden_", weights=damaged_artifacts.shifted)
    opened = open_tensors(read_artifact(bad))
    ours, theirs = float_tensors(net.graph, X[:4]), opened.run(X[:4])
    nameless = {f"t{index}": values for index, values in enumerate(theirs.values())}
    (output,) = [f"t{i}" for i, name in enumerate(theirs) if name == opened.outputs[0]]
    by_name = pair_tensors(net.graph, ours, theirs, opened.inputs, opened.outputs)
    found = pair_tensors(net.graph, ours, nameless, ["t0"], [output])
    index = {name: f"t{i}" for i, name in enumerate(theirs)}
    assert [(p.tensor, p.name) for p in found] == [(p.tensor, index[p.name]) for p in by_name]
    assert {p.how for p in found} == {"name", "value", "place"}
    assert {p.how for p in by_name} == {"name", "layer"}


def test_the_repro_shows_the_damage(net: Compiled, tmp_path: Path):
    bad = damaged_artifacts.tflite(
        net.tflite, tmp_path / "bad.tflite", "residual_bn", weights=damaged_artifacts.shifted
    )
    opened = open_tensors(read_artifact(bad))
    found = compare_layers(net.graph, opened, X, BOUND, Silent())
    assert found.first_bad is not None
    folder = tmp_path / "repro"
    folder.mkdir()
    (folder / "float_before_7.npy").write_bytes(b"of an earlier one")
    written = write_repro(found, found.first_bad, opened, X, folder, command=["edgesmith", "compare"])
    assert sorted(written) == sorted(folder.iterdir())
    told = json.loads((folder / "repro.json").read_text())
    assert (told["layer"], told["kind"], told["command"]) == ("residual", "Conv", ["edgesmith", "compare"])
    assert told["sqnr_db"] == pytest.approx(found.first_bad.sqnr_db)
    assert told["sample_sqnr_db"] <= told["sqnr_db"] + 0.5
    array = {name: np.load(folder / name) for name in told["files"] if name.endswith(".npy")}
    np.testing.assert_array_equal(array["sample.npy"], X[told["sample_index"]][None])
    session = onnx_file.session(folder / "layer.onnx")
    (name,) = [value.name for value in session.get_inputs()]
    assert [name] == told["reads"]
    (right,) = session.run(None, {name: array["float_before_0.npy"]})
    np.testing.assert_allclose(right, array["float_after.npy"], rtol=1e-4, atol=1e-4)
    (expected,) = session.run(None, {name: array["artifact_before_0.npy"]})
    np.testing.assert_array_equal(expected, array["expected_after.npy"])
    assert np.abs(right - expected).max() < 0.1 < np.abs(expected - array["artifact_after.npy"]).max()


def test_a_part_reads_all_that_an_op_reads(net: Compiled):
    (add,) = [op for op in net.graph.ops if op.kind == "Add"]
    ours = float_tensors(net.graph, X[:1])
    shapes = {name: values.shape[1:] for name, values in ours.items()}
    part = cut(net.graph, add.output, set(ours), shapes)
    assert part is not None
    assert set(part.inputs) == set(add.inputs)
    whole = cut(net.graph, add.output, (), shapes)
    assert whole is not None
    assert whole.inputs == net.graph.inputs
    assert cut(net.graph, net.graph.inputs[0], (), shapes) is None


def test_counts_by_hand():
    """int8, scale 0.5, zero point 0: -64 to 63.5."""
    sums = TensorSums(2, Grid(dtype="int8", scale=0.5, zero_point=0))
    reference = np.array([[[63.6, 64.0, -65.0], [1.0, 2.0, 3.0]]])[:, None].swapaxes(1, 2)[:, :, 0][:, None]
    found = np.array([[[63.5, 63.5, -64.0], [2.0, 2.0, 2.0]]])[:, None].swapaxes(1, 2)[:, :, 0][:, None]
    assert reference.shape == (1, 1, 2, 3)
    sums.add(reference, found, None)
    assert sums.saturated == 2  # 63.6 rounds to 63.5
    assert (sums.values, sums.channels, sums.dead_channels) == (6, 2, 1)
    assert sums.float_range == (-65.0, 64.0)
    assert sums.artifact_range == (-64.0, 63.5)
    noise = 0.1**2 + 0.5**2 + 1 + 1 + 0 + 1
    assert sums.sqnr_db == pytest.approx(decibels(float(np.square(reference).sum()), noise))
    assert sums.own_sqnr_db is None


def test_constant_channels_of_the_float_model_are_not_dead():
    sums = TensorSums(2, None)
    flat = np.ones((4, 1, 3))
    sums.add(flat, flat, flat)
    assert sums.dead_channels == 0
    assert sums.own_sqnr_db == np.inf


def test_nan_is_bad():
    sums = TensorSums(None, None)
    sums.add(np.ones((2, 3)), np.full((2, 3), np.nan), None)
    assert sums.sqnr_db == -np.inf
    assert sums.worst_sample() == 0


@given(st.integers(0, 2**31), st.integers(1, 4))
def test_a_factor_per_channel_is_seen(seed: int, chunks: int):
    random = np.random.default_rng(seed)
    factors = random.uniform(0.1, 10.0, size=(1, 1, 5, 1))
    exact, unrelated = TensorSums(2, None), TensorSums(2, None)
    for _ in range(chunks):
        values = random.normal(size=(4, 1, 5, 50))
        exact.add(values, values * factors, None)
        unrelated.add(values, random.normal(size=values.shape), None)
    assert exact.rescaled_sqnr_db > 100.0
    assert unrelated.rescaled_sqnr_db < 10.0


def test_a_keras_model_with_an_integer_embedding_is_compared(tmp_path: Path):
    keras = import_keras()
    layers = keras.layers
    keras.utils.set_random_seed(2)
    words = keras.Input((6,), dtype="int32", name="words")
    y = layers.Embedding(20, 8, name="embedding")(words)
    y = layers.Dense(8, activation="relu", name="inner")(y)
    y = layers.GlobalAveragePooling1D(name="mean")(y)
    model = tiny_networks.record(
        keras.Model(words, layers.Dense(3, name="head")(y), name="words_net"), tmp_path / "w.keras"
    )
    path = compiled("tflite", model, Scheme.DYNAMIC, tmp_path)
    x = np.random.default_rng(0).integers(0, 20, (4, 6)).astype(np.int32)
    found = compare_layers(make_plan_graph(model, Silent()), open_tensors(read_artifact(path)), x, 10.0, Silent())
    assert found.first_bad is None
    assert {"inner", "head"} <= {row.layer for row in found.rows}


@pytest.mark.parametrize("name", ["tflite", "onnxruntime"])
def test_several_inputs_and_outputs_are_compared(name: str, tmp_path: Path):
    keras = import_keras()
    layers = keras.layers
    keras.utils.set_random_seed(4)
    picture, facts = keras.Input((8, 8, 3), name="picture"), keras.Input((5,), name="facts")
    seen = layers.GlobalAveragePooling2D(name="pool")(layers.Conv2D(6, 3, activation="relu", name="conv")(picture))
    known = layers.Dense(6, activation="relu", name="inner")(facts)
    both = layers.Dense(3, name="head")(layers.Concatenate(name="join")([seen, known]))
    network = keras.Model([picture, facts], [both, layers.Dense(3, name="second")(known)], name="two")
    model = tiny_networks.record(network, tmp_path / "two.keras")
    path = compiled(name, model, Scheme.NONE, tmp_path)
    x = inputs.join([X, np.random.default_rng(0).normal(size=(len(X), 5)).astype(np.float32)], ["picture", "facts"])
    found = compare_layers(make_plan_graph(model, Silent()), open_tensors(read_artifact(path)), x, 60.0, Silent())
    assert found.first_bad is None
    assert {"conv", "inner", "head", "second"} <= {row.layer for row in found.rows}
    head = next(row for row in found.rows if row.layer == "head")
    outputs = write_repro(found, head, open_tensors(read_artifact(path)), x, tmp_path / "repro", command=[])
    assert {"sample_0.npy", "sample_1.npy"} <= {file.name for file in outputs}
