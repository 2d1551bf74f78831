"""A board with a fake TensorRT of any version and a fake libcudart, in this process; and networks to build there."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from device_tests.agent.reading import Root
from device_tests.agent.tensorrt import building, engines, identity
from device_tests.fake_jetson.build import build_cudart
from device_tests.fake_jetson.fake_tensorrt import make
from edgesmith.files import sha256_bytes
from tests.board_trees import Tree

VERSIONS = ("8.0", "8.2", "8.4", "8.5", "8.6", "10.3", "10.13", "10.16", "11.0", "11.4")
WITH_FLAGS = tuple(version for version in VERSIONS if not version.startswith("11"))
"""Those whose builder chooses precisions."""

MIB = 1 << 20
OPSET = 13
"""The newest that TensorRT 8.0 and 8.2 read."""


class Board:
    """A Jetson made of nothing.

    Attributes:
        trt: its module `tensorrt`.
        root: its files.
        told: progress events.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, version: str, **trt: Any) -> None:
        """`trt`: see `fake_tensorrt.make`."""
        self.folder = folder
        self._monkeypatch = monkeypatch
        self.told: list[dict[str, Any]] = []
        (folder / "blobs").mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv("EDGESMITH_LIBCUDART", str(cudart()))
        self.root = Root(str(folder / "root"))
        self.memory(available_mb=24_000)
        self.become(version, **trt)

    def become(self, version: str, **trt: Any) -> Board:
        """Puts another TensorRT there."""
        self.trt = make(version, **trt)
        if "compute" in trt:
            self._monkeypatch.setenv("EDGESMITH_FAKE_CUDA_COMPUTE", trt["compute"])
        self._monkeypatch.setitem(sys.modules, "tensorrt", self.trt)
        return self

    def memory(self, *, available_mb: int) -> None:
        """What the kernel says is free; no swap."""
        lines = f"MemTotal: 33554432 kB\nMemAvailable: {available_mb * 1024} kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"
        Tree(self.folder / "root").write("/proc/meminfo", lines)

    @property
    def engines(self) -> engines.Engines:
        """Of its workdir."""
        return engines.Engines(str(self.folder / "engines"))

    def put(self, proto: onnx.ModelProto) -> str:
        """Uploads a network; its path there."""
        content = proto.SerializeToString()
        path = self.folder / "blobs" / sha256_bytes(content)
        path.write_bytes(content)
        return str(path)

    def build(self, path: str, options: Mapping[str, Any] | None = None, **how: Any) -> Any:
        """Builds; see `building.build`."""
        how.setdefault("root", self.root)
        asked = {"cuda": "ctypes", **(options or {})}
        return building.build(path, asked, self.engines.root, self._event, **how)

    def runner(self, path: str, options: Mapping[str, Any] | None = None) -> Any:
        """The runner of what was built."""
        from device_tests.agent.runners import tensorrt

        return tensorrt.Runner(path, 1, {"cuda": "ctypes", **(options or {})})

    def header(self, record: Mapping[str, Any]) -> Any:
        """What the fake engine says it was built with."""
        return json.loads(Path(record["path"]).read_bytes().partition(b"\n")[0])

    def identity(self, path: str, **options: Any) -> Any:
        """What an engine of these options is valid for, here."""
        asked = identity.onnx_sha256(path, options)
        return identity.identity(asked, self.trt.__version__, "8.7", "unknown")

    def _event(self, **told: Any) -> None:
        self.told.append(told)


