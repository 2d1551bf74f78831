"""Equal graphs become equal bytes, whatever order and numbers they come in."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, checker, helper, numpy_helper

from targets.onnx_file import tidy
from targets.onnx_order import FIRST_GENERATED, normalise


def graph(seed: int) -> Any:
    """Two branches that read equal constants; order of nodes and constants, and generated numbers, follow the seed."""
    chance = random.Random(seed)  # noqa: S311 - a shuffle, not a secret
    number = iter(chance.sample(range(FIRST_GENERATED, 10 * FIRST_GENERATED), 20))
    names = {key: f"{key}__{next(number)}" for key in ("left", "right", "sum", "one", "uno", "unused")}
    nodes = [
        helper.make_node("Mul", ["x", names["one"]], [names["left"]], name=names["left"]),
        helper.make_node("Sub", ["x", names["uno"]], [names["right"]], name="block__2/right"),
    ]
    chance.shuffle(nodes)
    nodes.append(helper.make_node("Add", [names["left"], names["right"]], [names["sum"]], name=names["sum"]))
    nodes.append(helper.make_node("Relu", [names["sum"]], ["y"], name="relu"))
    one = np.ones(3, np.float32)
    constants = [numpy_helper.from_array(one, names[key]) for key in ("one", "uno", "unused")]
    chance.shuffle(constants)
    proto = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [f"unk__{next(number)}", 3])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
            constants,
        )
    )
    normalise(proto)
    return proto


@given(seed=st.integers(0, 2**32))
def test_shuffled_graphs_become_the_same_bytes(seed: int):
    assert graph(seed).SerializeToString(deterministic=True) == graph(0).SerializeToString(deterministic=True)


def test_what_normalising_leaves():
    proto = graph(1)
    checker.check_model(proto, full_check=True)
    assert [node.op_type for node in proto.graph.node] == ["Mul", "Sub", "Add", "Relu"]
    assert [tensor.name for tensor in proto.graph.initializer] == [proto.graph.node[0].input[1]]
    assert proto.graph.node[1].input[1] == proto.graph.node[0].input[1]
    assert proto.graph.node[1].name == "block__2/right"
    assert proto.graph.node[0].name == "left__0"


def test_a_deep_chain_needs_no_deep_stack():
    count = 5000
    nodes = [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(count)]
    value = helper.make_tensor_value_info
    proto = helper.make_model(
        helper.make_graph(
            nodes[::-1],
            "g",
            [value("t0", TensorProto.FLOAT, [1])],
            [value(f"t{count}", TensorProto.FLOAT, [1])],
        )
    )
    normalise(proto)
    assert [node.input[0] for node in proto.graph.node[:3]] == ["t0", "t1", "t2"]


def test_tidying_keeps_the_operator_sets_that_nodes_use():
    proto = graph(0)
    proto.graph.node.append(helper.make_node("Gelu", ["y"], ["z"], domain="com.microsoft"))
    del proto.opset_import[:]
    for domain, version in (("com.microsoft", 1), ("ai.onnx.ml", 3), ("", 17), ("org.pytorch.aten", 1)):
        proto.opset_import.add(domain=domain, version=version)
    proto.graph.value_info.append(helper.make_tensor_value_info("t", TensorProto.FLOAT, [1]))
    tidy(proto)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 17), ("com.microsoft", 1)]
    assert not proto.graph.value_info
