"""What earlier steps put into kernels is still there in the integers of every file that follows a plan.

Promised of each kernel that the plan computes with integers, whatever the repairs, the rounding and the scheme:

- A weight that was zero is zero, at its place. More weights may become zero, so a group of four input channels with two
  zeros has at least two. Kernels of layers kept in float hold their zeros as well.
- A kernel with at most 64 distinct values besides zero, each used four times or more on average, has at most as many
  distinct integers. Behind a batch normalization some of whose factors are negative it has at most as many distinct
  magnitudes. With one scale for the whole kernel (per_channel: false) that holds where no normalization is folded in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgesmith.frameworks import import_keras, third_party_warnings
from edgesmith.progress import Silent
from edgesmith.types import Model, Scheme
from optimizer.clustering.shared import cluster
from optimizer.ptq.make import make_plan
from optimizer.ptq.settings import PtqSettings
from targets import (
    onnx_qdq,
    onnx_qdq_read,
    onnxruntime,
    plan_files,
    tensorrt,
    tensorrt_onnx,
    tflite,
    tflite_plan,
    tflite_read,
)
from targets.base import CompileRequest
from targets.plan_export import make_plan_graph
from targets.plan_files import Planned
from targets.plan_graph import PlanGraph
from targets.qdq_nodes import DEQUANTIZE, QdqGraph
from targets.sparsity import assert_kernels_keep_zeros
from tests import tiny_networks

pytestmark = pytest.mark.slow

CLUSTERS = 16
NORMALIZED = ("stem", "depthwise", "pointwise")
"""Layers whose kernel has a normalization folded into it."""
TURNED = ("pointwise",)
"""Those where some of its factors are negative."""
LAYERS = (*NORMALIZED, "second", "hidden", "head")

SETTINGS = {
    "chosen": PtqSettings(rounding="learned"),
    "nearest": PtqSettings(observer="percentile"),
    "all-repairs": PtqSettings(observer="mse", rounding="learned", smooth=True),
    "one-scale": PtqSettings(observer="minmax", per_channel=False, rounding="learned"),
    "int4": PtqSettings(observer="minmax", scheme="int4-weights", rounding="learned"),
    "int16": PtqSettings(observer="minmax", scheme="int16x8", rounding="learned"),
}

Kernels = Mapping[str, NDArray[Any]]


def unstructured(kernel: NDArray[np.float32], zeros: float = 0.65) -> NDArray[np.float32]:
    """The smallest are zero."""
    return np.where(np.abs(kernel) < np.quantile(np.abs(kernel), zeros), np.float32(0), kernel)


def two_of_four(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of every four input channels, next to last in Keras, the two smallest are zero; where there are so many."""
    if kernel.shape[-2] % 4:
        return kernel
    groups = np.moveaxis(kernel, -2, -1).reshape(-1, 4).copy()
    np.put_along_axis(groups, np.argsort(np.abs(groups), axis=1)[:, :2], 0, axis=1)
    moved = np.moveaxis(kernel, -2, -1).shape
    return np.moveaxis(groups.reshape(moved), -1, -2)


