"""Graphs for older parsers: the same numbers, in ops and attributes that those have."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgesmith.errors import ModelError
from targets import onnx_file, tensorrt_opset
from targets.plan_graph import LAYERS_KEY, PlanGraph
from tests.tiny_plans import Floats, images

X = images(4)


def outputs(proto: Any) -> NDArray[Any]:
    (found,) = onnx_file.run(onnx_file.session(proto.SerializeToString(), as_written=True), X).values()
    return found


def kinds(proto: Any) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def normalized(*, bias: bool = True, **attributes: Any) -> PlanGraph:
    g = Floats()
    x = g.weighted("Conv", "image", "conv", (16, 3, 3, 3))
    numbers = [g.constant("scale", g.random.normal(size=14).astype(np.float32))]
    numbers += [g.constant("shift", g.random.normal(size=14).astype(np.float32))] if bias else []
    x = g.node("LayerNormalization", [x, *numbers], "norm", **attributes)
    return g.graph(g.node("Relu", [x], "out"), (2, 3, 16, 16))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("attributes", [{}, {"epsilon": 0.01}, {"axis": -2}])
def test_a_layer_normalization_is_spelt_below_17(bias: bool, attributes: dict[str, Any]):
    graph = normalized(bias=bias, **attributes)
    proto = tensorrt_opset.at_most(graph.proto, 13)
    assert onnx_file.opset(proto) == 13
    assert "LayerNormalization" not in kinds(proto)
    np.testing.assert_allclose(outputs(proto), outputs(graph.proto), rtol=1e-5, atol=1e-5)
    # It is recognised again, so that nobody computes its squares in float16.
    assert [op.kind for op in PlanGraph(proto).ops if "LayerNorm" in op.kind] == ["LayerNorm"]


def test_a_parser_may_lack_an_op_of_its_own_opset():
    """TensorRT 8.4 and 8.5 read opset 17, and have no importer for LayerNormalization."""
    graph = normalized()
    assert tensorrt_opset.at_most(graph.proto, 17) == graph.proto
    proto = tensorrt_opset.at_most(graph.proto, 17, lacks=["LayerNormalization"])
    assert onnx_file.opset(proto) == 17
    assert "LayerNormalization" not in kinds(proto)
    np.testing.assert_allclose(outputs(proto), outputs(graph.proto), rtol=1e-5, atol=1e-5)


def test_a_normalization_that_cannot_be_spelt_is_refused():
    with pytest.raises(ModelError, match="norm: a LayerNormalization with axis 3 and 1 outputs"):
        tensorrt_opset.at_most(normalized(axis=3).proto, 13)


def test_a_hard_swish_is_spelt():
    g = Floats()
    graph = g.graph(g.node("HardSwish", [g.weighted("Conv", "image", "conv", (8, 3, 3, 3))], "out"), (2, 3, 16, 16))
    for opset, lacks in ((13, ()), (17, ("HardSwish",))):
        proto = tensorrt_opset.at_most(graph.proto, opset, lacks=lacks)
        assert kinds(proto) == ["Conv", "HardSigmoid", "Mul"]
        np.testing.assert_allclose(outputs(proto), outputs(graph.proto), rtol=1e-6, atol=1e-6)


def test_the_spelt_nodes_belong_to_the_users_layer():
    graph = normalized()
    proto = onnx.ModelProto.FromString(graph.proto.SerializeToString())
    proto.metadata_props.add(key=LAYERS_KEY, value=json.dumps({"norm": "block/norm", "conv": "stem"}))
    spelt = tensorrt_opset.at_most(proto, 13)
    layers = json.loads(spelt.metadata_props[0].value)
    made = [node.name for node in spelt.graph.node if node.name not in ("conv", "out")]
    assert len(made) == 9
    assert {layers[name] for name in made} == {"block/norm"}


def reshaped(allowzero: int) -> Any:
    g = Floats()
    shape = g.constant("shape", np.array([2, -1], np.int64))
    return g.graph(g.node("Reshape", ["image", shape], "out", allowzero=allowzero), (2, 3, 16, 16)).proto


def test_an_attribute_that_says_nothing_new_is_dropped():
    """ONNX Runtime's own passes write allowzero=0, which opset 13 does not know."""
    proto = tensorrt_opset.at_most(reshaped(0), 13)
    assert [each.name for node in proto.graph.node for each in node.attribute] == []
    np.testing.assert_array_equal(outputs(proto), outputs(reshaped(0)))


def test_an_attribute_that_does_is_refused():
    with pytest.raises(ModelError, match=r"opset 17 and cannot be brought to 13.*allowzero"):
        tensorrt_opset.at_most(reshaped(1), 13)


def test_operators_that_an_opset_lacks_are_refused():
    g = Floats()
    grid = g.constant("grid", np.zeros((2, 4, 4, 2), np.float32))
    graph = g.graph(g.node("GridSample", ["image", grid], "out"), (2, 3, 16, 16))
    with pytest.raises(ModelError, match=r"opset 17 and cannot be brought to 13.*GridSample"):
        tensorrt_opset.at_most(graph.proto, 13)


def test_empty_inputs_of_a_resize_are_left_out():
    g = Floats()
    roi, scales = g.constant("roi", np.zeros(0, np.float32)), g.constant("scales", np.array([1, 1, 2, 2], np.float32))
    graph = g.graph(g.node("Resize", ["image", roi, scales], "out", mode="nearest"), (2, 3, 16, 16))
    twin = onnx.ModelProto.FromString(graph.proto.SerializeToString())
    tensorrt_opset.drop_empty_inputs(twin)
    assert list(twin.graph.node[0].input) == ["image", "", "scales"]
    np.testing.assert_array_equal(outputs(twin), outputs(graph.proto))


def test_the_graph_is_untouched():
    graph = normalized()
    before = graph.proto.SerializeToString(deterministic=True)
    tensorrt_opset.at_most(graph.proto, 13)
    assert graph.proto.SerializeToString(deterministic=True) == before


def test_ops_that_changed_after_17_are_converted():
    """The axes of a ReduceMean became an input in opset 18."""
    node = helper.make_node("ReduceMean", ["image", "axes"], ["out"], name="mean", keepdims=0)
    graph = helper.make_graph(
        [node],
        "net",
        [helper.make_tensor_value_info("image", 1, (2, 3, 16, 16))],
        [helper.make_tensor_value_info("out", 1, None)],
        [numpy_helper.from_array(np.array([2, 3], np.int64), "axes")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    for opset in (17, 13):
        older = tensorrt_opset.at_most(proto, opset)
        assert onnx_file.opset(older) == opset
        assert list(older.graph.node[0].input) == ["image"]
        np.testing.assert_array_equal(outputs(older), outputs(proto))
