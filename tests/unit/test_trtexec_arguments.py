"""trtexec's command line for each version, written out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from device_tests.agent.protocol import Refusal
from device_tests.agent.tensorrt import trtexec_arguments
from device_tests.fake_jetson import trtexec_options

FP16: dict[str, Any] = {"precision": ["fp16"]}
INT8: dict[str, Any] = {"precision": ["int8", "fp16"]}
MIB = 1 << 20

BUILDS = {
    (8, 0, 1): "--buildOnly --nvtxMode=verbose --workspace=256 --fp16 --int8",
    (8, 2, 1): "--buildOnly --profilingVerbosity=detailed --workspace=256 --fp16 --int8",
    (8, 4, 1): "--buildOnly --profilingVerbosity=detailed --memPoolSize=workspace:256 --fp16 --int8",
    (8, 5, 2): "--buildOnly --profilingVerbosity=detailed --memPoolSize=workspace:256 --fp16 --int8",
    (8, 6, 2): "--skipInference --profilingVerbosity=detailed --memPoolSize=workspace:256 --fp16 --int8",
    (10, 3, 0): "--skipInference --profilingVerbosity=detailed --memPoolSize=workspace:256 --fp16 --int8",
    (10, 13, 3): "--skipInference --profilingVerbosity=detailed --memPoolSize=workspace:256 --fp16 --int8",
    (10, 16, 2): "--skipInference --profilingVerbosity=detailed --memPoolSize=workspace:256 --fp16 --int8",
    (11, 0, 0): "--skipInference --profilingVerbosity=detailed --memPoolSize=workspace:256",
    (11, 4, 0): "--skipInference --profilingVerbosity=detailed --memPoolSize=workspace:256",
}

_OLD = "--exposeDMA"
_NEW = "--exposeDMA --noCudaGraph --noSpinWait --includeDataTransfers"
MEASURES = {version: _OLD if version < (11,) else _NEW for version in BUILDS}


def _build(version: tuple[int, ...], options: dict[str, Any], **more: Any) -> list[str]:
    return trtexec_arguments.build(version, "net.onnx", "out.plan", options, **more)[0]


def _measure(version: tuple[int, ...], options: dict[str, Any], **more: Any) -> list[str]:
    return trtexec_arguments.measure(version, "out.plan", "times.json", options, 1000, 3, 100, **more)[0]


@pytest.mark.parametrize("version", BUILDS)
def test_a_build_in_the_words_of_each_version(version: tuple[int, ...]):
    found = _build(version, INT8, workspace_bytes=256 * MIB)
    assert found == ["--onnx=net.onnx", "--saveEngine=out.plan", *BUILDS[version].split()]


@pytest.mark.parametrize("version", MEASURES)
def test_a_measurement_in_the_words_of_each_version(version: tuple[int, ...]):
    begin = "--loadEngine=out.plan --warmUp=1000 --duration=3 --iterations=100 --avgRuns=1 --exportTimes=times.json"
    assert _measure(version, {}) == [*begin.split(), *MEASURES[version].split()]


ASKED = ("cuda_graph", "spin_wait", "no_transfers", "overlap")


@pytest.mark.parametrize(
    ("name", "older", "newer"),
    [
        ("cuda_graph", "--exposeDMA --useCudaGraph", "--exposeDMA --noSpinWait --includeDataTransfers"),
        ("spin_wait", "--exposeDMA --useSpinWait", "--exposeDMA --noCudaGraph --includeDataTransfers"),
        ("no_transfers", "--exposeDMA --noDataTransfers", "--exposeDMA --noCudaGraph --noSpinWait"),
        ("overlap", "", "--noCudaGraph --noSpinWait --includeDataTransfers"),
    ],
)
def test_what_is_measured_changes_only_on_request(name: str, older: str, newer: str):
    assert _measure((10, 16, 2), {name: True})[6:] == older.split()
    assert _measure((11, 0, 0), {name: True})[6:] == newer.split()


@pytest.mark.parametrize("version", BUILDS)
def test_no_version_is_given_an_option_that_it_does_not_know_or_warns_of(version: tuple[int, ...]):
    """Held to the fake's table of options, which is written by option and not by command line."""
    everything = {"precision": ["fp16", "int8"], "sparsity": True, "dla_core": 0, "version_compatible": True}
    if version < (8, 6):
        del everything["version_compatible"]
    shapes = {"x": [[1, 3], [2, 3], [4, 3]]}
    found = _build(version, everything, workspace_bytes=MIB, level=2, ranges=shapes, timing_cache="cache")
    for asked in ({}, dict.fromkeys(ASKED, True), {"dla_core": 0}):
        more = {"inputs": {"x": "x.raw"}, "shapes": {"x": [2, 3]}, "profile": "p.json", "layers": "l.json"}
        found += _measure(version, asked, **more)
    names = [argument.partition("=")[0] for argument in found]
    assert trtexec_options.unknown(version[:2], names) == []
    assert trtexec_options.deprecated(version[:2], names) == []


