"""What is written for each TensorRT: operator set, precisions as flags or as types, shapes; and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from pydantic import TypeAdapter

from edgesmith.errors import ConfigError, ModelError
from edgesmith.progress import Silent
from edgesmith.types import Artifact, Model, Scheme
from optimizer.load import load_model
from targets import onnx_file, tensorrt, tensorrt_build, tensorrt_onnx
from targets.base import RuntimeFacts
from targets.divergence import sqnr_db
from targets.found import read_artifact
from targets.plan_files import Planned
from targets.plan_graph import PlanGraph
from targets.tensorrt_rules import violations
from targets.tensorrt_versions import reads
from tests import qdq_graphs, tiny_plans
from tests.tensorrt_requests import (
    BOARDS,
    NANO,
    ORIN_11,
    ORIN_JP6,
    THOR,
    TX2,
    XAVIER_JP4,
    XAVIER_JP5,
    planned_in,
    request,
    saved,
)
from tests.tiny_plans import Floats, images

X = images()
INT8_BOARDS = [board for board in BOARDS if board not in (NANO, TX2)]


@dataclasses.dataclass(frozen=True)
class Net:
    model: Model
    planned: Planned
    folder: Path

    def compile(self, scheme: Scheme, runtime: RuntimeFacts | None, **changes: Any) -> Artifact:
        return tensorrt.compile(self.model, request(scheme, self.folder, runtime, **changes), Silent())


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Net:
    folder = tmp_path_factory.mktemp("net")
    graph = tiny_plans.network(batch="N")
    planned = tiny_plans.plan(graph, X)
    planned_in(folder, planned)
    return Net(saved(graph, folder), planned, folder)


def proto_of(artifact: Artifact) -> Any:
    return onnx.load(artifact.path)


# What each version takes.


@pytest.mark.parametrize(
    ("version", "opset", "typed", "weights"),
    [
        ("8.0.1.6", 13, False, "float"),
        ("8.2.1", 13, False, "float"),
        ("8.4.1", 17, False, "float"),
        ("8.5.2", 17, False, "float"),
        ("8.6.2.3", 17, False, "float"),
        ("10.3.0.30", 20, False, "int8"),
        ("10.16.2", 20, False, "int8"),
        ("11.0.0", 20, True, "int8"),
        ("11.4.1", 20, True, "int8"),
    ],
)
def test_versions(version: str, opset: int, typed: bool, weights: str):
    board = reads(RuntimeFacts(version=version))
    assert (board.opset, board.typed, board.weights) == (opset, typed, weights)
    numbers = tuple(map(int, version.split(".")[:2]))
    assert ("LayerNormalization" in board.lacks) == (numbers < (8, 6))
    assert ("ConvTranspose" in board.floats) == (numbers < (8, 5))


@pytest.mark.parametrize(
    ("compute", "int8", "sparse"),
    [
        ("5.3", False, False),
        ("6.2", False, False),
        ("6.1", True, False),
        ("7.2", True, False),
        ("8.7", True, True),
        ("11.0", True, True),
        ("", True, False),
    ],
)
def test_gpus(compute: str, int8: bool, sparse: bool):
    board = reads(RuntimeFacts(version="8.2.1", compute=compute))
    assert (board.int8, board.sparse) == (int8, sparse)


def test_a_tensorrt_before_8_is_refused(net: Net):
    with pytest.raises(ConfigError, match=r"TensorRT 7\.1\.3 is older"):
        net.compile(Scheme.NONE, RuntimeFacts(version="7.1.3", compute="7.2"))


@pytest.mark.parametrize(
    ("runtime", "opset"), [(None, 17), (NANO, 13), (XAVIER_JP5, 17), (ORIN_JP6, 17), (ORIN_11, 17)]
)
@pytest.mark.parametrize("scheme", [Scheme.NONE, Scheme.INT8])
def test_the_opset_is_one_that_the_boards_parser_reads(
    net: Net, runtime: RuntimeFacts | None, opset: int, scheme: Scheme
):
    if runtime is NANO and scheme is Scheme.INT8:
        runtime = XAVIER_JP4  # the same TensorRT on a GPU with int8
    assert onnx_file.opset(proto_of(net.compile(scheme, runtime))) == opset


@pytest.mark.parametrize(("have", "runtime", "opset"), [(18, ORIN_JP6, 18), (18, XAVIER_JP5, 17), (21, ORIN_JP6, 20)])
def test_a_network_of_a_newer_opset_keeps_it_where_it_is_read(
    tmp_path: Path, have: int, runtime: RuntimeFacts, opset: int
):
    graph = tiny_plans.network(opset=have)
    made = tensorrt.compile(saved(graph, tmp_path), request(Scheme.NONE, tmp_path, runtime, calibration=None), Silent())
    assert onnx_file.opset(proto_of(made)) == opset


def test_an_opset_that_was_asked_for_is_checked(net: Net):
    assert onnx_file.opset(proto_of(net.compile(Scheme.NONE, XAVIER_JP5, opset=13))) == 13
    with pytest.raises(ConfigError, match=r"opset 18 is not read by TensorRT 8\.5\.2") as caught:
        net.compile(Scheme.NONE, XAVIER_JP5, opset=18)
    assert caught.value.next_step == "Choose one from 13 to 17, or leave it out."


# Precisions.


@pytest.mark.parametrize("runtime", [None, *BOARDS])
def test_precisions_are_flags_before_11_and_types_after(net: Net, runtime: RuntimeFacts | None):
    schemes = [
        Scheme.NONE,
        Scheme.FLOAT16,
        *([Scheme.INT8, Scheme.INT8_FLOAT_IO] if runtime not in (NANO, TX2) else []),
    ]
    flags = [net.compile(scheme, runtime).build["precision"] for scheme in schemes]
    weak = [[], ["fp16"], ["fp16", "int8"], ["fp16", "int8"]]
    assert flags == ([[]] * 4 if runtime is ORIN_11 else weak[: len(schemes)])


@pytest.mark.parametrize("runtime", [None, *BOARDS])
def test_inputs_and_outputs_stay_float32_and_the_rest_is_what_it_should_be(net: Net, runtime: RuntimeFacts | None):
    for scheme in tensorrt.capabilities(None, runtime).schemes:
        proto = proto_of(net.compile(scheme, runtime))
        values = (*proto.graph.input, *proto.graph.output)
        assert {value.type.tensor_type.elem_type for value in values} == {TensorProto.FLOAT}
        types = {tensor.data_type for tensor in proto.graph.initializer}
        halves = runtime is ORIN_11 and scheme is not Scheme.NONE
        assert (TensorProto.FLOAT16 in types) == halves, (runtime, scheme)


@pytest.mark.parametrize("runtime", INT8_BOARDS)
def test_kernels_are_floats_before_10_and_integers_after(net: Net, runtime: RuntimeFacts):
    kernels = tensorrt.kernels(net.compile(Scheme.INT8, runtime).path)
    conv = {str(values.dtype) for values in kernels.values() if values.ndim == 4}
    assert conv == {"float32" if runtime.version.startswith("8") else "int8"}


def test_scales_stay_float32_in_a_typed_file(net: Net):
    """In float16 a scale below 6e-5 loses digits, and the grid would no longer be the plan's."""
    proto = proto_of(net.compile(Scheme.INT8, ORIN_11))
    weak = proto_of(net.compile(Scheme.INT8, ORIN_JP6))
    for one in (proto, weak):
        scales = {node.input[1] for node in one.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
        types = {tensor.data_type for tensor in one.graph.initializer if tensor.name in scales}
        assert types == {TensorProto.FLOAT}
    assert scales_of(proto) == scales_of(weak)


def scales_of(proto: Any) -> dict[str, list[float]]:
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    nodes = (node for node in proto.graph.node if node.op_type == "DequantizeLinear")
    return {node.name: stored[node.input[1]].ravel().tolist() for node in nodes}


@pytest.mark.parametrize("runtime", INT8_BOARDS)
def test_every_int8_file_obeys_every_rule(net: Net, runtime: RuntimeFacts):
    proto = proto_of(net.compile(Scheme.INT8, runtime))
    assert violations(proto, max_opset=reads(runtime).opset) == ()


def test_the_rules_look_through_casts(net: Net):
    """In a typed file one stands between DequantizeLinear and the op that it is for."""
    proto = proto_of(net.compile(Scheme.INT8, ORIN_11))
    node = next(node for node in proto.graph.node if node.name == "deep2_w_DequantizeLinear")
    node.attribute[0].i = 1
    assert [each.rule for each in violations(proto)] == ["weight-axis"]
    conv = next(node for node in proto.graph.node if node.name == "deep1_sum")
    conv.input[0] = "sum/half"
    assert [each.rule for each in violations(proto)] == ["half-quantized", "weight-axis"]


def test_a_file_against_the_rules_is_not_written(net: Net, tmp_path: Path):
    """A user's own network that is quantized in a way that TensorRT does not read."""
    graph = onnx.ModelProto.FromString(net.model.path.read_bytes())
    graph.graph.node[0].input[0] = "image/again"
    stored = {"own/scale": np.float32(0.1), "own/zero": np.uint8(128)}
    graph.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in stored.items())
    for index, (op, source, made) in enumerate(
        (("QuantizeLinear", "image", "own/q"), ("DequantizeLinear", "own/q", "image/again"))
    ):
        graph.graph.node.insert(index, onnx.helper.make_node(op, [source, *stored], [made], name=made))
    model = saved(PlanGraph(graph), tmp_path)
    with pytest.raises(ModelError, match=r"tensorrt: ONNX net\.onnx cannot be read: .*uint8"):
        tensorrt.compile(model, request(Scheme.NONE, tmp_path, ORIN_JP6), Silent())
    assert not list(tmp_path.glob("none-*"))


