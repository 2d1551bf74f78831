"""What is special about `.onnx`: own files, opsets, Q/DQ types by machine, names."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgesmith.errors import ConfigError, ModelError
from edgesmith.files import sha256_file
from edgesmith.frameworks import import_keras
from edgesmith.progress import Silent
from edgesmith.types import Artifact, Model, Scheme
from targets import keras_model, onnx_file, onnx_kernels, onnxruntime
from targets.base import CompileRequest, default_bounds
from targets.divergence import sqnr_db
from tests import tiny_networks

X = np.random.default_rng(0).normal(size=(10, 3, 8, 8)).astype(np.float32)


def compiled(model: Model, scheme: Scheme, folder: Path, x: Any = X, **changes: Any) -> Artifact:
    request = CompileRequest(scheme=scheme, calibration=tiny_networks.samples(x), out_dir=folder, name="net")
    return onnxruntime.compile(model, dataclasses.replace(request, **changes), Silent())


def convolution(folder: Path, *, batch: int | str = "N", opset: int = 17, extra: tuple[Any, ...] = ()) -> Model:
    """An .onnx of one 3x3 convolution with ReLU, mean and a dense layer, NCHW."""
    random = np.random.default_rng(1)
    weights = [
        numpy_helper.from_array(random.normal(size=(16, 3, 3, 3)).astype(np.float32), "w"),
        numpy_helper.from_array(random.normal(size=(16, 4)).astype(np.float32), "dense"),
        numpy_helper.from_array(random.normal(size=4).astype(np.float32), "bias"),
    ]
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["conv"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"], name="relu"),
        helper.make_node("GlobalAveragePool", ["relu"], ["mean"], name="mean"),
        helper.make_node("Flatten", ["mean"], ["flat"], name="flat"),
        helper.make_node("Gemm", ["flat", "dense", "bias"], ["logits"], name="gemm"),
        *extra,
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 4])],
        weights,
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 2)]
    proto = helper.make_model(graph, opset_imports=imports, ir_version=7)
    path = folder / "given.onnx"
    path.write_bytes(proto.SerializeToString())
    return Model(
        kind="onnx",
        path=path,
        sha256=sha256_file(path),
        signature=onnx_file.signature(proto),
        origin="ONNX given.onnx",
        parameters=1,
    )


def types_of(artifact: Artifact) -> set[str]:
    """dtypes of the zero points of activations."""
    proto = onnx_file.read(artifact.path)
    points = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    used = {node.input[2] for node in proto.graph.node if node.op_type == "QuantizeLinear"}
    return {TensorProto.DataType.Name(points[name]) for name in used}


PLANNED_ONLY = (Scheme.INT16X8, Scheme.INT4_WEIGHTS)


@pytest.mark.parametrize("scheme", sorted(set(Scheme) - set(PLANNED_ONLY)))
@pytest.mark.parametrize("batch", ["N", 1, 4])
def test_onnx_models_compile_with_open_and_fixed_batches(batch: int | str, scheme: Scheme, tmp_path: Path):
    model = convolution(tmp_path, batch=batch)
    artifact = compiled(model, scheme, tmp_path / "out")
    (reference,) = onnxruntime.outputs(model.path, X)
    (found,) = onnxruntime.outputs(artifact.path, X)
    assert found.shape == (10, 4)
    assert sqnr_db(reference, found) >= default_bounds(artifact.precision).min_sqnr_db
    assert artifact.signature == model.signature
    assert set(artifact.toolchain) == {"edgesmith", "python", "onnx", "onnxruntime", "tf2onnx"}


@pytest.mark.parametrize("scheme", PLANNED_ONLY)
def test_a_scheme_that_only_a_plan_can_give_is_refused_without_one(scheme: Scheme, tmp_path: Path):
    with pytest.raises(ConfigError, match=f"scheme '{scheme}' is made from a quantization plan"):
        compiled(convolution(tmp_path), scheme, tmp_path / "out")


@pytest.mark.parametrize(("isa", "activations"), [("x86_64", "UINT8"), (None, "UINT8"), ("aarch64", "INT8")])
def test_activation_types_follow_the_machine(isa: str | None, activations: str, tmp_path: Path):
    artifact = compiled(convolution(tmp_path), Scheme.INT8, tmp_path / "out", board_isa=isa)
    assert types_of(artifact) == {activations}
    kinds = "int8" if activations == "INT8" else "uint8"
    assert f"int8 activations are {kinds}, weights int8." in onnxruntime.capabilities(isa).notes


def test_weights_are_quantized_per_channel_or_per_tensor(tmp_path: Path):
    model = convolution(tmp_path)
    for per_channel, scales in ((True, 16), (False, 1)):
        artifact = compiled(model, Scheme.INT8, tmp_path / f"{per_channel}", per_channel=per_channel)
        sizes = {t.name: int(np.prod(t.dims)) for t in onnx_file.read(artifact.path).graph.initializer}
        assert sizes["w_scale"] == scales
        kernel = onnxruntime.kernels(artifact.path)["w_quantized"]
        assert kernel.dtype == np.int8
        assert int(np.abs(kernel).max()) == 127


def test_an_old_opset_is_raised_for_quantizing_and_kept_otherwise(tmp_path: Path):
    model = convolution(tmp_path, opset=9)
    assert onnx_file.opset(onnx_file.read(compiled(model, Scheme.NONE, tmp_path / "a").path)) == 9
    raised = compiled(model, Scheme.INT8, tmp_path / "b")
    assert onnx_file.opset(onnx_file.read(raised.path)) == 13
    (reference,), (found,) = onnxruntime.outputs(model.path, X), onnxruntime.outputs(raised.path, X)
    assert sqnr_db(reference, found) > 20
    assert onnx_file.opset(onnx_file.read(compiled(model, Scheme.NONE, tmp_path / "c", opset=16).path)) == 16


def test_operator_sets_that_no_node_uses_are_dropped(tmp_path: Path):
    artifact = compiled(convolution(tmp_path), Scheme.INT8, tmp_path / "out")
    assert [(entry.domain, entry.version) for entry in onnx_file.read(artifact.path).opset_import] == [("", 17)]


@pytest.mark.parametrize("opset", [12, 19])
def test_an_opset_out_of_range_is_refused(opset: int, tmp_path: Path):
    with pytest.raises(ConfigError, match=f"opset {opset} cannot be written") as caught:
        compiled(convolution(tmp_path), Scheme.NONE, tmp_path / "out", opset=opset)
    assert caught.value.next_step == "Choose one from 13 to 18; the default is 17."


def test_foreign_operators_are_refused_by_name(tmp_path: Path):
    scaler = helper.make_node(
        "Scaler", ["flat"], ["scaled"], name="scale", domain="ai.onnx.ml", scale=[2.0], offset=[0.0]
    )
    with pytest.raises(ModelError, match=r"does not take: ai\.onnx\.ml:Scaler \(scale\)") as caught:
        compiled(convolution(tmp_path, extra=(scaler,)), Scheme.NONE, tmp_path / "out")
    assert "without custom or ai.onnx.ml operators" in caught.value.next_step


def test_an_onnx_file_that_changed_is_refused(tmp_path: Path):
    model = convolution(tmp_path)
    convolution(tmp_path, batch=2)
    with pytest.raises(ModelError, match=r"given\.onnx: it has image: float32\[2, 3, 8, 8\]") as caught:
        compiled(model, Scheme.NONE, tmp_path / "out")
    assert "Run again from the start" in caught.value.next_step


def test_a_cut_onnx_file_is_refused(tmp_path: Path):
    model = convolution(tmp_path)
    model.path.write_bytes(model.path.read_bytes()[:300])
    with pytest.raises(ModelError, match=r"given\.onnx: not a sound \.onnx file"):
        compiled(model, Scheme.NONE, tmp_path / "out")


def test_keras_batches_are_called_n_and_layer_names_stay(tmp_path: Path):
    keras = import_keras()
    given = keras.Input((8,), name="given")
    hidden = keras.layers.Dense(6, activation="relu", name="block__1")(given)
    model = tiny_networks.record(
        keras.Model(given, keras.layers.Dense(3, name="head")(hidden), name="net"), tmp_path / "net.keras"
    )
    artifact = compiled(model, Scheme.NONE, tmp_path / "out", opset=15)
    assert str(artifact.signature.inputs[0]) == "given: float32[N, 8]"
    assert str(artifact.signature.outputs[0]) == "head: float32[N, 3]"
    assert onnx_file.opset(onnx_file.read(artifact.path)) == 15
    assert any("block__1" in name for name in onnxruntime.kernels(artifact.path))


def test_an_op_that_onnx_lacks_is_named_with_its_place(tmp_path: Path):
    keras = import_keras()
    given = keras.Input((8,), name="given")
    bad = keras.Model(given, keras.layers.Dense(3)(keras.ops.erfinv(keras.ops.sigmoid(given))), name="net")
    with pytest.raises(ModelError) as caught:
        compiled(tiny_networks.record(bad, tmp_path / "net.keras"), Scheme.NONE, tmp_path / "out")
    assert "uses Erfinv, which ONNX does not have (at net_1/erfinv/Erfinv)" in caught.value.what
    assert "leave 'onnxruntime' out of `targets`" in caught.value.next_step
    assert not (tmp_path / "out" / "net.onnx").exists()


@pytest.mark.slow
def test_recurrent_and_attention_layers_compile_and_keep_their_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Loops and Einsum: the parts of the tool chain that leave files behind and order things by chance."""
    monkeypatch.chdir(tmp_path)
    keras = import_keras()
    layers = keras.layers
    given = keras.Input((5, 4), name="given")
    x = layers.LSTM(6, return_sequences=True, name="lstm")(given)
    x = layers.GRU(6, return_sequences=True, name="gru")(x)
    x = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    network = keras.Model(given, layers.Dense(3, name="head")(layers.GlobalAveragePooling1D()(x)), name="net")
    model = tiny_networks.record(network, tmp_path / "net.keras")
    sequences = np.random.default_rng(0).normal(size=(8, 5, 4)).astype(np.float32)
    (reference,) = tiny_networks.answers(keras_model.load(model), sequences)
    for scheme in (Scheme.NONE, Scheme.INT8):
        first = compiled(model, scheme, tmp_path / "a", sequences)
        assert first.sha256 == compiled(model, scheme, tmp_path / "b", sequences).sha256
        (found,) = onnxruntime.outputs(first.path, sequences)
        assert sqnr_db(reference, found) >= default_bounds(first.precision).min_sqnr_db
        sizes = sorted(kernel.size for kernel in onnxruntime.kernels(first.path).values())
        assert {4 * 24, 6 * 24, 6 * 18, 6 * 6, 6 * 3} <= set(sizes)
    assert {file.name for file in tmp_path.iterdir()} == {"net.keras", "a", "b"}


