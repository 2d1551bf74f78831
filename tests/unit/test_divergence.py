"""The layer that was damaged is the one that is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import targets
from edgesmith.frameworks import import_keras, third_party_warnings
from edgesmith.progress import Silent
from edgesmith.types import Artifact, Model, Scheme
from targets import onnx_file, onnx_kernels
from targets.base import CompileRequest
from targets.divergence import Divergence, first_diverging_tensor, sqnr_db
from tests import tiny_networks

X = tiny_networks.pictures(4, seed=5)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny_networks.record(tiny_networks.network(), tmp_path_factory.mktemp("divergence") / "net.keras")


def compiled(name: str, model: Model, scheme: Scheme, folder: Path) -> Artifact:
    calibration = tiny_networks.samples(tiny_networks.pictures(32))
    request = CompileRequest(scheme=scheme, calibration=calibration, out_dir=folder, name="net", board_isa="x86_64")
    return targets.get(name).compile(model, request, Silent())


def damaged(layer: str, folder: Path) -> Model:
    """The network with the weights of one layer much larger and of the other sign."""
    network = tiny_networks.network()
    with third_party_warnings():
        variable = network.get_layer(layer).weights[0]
        variable.assign(-8.0 * np.array(variable))
    return tiny_networks.record(network, folder / f"{layer}.keras")


def test_sqnr_by_hand():
    assert sqnr_db(np.array([3.0, 4.0]), np.array([3.0, 4.5])) == pytest.approx(20.0)
    assert sqnr_db(np.array([1.0]), np.array([1.0])) == np.inf
    assert sqnr_db(np.array([0.0]), np.array([1.0])) == -np.inf
    assert sqnr_db(np.array([1.0]), np.array([np.nan])) == -np.inf


@pytest.mark.parametrize("scheme", [Scheme.NONE, Scheme.INT8, Scheme.FLOAT16])
@pytest.mark.parametrize("name", ["tflite", "onnxruntime"])
def test_a_faithful_artifact_has_none(name: str, scheme: Scheme, model: Model, tmp_path: Path):
    artifact = compiled(name, model, scheme, tmp_path)
    assert first_diverging_tensor(targets.get(name), model, artifact, X, 15.0) is None


@pytest.mark.parametrize("layer", ["stem", "separable", "depthwise", "residual", "hidden", "head"])
@pytest.mark.parametrize("name", ["tflite", "onnxruntime"])
def test_the_damaged_layer_is_named(name: str, layer: str, model: Model, tmp_path: Path):
    """Of a layer that was fused with batch normalization and activation, what follows it may be named instead."""
    artifact = compiled(name, damaged(layer, tmp_path), Scheme.INT8, tmp_path)
    found = first_diverging_tensor(targets.get(name), model, artifact, X, 10.0)
    assert found is not None
    assert found.layer.split("_")[0] == layer
    assert layer in found.tensor or found.tensor == artifact.signature.outputs[0].name
    assert found.sqnr_db < 10.0


def test_the_message_names_layer_tensor_and_distance():
    found = Divergence(layer="conv", tensor="net/conv:0", sqnr_db=3.25)
    assert str(found) == "layer 'conv' (tensor 'net/conv:0', 3.2 dB)"


def test_layers_called_twice_and_nested_models_are_no_obstacle(tmp_path: Path):
    keras = import_keras()
    layers = keras.layers
    keras.utils.set_random_seed(3)
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(8, activation="relu", name="deep")], name="inner")
    shared = layers.Dense(8, name="shared")
    given = keras.Input((8,), name="given")
    x = shared(inner(shared(given)))
    network = keras.Model(given, layers.Dense(3, name="last")(x), name="net")
    model = tiny_networks.record(network, tmp_path / "net.keras")
    x = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    artifact = compiled("tflite", model, Scheme.NONE, tmp_path)
    assert first_diverging_tensor(targets.get("tflite"), model, artifact, x, 60.0) is None
    with third_party_warnings():
        inner.get_layer("deep").kernel.assign(-np.array(inner.get_layer("deep").kernel))
    other = tiny_networks.record(network, tmp_path / "other.keras")
    found = first_diverging_tensor(targets.get("tflite"), other, artifact, x, 60.0)
    assert found is not None
    assert found.layer == "inner"


def test_onnx_models_are_compared_by_tensor_name(model: Model, tmp_path: Path):
    exported = compiled("onnxruntime", model, Scheme.NONE, tmp_path)
    reference = dataclasses.replace(
        model, kind="onnx", path=exported.path, signature=exported.signature, origin="ONNX net.onnx"
    )
    folder = tmp_path / "int8"
    artifact = compiled("onnxruntime", reference, Scheme.INT8, folder)
    target = targets.get("onnxruntime")
    assert first_diverging_tensor(target, reference, artifact, X, 15.0) is None
    artifact.path.write_bytes(_with_a_kernel_negated(artifact.path, containing="hidden"))
    found = first_diverging_tensor(target, reference, artifact, X, 10.0)
    assert found is not None
    assert "hidden" in found.layer
    assert found.layer == found.tensor


def _with_a_kernel_negated(path: Path, containing: str) -> bytes:
    from onnx import numpy_helper

    proto: Any = onnx_file.read(path)
    name = next(name for name in onnx_kernels.kernels_of(proto) if containing in name)
    tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), name))
    return bytes(proto.SerializeToString())
