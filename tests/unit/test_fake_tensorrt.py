"""The fake TensorRT: exactly what a version has, what its parser and its builder refuse, and that it says FAKE."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest

from device_tests.fake_jetson import versions
from device_tests.fake_jetson.fake_tensorrt import make
from device_tests.fake_jetson.versions import KEYS
from edgesmith.errors import ConfigError
from tests import qdq_graphs
from tests.qdq_graphs import CASES, Case
from tests.trt_desk import COMPUTE, Desk

EACH_VERSION = pytest.mark.parametrize("version", KEYS)
NEWEST_WEAK = "10.16.1"
QDQ = qdq_graphs.conv(opset=13)


def shown(owner: Any) -> set[str]:
    """Public names, without those that Python's own base classes bring."""
    own = {name for one in (bytes, int) if issubclass(owner, one) for name in dir(one)}
    return {name for name in dir(owner) if not name.startswith("_")} - own


@EACH_VERSION
def test_a_module_has_exactly_the_attributes_of_its_version(version: str):
    trt, have = make(version), versions.attributes(version)
    names = {name for name in dir(trt) if not name.startswith("__")} - {"FAKE"}
    assert names | {"__version__"} == have["tensorrt"]
    for owner in have.keys() - {"tensorrt"}:
        members = getattr(getattr(trt, owner), "__members__", None)
        assert (set(members) if members is not None else shown(getattr(trt, owner))) == have[owner], owner


def test_a_version_is_found_by_its_first_two_numbers():
    assert [make(text).__version__ for text in ("8.2", "8.6.1", "8.6.2.3", "10.16", "11.4.1")] == [
        "8.2.1.8",
        "8.6.2.3",
        "8.6.2.3",
        "10.16.2.10",
        "11.4.1",
    ]
    with pytest.raises(ConfigError, match=r"no fake TensorRT '9\.2'"):
        make("9.2")


def test_every_jetpack_has_one_and_the_same_facts_as_the_boards():
    assert [(one.key, one.jetpack.cuda, one.jetpack.python) for one in versions.RELEASES if one.jetpack] == [
        ("8.0.1", "10.2", "3.6"),
        ("8.2.1", "10.2", "3.6"),
        ("8.4.1", "11.4", "3.8"),
        ("8.5.2", "11.4", "3.8"),
        ("8.6.1", "12.2", "3.10"),
        ("10.3.0", "12.6", "3.10"),
        ("10.13.3", "13.0", "3.12"),
        ("10.16.1", "13.2", "3.12"),
        ("11.4.0", "13.2", "3.12"),
    ]
    shipped = {one.key: one.jetpack.tensorrt for one in versions.RELEASES if one.jetpack and one.jetpack.tensorrt}
    assert all(versions.find(tensorrt).key == key for key, tensorrt in shipped.items())


def test_what_a_version_lacks_cannot_be_set():
    with pytest.raises(AttributeError):
        Desk("10.3.0").config().max_workspace_size = 1 << 20
    assert not hasattr(Desk("8.2.1").config(), "set_memory_pool_limit")
    with pytest.raises(AttributeError):
        Desk("8.2.1").config().builder_optimization_level = 2


def test_what_it_does_not_do_is_there_and_says_so():
    trt = make("8.6.1")
    with pytest.raises(NotImplementedError, match=r"does not do IBuilderConfig\.set_tactic_sources"):
        Desk("8.6.1").config().set_tactic_sources(0)
    with pytest.raises(NotImplementedError, match=r"tensorrt\.IInt8Calibrator"):
        trt.IInt8Calibrator()


@EACH_VERSION
def test_it_says_fake_wherever_it_shows(version: str):
    desk = Desk(version)
    assert desk.trt.FAKE
    assert desk.said[0][1].startswith("FAKE TensorRT ")
    plan = desk.built(QDQ)
    assert plan is not None
    header = json.loads(plan.partition(b"\n")[0])
    assert next(iter(header)) == "FAKE"
    assert (header["tensorrt"], header["compute"]) == (desk.trt.__version__, COMPUTE.get(version, "8.7"))
    assert sum(text.startswith("FAKE TensorRT") for _, text in desk.said) == 1


def test_a_logger_must_call_its_base_class():
    trt = make("10.3.0")

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            pass

    with pytest.raises(TypeError, match="must be called when overriding __init__"):
        trt.Builder(Log())
    with pytest.raises(TypeError, match="needs ILogger, got str"):
        trt.Runtime("log")


def test_its_own_logger_prints_as_nvidias_does(capsys: pytest.CaptureFixture[str]):
    trt = make("8.2.1")
    trt.Logger(trt.Logger.ERROR).log(trt.ILogger.Severity.WARNING, "quiet")
    trt.Logger(trt.Logger.WARNING).log(trt.Logger.ERROR, "loud")
    assert capsys.readouterr().out == "[TRT] [E] loud\n"


