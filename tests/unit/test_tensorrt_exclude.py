"""The next file after a board's builder found no int8 kernel: what is float then, whose layers they are, what stays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from calibration import affine
from edgesmith.errors import ModelError
from edgesmith.progress import Silent
from edgesmith.types import Artifact, Model, Scheme
from targets import tensorrt, tensorrt_exclude
from targets.base import CompileRequest, RuntimeFacts
from targets.plan_files import Planned
from targets.qdq_nodes import QUANTIZE, QdqGraph
from targets.tensorrt_exclude import Excluded
from targets.tensorrt_rules import violations
from tests import tiny_plans
from tests.tensorrt_requests import ORIN_11, XAVIER_JP4, planned_in, request, saved
from tests.tiny_plans import images


@dataclass(frozen=True)
class Made:
    """An int8 file, and what it was made from."""

    model: Model
    planned: Planned
    request: CompileRequest
    artifact: Artifact

    def without(self, *nodes: str) -> Excluded:
        return tensorrt_exclude.exclude(self.model, self.request, self.artifact, nodes, Silent())


def make(folder: Path, runtime: RuntimeFacts) -> Made:
    graph = tiny_plans.network(batch="N")
    planned = tiny_plans.plan(graph, images())
    planned_in(folder, planned)
    asked, model = request(Scheme.INT8, folder, runtime), saved(graph, folder)
    return Made(model, planned, asked, tensorrt.compile(model, asked, Silent()))


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make(tmp_path, XAVIER_JP4)


def quantized(artifact: Artifact) -> set[str]:
    """Activations with a QuantizeLinear."""
    grids = QdqGraph(onnx.load(artifact.path)).grids
    return {grid.tensor for grid in grids if grid.node.op_type == QUANTIZE and not grid.constant}


def weights(artifact: Artifact, name: str) -> Any:
    return tensorrt.kernels(artifact.path)[name]


def test_a_convolution_without_a_kernel_is_float_in_the_next_file(made: Made):
    found = made.without("deep1_sum")
    assert found.ops == ("deep1",)
    assert found.layers == ("deep1_sum",)
    # `sum` is still read by the projection; what only the excluded convolution gained from is no longer quantized.
    assert quantized(made.artifact) - quantized(found.artifact) == set()
    main = next(node for node in onnx.load(found.artifact.path).graph.node if node.name == "deep1_sum")
    assert list(main.input) == ["sum", "deep1_w", "deep1_b"]
    assert violations(onnx.load(found.artifact.path), max_opset=13) == ()
    assert [each.why for each in found.artifact.deviations if each.tensor == "deep1_w"] == [tensorrt.NO_KERNEL]
    assert found.artifact.sha256 != made.artifact.sha256
    assert found.artifact.path != made.artifact.path


def test_the_excluded_kernel_keeps_its_planned_rounding_and_the_others_are_untouched(made: Made):
    """The plan's biases were corrected for the rounded kernel."""
    found = made.without("deep1_sum")
    grid = made.planned.plan.op("deep1").weights
    np.testing.assert_array_equal(
        weights(found.artifact, "deep1_w"), affine.dequantize(made.planned.integers["deep1"], grid)
    )
    for name in ("stem_w", "deep2_w", "short_w"):
        np.testing.assert_array_equal(weights(found.artifact, name), weights(made.artifact, name))


def test_a_residual_sum_without_a_kernel_gives_up_its_quantized_branch(made: Made):
    found = made.without("join_add")
    assert found.ops == ("join",)
    assert quantized(made.artifact) - quantized(found.artifact) == {"short"}


def test_a_quantization_is_the_business_of_those_that_read_it(made: Made):
    """`sum` is read by a convolution and by the projection beside it."""
    for node in ("sum_QuantizeLinear", "sum_DequantizeLinear"):
        assert made.without(node).ops == ("deep1", "short")
    assert made.without("deep2_w_QuantizeLinear").ops == ("deep2",)


def test_a_cast_of_a_typed_file_leads_to_its_op(tmp_path: Path):
    made = make(tmp_path, ORIN_11)
    casts = [node.name for node in onnx.load(made.artifact.path).graph.node if node.op_type == "Cast"]
    (name,) = [name for name in casts if name.startswith("deep1_DequantizeLinear_Output")]
    found = made.without(name)
    assert found.ops == ("deep2",)
    assert found.artifact.build["precision"] == []


def test_several_rounds_add_up(made: Made):
    first = made.without("deep1_sum")
    second = tensorrt_exclude.exclude(made.model, first.request, first.artifact, ["stem_sum", "deep1_sum"], Silent())
    assert second.ops == ("stem",)
    assert second.request.float_ops == {"deep1", "stem"}
    assert first.artifact.path.name == "int8-8.2.1-1-in-float.onnx"
    assert second.artifact.path.name == "int8-8.2.1-2-in-float.onnx"
    assert "image" in quantized(first.artifact) - quantized(second.artifact)


@pytest.mark.parametrize("nodes", [["head"], ["flat"], ["no such node"], []])
def test_where_int8_is_not_the_reason_it_is_said(made: Made, nodes: list[str]):
    """The head is too small for int8; a Flatten computes nothing; what is not in the file is nobody's."""
    with pytest.raises(ModelError, match="nothing of it is computed in int8") as caught:
        made.without(*nodes)
    assert "float16" in caught.value.next_step


def test_everything_may_go(made: Made):
    names = [op.main for op in made.planned.graph.ops]
    found = made.without(*names)
    assert quantized(found.artifact) == set()
    assert found.artifact.build["precision"] == ["fp16", "int8"]
