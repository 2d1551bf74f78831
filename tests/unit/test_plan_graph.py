"""The float graph that a plan is decided on: the same function, in few spellings, under the user's own names."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgesmith.errors import InternalError
from edgesmith.frameworks import import_keras
from edgesmith.progress import Silent
from edgesmith.types import Model
from optimizer.load import load_model
from targets.plan_export import make_plan_graph
from targets.plan_graph import PlanGraph
from targets.plan_ops import PlanOp
from tests import tiny_networks


def loaded(keras_model: Any, folder: Path) -> Model:
    path = folder / "model.keras"
    keras_model.save(path)
    return load_model(path, workdir=folder / "models")


@functools.cache
def transformer() -> tuple[Any, PlanGraph]:
    """Convolution, layer normalization, attention, exact GELU, a residual, a nested model: trained-looking numbers."""
    keras = import_keras()
    layers = keras.layers
    keras.utils.set_random_seed(3)
    inner_in = keras.Input((16, 12))
    inner = keras.Model(inner_in, layers.Dense(12, name="mix")(inner_in), name="inner")
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(12, 2, strides=2, name="patches")(image)
    x = layers.Reshape((16, 12), name="tokens")(x)
    y = layers.LayerNormalization(name="norm")(x)
    y = layers.MultiHeadAttention(2, 6, name="attention")(y, y)
    x = layers.Add(name="skip")([x, y])
    y = layers.Dense(24, activation="gelu", name="widen")(x)
    x = layers.Dense(12, name="narrow")(y)
    x = inner(x)
    x = layers.GlobalAveragePooling1D(name="mean")(x)
    model = keras.Model(image, layers.Dense(3, activation="softmax", name="head")(x), name="vit")
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(random.normal(0.0, 0.3, variable.shape))
    with tempfile.TemporaryDirectory() as folder:
        return model, make_plan_graph(loaded(model, Path(folder)), Silent())


def by_layer(graph: PlanGraph, layer: str) -> list[PlanOp]:
    return [op for op in graph.ops if op.layer == layer]


def outputs(graph: PlanGraph, x: Any) -> np.ndarray:
    return np.concatenate([part[graph.outputs[0]] for part in graph.run(x, batch=5)])


def test_a_transformer_keeps_its_function_in_batches():
    model, graph = transformer()
    x = tiny_networks.pictures(12)
    np.testing.assert_allclose(outputs(graph, x), np.asarray(model(x)), atol=2e-6)


def test_what_runtimes_fuse_is_one_op():
    _, graph = transformer()
    assert [op.kind for op in by_layer(graph, "norm")] == ["LayerNormalization"]
    widen = by_layer(graph, "widen")
    assert [op.kind for op in widen] == ["MatMul", "Gelu"]
    assert len(widen[1].nodes) > 3
    assert widen[0].weight_axis == 1
    assert graph.constants[widen[0].weight or ""].shape == (12, 24)
    assert [op.kind for op in by_layer(graph, "head")] == ["Gemm", "Softmax"]


def test_ops_go_by_the_users_own_layers():
    model, graph = transformer()
    names = {layer.name for layer in model.layers} | {"inner/mix"}
    assert {op.layer for op in graph.ops} <= names
    assert [op.kind for op in by_layer(graph, "inner/mix")] == ["MatMul"]
    weighted = [op for op in by_layer(graph, "attention") if op.weight]
    assert len(weighted) == 4


def test_layers_that_differ_by_a_number_are_told_apart(tmp_path: Path):
    """Keras numbers the layers nobody named, and tracing numbers their scopes."""
    keras = import_keras()
    keras.utils.clear_session()
    x = image = keras.Input((8, 8, 3))
    for _ in range(3):
        x = keras.layers.Conv2D(4, 3, activation="relu")(x)
    graph = make_plan_graph(loaded(keras.Model(image, x), tmp_path), Silent())
    assert [op.layer for op in graph.ops if op.weight] == ["conv2d", "conv2d_1", "conv2d_2"]


def test_batch_normalization_is_folded_and_activations_are_fused(tmp_path: Path):
    model = tiny_networks.network()
    graph = make_plan_graph(loaded(model, tmp_path), Silent())
    assert not {"BatchNormalization", "Identity", "Constant"} & {node.op_type for node in graph.proto.graph.node}
    x = tiny_networks.pictures(9)
    np.testing.assert_allclose(outputs(graph, x), np.asarray(model(x)), atol=1e-5)
    (stem,) = by_layer(graph, "stem")
    assert (stem.kind, stem.activation, stem.groups) == ("Conv", "relu", 1)
    (depthwise,) = by_layer(graph, "depthwise")
    assert (depthwise.activation, depthwise.groups, depthwise.input_axis) == ("relu6", 16, None)
    assert all(op.bias for op in graph.ops if op.weight)


def test_the_same_model_gives_the_same_bytes_and_a_file_reads_back(tmp_path: Path):
    model = loaded(tiny_networks.network(), tmp_path)
    first, second = (make_plan_graph(model, Silent()) for _ in range(2))
    first.write(tmp_path / "first.onnx")
    second.write(tmp_path / "second.onnx")
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()
    again = PlanGraph.read(tmp_path / "first.onnx")
    assert again.ops == first.ops
    assert again.tensors == first.tensors


def test_other_numbers_in_the_same_network(tmp_path: Path):
    graph = make_plan_graph(loaded(tiny_networks.network(), tmp_path), Silent())
    (head,) = (op for op in graph.ops if op.layer == "head" and op.weight)
    assert head.bias
    before = graph.constants[head.bias]
    moved = graph.with_constants({head.bias: before + np.array([9, 0, 0, 0], np.float32)})
    assert outputs(moved, tiny_networks.pictures(6)).argmax(axis=1).tolist() == [0] * 6
    np.testing.assert_array_equal(graph.constants[head.bias], before)
    with pytest.raises(InternalError, match="no constants nobody"):
        graph.with_constants({"nobody": before})
    with pytest.raises(InternalError, match="cannot replace"):
        graph.with_constants({head.bias: before[:2]})
    with pytest.raises(ValueError, match="read-only"):
        graph.constants[head.bias][0] = 1.0


def onnx_model(path: Path, nodes: list[Any], constants: dict[str, np.ndarray], shape: list[Any]) -> Model:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(onnx.shape_inference.infer_shapes(proto), path)
    return load_model(path, workdir=path.parent / "models")


def test_a_users_onnx_with_a_fixed_batch_and_no_biases(tmp_path: Path):
    random = np.random.default_rng(0)
    constants = {
        "k": random.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "w": random.normal(size=(5, 4)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], name="first", kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w"], ["y"], name="last", transB=1),
    ]
    graph = make_plan_graph(onnx_model(tmp_path / "m.onnx", nodes, constants, [2, 3, 6, 6]), Silent())
    assert next((op.layer, op.kind) for op in graph.ops) == ("first", "Conv")
    assert graph.ops[-1].layer == "last"
    assert graph.ops[-1].weight_axis == 0
    x = random.normal(size=(5, 3, 6, 6)).astype(np.float32)
    found = outputs(graph, x)
    assert found.shape == (5, 5)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(found[:2], session.run(None, {"x": x[:2]})[0], atol=1e-5)


@pytest.mark.parametrize("spelling", ["divide first", "halve first"])
def test_a_gelu_in_a_users_onnx_is_one_op(tmp_path: Path, spelling: str):
    constants = {
        "w": np.eye(4, dtype=np.float32),
        "root": np.array(2.0**0.5, np.float32),
        "one": np.array(1.0, np.float32),
        "half": np.array(0.5, np.float32),
    }
    start = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="dense"),
        helper.make_node("Div", ["h", "root"], ["d"], name="div"),
        helper.make_node("Erf", ["d"], ["e"], name="erf"),
        helper.make_node("Add", ["e", "one"], ["a"], name="add"),
    ]
    if spelling == "divide first":
        end = [
            helper.make_node("Mul", ["h", "a"], ["m"], name="times"),
            helper.make_node("Mul", ["m", "half"], ["g"], name="halve"),
        ]
    else:
        end = [
            helper.make_node("Mul", ["h", "half"], ["m"], name="halve"),
            helper.make_node("Mul", ["m", "a"], ["g"], name="times"),
        ]
    last = helper.make_node("MatMul", ["g", "w"], ["y"], name="after")
    graph = make_plan_graph(onnx_model(tmp_path / "m.onnx", [*start, *end, last], constants, ["N", 4]), Silent())
    assert [op.kind for op in graph.ops] == ["Gemm", "Gelu", "Gemm"]
    assert graph.ops[1].inputs == (graph.ops[0].output,)


def test_an_unfinished_erf_is_no_gelu(tmp_path: Path):
    constants = {"w": np.eye(4, dtype=np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="dense"),
        helper.make_node("Erf", ["h"], ["y"], name="erf"),
    ]
    graph = make_plan_graph(onnx_model(tmp_path / "m.onnx", nodes, constants, ["N", 4]), Silent())
    assert [op.kind for op in graph.ops] == ["Gemm", "Erf"]


@pytest.mark.parametrize("square", ["Pow", "Mul"])
def test_a_layer_normalization_spelt_out_is_one_op(tmp_path: Path, square: str):
    constants = {
        "two": np.array(2.0, np.float32),
        "eps": np.array(1e-5, np.float32),
        "gamma": np.array([1, 2, 3, 4], np.float32),
    }
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], name="mean", axes=[-1]),
        helper.make_node("Sub", ["x", "m"], ["d"], name="centre"),
        helper.make_node(square, ["d", "two" if square == "Pow" else "d"], ["q"], name="square"),
        helper.make_node("ReduceMean", ["q"], ["v"], name="variance", axes=[-1]),
        helper.make_node("Add", ["v", "eps"], ["a"], name="epsilon"),
        helper.make_node("Sqrt", ["a"], ["s"], name="root"),
        helper.make_node("Div", ["d", "s"], ["n"], name="divide"),
        helper.make_node("Mul", ["n", "gamma"], ["y"], name="scale"),
    ]
    graph = make_plan_graph(onnx_model(tmp_path / "m.onnx", nodes, constants, ["N", 4]), Silent())
    assert [op.kind for op in graph.ops] == ["LayerNorm", "Mul"]
