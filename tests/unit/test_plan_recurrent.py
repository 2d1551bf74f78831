"""Recurrent layers and ops with several results in a plan graph: planned, kept float, or refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesmith.errors import ModelError
from edgesmith.files import sha256_bytes
from edgesmith.frameworks import import_keras, import_onnx
from edgesmith.progress import Silent
from edgesmith.types import Model
from optimizer.load import load_model, open_keras, save_keras
from optimizer.ptq.rules import decide
from optimizer.ptq.settings import PtqSettings
from targets.plan_export import make_plan_graph

pytestmark = pytest.mark.slow


def recurrent(kind: str, folder: Path, **settings: Any) -> Model:
    keras = import_keras()
    keras.utils.set_random_seed(0)
    given = keras.Input((4, 3), name="series")
    y = keras.layers.Dense(6, activation="relu", name="embed")(given)
    y = getattr(keras.layers, kind)(5, name="memory", **settings)(y)
    live = keras.Model(given, keras.layers.Dense(2, name="scores")(y))
    return save_keras(live, folder / "net.keras", sha256=sha256_bytes(kind.encode()), origin="test")


def test_a_loop_is_refused_with_what_to_do(tmp_path: Path):
    with pytest.raises(ModelError, match="while_loop is a Loop, and a plan cannot look into it") as caught:
        make_plan_graph(recurrent("GRU", tmp_path), Silent())
    assert "unroll=True" in caught.value.next_step


def test_an_lstm_stays_float_and_the_rest_does_not(tmp_path: Path):
    graph = make_plan_graph(recurrent("LSTM", tmp_path), Silent())
    decisions = decide(graph, PtqSettings(scheme="int8")).ops
    kinds = {op.kind: decisions[op.name] for op in graph.ops}
    assert (kinds["LSTM"].precision, kinds["LSTM"].reason) == ("float32", "no int8 kernel for LSTM")
    assert kinds["Gemm"].precision == "int8"


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_an_unrolled_layer_is_planned_op_by_op(kind: str, tmp_path: Path):
    model = recurrent(kind, tmp_path, unroll=True)
    graph = make_plan_graph(model, Silent())
    assert {"Slice", "Gemm", "Sigmoid", "Tanh"} <= {op.kind for op in graph.ops}
    known = {*graph.inputs, *(op.output for op in graph.ops)}
    assert all(known.issuperset(op.inputs) for op in graph.ops)
    decide(graph, PtqSettings(scheme="int8"))
    x = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    (found,) = next(graph.run(x)).values()
    np.testing.assert_allclose(found, np.asarray(open_keras(model)(x)), atol=1e-5)


def test_what_reads_a_second_result_stays_float(tmp_path: Path):
    onnx = import_onnx()
    helper = onnx.helper
    nodes = [
        helper.make_node("LayerNormalization", ["x", "one"], ["n", "mean"], name="norm"),
        helper.make_node("Mul", ["n", "mean"], ["m"], name="times"),
        helper.make_node("MatMul", ["m", "w"], ["y"], name="dense"),
    ]
    ends = [helper.make_tensor_value_info(name, 1, ("N", 4)) for name in ("x", "y")]
    arrays = {"one": np.ones(4, np.float32), "w": np.eye(4, dtype=np.float32) * 2}
    constants = [onnx.numpy_helper.from_array(values, name) for name, values in arrays.items()]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    planned = make_plan_graph(load_model(tmp_path / "m.onnx", workdir=tmp_path / "w"), Silent())
    decisions = {
        op.kind: decision
        for op in planned.ops
        for decision in [decide(planned, PtqSettings(scheme="int8")).ops[op.name]]
    }
    assert decisions["Mul"].reason == "it reads one of several results of an op"
    assert decisions["Gemm"].precision == "int8"
