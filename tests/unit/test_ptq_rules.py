"""What is quantized at which precision, what shares a scale, and why something stays float."""

from __future__ import annotations

import numpy as np
import pytest

from edgesmith.errors import ConfigError
from optimizer.ptq.rules import Group, decide
from optimizer.ptq.settings import PtqSettings
from targets.plan_graph import PlanGraph
from tests.tiny_plans import Floats, network


def groups(graph: PlanGraph, settings: PtqSettings | None = None) -> dict[str, Group]:
    decided = decide(graph, settings or PtqSettings())
    return {name: group for group in decided.groups for name in group.tensors}


def branches() -> PlanGraph:
    """image -> left, right (convolutions) -> both (concat) -> pool -> flat -> head -> chances (softmax)."""
    g = Floats()
    left = g.weighted("Conv", "image", "left", (4, 3, 1, 1), "Relu")
    right = g.weighted("Conv", "image", "right", (4, 3, 1, 1))
    both = g.node("Concat", [left, right], "both", axis=1)
    pool = g.node("MaxPool", [both], "pool", kernel_shape=[4, 4], strides=[4, 4])
    flat = g.node("Flatten", [pool], "flat")
    head = g.weighted("Gemm", flat, "head", (32, 5))
    return g.graph(g.node("Softmax", [head], "chances"), ("N", 3, 8, 8))


def test_what_is_only_moved_shares_one_scale():
    found = groups(branches())
    assert found["left"].tensors == ("left", "right", "both", "pool", "flat")
    assert found["image"].tensors == ("image",)
    assert found["head"].tensors == ("head",)
    assert {group.dtype for group in found.values()} == {"int8"}


def test_a_softmax_has_the_grid_of_the_specification():
    fixed = groups(branches())["chances"].fixed
    assert fixed is not None
    assert (fixed.scale, fixed.zero_point) == ((1 / 256,), (-128,))
    assert groups(branches())["head"].fixed is None
    wide = groups(branches(), PtqSettings(scheme="int16x8"))["chances"]
    assert wide.fixed is not None
    assert (wide.fixed.scale, wide.fixed.zero_point, wide.fixed.dtype) == ((1 / 32768,), (0,), "int16")


def test_a_softmax_that_is_reshaped_keeps_its_grid():
    g = Floats()
    chances = g.node("Softmax", ["image"], "chances", axis=1)
    graph = g.graph(g.node("Flatten", [chances], "flat"), ("N", 3, 8, 8))
    fixed = groups(graph)["flat"].fixed
    assert fixed is not None
    assert fixed.scale == (1 / 256,)
    assert groups(graph)["flat"].tensors == ("chances", "flat")


def test_the_users_layers_stay_float_and_say_so():
    decided = decide(branches(), PtqSettings(keep_float=("left_sum", "he*")))
    kept = {name: op.reason for name, op in decided.ops.items() if op.precision == "float32"}
    assert kept == {"left": "the user's keep_float", "head": "the user's keep_float"}
    # Its neighbours compute with integers, so its tensors have grids all the same.
    assert {"left", "flat", "head"} <= {name for group in decided.groups for name in group.tensors}


def test_a_layer_that_is_not_there_is_an_error_with_a_suggestion():
    with pytest.raises(ConfigError, match="no layer 'haed'") as caught:
        decide(branches(), PtqSettings(keep_float=("haed",)))
    assert "head" in caught.value.next_step
    with pytest.raises(ConfigError, match="no op gone"):
        decide(branches(), PtqSettings(precision_of={"gone": "float32"}))


def test_what_no_runtime_computes_in_integers_stays_float_with_a_reason():
    g = Floats()
    x = g.weighted("Conv", "image", "first", (4, 3, 1, 1))
    x = g.node("Exp", [x], "exp")
    x = g.node("Flatten", [x], "flat")
    x = g.node("Log", [x], "log")
    graph = g.graph(g.weighted("Gemm", x, "head", (256, 5)), ("N", 3, 8, 8))
    decided = decide(graph, PtqSettings())
    reasons = {name: op.reason for name, op in decided.ops.items() if op.precision == "float32"}
    # A reshape between two float ops would cost accuracy and save nothing.
    assert reasons == {
        "exp": "no int8 kernel for Exp",
        "flat": "only float32 ops around it",
        "log": "no int8 kernel for Log",
    }
    # Quantized where a quantized op reads or writes: not between the float ops.
    assert {name for group in decided.groups for name in group.tensors} == {"image", "first", "log", "head"}


