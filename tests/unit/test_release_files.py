"""What a release takes from its board: links and copies, room for them, and an engine that cannot be had."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from device_tests import release_engine
from device_tests.agent import release_files
from device_tests.agent.protocol import Refusal
from device_tests.agent.tensorrt.engine_folder import EngineFolder
from device_tests.agent.work import Folders
from device_tests.agent_client import Refused
from device_tests.release_board import ReleaseBoard
from device_tests.release_manifest import MeasuredEnginePart
from device_tests.session import BoardSession
from edgesmith.errors import BoardError
from edgesmith.types import Engine
from tests.release_desk import X, request
from tests.tiny_artifacts import artifact

KEY = "a" * 64
MB = 10**6


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Folders]:
    made = Folders(str(tmp_path / "work"))
    yield made
    made.clean()


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Says how many bytes every disk has free."""

    def say(count: int) -> None:
        monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_bavail=count, f_frsize=1))

    return say


def no_links(*_: object) -> None:
    raise OSError("another disk")


def test_a_file_is_linked_or_else_copied_where_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: Callable[[int], None]
):
    plan, first, second = (tmp_path / name for name in ("plan", "first", "second"))
    plan.write_bytes(bytes(3 * MB))
    for folder in (first, second):
        folder.mkdir()
    free(0)
    release_files.take(str(first), {"engine.plan": str(plan)})
    assert (first / "engine.plan").samefile(plan)

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(Refusal, match=r"no room in .*second: 3\.0 MB are needed, 0\.0 MB are free"):
        release_files.take(str(second), {"engine.plan": str(plan)})
    assert list(second.iterdir()) == []
    free(4 * MB)
    release_files.take(str(second), {"engine.plan": str(plan)})
    assert (second / "engine.plan").read_bytes() == plan.read_bytes()
    assert not (second / "engine.plan").samefile(plan)


def test_room_is_asked_for_before_an_engine_is_built_and_not_for_one_that_is_there(
    folders: Folders, tmp_path: Path, free: Callable[[int], None]
):
    releases = str(tmp_path / "not" / "there" / "yet")
    free(100 * MB)
    release_files.room_for_engine(folders, releases, KEY, 60 * MB)
    with pytest.raises(Refusal, match=r"MB are needed, 100\.0 MB are free") as caught:
        release_files.room_for_engine(folders, releases, KEY, 90 * MB)
    assert caught.value.facts["needed_bytes"] == 90 * MB + release_files.SPARE_BYTES

    kept = Path(folders.engines) / KEY
    kept.mkdir(parents=True)
    (kept / "engine.json").write_text(json.dumps({"identity": {}}))
    release_files.room_for_engine(folders, releases, KEY, 90 * MB)


def test_a_release_on_another_disk_needs_room_there_for_a_copy(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "sd").mkdir()
    monkeypatch.setattr(release_files, "disk_of", lambda path: path.endswith("/sd"))
    room = {str(tmp_path / "sd"): 10 * MB}
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=room.get(path, 900 * MB), f_frsize=1))
    with pytest.raises(Refusal, match=r"no room in .*/sd: "):
        release_files.room_for_engine(folders, str(tmp_path / "sd"), KEY, 60 * MB)


def test_an_engine_of_a_release_that_is_no_longer_on_the_board_is_told(folders: Folders):
    with pytest.raises(Refusal, match="no longer on the board: deploy again"):
        release_files.source(folders, {"engine": {"key": KEY}}, "engine.plan", "0" * 64)


def test_an_engine_whose_record_is_gone_is_damaged(tmp_path: Path):
    with pytest.raises(Refusal) as caught:
        EngineFolder(str(tmp_path)).find({"version_compatible": False})
    assert caught.value.code == "engine-damaged"


@pytest.mark.parametrize(
    ("runners", "runtimes", "says", "step"),
    [
        ((), {}, "Python binding is not there", "apt-get install python3-libnvinfer"),
        (("tensorrt",), {"trtexec": "10.3.0"}, "trtexec times engines, and tells nothing of their answers", "apt-get"),
        (("tensorrt",), {"tensorrt": "10.3.0"}, "no room in /edge", "devices engines jetson"),
    ],
)
def test_what_keeps_a_board_from_an_engine_is_told_before_anything_is_sent(
    runners: tuple[str, ...], runtimes: dict[str, str], says: str, step: str
):
    def full(*_: Any) -> None:
        raise Refused("jetson", {"code": "no-space", "message": "no room in /edge: 9.0 MB are needed, 1.0 MB are free"})

    def build(_: object) -> None:
        raise AssertionError("nothing is built where it would find no room")

    session = SimpleNamespace(
        device=SimpleNamespace(name="jetson"),
        info=SimpleNamespace(runners=runners, runtimes=runtimes),
        build=build,
    )
    board = SimpleNamespace(device="jetson", room_for_engine=full)
    made = dataclasses.replace(artifact("dense.onnx", "onnx"), target="tensorrt")
    asked = request(made, "tensorrt", X)
    known = MeasuredEnginePart(key=KEY, sha256="0" * 64, size_bytes=9 * MB, tensorrt="10.3.0")
    asked = dataclasses.replace(asked, measured=asked.measured.model_copy(update={"engine": known}))
    with pytest.raises(BoardError) as caught:
        release_engine.on_board(cast("BoardSession", session), cast("ReleaseBoard", board), asked)
    assert says in caught.value.what
    assert step in caught.value.next_step


@pytest.mark.parametrize(
    ("tensorrt", "sha256", "says"),
    [
        ("10.3.0", "1" * 64, ""),
        ("10.3.0", "2" * 64, "the board built it anew, and no two builds need give the same bytes"),
        ("10.16.1", "2" * 64, "that was of TensorRT 10.3.0, the board has 10.16.1 now"),
    ],
)
def test_an_engine_that_is_not_the_one_that_was_measured_is_told(tensorrt: str, sha256: str, says: str):
    engine = Engine(
        key=KEY,
        sha256=sha256,
        size_bytes=MB,
        cached=False,
        because="",
        seconds=1.0,
        tensorrt=tensorrt,
        cuda="12.6",
        compute="8.7",
        gpu="Orin",
        precision=("fp16",),
        layer_count=1,
        layer_precisions=(),
        device_memory_bytes=None,
        notes=(),
        fake=False,
    )
    session = SimpleNamespace(
        info=SimpleNamespace(runners=("tensorrt",), runtimes={"tensorrt": tensorrt}), build=lambda _: engine
    )
    board = SimpleNamespace(room_for_engine=lambda *_: None, engine_files=lambda _: ())
    asked = request(dataclasses.replace(artifact("dense.onnx", "onnx"), target="tensorrt"), "tensorrt", X)
    known = MeasuredEnginePart(key=KEY, sha256="1" * 64, size_bytes=MB, tensorrt="10.3.0")
    asked = dataclasses.replace(asked, measured=asked.measured.model_copy(update={"engine": known}))
    found = release_engine.on_board(cast("BoardSession", session), cast("ReleaseBoard", board), asked)
    assert found is not None
    assert found.part.is_measured is (not says)
    assert says in found.part.note