@functools.cache
def cudart() -> Path:
    """Compiled once in a test run."""
    folder = tempfile.mkdtemp(prefix="fake-cudart-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return build_cudart("12.6", Path(folder))


def network(
    *, batch: int | str = 1, size: int | str = 8, quantized: bool = False, half: bool = False
) -> onnx.ModelProto:
    """Convolution, ReLU, average, dense: x [batch, 3, size, size] -> y [batch, 2].

    Args:
        batch: a name leaves it open.
        size: likewise.
        quantized: the convolution has Q/DQ before both its operands.
        half: in float16, with float32 inputs and outputs.
    """
    random = np.random.default_rng(0)
    kernel = random.normal(size=(4, 3, 3, 3)).astype(np.float32)
    dense = random.normal(size=(4, 2)).astype(np.float32)
    dtype = np.float16 if half else np.float32
    constants = {"kernel": kernel.astype(dtype), "dense": dense.astype(dtype), "shape": np.array([-1, 4], np.int64)}
    nodes, picture, weights = [], "x", "kernel"
    if half:
        nodes.append(helper.make_node("Cast", ["x"], ["x16"], name="to_half", to=TensorProto.FLOAT16))
        picture = "x16"
    if quantized:
        constants |= {"zero": np.int8(0), "x_scale": np.float32(0.03), "kernel_scale": np.float32(0.02)}
        for name in ("x", "kernel"):
            grid = [f"{name}_scale", "zero"]
            nodes.append(helper.make_node("QuantizeLinear", [name, *grid], [f"{name}_q"], name=f"{name}_quantize"))
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", *grid], [f"{name}_d"], name=f"{name}_back"))
        picture, weights = "x_d", "kernel_d"
    nodes += [
        helper.make_node("Conv", [picture, weights], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["g"], name="average"),
        helper.make_node("Reshape", ["g", "shape"], ["f"], name="flatten"),
        helper.make_node("MatMul", ["f", "dense"], ["m" if half else "y"], name="dense"),
    ]
    if half:
        nodes.append(helper.make_node("Cast", ["m"], ["y"], name="to_float", to=TensorProto.FLOAT))
    ends = {"x": [batch, 3, size, size], "y": [batch, 2]}
    return _model(nodes, {"x": ("float32", ends["x"])}, {"y": ("float32", ends["y"])}, constants)


def several_inputs() -> onnx.ModelProto:
    """pictures - counts, and counts as they came: float32, int64 and bool in, float32, int64 and float16 out."""
    nodes = [
        helper.make_node("Cast", ["counts"], ["c"], name="to_float", to=TensorProto.FLOAT),
        helper.make_node("Sub", ["pictures", "c"], ["s"], name="subtract"),
        helper.make_node("Where", ["mask", "s", "pictures"], ["masked"], name="choose"),
        helper.make_node("Add", ["counts", "counts"], ["twice"], name="twice"),
        helper.make_node("Cast", ["pictures"], ["halves"], name="to_half", to=TensorProto.FLOAT16),
    ]
    ins = {"pictures": ("float32", [1, 4]), "counts": ("int64", [1, 4]), "mask": ("bool", [1, 4])}
    outs = {"twice": ("int64", [1, 4]), "masked": ("float32", [1, 4]), "halves": ("float16", [1, 4])}
    return _model(nodes, ins, outs, {})


def _model(nodes: list[Any], ins: Mapping[str, Any], outs: Mapping[str, Any], constants: Mapping[str, Any]) -> Any:
    def values(ends: Mapping[str, Any]) -> list[Any]:
        types = {name: helper.np_dtype_to_tensor_dtype(np.dtype(dtype)) for name, (dtype, _) in ends.items()}
        return [helper.make_tensor_value_info(name, types[name], shape) for name, (_, shape) in ends.items()]

    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "net", values(ins), values(outs), stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def expected(path: str, *arrays: NDArray[Any]) -> list[NDArray[Any]]:
    """What ONNX Runtime computes, every node as it stands."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    found: list[NDArray[Any]] = session.run(None, dict(zip(names, arrays, strict=True)))
    return found


def pictures(count: int = 1, size: int = 8, seed: int = 0) -> NDArray[np.float32]:
    """float32 [count, 3, size, size]."""
    return np.random.default_rng(seed).normal(size=(count, 3, size, size)).astype(np.float32)