@pytest.mark.parametrize("variable", ["EDGESMITH_FAKE_CUDA_DRIVER", "EDGESMITH_FAKE_CUDA_DEVICES"])
def test_without_a_gpu_there_is_no_builder(monkeypatch: pytest.MonkeyPatch, variable: str):
    monkeypatch.setenv(variable, "0")
    with pytest.raises(TypeError, match="factory function returned nullptr"):
        Desk("8.6.1")


def test_bytes_of_tensorrt_are_only_a_buffer():
    desk = Desk("8.5.2")
    plan = desk.builder.build_serialized_network(desk.parsed(QDQ), desk.config("INT8"))
    assert bytes(plan) == bytes(memoryview(plan))
    assert hashlib.sha256(plan).digest() == hashlib.sha256(bytes(plan)).digest()
    assert plan.nbytes == len(bytes(plan))
    for wrong in (len, iter, lambda one: one[0], lambda one: one + b"x"):
        with pytest.raises(TypeError):
            wrong(plan)
    with pytest.raises(AttributeError):
        plan.startswith(b"{")


# The parser.


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_parser_answers_as_recorded(case: Case):
    desk = Desk(NEWEST_WEAK)
    for proto, says in ((case.broken(), case.says), (case.twin(), case.says_to_twin)):
        network = desk.parsed(proto)
        assert (network is None) == (says in ("refused", "crash")), desk.errors
        assert ("WARNING" in {one for one, _ in desk.said[1:]}) == ("warning" in says)
        if network is not None and "ConvTranspose" not in case.name:
            (layer,) = (one for one in network._it.network.layers if "conv" in one.nodes)
            assert layer.int8 == (says != "float")
        desk.said[1:] = []


@pytest.mark.parametrize(
    ("version", "opset", "accepted"),
    [("8.0.1", 13, True), ("8.2.1", 17, False), ("8.4.1", 17, True), ("8.6.1", 18, False), ("10.3.0", 20, True)],
)
def test_nodes_newer_than_the_parser_are_refused(version: str, opset: int, accepted: bool):
    g = qdq_graphs.Graph()
    since = {13: "Softmax", 17: "LayerNormalization", 18: "Mish", 20: "Gelu"}[opset]
    more = [g.constant("one", np.ones(8, np.float32))] if since == "LayerNormalization" else []
    desk = Desk(version)
    assert (desk.parsed(g.model(g.node(since, ["x", *more], "new"), opset=opset)) is not None) == accepted
    assert accepted or f"name: new and operator: {since}" in desk.errors[0]


@EACH_VERSION
def test_parsers_before_8_4_need_zero_points(version: str):
    desk = Desk(version)
    network = desk.parsed(qdq_graphs.conv(activation={"zero": None}, opset=13))
    assert (network is None) == (version in ("8.0.1", "8.2.1"))


@EACH_VERSION
def test_version_8_needs_the_explicit_batch(version: str):
    desk = Desk(version)
    network = desk.builder.create_network()
    assert network.num_layers == 0
    accepted = desk.trt.OnnxParser(network, desk.log).parse(QDQ.SerializeToString())
    assert accepted != version.startswith("8.")
    assert accepted or "explicit batch" in desk.last()


def test_files_that_are_none_are_refused(tmp_path: Any):
    desk = Desk("8.6.1")
    parser = desk.trt.OnnxParser(desk.network(), desk.log)
    assert not parser.parse(b"no file")
    assert not parser.parse_from_file(str(tmp_path / "missing.onnx"))
    assert [parser.get_error(index).code().name for index in range(parser.num_errors)] == [
        "MODEL_DESERIALIZE_FAILED"
    ] * 2
    parser.clear_errors()
    assert parser.num_errors == 0


# The builder.


@EACH_VERSION
def test_the_same_build_gives_the_same_bytes(version: str):
    assert Desk(version).built(QDQ) == Desk(version).built(QDQ)
    assert Desk(version).built(QDQ) != Desk(version).built(qdq_graphs.conv(opset=13, weight={"axis": None}))


@EACH_VERSION
def test_quantized_files_need_the_flag_where_there_is_one(version: str):
    desk = Desk(version)
    plan = desk.built(QDQ, desk.config("FP16"))
    assert (plan is None) == hasattr(desk.trt.BuilderFlag, "INT8")
    assert plan is not None or "int8 is not configured in the builder" in desk.last()


def test_a_file_in_float16_is_an_engine_in_float16():
    proto, strong = qdq_graphs.float16(19), Desk("11.4.0")
    config = strong.config()
    config.profiling_verbosity = strong.trt.ProfilingVerbosity.DETAILED
    inspector = strong.engine(proto, config).create_engine_inspector()
    cast = json.loads(inspector.get_layer_information(0, strong.trt.LayerInformationFormat.JSON))
    assert [tensor[0]["Format/Datatype"][-4:] for tensor in (cast["Inputs"], cast["Outputs"])] == ["FP32", "FP16"]


