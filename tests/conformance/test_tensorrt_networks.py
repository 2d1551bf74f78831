"""NVIDIA's own parser and builder, asked about the very files that boards get, for the networks that boards run.

TensorRT-RTX 1.7.1 without a GPU, not the compiler of a Jetson: it shows that the files are read, how every layer is
typed, and that int8 is computed where it was meant to be. How fast that is on a board, only the board can tell.
"""

from __future__ import annotations

import functools
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgesmith.frameworks import import_keras
from edgesmith.progress import Silent
from edgesmith.types import Artifact, Model, Scheme
from optimizer.ptq.make import make_plan
from optimizer.ptq.settings import PtqSettings
from targets import plan_files, tensorrt, tensorrt_exclude, tensorrt_placement
from targets.base import CompileRequest, RuntimeFacts
from targets.divergence import sqnr_db
from targets.plan_export import make_plan_graph
from targets.plan_files import Planned
from targets.plan_ops import PlanOp
from targets.tensorrt_versions import reads
from tests import board_networks, rtx, tiny_networks
from tests.tensorrt_requests import ORIN_11, ORIN_JP6, XAVIER_JP4

pytestmark = pytest.mark.slow

if (sys.platform, platform.machine()) != ("linux", "x86_64"):
    pytest.skip("NVIDIA's parser is on PyPI for Linux on x86-64 only", allow_module_level=True)

NETWORKS = tuple(board_networks.NETWORKS)
BOARDS = {"weak, opset 13": XAVIER_JP4, "weak": ORIN_JP6, "typed": ORIN_11}
FLOAT = {"weak, opset 13": "Float", "weak": "Float", "typed": "Half"}
"""What is not int8 is computed in, by this builder: before 11 a Jetson's own decides that by its flags."""


@dataclass(frozen=True, eq=False)
class Net:
    """A network with its plan, and its files."""

    model: Model
    planned: Planned
    folder: Path

    @functools.cache  # noqa: B019 - as long as the module
    def file(self, scheme: Scheme, board: str, max_batch: int = 1) -> Artifact:
        request = self.request(scheme, BOARDS[board], f"{scheme}-{board}-{max_batch}", max_batch=max_batch)
        return tensorrt.compile(self.model, request, Silent())

    def request(self, scheme: Scheme, runtime: RuntimeFacts, name: str, **more: Any) -> CompileRequest:
        plan = self.folder / "plan" if scheme.needs_calibration else None
        x = tiny_networks.samples(board_networks.images(2))
        return CompileRequest(
            scheme=scheme, out_dir=self.folder, name=name, plan=plan, calibration=x, runtime=runtime, **more
        )

    @functools.cache  # noqa: B019
    def answer(self, scheme: Scheme, board: str) -> rtx.Answer:
        return rtx.ask(onnx.load(self.file(scheme, board).path))

    def intended(self, board: str) -> set[str]:
        """Main nodes of the ops that are to be computed in int8.

        TensorRT-RTX has no transposed convolution in int8: tests/qdq_graphs.py.
        """
        floats = tensorrt.in_float(self.planned, reads(BOARDS[board]), ())
        placed = tensorrt_placement.place(self.planned, floats).reads
        return {op.main for op in self.weighted if op.name in placed and op.kind != "ConvTranspose"}

    @property
    def weighted(self) -> list[PlanOp]:
        return [op for op in self.planned.graph.ops if op.weight is not None]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Net]:
    @functools.cache
    def make(name: str) -> Net:
        folder = tmp_path_factory.mktemp(name)
        model = tiny_networks.record(board_networks.network(name), folder / "net.keras")
        settings = PtqSettings(observer="minmax", equalize=False, bias_correction=False)
        planned = make_plan(make_plan_graph(model, Silent()), board_networks.images(32), settings)
        plan_files.write(planned, folder / "plan")
        return Net(model, planned, folder)

    return make


