"""What is special about `.tflite`: heads in order, refusals that name the op, integers by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesmith.errors import ConfigError, ModelError
from edgesmith.frameworks import import_keras, third_party_warnings
from edgesmith.progress import Silent
from edgesmith.types import Artifact, Model, Scheme
from targets import keras_model, tflite, tflite_file
from targets.base import CompileRequest
from targets.divergence import sqnr_db
from tests import tiny_networks


def compiled(model: Model, scheme: Scheme, folder: Path, x: Any = None, **changes: Any) -> Artifact:
    calibration = None if x is None else tiny_networks.samples(x)
    request = CompileRequest(scheme=scheme, calibration=calibration, out_dir=folder, name="net")
    return tflite.compile(model, dataclasses.replace(request, **changes), Silent())


@pytest.fixture
def layers() -> Any:
    keras = import_keras()
    keras.utils.set_random_seed(0)
    return keras.layers


def model_of(inputs: Any, outputs: Any, folder: Path) -> Model:
    return tiny_networks.record(import_keras().Model(inputs, outputs, name="net"), folder / "net.keras")


@pytest.fixture
def dense(layers: Any, tmp_path: Path) -> Model:
    """One dense layer with known weights: y = x W, W = [[1, -2], [0, 0.5]]."""
    given = import_keras().Input((2,), name="given")
    layer = layers.Dense(2, use_bias=False, name="dense")
    answer = layer(given)
    with third_party_warnings():
        layer.kernel.assign([[1.0, -2.0], [0.0, 0.5]])
    return model_of(given, answer, tmp_path)


def test_integers_of_a_dense_layer_by_hand(dense: Model, tmp_path: Path):
    """Symmetric narrow range: the largest of a channel becomes 127, or -127."""
    x = np.array([[1, 1], [-1, -1], [0.5, 0.25]], np.float32)
    per_channel = compiled(dense, Scheme.INT8, tmp_path / "c", x)
    (kernel,) = tflite.kernels(per_channel.path).values()
    # Channels are rows here: [1, 0] / (1/127) and [-2, 0.5] / (2/127) with 0.5 * 127 / 2 = 31.75.
    assert kernel.dtype == np.int8
    np.testing.assert_array_equal(kernel, [[127, 0], [-127, 32]])
    per_tensor = compiled(dense, Scheme.INT8, tmp_path / "t", x, per_channel=False)
    (kernel,) = tflite.kernels(per_tensor.path).values()
    np.testing.assert_array_equal(kernel, [[64, 0], [-127, 32]])  # 1 * 127 / 2 = 63.5
    assert per_channel.sparsity == 0.25


def test_int8_inputs_are_quantized_and_outputs_dequantized(dense: Model, tmp_path: Path):
    x = np.array([[1, 1], [-1, -1], [0.5, 0.25]], np.float32)
    artifact = compiled(dense, Scheme.INT8, tmp_path, x)
    assert [spec.dtype for spec in (*artifact.signature.inputs, *artifact.signature.outputs)] == ["int8", "int8"]
    (found,) = tflite.outputs(artifact.path, x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, x @ np.array([[1, -2], [0, 0.5]]), atol=0.03)


def test_several_inputs_and_outputs_keep_the_model_s_order(layers: Any, tmp_path: Path):
    """The converter alone would list the second head first."""
    keras = import_keras()
    a, b = keras.Input((3,), name="zeta"), keras.Input((5,), name="alpha")
    joined = layers.Concatenate(name="joined")([a, b])
    heads = [layers.Dense(4, activation="softmax", name="zz")(joined), layers.Dense(2, name="aa")(joined)]
    model = model_of([a, b], heads, tmp_path)
    artifact = compiled(model, Scheme.NONE, tmp_path)
    assert [spec.shape for spec in artifact.signature.inputs] == [(1, 3), (1, 5)]
    assert [spec.shape for spec in artifact.signature.outputs] == [(1, 4), (1, 2)]


def test_outputs_of_two_heads_come_in_the_model_s_order(layers: Any, tmp_path: Path):
    given = import_keras().Input((3,), name="given")
    heads = [layers.Dense(4, activation="softmax", name="zz")(given), layers.Dense(2, name="aa")(given)]
    model = model_of(given, heads, tmp_path)
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    artifact = compiled(model, Scheme.INT8_FLOAT_IO, tmp_path, x)
    references = tiny_networks.answers(keras_model.load(model), x)
    for reference, found in zip(references, tflite.outputs(artifact.path, x), strict=True):
        assert found.shape == reference.shape
        assert sqnr_db(reference, found) > 20


def test_an_op_without_a_kernel_is_named_with_its_place(layers: Any, tmp_path: Path):
    keras = import_keras()
    given = keras.Input((8,), name="given")
    model = model_of(given, layers.Dense(3)(keras.ops.erfinv(keras.ops.sigmoid(given))), tmp_path)
    with pytest.raises(ModelError) as caught:
        compiled(model, Scheme.NONE, tmp_path)
    assert caught.value.what == (
        "tflite: Keras 3 .keras net.keras uses Erfinv, which the runtime has no built-in kernel for (at "
        "net_1/erfinv/Erfinv)."
    )
    assert "leave 'tflite' out of `targets`" in caught.value.next_step
    assert not (tmp_path / "net.tflite").exists()


def test_a_loop_is_refused_where_calibrating_it_would_crash(layers: Any, tmp_path: Path):
    given = import_keras().Input((4, 3), name="given")
    model = model_of(given, layers.GRU(4, name="gru")(given), tmp_path)
    x = np.zeros((2, 4, 3), np.float32)
    with pytest.raises(ModelError, match=r"the loop at net_1/gru_1/while cannot be observed") as caught:
        compiled(model, Scheme.INT8, tmp_path, x)
    assert "unroll=True" in caught.value.next_step
    artifact = compiled(model, Scheme.NONE, tmp_path)
    assert {kernel.size for kernel in tflite.kernels(artifact.path).values()} >= {3 * 12, 4 * 12}


def test_an_open_dimension_is_refused(layers: Any, tmp_path: Path):
    given = import_keras().Input((None, None, 3), name="given")
    model = model_of(given, layers.Conv2D(2, 1)(given), tmp_path)
    with pytest.raises(
        ModelError, match=r"input given: float32\[\?, \?, \?, 3\] has an open dimension besides the batch"
    ):
        compiled(model, Scheme.NONE, tmp_path)


def test_dynamic_per_tensor_is_refused(dense: Model, tmp_path: Path):
    with pytest.raises(ConfigError, match="scheme 'dynamic' is made per channel only"):
        compiled(dense, Scheme.DYNAMIC, tmp_path, per_channel=False)


def test_integer_inputs_stay_integers(layers: Any, tmp_path: Path):
    given = import_keras().Input((6,), dtype="int32", name="ids")
    x = layers.Flatten()(layers.Embedding(20, 8, name="table")(given))
    model = model_of(given, layers.Dense(3)(x), tmp_path)
    ids = np.random.default_rng(0).integers(0, 20, size=(12, 6)).astype(np.int32)
    artifact = compiled(model, Scheme.INT8, tmp_path, ids)
    assert artifact.signature.inputs[0].dtype == "int32"
    (reference,) = tiny_networks.answers(keras_model.load(model), ids)
    (found,) = tflite.outputs(artifact.path, ids)
    assert sqnr_db(reference, found) > 20
    assert (20, 8) in {kernel.shape for kernel in tflite.kernels(artifact.path).values()}


def test_a_file_of_another_format_is_refused(tmp_path: Path):
    other = tmp_path / "net.tflite"
    other.write_bytes(b"PK\x03\x04 a zip")
    with pytest.raises(ModelError, match=r"net\.tflite: not a whole \.tflite file: it has no TFL3 mark"):
        tflite_file.TfliteFile(other)
    with pytest.raises(ModelError, match=r"gone\.tflite: cannot be read: No such file"):
        tflite_file.read(tmp_path / "gone.tflite")


def test_the_converter_says_nothing_on_the_terminal(dense: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    artifact = compiled(dense, Scheme.INT8, tmp_path, np.ones((3, 2), np.float32))
    tflite.outputs(artifact.path, np.ones((3, 2), np.float32))
    assert capfd.readouterr() == ("", "")
