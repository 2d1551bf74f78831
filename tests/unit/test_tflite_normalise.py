"""Float `.tflite` files as the converter writes them for an open batch: biases behind reshapes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesmith.frameworks import import_keras, third_party_warnings
from edgesmith.progress import Silent
from optimizer.ptq.make import make_plan
from optimizer.ptq.settings import PtqSettings
from targets import onnx_emulator, tflite_file, tflite_plan
from targets.plan_export import make_plan_graph
from targets.tflite_model import TfliteModel
from targets.tflite_normalise import biases_behind_reshapes
from tests import tiny_networks

X = np.random.default_rng(3).normal(size=(32, 6, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def network() -> Any:
    """Attention with split heads, a dense layer on three axes with ReLU, and one on two."""
    keras = import_keras()
    keras.utils.set_random_seed(0)
    x = keras.Input((6, 8), name="given")
    y = keras.layers.MultiHeadAttention(2, 4, name="attend")(x, x)
    y = keras.layers.Dense(8, activation="relu", name="wide")(y)
    y = keras.layers.GlobalAveragePooling1D(name="mean")(y)
    live = keras.Model(x, keras.layers.Dense(3, name="head")(y))
    random = np.random.default_rng(2)
    with third_party_warnings():
        for variable in live.variables:
            if variable.path.endswith("bias"):
                variable.assign(random.uniform(-0.5, 0.5, size=variable.shape))
    return live


@pytest.fixture(scope="module")
def open_batch(network: Any) -> bytes:
    import tensorflow as tf

    with third_party_warnings():
        return bytes(tf.lite.TFLiteConverter.from_keras_model(network).convert())


def kinds(model: TfliteModel) -> Counter[str]:
    return Counter(model.kind(op) for op in model.ops)


def answers(content: bytes, folder: Path) -> Any:
    path = folder / "made.tflite"
    path.write_bytes(content)
    (found,) = tflite_file.outputs(path, X)
    return found


def test_biases_go_into_the_kernels_and_nothing_else_changes(open_batch: bytes, tmp_path: Path):
    model = TfliteModel(open_batch)
    before = kinds(model)
    assert before["ADD"] == 4  # query, key, value, and the dense layer on three axes
    biases_behind_reshapes(model)
    assert kinds(model) == before - Counter(ADD=4)
    dense = [op for op in model.ops if model.kind(op) == "FULLY_CONNECTED"]
    assert all(model.constant(int(op.inputs[2])) is not None for op in dense)
    (wide,) = (op for op in dense if op.builtinOptions.fusedActivationFunction)
    assert model.readers(int(wide.outputs[0]))[0].inputs[0] == wide.outputs[0]
    np.testing.assert_allclose(answers(model.content(), tmp_path), answers(open_batch, tmp_path), atol=1e-5)


def test_what_others_read_too_is_left_alone(open_batch: bytes):
    """Each sum without its bias is an output as well: moving the bias would change it."""
    model = TfliteModel(open_batch)
    before = kinds(model)
    adds = [op for op in model.ops if model.kind(op) == "ADD"]
    model.outputs += [int(op.inputs[0]) for op in adds]
    biases_behind_reshapes(model)
    assert kinds(model) == before


def test_corrected_biases_arrive_once(network: Any, open_batch: bytes, tmp_path: Path):
    graph = make_plan_graph(tiny_networks.record(network, tmp_path / "net.keras"), Silent())
    planned = make_plan(graph, X, PtqSettings(observer="minmax", smooth=True))
    assert any("bias correction" in repair for repair in planned.plan.repairs)
    content, deviations = tflite_plan.lower(planned, graph, open_batch, X, float_io=False)
    assert deviations == ()
    (output,) = graph.outputs
    wanted = np.concatenate([part[output] for part in onnx_emulator.run(planned, X)])
    (grid,) = (t.params for t in planned.plan.tensors if t.name == output)
    assert grid is not None
    np.testing.assert_allclose(answers(content, tmp_path), wanted, atol=3 * grid.scale[0])
