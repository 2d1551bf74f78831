"""float16 wherever ONNX allows it and the numbers bear it; a Cast at each border, and the same network."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgesmith.errors import ModelError
from targets import onnx_file, tensorrt_half
from targets.divergence import sqnr_db
from targets.plan_graph import PlanGraph
from tests.tiny_plans import Floats, images

X = images(4)
SHAPE = (2, 3, 16, 16)


def typed(graph: PlanGraph, **options: Any) -> Any:
    return tensorrt_half.typed(graph.proto, **options)


def types(proto: Any) -> dict[str, str]:
    """Tensor -> its type, by ONNX's own inference."""
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    values = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    found = {value.name: TensorProto.DataType.Name(value.type.tensor_type.elem_type) for value in values}
    found.update((tensor.name, TensorProto.DataType.Name(tensor.data_type)) for tensor in proto.graph.initializer)
    return found


def kinds(proto: Any) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def operands(proto: Any, node: str) -> list[str]:
    """Types of what a node reads, then of what it makes."""
    known = types(proto)
    (found,) = [each for each in proto.graph.node if each.name == node]
    return [known[name] for name in (*found.input, *found.output) if name]


def outputs(proto: Any) -> Any:
    (found,) = onnx_file.run(onnx_file.session(proto.SerializeToString(), as_written=True), X).values()
    return found


def test_a_chain_is_cast_once_at_each_end():
    g = Floats()
    x = g.weighted("Conv", "image", "first", (8, 3, 3, 3), "Relu")
    graph = g.graph(g.weighted("Conv", x, "second", (8, 8, 3, 3), "Relu"), SHAPE)
    proto = typed(graph)
    assert kinds(proto) == ["Cast", "Conv", "Relu", "Conv", "Relu", "Cast"]
    assert operands(proto, "first_sum") == ["FLOAT16"] * 4
    assert [proto.graph.input[0].type.tensor_type.elem_type, proto.graph.output[0].type.tensor_type.elem_type] == [1, 1]
    assert proto.graph.output[0].name == "second"
    # No float32 kernel is left behind to double the file.
    assert {tensor.data_type for tensor in proto.graph.initializer} == {TensorProto.FLOAT16}
    assert sqnr_db(outputs(graph.proto), outputs(proto)) > 55


@pytest.mark.parametrize("op", ["Softmax", "Exp", "Sqrt", "ReduceMean"])
def test_what_needs_float32_keeps_it_between_two_casts(op: str):
    g = Floats()
    x = g.weighted("Conv", "image", "first", (8, 3, 3, 3), "Relu")
    x = g.node(op, [x], "middle")
    graph = g.graph(g.node("Mul", [x, g.constant("two", np.float32(2))], "out"), SHAPE)
    proto = typed(graph)
    assert set(operands(proto, "middle")) == {"FLOAT"}
    assert set(operands(proto, "first_sum")) == set(operands(proto, "out")) == {"FLOAT16"}


def test_nodes_may_be_named():
    g = Floats()
    x = g.weighted("Conv", "image", "first", (8, 3, 3, 3), "Relu")
    graph = g.graph(g.weighted("Conv", x, "second", (8, 8, 3, 3)), SHAPE)
    proto = typed(graph, floats=["second"])
    assert operands(proto, "first_sum") == ["FLOAT16"] * 4
    assert operands(proto, "second") == ["FLOAT"] * 4


def test_a_number_beyond_float16_keeps_its_op_in_float32():
    """A mask of -1e9: in float16 it is -inf, and minus itself no number at all."""
    g = Floats()
    x = g.weighted("Conv", "image", "first", (8, 3, 3, 3))
    x = g.node("Add", [x, g.constant("mask", np.float32(-1e9))], "masked")
    graph = g.graph(g.node("Add", [x, g.constant("unmask", np.float32(1e9))], "out"), SHAPE)
    proto = typed(graph)
    assert operands(proto, "masked") == operands(proto, "out") == ["FLOAT"] * 3
    assert np.isfinite(outputs(proto)).all()


def test_infinity_is_a_number_of_float16():
    g = Floats()
    graph = g.graph(g.node("Max", ["image", g.constant("least", np.float32(-np.inf))], "out"), SHAPE)
    assert operands(typed(graph), "out") == ["FLOAT16"] * 3


def test_inputs_that_onnx_fixes_to_float32_stay():
    """The scales of a Resize, whose picture is float16."""
    g = Floats()
    x = g.weighted("Conv", "image", "first", (8, 3, 3, 3))
    x = g.node("Resize", [x, "", g.constant("scales", np.array([1, 1, 2, 2], np.float32))], "up", mode="nearest")
    proto = typed(g.graph(g.node("Relu", [x], "out"), SHAPE))
    assert operands(proto, "up") == ["FLOAT16", "FLOAT", "FLOAT16"]


