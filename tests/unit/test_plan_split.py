"""Split as slices: the same values under the same names, sizes known or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgesmith.errors import ModelError
from edgesmith.frameworks import import_onnx
from targets import onnx_file
from targets.plan_split import splits_to_slices

X = np.arange(2 * 7 * 3, dtype=np.float32).reshape(2, 7, 3)


def _split(axis: int, outputs: list[str], *, sizes: list[int] | None = None, opset: int = 17, shape: Any = None) -> Any:
    helper = import_onnx().helper
    attributes: dict[str, Any] = {"axis": axis}
    inputs, constants = ["x"], []
    if sizes is not None and opset < 13:
        attributes["split"] = sizes
    elif sizes is not None:
        inputs.append("sizes")
        constants.append(import_onnx().numpy_helper.from_array(np.array(sizes, np.int64), "sizes"))
    if opset >= 18 and sizes is None:
        attributes["num_outputs"] = len(outputs)
    graph = helper.make_graph(
        [helper.make_node("Split", inputs, outputs, name="parts", **attributes)],
        "net",
        [helper.make_tensor_value_info("x", 1, shape or X.shape)],
        [helper.make_tensor_value_info(name, 1, None) for name in outputs if name],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize(
    ("axis", "outputs", "sizes", "opset"),
    [
        (1, ["a", "b", "c"], [1, 4, 2], 17),
        (-2, ["a", "b"], [3, 4], 11),
        (2, ["a", "b", "c"], None, 17),
        (1, ["a", "b"], None, 18),  # 7 in two: 4 and 3
    ],
)
def test_the_same_values(axis: int, outputs: list[str], sizes: list[int] | None, opset: int):
    made = _split(axis, outputs, sizes=sizes, opset=opset)
    wanted = onnx_file.session(made.SerializeToString()).run(None, {"x": X})
    splits_to_slices(made)
    assert {node.op_type for node in made.graph.node} == {"Slice"}
    assert [name for node in made.graph.node for name in node.output] == outputs
    found = onnx_file.session(made.SerializeToString()).run(None, {"x": X})
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_part_that_nobody_reads_gets_no_slice():
    made = _split(1, ["a", "", "c"], sizes=[1, 4, 2])
    splits_to_slices(made)
    first, last = onnx_file.session(made.SerializeToString()).run(None, {"x": X})
    np.testing.assert_array_equal(first, X[:, :1])
    np.testing.assert_array_equal(last, X[:, 5:])


def test_an_axis_of_unknown_length_is_refused():
    with pytest.raises(ModelError, match="Split parts cannot be quantized: it is not known how long"):
        splits_to_slices(_split(1, ["a", "b"], shape=(2, "T", 3)))
    splits_to_slices(_split(1, ["a", "b"], sizes=[3, 4], shape=(2, "T", 3)))


def test_sizes_that_the_network_computes_are_refused():
    made = _split(1, ["a", "b"])
    made.graph.input.append(import_onnx().helper.make_tensor_value_info("sizes", 7, (2,)))
    made.graph.node[0].input.append("sizes")
    with pytest.raises(ModelError, match="the network computes how long its parts are"):
        splits_to_slices(made)