def test_the_rest_of_a_build():
    options = {"precision": ["fp16"], "sparsity": True, "dla_core": 1, "version_compatible": True}
    shapes = {"b:0": [[1, 8], [2, 8], [4, 8]], "a": [[1], [1], [1]]}
    found = _build((8, 6, 2), options, level=0, ranges=shapes, timing_cache="/w/timing.cache")
    assert found[4:] == [
        "--fp16",
        "--sparsity=enable",
        "--builderOptimizationLevel=0",
        "--versionCompatible",
        "--useDLACore=1",
        "--allowGPUFallback",
        "--minShapes=a:1,b:0:1x8",
        "--optShapes=a:1,b:0:2x8",
        "--maxShapes=a:1,b:0:4x8",
        "--timingCacheFile=/w/timing.cache",
    ]


def test_the_rest_of_a_measurement():
    more = {"inputs": {"x y": "/w/x.raw"}, "shapes": {"x y": [1, 3]}, "profile": "p.json", "layers": "l.json"}
    rest = ["--loadInputs=x y:/w/x.raw", "--shapes=x y:1x3", "--exportProfile=p.json"]
    told = ["--exportLayerInfo=l.json", "--profilingVerbosity=detailed"]
    assert _measure((10, 3, 0), {}, **more)[7:] == [*rest, "--separateProfileRun", *told]
    assert _measure((11, 0, 0), {}, **more)[10:] == [*rest, *told]
    assert _measure((8, 0, 1), {}, **more)[7:] == [*rest, "--separateProfileRun"]


def test_seconds_are_whole_since_old_versions_read_no_others():
    found, _ = trtexec_arguments.measure((8, 0, 1), "e", "t", {}, 200, 0.5, 10)
    assert found[1:3] == ["--warmUp=200", "--duration=1"]


def test_what_a_version_cannot_do_is_noted():
    def notes(version: tuple[int, ...], options: dict[str, Any], **more: Any) -> list[str]:
        return trtexec_arguments.build(version, "n", "p", options, **more)[1]

    assert notes((10, 3, 0), FP16, level=3) == []
    assert notes((8, 5, 2), FP16, level=3) == ["this TensorRT has no optimization levels: 3 was left out"]
    assert notes((11, 0, 0), FP16) == ["this TensorRT takes precisions from the file: no option was given for them"]
    assert notes((8, 6, 2), {**FP16, "float32": ["norm"]}) == [
        "trtexec was not told which layers are to stay in float32: only the Python binding is"
    ]
    _, told = trtexec_arguments.measure((8, 0, 1), "e", "t", {}, 200, 1, 10, layers="l.json")
    assert told == ["this TensorRT has no inspector: what its layers are is not told"]


def test_the_code_in_a_version_compatible_engine_is_run_only_where_it_is_told_to():
    assert "--versionCompatible" in _measure((8, 6, 2), {"version_compatible": True})
    assert "--versionCompatible" not in _measure((8, 6, 2), {})


def test_version_compatible_engines_begin_with_8_6():
    with pytest.raises(Refusal, match=r"TensorRT 8\.5\.2 cannot build version-compatible") as caught:
        _build((8, 5, 2), {"version_compatible": True})
    assert caught.value.code == "not-version-compatible"


def test_a_dla_computes_in_no_float32():
    with pytest.raises(Refusal, match="in fp16 or int8, not in float32"):
        _build((8, 6, 2), {"dla_core": 0})
    assert "--useDLACore=0" in _build((11, 4, 1), {"dla_core": 0})


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({"a,b": "f"}, "an input that is called 'a,b'"),
        ({"it's": "f"}, 'an input that is called "it\'s"'),
        ({"": "f"}, "an input that is called ''"),
        ({"x": "/w/a:b"}, "'/w/a:b' for input 'x'"),
        ({"x": "/w/a,b"}, "'/w/a,b' for input 'x'"),
        ({"x": "/w/it's"}, "for input 'x'"),
    ],
)
def test_names_and_files_that_trtexec_would_misread_are_refused(inputs: dict[str, str], told: str):
    with pytest.raises(Refusal) as caught:
        _measure((8, 6, 2), {}, inputs=inputs)
    assert caught.value.code == "bad-params"
    assert told in caught.value.message


def test_a_shape_without_sizes_is_refused():
    with pytest.raises(Refusal, match="no shape without sizes: input 'step'"):
        _measure((8, 6, 2), {}, shapes={"step": []})