def test_integers_are_not_touched():
    g = Floats()
    x = g.node("Shape", ["image"], "shape")
    x = g.node("Cast", [x], "sizes", to=TensorProto.FLOAT)
    graph = g.graph(g.node("Mul", [x, g.constant("half", np.float32(0.5))], "out"), SHAPE)
    proto = typed(graph)
    assert kinds(proto).count("Cast") == 3  # the user's own, and those around the product
    assert operands(proto, "shape") == ["FLOAT", "INT64"]
    assert operands(proto, "out") == ["FLOAT16"] * 3


def test_comparisons_keep_all_digits_and_shapes_need_none():
    g = Floats()
    x = g.weighted("Conv", "image", "first", (8, 3, 3, 3), "Relu")
    above = g.node("Greater", [x, g.constant("limit", np.float32(0.1))], "above")
    g.node("Shape", [x], "shape")
    graph = g.graph(g.node("Where", [above, x, "limit"], "out"), SHAPE)
    graph.proto.graph.output.append(helper.make_tensor_value_info("shape", TensorProto.INT64, (4,)))
    proto = tensorrt_half.typed(graph.proto)
    assert operands(proto, "above") == ["FLOAT", "FLOAT", "BOOL"]
    assert operands(proto, "shape") == ["FLOAT16", "INT64"]
    assert operands(proto, "out") == ["BOOL", *["FLOAT16"] * 3]


def test_a_constant_that_both_read_is_there_twice():
    g = Floats()
    shared = g.constant("shared", np.full(14, 3, np.float32))
    x = g.weighted("Conv", "image", "first", (8, 3, 3, 3))
    x = g.node("Mul", [x, shared], "product")
    graph = g.graph(g.node("Pow", [x, shared], "power"), SHAPE)
    proto = typed(graph)
    assert operands(proto, "product") == ["FLOAT16"] * 3
    assert operands(proto, "power") == ["FLOAT"] * 3


def test_graphs_inside_nodes_keep_their_types_and_what_they_read():
    branch = helper.make_graph(
        [helper.make_node("Add", ["conv", "conv"], ["doubled"], name="inner")],
        "branch",
        [],
        [helper.make_tensor_value_info("doubled", TensorProto.FLOAT, None)],
    )
    g = Floats()
    x = g.weighted("Conv", "image", "conv", (8, 3, 3, 3))
    always = g.constant("always", np.array(True))
    y = g.node("If", [always], "chosen", then_branch=branch, else_branch=branch)
    x = g.node("Relu", [g.node("Add", [x, y], "sum")], "out")
    graph = g.graph(x, SHAPE)
    proto = typed(graph)
    assert operands(proto, "conv")[:3] == ["FLOAT16"] * 3
    assert types(proto)["conv"] == "FLOAT"
    assert sqnr_db(outputs(graph.proto), outputs(proto)) > 50


def test_an_output_that_others_read_is_both():
    g = Floats()
    x = g.weighted("Conv", "image", "conv", (8, 3, 3, 3))
    graph = g.graph(g.node("Relu", [x], "out"), SHAPE)
    graph.proto.graph.output.append(helper.make_tensor_value_info("conv", TensorProto.FLOAT, (2, 8, 14, 14)))
    proto = tensorrt_half.typed(graph.proto)
    assert [value.name for value in proto.graph.output] == ["out", "conv"]
    assert types(proto)["conv"] == "FLOAT"
    assert operands(proto, "out") == ["FLOAT16"] * 2


def test_a_name_that_is_taken_is_told():
    g = Floats()
    x = g.node("Relu", ["image"], "image/half")
    with pytest.raises(ModelError, match="a tensor 'image/half'"):
        typed(g.graph(g.node("Relu", [x], "out"), SHAPE))


def test_the_graph_is_untouched_and_equal_graphs_give_equal_bytes():
    g = Floats()
    graph = g.graph(g.weighted("Conv", "image", "conv", (8, 3, 3, 3), "Relu"), SHAPE)
    before = graph.proto.SerializeToString(deterministic=True)
    first, second = (typed(graph).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
    assert graph.proto.SerializeToString(deterministic=True) == before


def test_every_float16_number_is_the_nearest_one():
    g = Floats()
    graph = g.graph(g.weighted("Conv", "image", "conv", (8, 3, 3, 3)), SHAPE)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in typed(graph).graph.initializer}
    np.testing.assert_array_equal(stored["conv_w/half"], graph.constants["conv_w"].astype(np.float16))