@pytest.mark.parametrize("runtime", [None, *BOARDS])
def test_emulated_answers_are_those_of_the_network(net: Net, runtime: RuntimeFacts | None):
    """CPU emulation of Q/DQ; TensorRT computes nothing here."""
    wanted = np.concatenate([found["head"] for found in net.planned.graph.run(X)])
    least = {Scheme.NONE: 100, Scheme.FLOAT16: 50, Scheme.INT8: 30, Scheme.INT8_FLOAT_IO: 30}
    for scheme in tensorrt.capabilities(None, runtime).schemes:
        (found,) = tensorrt.outputs(net.compile(scheme, runtime).path, X)
        assert sqnr_db(wanted, found) > least[scheme], (runtime, scheme)


def test_emulation_computes_every_node_as_it_is_written(net: Net):
    """With its optimizations on, ONNX Runtime would make integer kernels of it, which round otherwise."""
    path = net.compile(Scheme.INT8, ORIN_JP6).path
    literal = onnx_file.run(onnx_file.session(path, as_written=True), X)["head"]
    fused = onnx_file.run(onnx_file.session(path), X)["head"]
    (found,) = tensorrt.outputs(path, X)
    np.testing.assert_array_equal(found, literal)
    assert not np.array_equal(found, fused)


# What is refused.


