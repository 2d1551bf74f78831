"""Engines built on fake boards of every TensorRT: what is set, what is kept, what is refused."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from device_tests.agent.protocol import Deadline, Refusal
from device_tests.agent.tensorrt import identity, progress
from device_tests.fake_jetson import trt_builder, trt_plan
from tests.fake_tensorrt_board import MIB, VERSIONS, WITH_FLAGS, Board, network, several_inputs

pytestmark = pytest.mark.slow  # the fake libcudart needs a C compiler

INT8 = {"precision": ["fp16", "int8"]}
Start = Callable[..., Board]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    return lambda version, **trt: Board(tmp_path / "board", monkeypatch, version, **trt)


def refused(code: str, build: Callable[[], Any]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        build()
    assert caught.value.code == code
    return caught.value


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_builds_and_keeps_what_it_built(start: Start, version: str):
    board = start(version)
    path = board.put(network(quantized=True))
    record = board.build(path, INT8)
    assert not record["cached"]
    assert record["identity"] == board.identity(path, **INT8)
    content = Path(record["path"]).read_bytes()
    assert record["sha256"] == hashlib.sha256(content).hexdigest()
    assert record["size_bytes"] == len(content)
    assert record["device_memory_bytes"] > 0
    assert [(one["name"], one["shape"], one["dtype"]) for one in record["inputs"]] == [("x", [1, 3, 8, 8], "float32")]
    assert [(one["name"], one["shape"]) for one in record["outputs"]] == [("y", [1, 2])]
    assert record["cuda"] == "12.6"
    flags = {"FP16", "INT8"} & set(board.header(record)["flags"])
    assert flags == ({"FP16", "INT8"} if version in WITH_FLAGS else set())
    # 8.0 has no inspector; all others know the convolution for what it is.
    assert record["precisions"].get("int8") == (None if version == "8.0" else 1)
    folder = Path(record["path"]).parent
    assert (folder / "layers.json").exists() == (version != "8.0")
    assert "FAKE TensorRT" in (folder / "build.log").read_text()
    again = board.build(path, INT8)
    assert again["cached"]
    assert (record["because"], again["because"]) == ("no engine of this network is on the board: build it first", None)
    assert {**again, "cached": False, "because": record["because"]} == record


@pytest.mark.parametrize("version", VERSIONS)
def test_the_workspace_is_limited_in_every_version(start: Start, version: str, monkeypatch: pytest.MonkeyPatch):
    board = start(version)
    limits: list[int | None] = []
    real = trt_builder.check
    monkeypatch.setattr(
        trt_builder, "check", lambda world, net, config: limits.append(config.workspace) or real(world, net, config)
    )
    path = board.put(network())
    record = board.build(path, {"workspace_bytes": 96 * MIB})
    assert limits == [96 * MIB]
    assert record["memory"]["workspace_bytes"] == 96 * MIB
    assert board.build(path, {"workspace_bytes": 96 * MIB})["cached"]
    lifted = board.build(path)
    assert (lifted["cached"], lifted["key"]) == (False, record["key"])
    why = "it was built with 96 MB as workspace, and is asked for with what the board had free"
    assert lifted["because"] == why
    assert board.build(path)["cached"]


def test_rebuilding_is_asked_for(start: Start):
    board = start("8.5")
    path = board.put(network())
    first = board.build(path)
    second = board.build(path, rebuild=True)
    assert (second["cached"], second["key"], second["sha256"]) == (False, first["key"], first["sha256"])


def test_a_damaged_engine_is_built_again(start: Start):
    board = start("8.5")
    path = board.put(network())
    record = board.build(path)
    Path(record["path"]).write_bytes(b"damage")
    again = board.build(path)
    assert (again["cached"], again["sha256"]) == (False, record["sha256"])


def test_another_version_another_engine_and_the_old_one_is_stale(start: Start):
    board = start("8.5")
    path = board.put(network())
    old = board.build(path)
    board.become("8.6")
    new = board.build(path)
    assert not new["cached"]
    assert new["because"].endswith("TensorRT 8.6.2.3, built for 8.5.2.2")
    stale = {one["key"]: one["stale"] for one in board.engines.listed("8.6.2.3")}
    assert stale == {old["key"]: "built with TensorRT 8.5.2.2, 8.6.2.3 is here", new["key"]: None}
    board.engines.remove(old["key"])
    assert board.engines.keys() == [new["key"]]


def test_the_timing_cache_is_kept_and_used_by_the_next_build(start: Start):
    board = start("10.3")
    record = board.build(board.put(network()))
    told = record["timing_cache"]
    content = Path(told["path"]).read_bytes()
    assert Path(told["path"]).name == "10.3.0-sm87.cache"
    assert (told["sha256"], told["size_bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))
    log = Path(record["path"]).with_name("build.log")
    assert "FAKE: 0 of 4 layers were in the timing cache" in log.read_text()
    board.build(board.put(network()), rebuild=True)
    assert "FAKE: 4 of 4 layers were in the timing cache" in log.read_text()


def test_a_timing_cache_of_another_board_is_used_and_joined_with_our_own(start: Start, tmp_path: Path):
    board = start("10.3")
    given = tmp_path / "given.cache"
    layers = ["average", "flatten", "elsewhere"]
    text = {"FAKE": "timing cache", "tensorrt": "10.3.0", "compute": "8.7", "layers": layers}
    given.write_text(json.dumps(text))
    record = board.build(board.put(network()), timing_cache=str(given))
    assert "2 of 4 layers were in the timing cache" in Path(record["path"]).with_name("build.log").read_text()
    kept = json.loads(Path(record["timing_cache"]["path"]).read_text())["layers"]
    assert kept == ["average", "conv + relu", "dense", "elsewhere", "flatten"]


@pytest.mark.parametrize(("tensorrt", "compute"), [("8.6.2.3", "8.7"), ("10.3.0", "11.0")])
def test_a_timing_cache_of_another_kind_is_left_and_said(start: Start, tmp_path: Path, tensorrt: str, compute: str):
    board = start("10.3")
    given = tmp_path / "given.cache"
    text = {"FAKE": "timing cache", "tensorrt": tensorrt, "compute": compute, "layers": ["average"]}
    given.write_text(json.dumps(text))
    record = board.build(board.put(network()), timing_cache=str(given))
    assert "of another TensorRT or GPU, and was not used" in record["notes"][-1]
    assert "0 of 4 layers" in Path(record["path"]).with_name("build.log").read_text()


def test_a_timing_cache_that_is_broken_is_begun_anew(start: Start):
    board = start("10.3")
    place = Path(board.build(board.put(network()))["timing_cache"]["path"])
    place.write_bytes(b"\0broken")
    record = board.build(board.put(network()), rebuild=True)
    assert json.loads(place.read_text())["layers"]
    assert not record["cached"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_dla_is_used_where_there_is_one_with_the_gpu_for_the_rest(start: Start, version: str):
    board = start(version, dla_cores=2)
    path = board.put(network(half=True))
    asked = {"precision": ["fp16"], "dla_core": 1}
    if version in ("10.13", "10.16", "11.0", "11.4"):
        found = refused("no-dla", lambda: board.build(path, asked))
        assert found.message.endswith("finds 0 here")
        return
    record = board.build(path, asked)
    header = board.header(record)
    assert (header["dla_core"], "GPU_FALLBACK" in header["flags"]) == (1, True)
    assert record["identity"]["dla_core"] == 1
    assert "DLA core 1 can take 4 of 7 layers; the GPU computes the others" in record["notes"]
    assert board.build(path, {"precision": ["fp16"]})["key"] != record["key"]


def test_a_dla_that_is_not_there_or_cannot_compute_is_refused(start: Start):
    board = start("8.5", dla_cores=2)
    path = board.put(network())
    found = refused("no-dla", lambda: board.build(path, {"precision": ["fp16"], "dla_core": 2}))
    assert (found.message, found.facts["cores"]) == (
        "DLA core 2 was asked for; TensorRT 8.5.2.2 finds 2 here",
        2,
    )
    assert "fp16 or int8" in refused("no-dla", lambda: board.build(path, {"dla_core": 0})).message


@pytest.mark.parametrize(("compute", "has"), [("5.3", False), ("7.2", False), ("8.7", True), ("11.0", True)])
def test_the_sparsity_flag_is_set_where_the_gpu_has_it(start: Start, compute: str, has: bool):
    board = start("8.4", compute=compute)
    record = board.build(board.put(network()), {"sparsity": True})
    assert ("SPARSE_WEIGHTS" in board.header(record)["flags"]) is has
    assert ("this GPU has no 2:4 sparsity: the flag was left out" in record["notes"]) is not has
    assert "SPARSE_WEIGHTS" not in board.header(board.build(board.put(network())))["flags"]


@pytest.mark.parametrize("version", VERSIONS)
def test_version_compatible_engines_are_for_8_6_and_later(start: Start, version: str):
    board = start(version)
    path, asked = board.put(network()), {"version_compatible": True}
    if version < "8.6" and not version.startswith("1"):
        found = refused("not-version-compatible", lambda: board.build(path, asked))
        assert "8.6 and later can" in found.message
    else:
        assert "VERSION_COMPATIBLE" in board.header(board.build(path, asked))["flags"]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_optimization_level_is_set_where_there_are_levels(start: Start, version: str):
    board = start(version)
    record = board.build(board.put(network()), {"optimization_level": 1})
    has = version not in ("8.0", "8.2", "8.4", "8.5")
    assert board.header(record)["level"] == (1 if has else 3)
    assert ("this TensorRT has no optimization levels: 1 was left out" in record["notes"]) is not has


@pytest.mark.parametrize("compute", ["5.3", "6.2"])
def test_int8_is_refused_where_the_gpu_has_none(start: Start, compute: str):
    board = start("8.2", compute=compute)
    found = refused("no-int8", lambda: board.build(board.put(network(quantized=True)), INT8))
    assert found.message == f"this GPU (compute capability {compute}) does not compute in int8: use fp16"
    assert not board.build(board.put(network()), {"precision": ["fp16"]})["cached"]


@pytest.mark.parametrize("version", VERSIONS)
def test_nodes_that_float16_is_too_narrow_for_are_asked_to_stay_in_float32(start: Start, version: str):
    board = start(version)
    record = board.build(board.put(network()), {"precision": ["fp16"], "float32": ["average", "no such node"]})
    header = board.header(record)
    has = version in WITH_FLAGS
    assert header["asked"] == ({"average": "FLOAT"} if has else {})
    flag = "STRICT_TYPES" if version == "8.0" else "PREFER_PRECISION_CONSTRAINTS"
    assert (flag in header["flags"]) is has
    assert ("layers asked to stay in float32: 1" in record["notes"]) is has
    if has and version != "8.0":
        assert record["precisions"] == {"fp16": 3, "fp32": 1}
    again = board.build(board.put(network()), {"float32": ["average"]})
    assert not {"STRICT_TYPES", "PREFER_PRECISION_CONSTRAINTS"} & set(board.header(again)["flags"])


def test_layers_of_indices_are_left_as_they_are(start: Start):
    board = start("8.5")
    names = ["twice", "subtract", "to_half"]
    record = board.build(board.put(several_inputs()), {"precision": ["fp16"], "float32": names})
    assert board.header(record)["asked"] == {"subtract": "FLOAT", "to_half": "FLOAT"}


def test_open_sizes_need_shapes_and_an_open_batch_does_not(start: Start):
    board = start("8.5")
    record = board.build(board.put(network(batch="n")))
    assert board.header(record)["profiles"] == [{"x": [[1, 3, 8, 8]] * 3}]
    assert record["inputs"][0]["shape"] == [-1, 3, 8, 8]
    path = board.put(network(batch="n", size="s"))
    found = refused("profile-missing", lambda: board.build(path))
    assert "x [-1, 3, -1, -1]" in found.message
    ranges = {"x": [[1, 3, 4, 4], [1, 3, 8, 8], [1, 3, 16, 16]]}
    assert board.header(board.build(path, {"profile": ranges}))["profiles"] == [ranges]


@pytest.mark.parametrize(
    ("profile", "why"),
    [
        ({"z": [[1, 3, 8, 8]] * 3}, "shapes for 'z', which is no input: x "),
        ({"x": [[1, 4, 8, 8]] * 3}, "shape [1, 4, 8, 8] does not fit input 'x'"),
        ({"x": [[1, 3, 8]] * 3}, "does not fit"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_before_the_build(start: Start, profile: Any, why: str):
    board = start("8.5")
    found = refused("bad-params", lambda: board.build(board.put(network(batch="n")), {"profile": profile}))
    assert why in found.message


def test_progress_is_tensorrts_own_where_it_tells(start: Start, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress, "EVERY_S", 0.01)
    board = start("10.3")
    seen: list[tuple[str, int]] = []
    real = progress.Progress.stepped

    def stepped(self: Any, phase: str, step: int) -> bool:
        seen.append((phase, step))
        time.sleep(0.05)
        return real(self, phase, step)

    monkeypatch.setattr(progress.Progress, "stepped", stepped)
    board.build(board.put(network()))
    assert seen == [*[("Tactic Timing", step) for step in range(4)], ("Building Engine", 0)]
    stages = [told["stage"].rpartition(",")[0] for told in board.told]
    assert "building: Building Engine" in stages
    fractions = [told["fraction"] for told in board.told]
    assert fractions == sorted(fractions)
    assert fractions[-1] > 0.5


def test_progress_is_the_time_where_tensorrt_tells_nothing(start: Start, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress, "EVERY_S", 0.01)
    board = start("8.2")
    real = trt_plan.write
    monkeypatch.setattr(trt_plan, "write", lambda *given: time.sleep(0.1) or real(*given))
    board.build(board.put(network()))
    assert {"event", "stage", "fraction", "elapsed_s"} == set(board.told[0])
    assert any(told["stage"] == "building, 0 s" for told in board.told)
    assert board.told[-1]["elapsed_s"] > 0


def test_a_build_whose_time_is_up_stops_itself(start: Start):
    board = start("10.3")
    found = refused("timeout", lambda: board.build(board.put(network()), deadline=Deadline(0)))
    assert found.message.startswith("the time was up after 0 s")
    assert board.engines.keys() == []


def test_the_key_is_that_of_the_identity(start: Start):
    board = start("8.5")
    path = board.put(network())
    record = board.build(path)
    assert record["identity"]["onnx_sha256"] == Path(path).name
    assert record["key"] == identity.key(board.identity(path))
