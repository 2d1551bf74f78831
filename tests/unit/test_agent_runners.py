"""The real runtimes on models a hand can compute (tests/data/agent/make_models.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from device_tests.agent import runners
from device_tests.agent.protocol import Refusal

DATA = Path(__file__).resolve().parents[1] / "data" / "agent"
SAMPLE = np.array([[4.0, 8.0, 12.0, 0.0]], np.float32)


def load(key: str, name: str):
    return runners.load(key).Runner(str(DATA / name), 1)


@pytest.mark.parametrize(("key", "name"), [("tflite", "dense.tflite"), ("onnxruntime", "dense.onnx")])
def test_float_models_give_the_layers_own_numbers(key: str, name: str):
    runner = load(key, name)
    (one,) = runner.inputs
    assert (one.shape, one.dtype, one.quantization) == ([4], np.float32, None)
    assert runner.output_quantization == [None]
    (got,) = runner([SAMPLE])
    np.testing.assert_allclose(got, [[1.0, 2.0, 3.0]])


def test_an_int8_model_says_its_scales_and_gives_raw_integers():
    runner = load("tflite", "dense_int8.tflite")
    (one,) = runner.inputs
    assert (one.shape, one.dtype, one.quantization) == ([4], np.int8, (1.0, -128))
    assert runner.output_quantization == [(0.5, -128)]
    (got,) = runner([(SAMPLE - 128).astype(np.int8)])
    # 1, 2, 3 in steps of 0.5 above -128
    np.testing.assert_array_equal(got, [[-126, -124, -122]])


def test_runners_are_found_by_file_name():
    assert runners.names() == ["onnxruntime", "tensorrt", "tflite"]
    with pytest.raises(Refusal, match="no runner 'abacus'; there are onnxruntime, tensorrt, tflite"):
        runners.load("abacus")


def _onnx(path: Path, inputs: dict[str, list[object]]) -> Path:
    import onnx
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Sum", list(inputs), ["y"])], "sum", values, [out])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_a_fixed_batch_is_refused_with_what_to_do(tmp_path: Path):
    path = _onnx(tmp_path / "m.onnx", {"x": [8, 4]})
    with pytest.raises(Refusal, match=r"batch size is fixed .*8, 4.* export it with batch size 1 or a dynamic batch"):
        runners.load("onnxruntime").Runner(str(path), 1)


def test_a_fixed_batch_of_any_input_is_refused(tmp_path: Path):
    path = _onnx(tmp_path / "m.onnx", {"a": [1, 4], "b": [8, 4]})
    with pytest.raises(Refusal, match="batch size is fixed"):
        runners.load("onnxruntime").Runner(str(path), 1)


def test_several_inputs_are_told_and_fed_in_the_files_order(tmp_path: Path):
    import onnx
    from onnx import TensorProto, helper

    kinds = {"pictures": (TensorProto.FLOAT, [None, 2]), "counts": (TensorProto.INT32, [1, 2])}
    values = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in kinds.items()]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 2])
    nodes = [
        helper.make_node("Cast", ["counts"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["pictures", "c"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "net", values, [out])
    path = tmp_path / "two.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    runner = runners.load("onnxruntime").Runner(str(path), 1)
    assert [tuple(one) for one in runner.inputs] == [
        ("pictures", [2], np.dtype("float32"), None),
        ("counts", [2], np.dtype("int32"), None),
    ]
    (got,) = runner([np.array([[5.0, 7.5]], np.float32), np.array([[1, 2]], np.int32)])
    np.testing.assert_array_equal(got, [[4.0, 5.5]])
