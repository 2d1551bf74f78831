"""1-D convolutions: what follows the Squeeze comes in front of it, and the network computes the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgesmith.frameworks import import_keras
from edgesmith.progress import Silent
from optimizer.load import load_model
from targets.plan_export import make_plan_graph
from targets.plan_squeeze import squeezes_last


def network(nodes: list[Any], constants: dict[str, Any], outputs: dict[str, list[Any]]) -> Any:
    """A graph that reads x, float32 [N, 1, 1, 8]."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 1, 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


RANDOM = np.random.default_rng(0)
CONSTANTS = {
    "kernel": RANDOM.normal(size=(3, 1, 1, 3)).astype(np.float32),
    "axes": np.array([2], np.int64),
    "gain": RANDOM.normal(size=(3, 1)).astype(np.float32),
    "shift": RANDOM.normal(size=(1, 3, 1)).astype(np.float32),
    "per_place": RANDOM.normal(size=(6,)).astype(np.float32),
    "number": np.array(0.5, np.float32),
}


def chain(*ops: tuple[str, list[str]], start: str = "Conv") -> list[Any]:
    """Conv, Squeeze, the given ops, each on what the one before gave; the last tensor is y."""
    first = helper.make_node("Conv", ["x", "kernel"], ["c"], name="conv") if start == "Conv" else None
    nodes = [first or helper.make_node("Tanh", ["x"], ["c"], name="conv")]
    nodes.append(helper.make_node("Squeeze", ["c", "axes"], ["t0"], name="squeeze"))
    for i, (kind, others) in enumerate(ops):
        output = "y" if i == len(ops) - 1 else f"t{i + 1}"
        nodes.append(helper.make_node(kind, [f"t{i}", *others], [output], name=f"op{i}"))
    return nodes


def run(proto: Any) -> list[Any]:
    x = np.random.default_rng(1).normal(size=(2, 1, 1, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, {"x": x})]


def kinds(proto: Any) -> list[str]:
    return [node.op_type for node in proto.graph.node]


@pytest.mark.parametrize(
    "ops",
    [
        [("Mul", ["gain"]), ("Add", ["shift"]), ("Relu", [])],
        [("Add", ["per_place"]), ("Tanh", [])],
        [("Mul", ["number"]), ("Sigmoid", [])],
    ],
)
def test_the_squeeze_comes_last_and_the_outputs_stay(ops: list[tuple[str, list[str]]]):
    proto = network(chain(*ops), CONSTANTS, {"y": ["N", 3, 6]})
    before = run(proto)
    squeezes_last(proto)
    onnx.checker.check_model(proto)
    assert kinds(proto) == ["Conv", *(kind for kind, _ in ops), "Squeeze"]
    np.testing.assert_allclose(run(proto)[0], before[0], rtol=1e-5, atol=1e-6)  # the runtime fuses what it can now


def test_squeeze_and_unsqueeze_of_the_same_axis_go():
    proto = network(chain(("Relu", []), ("Unsqueeze", ["axes"])), CONSTANTS, {"y": ["N", 3, 1, 6]})
    proto.graph.node.append(helper.make_node("Neg", ["y"], ["z"], name="neg"))
    proto.graph.output[0].name = "z"
    before = run(proto)
    squeezes_last(proto)
    assert kinds(proto) == ["Conv", "Relu", "Neg"]
    np.testing.assert_array_equal(run(proto)[0], before[0])


def test_what_a_second_op_reads_stays_where_it_is():
    nodes = [*chain(("Relu", [])), helper.make_node("Neg", ["t0"], ["z"], name="neg")]
    proto = network(nodes, CONSTANTS, {"y": ["N", 3, 6], "z": ["N", 3, 6]})
    squeezes_last(proto)
    assert kinds(proto) == ["Conv", "Squeeze", "Relu", "Neg"]


def test_an_op_on_the_squeezed_tensor_twice_stays_behind_it():
    proto = network(chain(("Mul", ["t0"])), CONSTANTS, {"y": ["N", 3, 6]})
    squeezes_last(proto)
    assert kinds(proto) == ["Conv", "Squeeze", "Mul"]


def test_behind_anything_but_a_convolution_nothing_moves():
    proto = network(chain(("Relu", []), start="Tanh"), CONSTANTS, {"y": ["N", 1, 8]})
    squeezes_last(proto)
    assert kinds(proto) == ["Tanh", "Squeeze", "Relu"]


def test_batch_norms_behind_keras_1d_convolutions_are_folded(tmp_path: Path):
    keras = import_keras()
    keras.utils.set_random_seed(0)
    sound = keras.Input((32, 2), name="sound")
    x = sound
    for i in range(2):
        x = keras.layers.Conv1D(4, 3, padding="same", use_bias=False, name=f"conv{i}")(x)
        x = keras.layers.ReLU(name=f"relu{i}")(keras.layers.BatchNormalization(name=f"norm{i}")(x))
    model = keras.Model(sound, keras.layers.Dense(3, name="head")(keras.layers.GlobalAveragePooling1D()(x)))
    random = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(random.uniform(0.5, 1.5, variable.shape))
    path = tmp_path / "model.keras"
    model.save(path)
    graph = make_plan_graph(load_model(path, workdir=tmp_path / "models"), Silent())
    found = Counter(op.kind for op in graph.ops)
    assert found["Conv"] == 2
    assert not found["Mul"]
    assert not found["Add"]
    assert [op.activation for op in graph.ops if op.kind == "Conv"] == ["relu", "relu"]
    batch = random.normal(size=(5, 32, 2)).astype(np.float32)
    ours = next(graph.run(batch))[graph.outputs[0]]
    np.testing.assert_allclose(ours, np.asarray(model(batch)), rtol=1e-4, atol=1e-4)