def changed(proto: Any, change: Callable[[Any], None]) -> Any:
    twin = onnx.ModelProto()
    twin.CopyFrom(proto)
    change(twin)
    return twin


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_intended_layer_is_int8_and_the_rest_is_as_typed(net: Callable[[str], Net], name: str, board: str):
    one, answer = net(name), net(name).answer(Scheme.INT8, board)
    assert answer.built, answer.errors
    assert answer.warnings == ()
    intended = one.intended(board)
    assert {op.main for op in one.weighted if answer.in_int8(op.main)} == intended
    # Of all layers with weights all but one: the head, too small for it, or the U-Net's transposed convolution.
    (left,) = (op.layer for op in one.weighted if op.main not in intended)
    assert left == {"resnet8": "head", "mobilenet_v2": "predictions", "unet": "up2", "vit": "head"}[name]
    assert answer.operands <= {"Int8", FLOAT[board]}


@pytest.mark.parametrize("name", NETWORKS)
def test_typed_float16_multiplies_in_float16_only(net: Callable[[str], Net], name: str):
    answer = net(name).answer(Scheme.FLOAT16, "typed")
    assert answer.built, answer.errors
    assert answer.warnings == ()
    assert answer.operands == {"Half"}
    multiplied = {node for layer in answer.layers if layer.kind in rtx.COMPUTES for node in layer.nodes}
    # Ten columns become part of an element-wise kernel.
    left = {op.layer for op in net(name).weighted if op.main not in multiplied}
    assert left <= {"head", "predictions"}


def test_a_float_file_has_no_float16_anywhere(net: Callable[[str], Net]):
    """Else the test above would show nothing."""
    answer = net("resnet8").answer(Scheme.NONE, "typed")
    assert answer.built
    assert answer.operands == {"Float"}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("scheme", [Scheme.FLOAT16, Scheme.INT8])
def test_the_same_file_gives_the_same_engine(net: Callable[[str], Net], name: str, scheme: Scheme):
    first = net(name).answer(scheme, "typed")
    again = rtx.ask(onnx.load(net(name).file(scheme, "typed").path))
    assert first.engine_sha256
    assert again.engine_sha256 == first.engine_sha256


def test_other_files_give_other_engines(net: Callable[[str], Net]):
    answers = [net("resnet8").answer(scheme, "typed") for scheme in (Scheme.NONE, Scheme.FLOAT16, Scheme.INT8)]
    assert len({answer.engine_sha256 for answer in answers}) == 3


def test_normalizations_stay_float32_in_a_typed_transformer(net: Callable[[str], Net]):
    proto = onnx.load(net("vit").file(Scheme.FLOAT16, "typed").path)
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    norms = [node for node in proto.graph.node if node.op_type == "LayerNormalization"]
    softmaxes = [node for node in proto.graph.node if node.op_type == "Softmax"]
    assert (len(norms), len(softmaxes)) == (5, 2)
    assert {types[node.output[0]] for node in (*norms, *softmaxes)} == {onnx.TensorProto.FLOAT}


@pytest.mark.parametrize("scheme", [Scheme.FLOAT16, Scheme.INT8])
def test_an_open_batch_is_built_with_its_own_profile_only(net: Callable[[str], Net], scheme: Scheme):
    made = net("resnet8").file(scheme, "typed", max_batch=8)
    assert made.build["profile"] == {"image": [[1, 32, 32, 3], [8, 32, 32, 3], [8, 32, 32, 3]]}
    proto = onnx.load(made.path)
    assert rtx.ask(proto, batch=8).built
    without = rtx.ask(proto)
    assert (without.parsed, without.built) == (True, False)


def test_an_excluded_layer_is_float_and_all_others_are_int8(net: Callable[[str], Net]):
    one = net("resnet8")
    op = next(op for op in one.weighted if op.layer.startswith("block2_a"))
    request = one.request(Scheme.INT8, ORIN_11, "excluding")
    made = tensorrt_exclude.exclude(one.model, request, one.file(Scheme.INT8, "typed"), [op.main], Silent())
    assert made.layers == (op.layer,)
    answer = rtx.ask(onnx.load(made.artifact.path))
    assert answer.built, answer.errors
    found = {each.main for each in one.weighted if answer.in_int8(each.main)}
    assert found == one.intended("typed") - {op.main}


