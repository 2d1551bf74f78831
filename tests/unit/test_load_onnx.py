"""ONNX files in: checked, self-contained, with named dimensions; refusals name the node, tensor or domain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesmith.errors import ModelError
from edgesmith.frameworks import import_onnx, import_onnxruntime
from edgesmith.types import Recipe, StepSpec, TensorSpec
from optimizer import load
from optimizer.recipe import check_against_model

DTYPES = {"float32": 1, "uint8": 2, "int32": 6, "int64": 7, "string": 8, "float16": 10}
W = np.arange(12, dtype=np.float32).reshape(4, 3)


def _model(
    *,
    shape: tuple[Any, ...] = ("N", 4),
    dtype: str = "float32",
    opset: int = 17,
    ir: int = 8,
    listed: bool = False,
    output: tuple[Any, ...] | None = ("N", 3),
    weight: np.ndarray = W,
) -> Any:
    """x [N, 4] (cast to float32 where it is something else) @ W [4, 3]."""
    onnx = import_onnx()
    helper = onnx.helper
    inputs = [helper.make_tensor_value_info("x", DTYPES[dtype], shape)]
    if listed:
        inputs.append(helper.make_tensor_value_info("w", 1, weight.shape))
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], name="to_float", to=1),
        helper.make_node("MatMul", ["f", "w"], ["y"], name="dense"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        inputs,
        [helper.make_tensor_value_info("y", 1, output)],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def _write(model: Any, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def _refusal(path: Path, tmp_path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load.load_model(path, workdir=tmp_path / "work")
    assert caught.value.next_step
    assert not (tmp_path / "work").exists()
    return str(caught.value)


def _run(path: Path, x: np.ndarray) -> np.ndarray:
    session = import_onnxruntime().InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.mark.parametrize("dtype", ["float32", "int32", "uint8"])
@pytest.mark.parametrize("opset", [8, 13, 17])
def test_opsets_and_input_dtypes(dtype: str, opset: int, tmp_path: Path):
    path = _write(_model(dtype=dtype, opset=opset), tmp_path / "m.onnx")

    model = load.load_model(path, workdir=tmp_path / "work")

    assert model.kind == "onnx"
    assert model.origin == f"ONNX opset {opset} {path}"
    assert model.signature.inputs == (TensorSpec(name="x", shape=("N", 4), dtype=dtype),)
    assert model.signature.outputs == (TensorSpec(name="y", shape=("N", 3), dtype="float32"),)
    assert (model.parameters, model.macs) == (12, 12)
    assert model.path.read_bytes() == path.read_bytes(), "a model that needs no change is copied as it is"
    x = np.ones((2, 4), dtype=dtype)
    np.testing.assert_array_equal(_run(model.path, x), x.astype(np.float32) @ W)


def test_static_and_unknown_dimensions(tmp_path: Path):
    static = load.load_model(_write(_model(shape=(2, 4), output=(2, 3)), tmp_path / "s.onnx"), workdir=tmp_path / "w")
    nameless = load.load_model(
        _write(_model(shape=(None, 4), output=(None, 3)), tmp_path / "n.onnx"), workdir=tmp_path / "w"
    )

    assert static.signature.inputs[0].shape == (2, 4)
    assert static.macs == 12, "for one sample, not for the batch"
    assert nameless.signature.inputs[0].shape == (None, 4)


def test_an_output_without_shape_is_inferred(tmp_path: Path):
    model = load.load_model(_write(_model(output=None), tmp_path / "m.onnx"), workdir=tmp_path / "w")

    assert model.signature.outputs[0].shape == ("N", 3)


@pytest.mark.parametrize("listed", [True, False])
def test_old_files_that_list_or_miss_initializers_among_the_inputs(listed: bool, tmp_path: Path):
    path = _write(_model(opset=8, ir=3, listed=listed), tmp_path / "m.onnx")

    model = load.load_model(path, workdir=tmp_path / "work")

    assert [spec.name for spec in model.signature.inputs] == ["x"]
    written = import_onnx().load(str(model.path))
    assert [value.name for value in written.graph.input] == ["x"]
    x = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(_run(model.path, x), x @ W)


def test_external_data_is_taken_in_and_belongs_to_the_content(tmp_path: Path):
    onnx = import_onnx()
    path = tmp_path / "m.onnx"
    onnx.save_model(_model(), str(path), save_as_external_data=True, location="m.bin", size_threshold=0)

    first = load.load_model(path, workdir=tmp_path / "work")

    x = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(_run(first.path, x), x @ W)
    assert load.load_model(path, workdir=tmp_path / "work") == first
    (tmp_path / "m.bin").write_bytes((2 * W).tobytes())
    second = load.load_model(path, workdir=tmp_path / "work")
    assert second.sha256 != first.sha256
    np.testing.assert_array_equal(_run(second.path, x), x @ (2 * W))


def test_external_data_that_is_missing_or_cut(tmp_path: Path):
    onnx = import_onnx()
    path = tmp_path / "m.onnx"
    onnx.save_model(_model(), str(path), save_as_external_data=True, location="m.bin", size_threshold=0)

    (tmp_path / "m.bin").write_bytes(W.tobytes()[:20])
    text = _refusal(path, tmp_path)
    assert "its external data cannot be read" in text
    assert "for tensor 'w'" in text
    model = onnx.load(str(path), load_external_data=False)
    entries = model.graph.initializer[0].external_data
    entries.remove(next(entry for entry in entries if entry.key == "length"))
    _write(model, path)
    assert "the external data of tensor w has 20 bytes, its shape needs 48" in _refusal(path, tmp_path)
    (tmp_path / "m.bin").unlink()
    assert "tensor w lives in the file m.bin, which is not beside the model" in _refusal(path, tmp_path)


def test_local_functions_are_written_out(tmp_path: Path):
    onnx = import_onnx()
    helper = onnx.helper
    twice = helper.make_function(
        "local", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    graph = helper.make_graph(
        [helper.make_node("Twice", ["x"], ["y"], domain="local")],
        "net",
        [helper.make_tensor_value_info("x", 1, ["N", 4])],
        [helper.make_tensor_value_info("y", 1, ["N", 4])],
    )
    made = helper.make_model(
        graph,
        functions=[twice],
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("local", 1)],
        ir_version=8,
    )

    model = load.load_model(_write(made, tmp_path / "m.onnx"), workdir=tmp_path / "w")

    x = np.ones((1, 4), np.float32)
    np.testing.assert_array_equal(_run(model.path, x), 2 * x)
    assert not onnx.load(str(model.path)).functions


def test_a_custom_operator_is_named_with_its_domain(tmp_path: Path):
    made = _model()
    made.graph.node[1].op_type, made.graph.node[1].domain = "FancyMatMul", "acme.nn"
    made.opset_import.append(import_onnx().helper.make_opsetid("acme.nn", 1))

    text = _refusal(_write(made, tmp_path / "m.onnx"), tmp_path)

    assert "node dense is FancyMatMul of domain acme.nn" in text


def test_an_operator_of_onnx_runtime_is_told_where_it_comes_from(tmp_path: Path):
    made = _model()
    made.graph.node[1].op_type, made.graph.node[1].domain = "FusedMatMul", "com.microsoft"

    assert "from before ONNX Runtime optimised" in _refusal(_write(made, tmp_path / "m.onnx"), tmp_path)


def test_a_custom_operator_inside_a_branch_is_found(tmp_path: Path):
    helper = import_onnx().helper
    out = helper.make_tensor_value_info("t", 1, ["N", 4])
    branch = helper.make_graph([helper.make_node("Odd", ["x"], ["t"], domain="acme", name="hidden")], "b", [], [out])
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)],
        "net",
        [helper.make_tensor_value_info("x", 1, ["N", 4])],
        [helper.make_tensor_value_info("y", 1, ["N", 4])],
        [helper.make_tensor("c", 9, [], [True])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)])

    assert "node hidden is Odd of domain acme" in _refusal(_write(made, tmp_path / "m.onnx"), tmp_path)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"opset": 7}, "opset 7; opset 8 and newer can be read"),
        ({"opset": 999}, "opset 999; onnx"),
        ({"dtype": "int64"}, "input x is int64; float32, int32, uint8 can be fed"),
        ({"dtype": "string"}, "input x is string"),
        ({"weight": np.full((4, 3), np.inf, np.float32)}, "tensor w holds NaN or infinity"),
    ],
)
def test_what_cannot_be_deployed(settings: dict[str, Any], text: str, tmp_path: Path):
    assert text in _refusal(_write(_model(**settings), tmp_path / "m.onnx"), tmp_path)


def test_damaged_and_foreign_files(tmp_path: Path):
    data = _model().SerializeToString()
    for name, content, text in (
        ("cut.onnx", data[: len(data) // 2], "truncated"),
        ("empty.onnx", b"", "the file is empty"),
        ("text.onnx", b"this is no protobuf at all", "truncated or damaged"),
        ("hollow.onnx", b"\x08\x08", "holds no graph"),
    ):
        (tmp_path / name).write_bytes(content)
        assert text in _refusal(tmp_path / name, tmp_path)


def test_a_graph_that_the_checker_refuses(tmp_path: Path):
    made = _model()
    made.graph.node[1].input[1] = "nowhere"

    assert "onnx.checker refuses it" in _refusal(_write(made, tmp_path / "m.onnx"), tmp_path)


def test_a_graph_without_ends(tmp_path: Path):
    made = _model()
    del made.graph.output[:]

    assert "the graph has no output" in _refusal(_write(made, tmp_path / "m.onnx"), tmp_path)


def test_an_input_that_is_no_tensor_or_has_no_rank(tmp_path: Path):
    made = _model()
    made.graph.input[0].type.tensor_type.ClearField("shape")
    assert "input x has no shape" in _refusal(_write(made, tmp_path / "m.onnx"), tmp_path)

    helper = import_onnx().helper
    graph = helper.make_graph(
        [helper.make_node("SequenceLength", ["s"], ["n"])],
        "net",
        [helper.make_tensor_sequence_value_info("s", 1, None)],
        [helper.make_tensor_value_info("n", 7, [])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert "input s is a sequence, not a tensor" in _refusal(_write(made, tmp_path / "q.onnx"), tmp_path)


def _half_model(*, ends: bool) -> Any:
    """relu(x @ W + b) computed in float16; with `ends`, input and output are float16 too, else cast."""
    onnx = import_onnx()
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT16
    outer = kind if ends else onnx.TensorProto.FLOAT
    bias = helper.make_attribute("value", onnx.numpy_helper.from_array(np.array([0.5, -0.25, 3.0], np.float16), "b"))
    constant = helper.make_node("Constant", [], ["b"])
    constant.attribute.append(bias)
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=kind),
        constant,
        helper.make_node("MatMul", ["h", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Cast", ["r"], ["y"], to=outer),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", outer, ("N", 4))],
        [helper.make_tensor_value_info("y", outer, ("N", 3))],
        [onnx.numpy_helper.from_array((W / 3).astype(np.float16), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("ends", [True, False])
def test_float16_becomes_float32_with_the_same_values(ends: bool, tmp_path: Path):
    path = _write(_half_model(ends=ends), tmp_path / "m.onnx")
    model = load.load_model(path, workdir=tmp_path / "work")
    assert model.origin == f"ONNX opset 17, 16-bit floats brought to float32: {path}"
    assert {spec.dtype for spec in (*model.signature.inputs, *model.signature.outputs)} == {"float32"}
    assert model.parameters == 15
    x = np.array([[1.0, -2.0, 0.1, 3.3]], np.float32)
    weights = (W / 3).astype(np.float16).astype(np.float32)
    wanted = np.maximum(x @ weights + np.array([0.5, -0.25, 3.0], np.float32), 0)
    np.testing.assert_allclose(_run(model.path, x), wanted, rtol=1e-6)


def test_float16_that_is_infinite_is_refused(tmp_path: Path):
    made = _half_model(ends=False)
    made.graph.initializer[0].CopyFrom(import_onnx().numpy_helper.from_array(np.full((4, 3), np.inf, np.float16), "w"))
    assert "tensor w holds NaN or infinity" in _refusal(_write(made, tmp_path / "m.onnx"), tmp_path)


def test_a_quantized_model_is_read_and_no_recipe_may_change_it(tmp_path: Path):
    onnx = import_onnx()
    made = _model()
    numbers = {"scale": np.float32(0.1), "zero": np.int8(0)}
    made.graph.initializer.extend(onnx.numpy_helper.from_array(np.array(v), name) for name, v in numbers.items())
    quantize = onnx.helper.make_node("QuantizeLinear", ["f", "scale", "zero"], ["q"], name="quantize_x")
    back = onnx.helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"])
    made.graph.node[1].input[0] = "d"
    made.graph.node.insert(1, quantize)
    made.graph.node.insert(2, back)
    path = _write(made, tmp_path / "q.onnx")

    model = load.load_model(path, workdir=tmp_path / "work")

    assert model.quantized == "QuantizeLinear quantize_x"
    assert load.load_model(path, workdir=tmp_path / "work").quantized == model.quantized, "kept with the record"
    check_against_model(Recipe(steps=()), model)
    with pytest.raises(ModelError, match=r"quantized already \(QuantizeLinear quantize_x\)") as caught:
        check_against_model(Recipe(steps=(StepSpec(name="quantize", params={}),)), model)
    assert "Leave the recipe empty to measure it as it is" in caught.value.next_step
    assert not load.load_model(_write(_model(), tmp_path / "f.onnx"), workdir=tmp_path / "work").quantized