@pytest.mark.parametrize("runtime", [NANO, TX2])
@pytest.mark.parametrize("scheme", [Scheme.INT8, Scheme.INT8_FLOAT_IO])
def test_int8_is_refused_where_the_gpu_has_none(net: Net, runtime: RuntimeFacts, scheme: Scheme):
    with pytest.raises(ConfigError, match=rf"capability {runtime.compute}\) does not compute in int8") as caught:
        net.compile(scheme, runtime)
    assert caught.value.next_step == "Use scheme 'float16' for it."
    assert tensorrt.capabilities(None, runtime).schemes == {Scheme.NONE, Scheme.FLOAT16}


def test_int8_without_a_plan_is_refused(net: Net):
    with pytest.raises(ConfigError, match="'int8' is made from a quantization plan, and there is none") as caught:
        net.compile(Scheme.INT8, ORIN_JP6, plan=None)
    assert "scheme 'float16'" in caught.value.next_step


@pytest.mark.parametrize("scheme", [Scheme.INT16X8, Scheme.INT4_WEIGHTS, Scheme.DYNAMIC])
def test_other_schemes_are_refused(net: Net, scheme: Scheme):
    with pytest.raises(ConfigError, match=f"tensorrt cannot make scheme '{scheme}'"):
        net.compile(scheme, ORIN_JP6)


# Shapes and options.


def test_the_batch_is_one_unless_more_is_asked_for(net: Net):
    one = net.compile(Scheme.INT8, ORIN_JP6)
    assert [spec.shape for spec in (*one.signature.inputs, *one.signature.outputs)] == [(1, 3, 16, 16), (1, 10)]
    assert one.build["profile"] is None
    many = net.compile(Scheme.INT8, ORIN_JP6, max_batch=8, name="many")
    assert many.signature.inputs[0].shape == ("N", 3, 16, 16)
    assert many.build["profile"] == {"image": [[1, 3, 16, 16], [8, 3, 16, 16], [8, 3, 16, 16]]}
    assert one.sha256 != many.sha256


def test_a_fixed_batch_stays(tmp_path: Path):
    model = saved(tiny_plans.network(batch=2), tmp_path)
    made = tensorrt.compile(model, request(Scheme.NONE, tmp_path, ORIN_JP6, max_batch=8), Silent())
    assert made.signature.inputs[0].shape[0] == 2
    assert made.build["profile"] is None


def test_another_open_dimension_is_refused(tmp_path: Path):
    g = Floats()
    g.node("Relu", ["image"], "out")
    model = saved(g.graph("out", ("N", 3, "rows", 16)), tmp_path)
    with pytest.raises(ModelError, match=r"input 'image' has shape \[N, 3, rows, 16\]"):
        tensorrt.compile(model, request(Scheme.NONE, tmp_path, ORIN_JP6), Silent())