def test_loops_are_read_although_no_plan_looks_into_them(tmp_path: Path):
    """The body of a GRU stays float32, whatever is around it."""
    keras = import_keras()
    keras.utils.set_random_seed(0)
    steps = keras.Input((6, 5), name="steps")
    live = keras.Model(steps, keras.layers.Dense(3)(keras.layers.GRU(8)(steps)))
    model = tiny_networks.record(live, tmp_path / "gru.keras")
    x = np.random.default_rng(0).normal(size=(5, 6, 5)).astype(np.float32)
    (wanted,) = tiny_networks.answers(live, x)
    for scheme, least_db in ((Scheme.NONE, 100), (Scheme.FLOAT16, 50)):
        request = CompileRequest(scheme=scheme, out_dir=tmp_path, name=scheme, runtime=ORIN_11)
        made = tensorrt.compile(model, request, Silent())
        proto = onnx.load(made.path)
        assert "Loop" in {node.op_type for node in proto.graph.node}
        answer = rtx.ask(proto)
        assert answer.built, answer.errors
        (found,) = tensorrt.outputs(made.path, x)
        assert sqnr_db(wanted, found) > least_db


# Negative controls: the same files, damaged the ways that NVIDIA's rules forbid.


def weights_along_inputs(proto: Any) -> None:
    """Scales along axis 1 of a kernel, one for each input channel."""
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    node = next(
        node
        for node in proto.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in stored and len(stored[node.input[0]].dims) == 4
    )
    channels = stored[node.input[0]].dims[1]
    for index, values in ((1, np.full(channels, 0.01, np.float32)), (2, np.zeros(channels, np.int8))):
        name = f"damaged/{index}"
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
        node.input[index] = name
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("axis", 1))


def bias_in_integers(proto: Any) -> None:
    """int32 behind a DequantizeLinear, as ONNX Runtime's quantizer writes it by default."""
    node = next(node for node in proto.graph.node if node.op_type == "Conv")
    channels = next(tensor.dims[0] for tensor in proto.graph.initializer if tensor.name == node.input[2])
    values = {"q": np.ones(channels, np.int32), "s": np.float32(0.01), "z": np.int32(0)}
    for name, value in values.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"damaged/{name}"))
    made = helper.make_node("DequantizeLinear", [f"damaged/{name}" for name in values], ["damaged/bias"], name="bias")
    cast = helper.make_node("Cast", ["damaged/bias"], ["damaged/half"], name="cast", to=onnx.TensorProto.FLOAT16)
    proto.graph.node.insert(0, made)
    proto.graph.node.insert(1, cast)
    typed = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in proto.graph.initializer)
    node.input[2] = "damaged/half" if typed else "damaged/bias"


def a_zero_point(proto: Any) -> None:
    """An activation that is not symmetric."""
    first = next(node for node in proto.graph.node if node.op_type == "QuantizeLinear")
    proto.graph.initializer.append(numpy_helper.from_array(np.asarray(np.int8(5)), "damaged/zero"))
    for node in proto.graph.node:
        if node is first or first.output[0] in node.input:
            node.input[2] = "damaged/zero"
    first.input[2] = "damaged/zero"


@pytest.mark.parametrize("board", ["weak", "typed"])
@pytest.mark.parametrize(
    ("damage", "says"),
    [(weights_along_inputs, "falls to float"), (bias_in_integers, "not parsed"), (a_zero_point, "not parsed")],
)
def test_a_damaged_file_does_not_pass(net: Callable[[str], Net], damage: Callable[[Any], None], says: str, board: str):
    one = net("resnet8")
    answer = rtx.ask(changed(onnx.load(one.file(Scheme.INT8, board).path), damage))
    if says == "not parsed":
        assert not answer.parsed
        assert answer.errors
    else:
        assert answer.built
        assert len([op for op in one.weighted if answer.in_int8(op.main)]) == len(one.intended(board)) - 1
