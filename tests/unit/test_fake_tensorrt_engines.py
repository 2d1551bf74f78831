"""Engines of the fake TensorRT: which are read, what they compute, what they tell of themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from device_tests.agent_zip import build_agent
from device_tests.fake_jetson.build import build_cudart
from device_tests.fake_jetson.site import write_site
from device_tests.fake_jetson.versions import KEYS
from edgesmith.errors import ConfigError
from targets import onnx_file
from tests import qdq_graphs
from tests.trt_desk import Desk, picture

EACH_VERSION = pytest.mark.parametrize("version", KEYS)
QDQ = qdq_graphs.conv(opset=13)
OPEN = qdq_graphs.conv(opset=13, batch="N")
ROOT = Path(__file__).resolve().parents[2]


def expected(proto: Any, x: NDArray[Any]) -> NDArray[Any]:
    """By ONNX Runtime, nothing fused."""
    (found,) = onnx_file.session(proto.SerializeToString(), as_written=True).run(None, {"x": x})
    return np.asarray(found)


def profiled(desk: Desk, *shapes: Sequence[int]) -> Any:
    """Settings with a profile for input x."""
    config, profile = desk.config("INT8"), desk.builder.create_optimization_profile()
    profile.set_shape("x", *shapes)
    assert config.add_optimization_profile(profile) == 0
    return config


def read(desk: Desk, plan: bytes | None, *, host_code: bool = False) -> Any:
    assert plan is not None
    runtime = desk.trt.Runtime(desk.log)
    if host_code:
        runtime.engine_host_code_allowed = True
    return runtime.deserialize_cuda_engine(plan)


@EACH_VERSION
def test_an_engine_computes_what_onnx_runtime_does(version: str):
    desk = Desk(version)
    context = desk.engine(QDQ).create_execution_context()
    x, y = picture(), np.zeros((1, 32, 8, 8), np.float32)
    assert desk.run(context, x, y)
    np.testing.assert_allclose(y, expected(QDQ, x), atol=1e-5)
    y[:] = 0
    assert context.execute_v2([x.ctypes.data, y.ctypes.data])
    assert y.any()
    assert not context.execute_v2([x.ctypes.data, 0])
    assert "Address is not set for tensor relu" in desk.last()


@EACH_VERSION
def test_open_shapes_need_a_profile_and_keep_to_it(version: str):
    desk = Desk(version)
    assert desk.built(OPEN) is None
    assert "no optimization profile has been defined" in desk.last()
    engine = desk.engine(OPEN, profiled(desk, (1, 32, 8, 8), (2, 32, 8, 8), (4, 32, 8, 8)))
    context = engine.create_execution_context()
    named = hasattr(engine, "num_io_tensors")
    assert tuple(engine.get_tensor_shape("x") if named else engine.get_binding_shape(0)) == (-1, 32, 8, 8)
    assert not context.all_binding_shapes_specified
    x, y = np.repeat(picture(), 3, axis=0), np.zeros((3, 32, 8, 8), np.float32)
    assert not desk.run(context, x, y)
    fix = (
        (lambda shape: context.set_input_shape("x", shape))
        if named
        else (lambda shape: context.set_binding_shape(0, shape))
    )
    assert not fix((5, 32, 8, 8))
    assert not fix((3, 32, 8))
    assert fix((3, 32, 8, 8))
    assert tuple(context.get_tensor_shape("relu") if named else context.get_binding_shape(1)) == (3, 32, 8, 8)
    assert desk.run(context, x, y)
    np.testing.assert_allclose(y, expected(OPEN, x), atol=1e-5)


def test_profiles_that_do_not_fit_are_refused():
    desk = Desk("8.6.1")
    profile = desk.builder.create_optimization_profile()
    assert desk.config().add_optimization_profile(profile) == -1
    with pytest.raises(RuntimeError, match="for opt is inconsistent"):
        profile.set_shape("x", (1, 32, 8, 8), (9, 32, 8, 8), (4, 32, 8, 8))
    with pytest.raises(RuntimeError, match="for min is inconsistent"):
        profile.set_shape("x", (32, 8, 8), (1, 32, 8, 8), (4, 32, 8, 8))
    assert desk.built(OPEN, profiled(desk, *[(1, 16, 8, 8)] * 3)) is None
    assert "the profile has [1, 16, 8, 8]" in desk.last()


def test_an_engine_is_of_one_version_and_one_gpu():
    xavier, orin, older = Desk("8.5.2", "7.2"), Desk("8.5.2", "8.7"), Desk("8.4.1", "7.2")
    plan = xavier.built(QDQ)
    assert read(xavier, plan) is not None
    assert read(orin, plan) is None
    assert "expecting compute 8.7 got compute 7.2, please rebuild" in orin.last()
    assert read(older, plan) is None
    assert "expecting library version 8.4.1.5 got 8.5.2.2, please rebuild" in older.last()
    assert plan is not None
    for damaged in (plan[1:], plan[:100], b"", b"\0" * 64):
        assert read(xavier, damaged) is None
        assert "magicTagRead" in xavier.last()


def test_version_compatible_engines_go_forward_only():
    old, new = Desk("8.6.1"), Desk("10.3.0")
    plan = old.built(QDQ, old.config("INT8", "VERSION_COMPATIBLE"))
    assert read(new, plan) is None
    assert "host code is not allowed" in new.last()
    assert read(new, plan, host_code=True) is not None
    backward = new.built(QDQ, new.config("INT8", "VERSION_COMPATIBLE"))
    assert read(old, backward, host_code=True) is None


def test_an_engine_for_all_since_ampere_runs_there():
    orin, other, xavier = Desk("8.6.1", "8.7"), Desk("8.6.1", "8.6"), Desk("8.6.1", "7.2")
    config = orin.config("INT8")
    config.hardware_compatibility_level = orin.trt.HardwareCompatibilityLevel.AMPERE_PLUS
    plan = orin.built(QDQ, config)
    assert read(other, plan) is not None
    assert read(xavier, plan) is None


@pytest.mark.parametrize(("version", "stored"), [("8.5.2", np.int32), ("10.3.0", np.int64)])
def test_64_bit_integers_are_32_before_version_10(version: str, stored: type[Any]):
    nodes = [helper.make_node("Neg", ["x"], ["y"], name="neg")]
    ends = [helper.make_tensor_value_info(name, TensorProto.INT64, [3]) for name in ("x", "y")]
    proto = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:]), ir_version=8)
    proto.opset_import[0].version = 13
    desk = Desk(version)
    engine = desk.engine(proto, desk.config())
    assert desk.trt.nptype(engine.get_tensor_dtype("x")) is stored
    x, y = np.array([1, 2, -3], stored), np.zeros(3, stored)
    assert desk.run(engine.create_execution_context(), x, y)
    assert y.tolist() == [-1, -2, 3]


@EACH_VERSION
def test_the_inspector_tells_layers_and_ends(version: str):
    desk = Desk(version)
    config = desk.config("INT8", "FP16")
    brief = desk.engine(QDQ, config)
    if not hasattr(brief, "create_engine_inspector"):
        assert version == "8.0.1"
        return
    json_format = desk.trt.LayerInformationFormat.JSON
    ends = "I/O Tensors" if version.startswith("11.") else "Bindings"
    told = json.loads(brief.create_engine_inspector().get_engine_information(json_format))
    assert told == {"Layers": ["x_Q", "w + w_Q + conv + relu"], ends: ["x", "relu"]}
    config.profiling_verbosity = desk.trt.ProfilingVerbosity.DETAILED
    inspector = desk.engine(QDQ, config).create_engine_inspector()
    layer = json.loads(inspector.get_layer_information(1, json_format))
    assert (layer["Name"], layer["LayerType"]) == ("w + w_Q + conv + relu", "CaskConvolution")
    assert "Int8" in layer["Inputs"][0]["Format/Datatype"]
    newer = "Metadata" in layer
    assert newer == (KEYS.index(version) >= KEYS.index("8.6.1"))
    assert not newer or layer["Metadata"] == "[ONNX Layer: conv]\u001e[ONNX Layer: relu]"


@EACH_VERSION
def test_the_profiler_is_told_of_every_layer(version: str):
    desk = Desk(version)
    told: list[tuple[str, float]] = []

    class Profiler(desk.trt.IProfiler):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            desk.trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            told.append((layer_name, ms))

    context = desk.engine(QDQ).create_execution_context()
    context.profiler = Profiler()
    x, y = picture(), np.zeros((1, 32, 8, 8), np.float32)
    assert context.execute_v2([x.ctypes.data, y.ctypes.data])
    assert [name for name, _ in told] == ["x_Q", "w + w_Q + conv + relu"]
    assert all(ms > 0 for _, ms in told)
    told.clear()
    assert desk.run(context, x, y)
    # 8.0 does not time layers on a stream.
    assert len(told) == (0 if version == "8.0.1" else 2)
    if version != "8.0.1":
        context.enqueue_emits_profile = False
        assert desk.run(context, x, y)
        assert len(told) == 2
        assert context.report_to_profiler()
        assert len(told) == 4


def test_a_dla_takes_what_it_can():
    plain = onnx_without_grids()
    desk = Desk("8.5.2", "8.7", dla_cores=2)
    assert (desk.builder.num_DLA_cores, desk.trt.Runtime(desk.log).num_DLA_cores) == (2, 2)
    config = desk.config("FP16")
    config.default_device_type = desk.trt.DeviceType.DLA
    config.DLA_core = 1
    assert desk.built(plain, config) is None
    assert "Layer soft is not supported on DLA" in desk.last()
    config.set_flag(desk.trt.BuilderFlag.GPU_FALLBACK)
    engine = desk.engine(plain, config)
    assert engine.num_layers == 2
    network = desk.parsed(plain)
    takes = [config.can_run_on_DLA(network.get_layer(index)) for index in range(network.num_layers)]
    assert takes == [True, True, False]
    told = json.loads(engine.create_engine_inspector().get_engine_information(desk.trt.LayerInformationFormat.JSON))
    assert told["Layers"] == ["{ForeignNode[first...second]}", "soft"]
    config.DLA_core = 2
    assert desk.built(plain, config) is None
    assert "2 DLA cores available" in desk.last()


@pytest.mark.parametrize(("version", "cores"), [("10.3.0", 2), ("10.16.1", 0), ("11.4.0", 0), ("11.4.1", 2)])
def test_versions_between_10_7_and_11_4_1_have_no_dla(version: str, cores: int):
    assert Desk(version, "8.7", dla_cores=2).builder.num_DLA_cores == cores


def onnx_without_grids() -> Any:
    g = qdq_graphs.Graph()
    y = g.node("Sigmoid", [g.node("Relu", ["x"], "first")], "second")
    return g.model(g.node("Softmax", [y], "soft"), opset=13)


_ON_A_STREAM = """
import os, sys
import numpy as np
from device_tests.agent import cuda
from tests import qdq_graphs
from tests.trt_desk import Desk, picture

