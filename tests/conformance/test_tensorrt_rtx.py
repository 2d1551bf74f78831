"""NVIDIA's own ONNX parser and builder, without a GPU: what they say to each Q/DQ rule, and to what we lower.

TensorRT-RTX 1.7.1, not the compiler of a Jetson.
"""

from __future__ import annotations

import functools
import platform
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from numpy.typing import NDArray

from edgesmith.progress import Silent
from optimizer.load import load_model
from optimizer.ptq.make import make_plan
from optimizer.ptq.settings import PtqSettings
from targets import onnx_file, onnx_qdq, plan_export, tensorrt_onnx
from targets.divergence import sqnr_db
from targets.plan_files import Planned
from targets.tensorrt_rules import violations
from tests import cifar_images, rtx, tiny_networks, tiny_plans
from tests.qdq_graphs import CASES, Case, Says, conv

pytestmark = pytest.mark.slow

if (sys.platform, platform.machine()) != ("linux", "x86_64"):
    pytest.skip("NVIDIA's parser is on PyPI for Linux on x86-64 only", allow_module_level=True)

EACH = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def says(proto: Any) -> Says:
    """In the words of the table."""
    return _says(proto.SerializeToString(deterministic=True))


@functools.cache
def _says(content: bytes) -> Says:
    """Most cases have the same twin: it is asked about once."""
    try:
        answer = rtx.ask(onnx.ModelProto.FromString(content))
    except rtx.Crash:
        return "crash"
    if not answer.parsed:
        return "refused"
    if not answer.built:
        return "not built"
    if not answer.in_int8("conv"):
        return "float"
    return "int8, with a warning" if answer.warnings else "int8"


@EACH
def test_the_recorded_answer_to_a_broken_graph_still_holds(case: Case):
    assert says(case.broken()) == case.says


@EACH
def test_the_recorded_answer_to_its_twin_still_holds(case: Case):
    assert says(case.twin()) == case.says_to_twin


def test_an_open_batch_is_built_with_a_profile():
    answer = rtx.ask(conv(batch="N"), batch=8)
    assert answer.built
    assert answer.in_int8("conv")


def test_a_crash_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(rtx.Crash, match="exit 1"):
        rtx.ask(conv())


# What we lower, asked of the parser.

WEIGHTED = {"stem_sum", "depth_sum", "point", "deep1_sum", "deep2", "short", "hidden_sum", "head"}


def in_int8(planned: Planned, proto: Any, *, batch: int | None = None) -> set[str]:
    """Main nodes of ops with a kernel that are int8 in the engine."""
    answer = rtx.ask(proto, batch=batch)
    assert answer.built, answer.errors
    assert answer.warnings == ()
    return {op.main for op in planned.graph.ops if op.weight is not None and answer.in_int8(op.main)}


@pytest.mark.parametrize("weights", ["float", "int8"])
def test_every_intended_op_is_int8(weights: Any):
    """Plain, depthwise, pointwise, strided and projection convolutions, and a dense layer; the head is too small."""
    planned = tiny_plans.plan(tiny_plans.network(), tiny_plans.images())
    proto, _ = tensorrt_onnx.lower(planned, weights=weights)
    assert in_int8(planned, proto) == WEIGHTED - {"head"}


def test_every_intended_op_is_int8_with_an_open_batch():
    planned = tiny_plans.plan(tiny_plans.network(batch="N"), tiny_plans.images())
    proto, _ = tensorrt_onnx.lower(planned)
    assert [each.rule for each in violations(proto)] == ["open-dimension"]
    assert in_int8(planned, proto, batch=4) == WEIGHTED - {"head"}


def test_the_residual_branch_and_the_pool_are_read_in_int8():
    planned = tiny_plans.plan(tiny_plans.network(), tiny_plans.images())
    layers = rtx.ask(tensorrt_onnx.lower(planned)[0]).layers
    (pool,) = (layer for layer in layers if layer.kind == "maxpool")
    assert pool.inputs == ("Int8",)
    assert pool.outputs == ("Int8",)
    # The sum, its ReLU and the next quantization are one kernel: the int8 branch and the convolution go in, int8 out.
    (summed,) = (layer for layer in layers if "sum_add" in layer.nodes)
    assert sorted(summed.inputs) == ["Float", "Int8"]
    assert set(summed.outputs) == {"Int8"}
    assert {"sum", "sum_QuantizeLinear"} <= set(summed.nodes)