def shared(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """As the `cluster` step leaves a kernel; its zeros stay zero and take one of the values."""
    return cluster(kernel, CLUSTERS, "optimal", 0).projected(kernel)


def both(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Half are zero, and the others share 15 values."""
    return shared(unstructured(kernel, 0.5))


STRUCTURES: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "zeros": unstructured,
    "2:4": two_of_four,
    "shared": shared,
    "zeros and shared": both,
}


def network(structure: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Any:
    """Normalizations as training leaves them, or worse: channels are apart by a factor of 30."""
    keras = import_keras()
    layers = keras.layers
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 4), name="image")
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(image)
    x = layers.ReLU(name="stem_relu")(layers.BatchNormalization(name="stem_bn")(x))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    x = layers.ReLU(6.0, name="depthwise_relu")(layers.BatchNormalization(name="depthwise_bn")(x))
    x = layers.Conv2D(24, 1, use_bias=False, name="pointwise")(x)
    x = layers.ReLU(name="pointwise_relu")(layers.BatchNormalization(name="pointwise_bn")(x))
    x = layers.Conv2D(16, 3, strides=2, activation="relu", name="second")(x)
    x = layers.Dense(32, activation="relu", name="hidden")(layers.Flatten(name="flat")(x))
    model = keras.Model(image, layers.Dense(8, name="head")(x))
    random = np.random.default_rng(1)
    with third_party_warnings():
        for variable in model.variables:
            kind, shape = variable.path.split("/")[-1], variable.shape
            if kind in ("beta", "moving_mean", "bias"):
                variable.assign(random.uniform(-0.2, 0.2, size=shape))
            elif kind == "gamma":
                turned = variable.path.split("_")[0] in TURNED
                signs = random.choice([1, 1, -1], size=shape) if turned else 1
                variable.assign(np.exp(random.uniform(-2, 1.4, size=shape)) * signs)
            elif kind == "moving_variance":
                variable.assign(random.uniform(0.2, 1.5, size=shape))
            elif kind == "kernel":
                variable.assign(structure(np.array(variable)))
    return model


@dataclass(frozen=True, eq=False)
class Case:
    """A network, what its kernels were in Keras, and its float file."""

    model: Model
    graph: PlanGraph
    file: bytes
    kernels: Kernels

    @functools.cache  # noqa: B019 - as long as the module
    def plan(self, name: str) -> Planned:
        return make_plan(self.graph, samples(), SETTINGS[name])

    def files(self, name: str) -> Iterator[tuple[str, Kernels]]:
        """Every file of a plan, and its integer kernels by layer, in the plan's layout."""
        planned = self.plan(name)
        layers = {op.name: op.layer for op in self.graph.ops if op.weight is not None}
        content, _ = tflite_plan.lower(planned, self.graph, self.file, samples()[:4], float_io=False)
        found = tflite_read.quantized_weights(content, self.graph)
        yield "tflite", {layers[name]: integers for name, (integers, _) in found.items()}
        for reduced in (False, True):
            proto, _ = onnx_qdq.lower(planned, activations="uint8", reduce_range=reduced)
            found = onnx_qdq_read.weights_of(proto)
            yield f"onnx, reduced {reduced}", {layers[name]: integers for name, (integers, _) in found.items()}
        for stored in ("float", "int8"):
            yield f"tensorrt, {stored}", tensorrt_kernels(tensorrt_onnx.lower(planned, weights=stored)[0], planned)


def tensorrt_kernels(proto: Any, planned: Planned) -> Kernels:
    """The integers that TensorRT makes: those stored, or of stored floats as QuantizeLinear is defined.

    A product at the end of the network stays in float, with the plan's rounded kernel: integers by the plan's grid.
    """
    graph = QdqGraph(proto)
    nodes = {node.name: node for node in proto.graph.node}
    found = {}
    for op in (op for op in planned.graph.ops if op.weight is not None):
        name, scale = nodes[op.main].input[1], np.array(planned.plan.op(op.name).weights.scale)
        last = graph.maker(name)
        if last is not None:
            assert last.op_type == DEQUANTIZE
            name, scale = last.input[0], graph.values(last.input[1])
            if (first := graph.maker(name)) is not None:
                name = first.input[0]
        values = graph.values(name)
        if values.dtype != np.int8:
            shape = [-1 if scale.size > 1 and axis == op.weight_axis else 1 for axis in range(values.ndim)]
            values = np.clip(np.rint(values / scale.reshape(shape)), -128, 127).astype(np.int8)
        found[op.layer] = values
    return found


def samples() -> NDArray[np.float32]:
    return np.random.default_rng(3).normal(size=(80, 8, 8, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    @functools.cache
    def make(name: str) -> Case:
        folder = tmp_path_factory.mktemp("structure")
        live = network(STRUCTURES[name])
        model = tiny_networks.record(live, folder / "net.keras")
        request = CompileRequest(scheme=Scheme.NONE, out_dir=folder, name="float")
        file = tflite.compile(model, request, Silent()).path.read_bytes()
        with third_party_warnings():
            kernels = {layer: as_planned(np.array(live.get_layer(layer).kernel), layer) for layer in LAYERS}
        return Case(model=model, graph=make_plan_graph(model, Silent()), file=file, kernels=kernels)

    return make


def as_planned(kernel: NDArray[np.float32], layer: str) -> NDArray[np.float32]:
    """Output channels first, input channels second: HWIO, HWIM (depthwise) and IO of Keras."""
    if kernel.ndim == 2:
        return kernel.T
    return kernel.transpose(2, 3, 0, 1) if layer == "depthwise" else kernel.transpose(3, 2, 0, 1)


def from_plan(case: Case, layer: str, integers: NDArray[Any]) -> NDArray[Any]:
    """A Gemm may hold its kernel the other way round."""
    (op,) = [op for op in case.graph.ops if op.layer == layer and op.weight is not None]
    return integers.T if op.weight_axis == 1 else integers


def checked(case: Case, settings: str) -> Iterator[tuple[str, NDArray[np.float32], NDArray[Any]]]:
    """(layer, kernel in Keras, integers in the file) of every layer in every file."""
    for file, kernels in case.files(settings):
        assert set(kernels) == set(case.kernels), file
        for layer, integers in kernels.items():
            kernel, turned = case.kernels[layer], from_plan(case, layer, integers)
            assert turned.shape == kernel.shape
            assert integers.any(), (file, layer)
            yield f"{file}: {layer}", kernel, turned


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("structure", ["zeros", "2:4", "zeros and shared"])
def test_zeros_are_zero_at_their_places(case: Callable[[str], Case], structure: str, settings: str):
    for where, kernel, integers in checked(case(structure), settings):
        assert where.endswith("stem") or structure == "2:4" or (kernel == 0).mean() >= 0.45, where
        assert not integers[kernel == 0].any(), where


@pytest.mark.parametrize("settings", SETTINGS)
def test_two_of_four_input_channels_are_zero(case: Callable[[str], Case], settings: str):
    groups = 0
    for where, kernel, integers in checked(case("2:4"), settings):
        if kernel.shape[1] % 4 == 0:
            four = np.moveaxis(integers, 1, -1).reshape(-1, 4)
            assert ((four == 0).sum(axis=1) >= 2).all(), where
            groups += len(four)
    assert groups > 5 * 1000


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("structure", ["shared", "zeros and shared"])
def test_shared_values_become_shared_integers(case: Callable[[str], Case], structure: str, settings: str):
    for where, kernel, integers in checked(case(structure), settings):
        layer = where.rpartition(" ")[2]
        before = len(np.unique(kernel))
        assert before <= CLUSTERS
        if settings != "one-scale" or layer not in NORMALIZED:
            assert len(np.unique(np.abs(integers) if layer in TURNED else integers)) <= before, where


def test_the_repairs_and_the_learned_rounding_are_at_work(case: Callable[[str], Case]):
    """Else the others would show little."""
    planned = case("zeros").plan("all-repairs")
    said = " ".join(planned.plan.repairs)
    assert "Cross-layer equalization scaled" in said
    assert "bias correction: " in said
    assert "learned rounding: kept for" in said
    clustered = case("shared").plan("all-repairs")
    assert "shared weights would not stay shared" in " ".join(clustered.plan.repairs)


@pytest.mark.parametrize("structure", ["zeros", "2:4"])
def test_compiled_files_keep_zeros_in_float_layers_too(case: Callable[[str], Case], structure: str, tmp_path: Path):
    """Through the targets' own front door, with a layer in float; read back as a run reads them back."""
    net = case(structure)
    settings = PtqSettings(observer="minmax", rounding="learned", keep_float=("second", "head"))
    plan_files.write(make_plan(net.graph, samples(), settings), tmp_path / "plan")
    net.graph.write(tmp_path / "plan" / plan_files.ORIGINAL)
    for target in (tflite, onnxruntime, tensorrt):
        request = CompileRequest(
            scheme=Scheme.INT8,
            calibration=tiny_networks.samples(samples()),
            plan=tmp_path / "plan",
            out_dir=tmp_path,
            name="net",
        )
        made = target.compile(net.model, request, Silent())
        assert_kernels_keep_zeros(net.kernels, target.kernels(made.path), artifact=made.path.name)
