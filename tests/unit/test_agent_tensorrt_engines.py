"""The engines on a board: whole or not at all, found by identity, checked before use."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from device_tests.agent.protocol import Refusal
from device_tests.agent.tensorrt import identity
from device_tests.agent.tensorrt.engines import Engines

SHA = "ab" * 32


def wanted(sha256: str = SHA, tensorrt: str = "10.3.0", **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = identity.identity({"onnx_sha256": sha256, **options}, tensorrt, "8.7", "Orin")
    return found


def put(engines: Engines, asked: dict[str, Any], content: bytes = b"plan", built_at: str = "2026-01-01") -> Any:
    key = identity.key(asked)
    part = engines.part(key)
    (Path(part) / "build.log").write_text("[I] hello\n")
    return engines.store(part, content, {"key": key, "identity": asked, "built_at": built_at})


def names(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.fixture
def engines(tmp_path: Path) -> Engines:
    return Engines(str(tmp_path / "engines"))


def test_what_was_stored_is_found_and_read(engines: Engines):
    stored = put(engines, wanted(), b"an engine")
    assert stored["sha256"] == hashlib.sha256(b"an engine").hexdigest()
    assert stored["size_bytes"] == 9
    found = engines.find(wanted())
    assert found == stored
    assert engines.read(found) == b"an engine"
    assert engines.is_sound(identity.key(wanted()))
    assert names(engines.folder(stored["key"])) == ["build.log", "engine.json", "engine.plan"]


def test_nothing_there_is_missing(engines: Engines):
    with pytest.raises(Refusal, match="build it first") as caught:
        engines.find(wanted())
    assert (caught.value.code, caught.value.facts["key"]) == ("engine-missing", identity.key(wanted()))


def test_an_engine_of_another_network_is_no_mismatch(engines: Engines):
    put(engines, wanted("cd" * 32))
    with pytest.raises(Refusal) as caught:
        engines.find(wanted())
    assert caught.value.code == "engine-missing"


def test_a_mismatch_names_what_differs_from_the_nearest_engine(engines: Engines):
    put(engines, wanted(tensorrt="8.5.2", precision=["int8", "fp16"], sparsity=True))
    put(engines, wanted(tensorrt="8.5.2"))
    with pytest.raises(Refusal, match=r"for something else: TensorRT 10\.3\.0, built for 8\.5\.2$") as caught:
        engines.find(wanted())
    assert caught.value.code == "engine-mismatch"
    assert caught.value.facts["differences"] == ["TensorRT 10.3.0, built for 8.5.2"]


def test_a_record_under_anothers_key_is_a_mismatch(engines: Engines):
    put(engines, wanted(tensorrt="8.5.2"))
    Path(engines.folder(identity.key(wanted(tensorrt="8.5.2")))).rename(engines.folder(identity.key(wanted())))
    with pytest.raises(Refusal, match="TensorRT") as caught:
        engines.find(wanted())
    assert caught.value.code == "engine-mismatch"
    assert not engines.is_sound(identity.key(wanted()))


def test_a_version_compatible_engine_is_found_by_a_later_tensorrt(engines: Engines):
    put(engines, wanted(tensorrt="8.6.2", version_compatible=True))
    assert engines.find(wanted(version_compatible=True))["identity"]["tensorrt"] == "8.6.2"
    with pytest.raises(Refusal, match="version compatibility false, built for true"):
        engines.find(wanted(tensorrt="8.6.2"))


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_damage_is_found_before_anybody_deserializes(engines: Engines, damage: str):
    record = put(engines, wanted(), b"an engine")
    path = Path(engines.folder(record["key"])) / "engine.plan"
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(b"an engjne" if damage == "flipped" else b"an en")
    with pytest.raises(Refusal) as caught:
        engines.read(engines.find(wanted()))
    assert caught.value.code == "engine-damaged"
    assert not engines.is_sound(record["key"])


def test_a_broken_record_is_no_engine_and_is_listed_as_such(engines: Engines):
    record = put(engines, wanted())
    (Path(engines.folder(record["key"])) / "engine.json").write_text("{")
    with pytest.raises(Refusal) as caught:
        engines.find(wanted())
    assert caught.value.code == "engine-missing"
    (listed,) = engines.listed("10.3.0")
    assert (listed["key"], listed["stale"]) == (record["key"], "its record cannot be read")


def test_a_new_build_takes_the_place_of_the_old_one(engines: Engines):
    put(engines, wanted(), b"old")
    record = put(engines, wanted(), b"new")
    assert engines.read(record) == b"new"
    assert "replaced" not in names(engines.folder(record["key"]))
    assert names(engines.root) == [record["key"]]


def test_engines_of_another_version_are_listed_as_stale_with_their_sizes(engines: Engines):
    old = put(engines, wanted(tensorrt="8.5.2"), b"12345", built_at="2025-01-01")
    both = put(engines, wanted(tensorrt="8.6.2", version_compatible=True), b"1", built_at="2025-06-01")
    new = put(engines, wanted(), b"123", built_at="2026-01-01")
    listed = engines.listed("10.3.0")
    assert [one["key"] for one in listed] == [old["key"], both["key"], new["key"]]
    stale = [one["stale"] for one in listed]
    assert stale == ["built with TensorRT 8.5.2, 10.3.0 is here", None, None]
    on_disk = sum(path.stat().st_size for path in Path(engines.folder(old["key"])).iterdir())
    assert listed[0]["size_bytes"] == on_disk > 5
    assert [one["stale"] for one in engines.listed()] == [None] * 3


def test_a_removed_engine_is_gone_and_its_bytes_are_told(engines: Engines):
    record = put(engines, wanted())
    size = engines.listed()[0]["size_bytes"]
    assert engines.remove(record["key"]) == size
    assert engines.keys() == []
    with pytest.raises(Refusal, match="not an engine's key"):
        engines.remove("../blobs")


def test_what_a_killed_build_left_is_removed_by_the_next_and_a_running_one_is_not(engines: Engines):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    key = identity.key(wanted())
    left = Path(engines.root) / f".{key}.{int(gone.stdout)}.part"
    running = Path(engines.root) / f".{key}.{os.getppid()}.part"
    for folder in (left, running):
        folder.mkdir(parents=True)
    put(engines, wanted())
    assert not left.exists()
    assert running.exists()


def test_a_build_that_failed_leaves_its_log_and_no_engine(engines: Engines):
    part = engines.part(identity.key(wanted()))
    (Path(part) / "build.log").write_text("[E] no\n")
    kept = engines.give_up(part)
    assert Path(kept).read_text() == "[E] no\n"
    assert names(engines.root) == ["last-failed.log"]
    assert engines.keys() == []


def test_a_record_is_whole_json(engines: Engines):
    record = put(engines, wanted())
    text = (Path(engines.folder(record["key"])) / "engine.json").read_text()
    assert json.loads(text) == record