runtime = cuda.choose("ctypes")
runtime.select()
os.environ["EDGESMITH_FAKE_CUDA_COPY_US"] = "20000"
desk = Desk(sys.argv[1], "8.7")
x, y = (runtime.pinned((1, 32, 8, 8), np.float32) for _ in range(2))
given, found = runtime.malloc(x.nbytes), runtime.malloc(x.nbytes)
context = desk.engine(qdq_graphs.conv(opset=13)).create_execution_context()
stream = runtime.stream()

def enqueue():
    if not hasattr(context, "execute_async_v3"):
        return context.execute_async_v2([given, found], stream)
    context.set_tensor_address("x", given)
    context.set_tensor_address("relu", found)
    return context.execute_async_v3(stream)

x[...], y[...] = picture(1), 0
runtime.copy_to_device(given, x, stream)
assert enqueue()
runtime.copy_to_host(y, found, stream)
print("waited for:", bool(y.any()))
runtime.stream_synchronize(stream)
np.save(sys.argv[2], y)
with runtime.capture(stream) as graph:
    assert enqueue()
x[...], y[...] = picture(2), 0
runtime.copy_to_device(given, x, stream)
runtime.graph_launch(graph, stream)
runtime.copy_to_host(y, found, stream)
runtime.stream_synchronize(stream)
np.save(sys.argv[3], y)
runtime.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("version", ["8.2.1", "10.3.0"])
def test_it_computes_behind_what_is_on_a_stream_and_in_graphs(version: str, tmp_path: Path):
    """In a process of its own: a library once loaded stays, and this process has other tests."""
    library = build_cudart("12.6", tmp_path)
    env = dict(os.environ, EDGESMITH_LIBCUDART=str(library), PYTHONPATH=str(ROOT))
    files = [str(tmp_path / f"{number}.npy") for number in (1, 2)]
    argv = [sys.executable, "-c", _ON_A_STREAM, version, *files]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["waited for: False"]
    for seed, file in enumerate(files, 1):
        np.testing.assert_allclose(np.load(file), expected(QDQ, picture(seed)), atol=1e-5)


def test_a_board_imports_it_from_a_folder(tmp_path: Path):
    """As the agent does: from a zip that has a package `device_tests` of its own."""
    (tmp_path / "agent.zip").write_bytes(build_agent().content)
    site = write_site(tmp_path / "site", "8.2.1", compute="7.2", dla_cores=2)
    code = (
        "import sys; sys.path.insert(0, 'agent.zip'); import device_tests.agent.npy; import tensorrt as trt;"
        "print(trt.__version__, trt.FAKE, trt.Builder(trt.Logger(trt.Logger.ERROR)).num_DLA_cores,"
        " hasattr(trt, 'MemoryPoolType'), device_tests.agent.npy.__file__.startswith('agent.zip'))"
    )
    env = {"PYTHONPATH": str(site), "PATH": os.environ["PATH"]}
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.split() == ["8.2.1.8", "True", "2", "False", "True"], done.stderr
    with pytest.raises(ConfigError, match="no fake TensorRT"):
        write_site(tmp_path / "other", "7.1")
