"""Every rule of TensorRT's explicit quantization, on a graph that breaks it and on its twin that does not."""

from __future__ import annotations

import typing

import numpy as np
import onnx
import pytest

from targets.tensorrt_rules import Rule, violations
from tests import qdq_graphs
from tests.qdq_graphs import CASES, Case

EACH = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
WARNINGS = {"open-dimension", "before-activation", "quantized-output", "both-branches"}


@EACH
def test_a_broken_graph_breaks_its_rule(case: Case):
    found = [each for each in violations(case.broken(), **case.options) if each.rule == case.rule]
    assert found
    assert {each.severity for each in found} == {"warning" if case.rule in WARNINGS else "error"}
    assert all(len(each.text) > 20 for each in found)


@EACH
def test_only_that_one(case: Case):
    also = {"uint8 around 128": {"zero-point"}}
    broken = {each.rule for each in violations(case.broken(), **case.options)}
    assert broken == {case.rule} | also.get(case.name, set())


@EACH
def test_its_twin_breaks_none(case: Case):
    assert violations(case.twin(), **case.options) == ()


@EACH
def test_what_the_parser_refuses_or_spoils_is_an_error(case: Case):
    severe = any(each.severity == "error" for each in violations(case.broken(), **case.options))
    assert severe or case.says in ("int8", "not built")


def test_every_rule_has_a_case():
    assert {case.rule for case in CASES} == set(typing.get_args(Rule))


def test_the_place_is_named():
    (found,) = violations(qdq_graphs.conv(weight={"axis": 1}))
    assert (found.rule, found.node, found.tensor) == ("weight-axis", "conv", "w")
    (before, after) = violations(qdq_graphs.conv(activation={"zero": np.int8(5)}))
    assert (before.node, after.node, before.tensor, after.tensor) == ("x_Q", "x_DQ", "x", "x")
    assert before.text.startswith("zero point 5:")


def test_newer_parsers_may_do_without_zero_points():
    proto = qdq_graphs.conv(activation={"zero": None})
    assert violations(proto, needs_zero_point=False) == ()


def test_constants_made_by_nodes_are_constants():
    proto = qdq_graphs.conv(weight={"axis": 1})
    moved = [tensor for tensor in proto.graph.initializer if tensor.name.startswith("w")]
    for tensor in moved:
        proto.graph.initializer.remove(tensor)
        node = onnx.helper.make_node("Constant", [], [tensor.name], value=tensor)
        proto.graph.node.insert(0, node)
    assert [each.rule for each in violations(proto)] == ["weight-axis"]


def test_a_grid_that_only_passes_through_is_no_waste():
    """The parser moves the Reshape before the DequantizeLinear, and the MatMul is int8."""
    g = qdq_graphs.Graph()
    y = g.pair(g.conv(g.pair("x"), "conv"))
    y = g.node("Reshape", [y, g.constant("shape", np.array([1, qdq_graphs.C, -1]))], "flat")
    assert violations(g.model(g.node("MatMul", [y, g.weight("m", (64, 16), 1)], "product"))) == ()


def test_negative_axes_count_from_the_end():
    proto = qdq_graphs.matmul(1)
    for node in proto.graph.node:
        for attribute in node.attribute:
            if attribute.name == "axis":
                attribute.i = -1
    assert violations(proto) == ()