def test_float_layers_are_float_and_their_neighbours_int8():
    planned = tiny_plans.plan(tiny_plans.network(), tiny_plans.images(), floats={"deep1", "depth"})
    proto, _ = tensorrt_onnx.lower(planned)
    assert in_int8(planned, proto) == WEIGHTED - {"head", "deep1_sum", "depth_sum"}


@pytest.mark.parametrize(("precision", "int8"), [("int16", set()), ("int4", WEIGHTED - {"head"})])
def test_other_precisions_are_built(precision: Any, int8: set[str]):
    planned = tiny_plans.plan(tiny_plans.network(), tiny_plans.images(), precision=precision)
    assert in_int8(planned, tensorrt_onnx.lower(planned)[0]) == int8


@pytest.mark.parametrize("opset", [13, 17])
def test_every_opset_a_jetson_reads_is_built(opset: int):
    planned = tiny_plans.plan(tiny_plans.network(), tiny_plans.images())
    assert in_int8(planned, tensorrt_onnx.lower(planned, opset=opset)[0]) == WEIGHTED - {"head"}


@pytest.fixture(scope="module")
def keras_plan(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    """A Keras network, exported, repaired and planned as users' are."""
    model = tiny_networks.record(tiny_networks.network(), tmp_path_factory.mktemp("model") / "net.keras")
    graph = plan_export.make_plan_graph(model, Silent())
    return make_plan(graph, tiny_networks.pictures(32), PtqSettings(observer="minmax"))


def test_a_keras_network_is_int8_where_the_plan_is(keras_plan: Planned):
    proto, deviations = tensorrt_onnx.lower(keras_plan)
    assert [each.rule for each in violations(proto)] == ["open-dimension"]
    intended = {op.main for op in keras_plan.graph.ops if op.weight is not None and op.layer != "head"}
    assert in_int8(keras_plan, proto, batch=4) == intended
    assert {each.layer for each in deviations if "rounded" in each.what} == {"head"}


def test_it_agrees_with_the_float_network_and_the_cpu_file(keras_plan: Planned):
    """CPU emulation of Q/DQ, of the very file; TensorRT computes nothing here."""
    x = tiny_networks.pictures(64, seed=1)
    wanted = outputs(keras_plan.graph.proto, x)
    ours = outputs(tensorrt_onnx.lower(keras_plan)[0], x)
    cpu = outputs(onnx_qdq.lower(keras_plan, activations="uint8")[0], x)
    assert sqnr_db(wanted, ours) > 25
    assert sqnr_db(cpu, ours) > 25


def outputs(proto: Any, x: NDArray[Any]) -> NDArray[Any]:
    (found,) = onnx_file.run(onnx_file.session(proto.SerializeToString(), as_written=True), x).values()
    return found


@pytest.mark.data
@pytest.mark.timeout(600)
def test_resnet_8_is_int8_and_keeps_its_answers(data_dir: Path, tmp_path: Path):
    """MLPerf Tiny's, calibrated on 200 CIFAR-10 images, judged on 500 others."""
    model = load_model(data_dir / "mlperf-tiny" / "pretrainedResnet.h5", workdir=tmp_path)
    graph = plan_export.make_plan_graph(model, Silent())
    settings = PtqSettings(observer="minmax", equalize=False)
    planned = make_plan(graph, cifar_images.images(data_dir, "train", 20)[0], settings)
    proto, _ = tensorrt_onnx.lower(planned)
    convolutions = {op.main for op in graph.ops if op.kind == "Conv"}
    assert len(convolutions) == 9
    assert in_int8(planned, proto, batch=8) == convolutions
    x, _ = cifar_images.images(data_dir, "test", 50)
    wanted, ours = outputs(graph.proto, x), outputs(proto, x)
    assert sqnr_db(wanted, ours) > 20
    assert (wanted.argmax(1) == ours.argmax(1)).mean() > 0.94
