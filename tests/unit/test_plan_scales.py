"""A number in front of a convolution is part of its kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgesmith.frameworks import import_keras
from edgesmith.progress import Silent
from optimizer.load import load_model
from targets.plan_export import make_plan_graph
from targets.plan_scales import multipliers_folded

RANDOM = np.random.default_rng(0)
CONSTANTS = {
    "half": np.array(0.5, np.float32),
    "third": np.array([1 / 3], np.float32),
    "each": np.array([1, 2, 3], np.float32).reshape(1, 1, 1, 3),
    "kernel": RANDOM.normal(size=(4, 3, 3, 3)).astype(np.float32),
    "other": RANDOM.normal(size=(4, 3, 3, 3)).astype(np.float32),
    "bias": RANDOM.normal(size=4).astype(np.float32),
}


def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs, [output], name=f"make_{output}", **attributes)


def network(*nodes: Any, outputs: tuple[str, ...] = ("y",)) -> Any:
    """A graph that reads x, float32 [N, 6, 6, 3]."""
    read = {name for each in nodes for name in each.input}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6, 6, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(values, name) for name, values in CONSTANTS.items() if name in read],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


TRANSPOSE = node("Transpose", ["m"], "t", perm=[0, 3, 1, 2])
CONV = node("Conv", ["t", "kernel", "bias"], "y", pads=[1, 1, 1, 1])


def run(proto: Any) -> list[Any]:
    x = np.random.default_rng(1).normal(size=(2, 6, 6, 3)).astype(np.float32)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, {"x": x})]


def kinds(proto: Any) -> list[str]:
    return [each.op_type for each in proto.graph.node]


def test_one_number_goes_into_the_kernel_and_the_bias_stays():
    proto = network(node("Mul", ["x", "half"], "m"), TRANSPOSE, CONV)
    before = run(proto)
    multipliers_folded(proto)
    assert kinds(proto) == ["Transpose", "Conv"]
    np.testing.assert_allclose(run(proto)[0], before[0], rtol=1e-5, atol=1e-6)
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    np.testing.assert_array_equal(held[proto.graph.node[1].input[1]], CONSTANTS["kernel"] / 2)
    np.testing.assert_array_equal(held[proto.graph.node[1].input[2]], CONSTANTS["bias"])


def test_several_numbers_one_behind_the_other():
    proto = network(node("Mul", ["third", "x"], "n"), node("Mul", ["n", "half"], "m"), TRANSPOSE, CONV)
    before = run(proto)
    multipliers_folded(proto)
    multipliers_folded(proto)
    assert kinds(proto) == ["Transpose", "Conv"]
    np.testing.assert_allclose(run(proto)[0], before[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        ([node("Mul", ["x", "each"], "m"), TRANSPOSE, CONV], ("y",)),
        ([node("Mul", ["x", "x"], "m"), TRANSPOSE, CONV], ("y",)),
        ([node("Mul", ["x", "half"], "m"), TRANSPOSE, CONV, node("Neg", ["m"], "z")], ("y", "z")),
        ([node("Mul", ["x", "half"], "m"), TRANSPOSE, CONV], ("y", "m")),
        ([node("Mul", ["x", "half"], "m"), TRANSPOSE, CONV], ("y", "t")),
        ([node("Mul", ["x", "half"], "q"), node("Relu", ["q"], "m"), TRANSPOSE, CONV], ("y",)),
        ([node("Mul", ["x", "half"], "m"), TRANSPOSE, CONV, node("Conv", ["t", "other"], "z")], ("y", "z")),
    ],
    ids=["per channel", "no constant", "read twice", "an output", "an output behind", "not linear", "two kernels"],
)
def test_anything_else_stays(nodes: list[Any], outputs: tuple[str, ...]):
    proto = network(*nodes, outputs=outputs)
    before, kinds_before = run(proto), kinds(proto)
    multipliers_folded(proto)
    assert kinds(proto) == kinds_before
    np.testing.assert_array_equal(run(proto)[0], before[0])


def test_a_kernel_that_two_convolutions_share_is_scaled_for_one():
    proto = network(
        node("Mul", ["x", "half"], "m"),
        TRANSPOSE,
        CONV,
        node("Transpose", ["x"], "u", perm=[0, 3, 1, 2]),
        node("Conv", ["u", "kernel", "bias"], "z", pads=[1, 1, 1, 1]),
        outputs=("y", "z"),
    )
    before = run(proto)
    multipliers_folded(proto)
    for ours, theirs in zip(run(proto), before, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_keras_rescaling_leaves_no_op(tmp_path: Path, channels: int):
    keras = import_keras()
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, channels), name="image")
    x = keras.layers.Rescaling(1 / 255, name="rescaling")(image)
    x = keras.layers.Conv2D(4, 3, padding="same", name="conv")(x)
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D(name="pool")(x))
    path = tmp_path / "model.keras"
    model.save(path)
    graph = make_plan_graph(load_model(path, workdir=tmp_path / "models"), Silent())
    assert "Mul" not in [op.kind for op in graph.ops]
    batch = np.random.default_rng(0).uniform(0, 255, (3, 8, 8, channels)).astype(np.float32)
    np.testing.assert_allclose(next(graph.run(batch))[graph.outputs[0]], np.asarray(model(batch)), rtol=1e-4, atol=1e-4)