def test_a_grouped_convolution_is_refused_in_words(tmp_path: Path):
    keras = import_keras()
    given = keras.Input((6, 6, 4), name="given")
    network = keras.Model(given, keras.layers.Conv2D(8, 3, groups=2, name="grouped")(given), name="net")
    with pytest.raises(
        ModelError, match=r"uses a function that Keras compiles by itself \(a grouped convolution is one\)"
    ):
        compiled(tiny_networks.record(network, tmp_path / "net.keras"), Scheme.NONE, tmp_path / "out")


def test_both_directions_of_a_recurrent_layer_are_kernels_of_their_own(tmp_path: Path):
    keras = import_keras()
    given = keras.Input((5, 4), name="given")
    network = keras.Model(given, keras.layers.Bidirectional(keras.layers.LSTM(6))(given), name="net")
    model = tiny_networks.record(network, tmp_path / "net.keras")
    for scheme in (Scheme.NONE, Scheme.DYNAMIC):
        kernels = onnxruntime.kernels(compiled(model, scheme, tmp_path / "out").path)
        assert sorted(kernel.size for kernel in kernels.values()) == [96, 96, 144, 144]


def test_gates_of_an_lstm_are_read_in_keras_order():
    """ONNX stacks i o f c, Keras i f c o."""
    stacked = np.repeat(np.arange(4, dtype=np.float32), 2).reshape(1, 8, 1)  # two units: i=0, o=1, f=2, c=3
    recurrent = np.ones((1, 8, 2), np.float32)
    node = helper.make_node("LSTM", ["x", "W", "R"], ["y"], hidden_size=2)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 1, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(stacked, "W"), numpy_helper.from_array(recurrent, "R")],
    )
    assert onnx_kernels.kernels_of(onnx.helper.make_model(graph))["W"].ravel().tolist() == [0, 0, 2, 2, 3, 3, 1, 1]


def test_the_tool_chain_says_nothing_on_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    compiled(convolution(tmp_path), Scheme.INT8, tmp_path / "out")
    assert capfd.readouterr() == ("", "")