def test_qdq_of_the_users_own_is_built_with_the_flags_that_it_needs(tmp_path: Path):
    proto = qdq_graphs.conv()
    (name,) = [output.name for output in proto.graph.output]
    shape = [1, qdq_graphs.C, 8, 8]
    proto.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    onnx.save(proto, tmp_path / "qdq.onnx")
    model = load_model(tmp_path / "qdq.onnx", workdir=tmp_path / "work")
    assert model.quantized
    made = tensorrt.compile(model, request(Scheme.NONE, tmp_path, ORIN_JP6), Silent())
    assert made.build["precision"] == ["fp16", "int8"]
    assert tensorrt.compile(model, request(Scheme.NONE, tmp_path, ORIN_11), Silent()).build["precision"] == []
    with pytest.raises(ModelError, match=r"is quantized .* \(compute capability 5\.3\) does not compute in int8"):
        tensorrt.compile(model, request(Scheme.NONE, tmp_path, NANO), Silent())


def test_the_options_are_in_the_file_and_make_it_another_one(net: Net):
    """Before 11 the float and the float16 file hold the same numbers: only the options tell them apart."""
    plain, half = (net.compile(scheme, ORIN_JP6) for scheme in (Scheme.NONE, Scheme.FLOAT16))
    assert plain.sha256 != half.sha256
    assert tensorrt_build.read(half.path) == {key: v for key, v in half.build.items() if key != "onnx_sha256"}
    assert half.build["onnx_sha256"] == half.sha256
    found = read_artifact(half.path)
    assert (found.target, found.build["precision"]) == ("tensorrt", ["fp16"])
    assert read_artifact(net.model.path).target == "onnxruntime"


def test_the_options_survive_being_stored(net: Net):
    made = net.compile(Scheme.INT8, ORIN_JP6, max_batch=4, name="stored")
    adapter = TypeAdapter(Artifact)
    text = json.dumps(adapter.dump_python(made, mode="json"))
    assert adapter.validate_python(json.loads(text)).build == made.build
    older = {key: value for key, value in json.loads(text).items() if key != "build"}
    assert adapter.validate_python(older).build == {}


@pytest.mark.parametrize(("runtime", "used"), [(XAVIER_JP5, False), (ORIN_JP6, True), (THOR, True), (None, False)])
def test_sparse_kernels_are_told_where_the_gpu_gains_from_them(
    tmp_path: Path, runtime: RuntimeFacts | None, used: bool
):
    graph = tiny_plans.network()
    dense = graph.constants["deep2_w"]
    groups = np.array(dense).transpose(0, 2, 3, 1).reshape(-1, 4)
    np.put_along_axis(groups, np.argsort(np.abs(groups), axis=1)[:, :2], 0, axis=1)
    sparse = groups.reshape(48, 3, 3, 48).transpose(0, 3, 1, 2)
    planned = tiny_plans.plan(graph.with_constants({"deep2_w": sparse}), X)
    planned_in(tmp_path, planned)
    for scheme in (Scheme.NONE, Scheme.FLOAT16, Scheme.INT8):
        made = tensorrt.compile(saved(planned.graph, tmp_path), request(scheme, tmp_path, runtime), Silent())
        assert made.build["sparsity"] is used
    planned_in(tmp_path, tiny_plans.plan(graph, X))
    made = tensorrt.compile(saved(graph, tmp_path), request(Scheme.INT8, tmp_path, runtime), Silent())
    assert made.build["sparsity"] is False


def test_transposed_convolutions_are_float_where_tensorrt_gets_them_wrong():
    g = Floats()
    x = g.weighted("Conv", "image", "conv", (32, 3, 3, 3), "Relu")
    up = g.node(
        "ConvTranspose", [x, g.kernel("up_w", (32, 32, 2, 2)), g.constant("up_b", np.zeros(32, np.float32))], "up"
    )
    graph = g.graph(g.weighted("Conv", up, "tail", (32, 32, 3, 3)), (2, 3, 16, 16))
    planned = tiny_plans.plan(graph, X)
    for runtime, quantized in ((XAVIER_JP4, {"image", "up"}), (XAVIER_JP5, {"image", "conv", "up"})):
        floats = tensorrt.in_float(planned, reads(runtime), ())
        proto, deviations = tensorrt_onnx.lower(planned, floats=floats)
        names = {node.input[0] for node in proto.graph.node if node.op_type == "QuantizeLinear"}
        assert names - {"conv_w", "up_w", "tail_w"} == quantized
        reasons = [each.why for each in deviations if each.tensor == "up_w"]
        assert reasons == ([] if "conv" in quantized else [reads(runtime).floats["ConvTranspose"]])