def residuals(*, last_norm: bool) -> PlanGraph:
    """A convolution's signal, and twice the sum of it and what another makes of its normalization: a transformer."""
    g = Floats()
    x = g.weighted("Conv", "image", "stem", (4, 3, 1, 1))
    scale = g.constant("scale", np.ones(8, np.float32))
    for block in ("one", "two"):
        normal = g.node("LayerNormalization", [x, scale], f"{block}_norm")
        x = g.node("Add", [x, g.weighted("Conv", normal, f"{block}_conv", (4, 4, 1, 1))], f"{block}_sum")
    if last_norm:
        x = g.node("LayerNormalization", [x, scale], "last_norm")
    return g.graph(g.weighted("Conv", x, "head", (2, 4, 1, 1)), ("N", 3, 8, 8))


@pytest.mark.parametrize(("last_norm", "sums"), [(True, {"one_sum", "two_sum"}), (False, set())])
def test_sums_that_only_normalizations_and_such_sums_read_stay_float(last_norm: bool, sums: set[str]):
    """Without a last normalization the head reads the second sum in int8, and that one the first."""
    decided = decide(residuals(last_norm=last_norm), PtqSettings())
    reason = "only float32 ops read the sum"
    assert {name for name, op in decided.ops.items() if op.reason == reason} == sums
    tensors = {name for group in decided.groups for name in group.tensors}
    assert tensors.isdisjoint(sums)
    assert {"stem", "one_conv", "two_conv"} <= tensors


def test_a_lookup_in_a_table_stays_float():
    from onnx import TensorProto, helper, numpy_helper

    table = numpy_helper.from_array(np.ones((10, 4), np.float32), "table")
    kernel = numpy_helper.from_array(np.ones((4, 2), np.float32), "kernel")
    bias = numpy_helper.from_array(np.zeros(2, np.float32), "bias")
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["looked_up"], name="embed"),
        helper.make_node("MatMul", ["looked_up", "kernel"], ["product"], name="product"),
        helper.make_node("Add", ["product", "bias"], ["y"], name="sum"),
    ]
    given = helper.make_tensor_value_info("tokens", TensorProto.INT32, ["N", 6])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 6, 2])
    graph = PlanGraph(
        helper.make_model(
            helper.make_graph(nodes, "net", [given], [made], [table, kernel, bias]),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        )
    )
    decided = decide(graph, PtqSettings())
    assert decided.ops["looked_up"].precision == "float32"
    assert decided.ops["looked_up"].reason
    assert decided.ops["y"].precision == "int8"
    assert [group.tensors for group in decided.groups] == [("looked_up",), ("y",)]


def test_four_bits_are_for_weights():
    decided = decide(network(), PtqSettings(scheme="int4-weights"))
    assert decided.ops["stem"].precision == "int4"
    assert decided.ops["pool"].precision == "int8"
    assert decided.ops["stem"].reason == decided.ops["pool"].reason == ""
    assert {group.dtype for group in decided.groups} == {"int8"}


def test_an_exception_says_why_and_sets_the_integers_of_what_it_writes():
    settings = PtqSettings(
        precision_of={"deep1": "int16", "point": "float32"}, reasons={"deep1": "costs 1.8 pp of accuracy"}
    )
    decided = decide(network(), settings)
    assert decided.ops["deep1"].reason == "costs 1.8 pp of accuracy"
    assert decided.ops["point"].reason == "chosen for this op"
    dtypes = {name: group.dtype for group in decided.groups for name in group.tensors}
    assert dtypes["deep1"] == "int16"  # written by it
    assert dtypes["sum"] == "int8"  # read by it, written by an int8 op
    assert dtypes["point"] == "int8"  # written by a float op, read by an int8 op