def test_strongly_typed_networks_take_no_precision():
    desk = Desk("10.13.3")
    assert desk.built(QDQ, desk.config("INT8"), "STRONGLY_TYPED") is None
    assert "INT8 is not allowed in a strongly typed network" in desk.last()
    assert desk.built(QDQ, desk.config(), "STRONGLY_TYPED") is not None


def test_a_nano_has_no_int8():
    nano, xavier = Desk("8.2.1", "5.3"), Desk("8.2.1", "7.2")
    assert (nano.builder.platform_has_fast_int8, xavier.builder.platform_has_fast_int8) == (False, True)
    assert (nano.builder.platform_has_fast_fp16, nano.builder.platform_has_tf32) == (True, False)
    assert nano.built(QDQ) is None
    assert "no int8" in nano.last()


def test_a_layer_can_be_without_a_kernel_while_it_is_quantized(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EDGESMITH_FAKE_TENSORRT_FAIL_NODES", "other, conv")
    desk = Desk("8.5.2", "7.2")
    assert desk.built(QDQ) is None
    assert "Could not find any implementation for node w + w_Q + conv + relu." in desk.last()
    assert desk.built(qdq_graphs.half_quantized("x")) is not None


def test_builds_fail_as_scripted(monkeypatch: pytest.MonkeyPatch):
    desk = Desk("10.3.0")
    monkeypatch.setenv("EDGESMITH_FAKE_TENSORRT_MAX_LEVEL", "1")
    assert desk.built(QDQ) is None
    assert "OutOfMemory" in desk.last()
    config = desk.config("INT8")
    config.builder_optimization_level = 1
    assert desk.built(QDQ, config) is not None
    monkeypatch.setenv("EDGESMITH_FAKE_TENSORRT_FAIL_BUILD", "it is Sunday")
    assert desk.built(QDQ, config) is None
    assert desk.last() == "it is Sunday"


def test_settings_are_kept():
    desk = Desk("8.6.1")
    config = desk.config("INT8")
    assert config.get_flag(desk.trt.BuilderFlag.INT8)
    config.clear_flag(desk.trt.BuilderFlag.INT8)
    assert config.flags == 1 << desk.trt.BuilderFlag.TF32
    config.builder_optimization_level = 9
    assert config.builder_optimization_level == 3
    assert "is not in [0, 5]" in desk.last()
    config.set_memory_pool_limit(desk.trt.MemoryPoolType.WORKSPACE, 64 << 20)
    assert config.get_memory_pool_limit(desk.trt.MemoryPoolType.WORKSPACE) == config.max_workspace_size == 64 << 20
    with pytest.raises(TypeError, match="needs BuilderFlag"):
        config.set_flag(1)


def test_progress_is_told_and_a_build_can_be_ended():
    desk = Desk("10.3.0")
    told: list[Any] = []

    class Monitor(desk.trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self, last: int) -> None:
            desk.trt.IProgressMonitor.__init__(self)
            self.last = last

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            told.append((phase_name, parent_phase, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            return step < self.last

        def phase_finish(self, phase_name: str) -> None:
            told.append(phase_name)

    config = desk.config("INT8")
    config.progress_monitor = Monitor(last=9)
    assert desk.built(QDQ, config) is not None
    assert told == [
        ("Building Engine", None, 1),
        ("Tactic Timing", "Building Engine", 2),
        "Tactic Timing",
        "Building Engine",
    ]
    config.progress_monitor = Monitor(last=0)
    assert desk.built(QDQ, config) is None
    assert "cancelled" in desk.last()


def test_a_timing_cache_is_filled_and_belongs_to_its_version_and_gpu():
    desk = Desk("8.2.1", "7.2")
    config = desk.config("INT8")
    cache = config.create_timing_cache(b"")
    assert config.get_timing_cache() is None
    assert config.set_timing_cache(cache, False)
    desk.built(QDQ, config)
    assert "0 of 2 layers were in the timing cache" in desk.last("INFO")
    content = bytes(config.get_timing_cache().serialize())
    again = desk.config("INT8")
    assert again.set_timing_cache(again.create_timing_cache(content), False)
    desk.built(QDQ, again)
    assert "2 of 2 layers" in desk.last("INFO")
    for other, ignoring in ((Desk("8.2.1", "5.3"), True), (Desk("8.4.1", "7.2"), False)):
        config = other.config()
        cache = config.create_timing_cache(content)
        assert not config.set_timing_cache(cache, False)
        assert config.set_timing_cache(cache, True) == ignoring
    assert config.create_timing_cache(b"damaged") is not None
    assert "damaged" in other.last("WARNING")
