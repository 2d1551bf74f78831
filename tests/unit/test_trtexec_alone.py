"""trtexec without the Python binding: what it builds is kept, and it takes the times itself. All of it FAKE."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_tests.agent import child, timing
from device_tests.agent.protocol import Deadline, Refusal
from device_tests.agent.reading import Root
from device_tests.agent.runners import tensorrt as runner_file
from device_tests.agent.tensorrt import trtexec, trtexec_alone, trtexec_here
from device_tests.fake_jetson.trtexec_tool import PLACE, write_trtexec
from tests.board_trees import Tree
from tests.fake_tensorrt_board import Board, network, pictures

FP16 = {"precision": ["fp16"]}
needs_compiler = pytest.mark.slow  # the fake libcudart does


def _board(folder: Path, monkeypatch: pytest.MonkeyPatch, version: str, *, binding: bool = False) -> Board:
    board = Board(folder, monkeypatch, version)
    if not binding:
        monkeypatch.delitem(sys.modules, "tensorrt")
    write_trtexec(folder / "root" / PLACE, version)
    # As on a board: its root is the one of whoever does not say otherwise.
    monkeypatch.setattr(Root.__init__, "__defaults__", (board.root.top,))
    return board


def _build(board: Board, path: str, options: dict[str, Any], **how: Any) -> dict[str, Any]:
    asked = {"cuda": "ctypes", **options}
    deadline = Deadline(60)
    folder = board.engines.root
    found: dict[str, Any] = runner_file.build(path, asked, folder, lambda **_: None, deadline=deadline, **how)
    return found


def _header(record: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(record["path"]).read_text())
    return found


def test_who_does_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(Refusal, match="'perhaps' is none of auto, never, only"):
        trtexec_here.alone({"trtexec": "perhaps"}, Root(str(tmp_path)))
    assert trtexec_here.alone({}, Root(str(tmp_path))) is None
    with pytest.raises(Refusal, match="no trtexec: sudo apt-get install libnvinfer-bin"):
        trtexec_here.alone({"trtexec": "only"}, Root(str(tmp_path)))
    board = Board(tmp_path, monkeypatch, "10.3")
    write_trtexec(tmp_path / "root" / PLACE, "10.3")
    assert trtexec_here.alone({}, board.root) is None
    only = trtexec_here.alone({"trtexec": "only"}, board.root)
    monkeypatch.delitem(sys.modules, "tensorrt")
    alone = trtexec_here.alone({"trtexec": "auto"}, board.root)
    assert [tool and tool.name for tool in (only, alone)] == ["FAKE trtexec of TensorRT 10.3.0"] * 2
    assert trtexec_here.alone({"trtexec": "never"}, board.root) is None


@needs_compiler
@pytest.mark.parametrize("version", ["8.0", "8.6", "10.3", "11.4"])
def test_it_builds_once_and_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str):
    board = _board(tmp_path, monkeypatch, version)
    found = runner_file.probe()
    assert found["trtexec"] == found["tensorrt"] == trtexec.find(board.root).text
    assert (found["compute"], found["FAKE"]) == ("8.7", "tensorrt")
    path = board.put(network(batch="N"))
    record = _build(board, path, FP16)
    assert (record["cached"], record["fake"]) == (False, True)
    assert record["layer_count"] == 5
    assert "--minShapes=x:1x3x8x8" in _header(record)["options"]
    again = _build(board, path, FP16)
    assert (again["cached"], again["key"], again["sha256"]) == (True, record["key"], record["sha256"])
    assert not _build(board, path, FP16, rebuild=True)["cached"]

    runner = runner_file.runner(path, 1, {"cuda": "ctypes", **FP16})
    sample = [np.zeros((1, 3, 8, 8), np.float32)]
    taken, flat = runner.settle(sample, 2.0, Deadline(60))
    assert flat
    assert min(taken) >= 2_187_500
    timed = runner.timed(sample, 20, 0.5, Deadline(60))
    assert len(timed) >= 20
    parts = runner.parts_of(sample, 20, Deadline(60))
    assert [round(sum(part) * 1e6) for part in parts[:20]] == timed[:20]
    assert len(runner.layers(sample, 20)) == 5
    assert "sudo apt-get install python3-libnvinfer" in runner.next_step


@needs_compiler
def test_where_it_is_not_to_be_used_the_way_to_the_binding_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    board = _board(tmp_path, monkeypatch, "8.6")
    Tree(tmp_path / "root").write("/usr/lib/aarch64-linux-gnu/libnvinfer.so.8", "")
    path, options = board.put(network()), {"cuda": "ctypes", "trtexec": "never"}
    asked = {"runner": "tensorrt", "path": path, "options": options, "folder": board.engines.root}
    with pytest.raises(Refusal, match=r"sudo apt-get install python3-libnvinfer \(or have trtexec used") as caught:
        child.Child().build(asked, Deadline(60), lambda **_: None)
    assert caught.value.code == "runtime-missing"


@needs_compiler
def test_neither_takes_what_the_other_has_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The record of an engine of trtexec's lacks what the binding tells of its own."""
    board = _board(tmp_path, monkeypatch, "8.6")
    path = board.put(network())
    theirs = _build(board, path, FP16)
    board.become("8.6")
    ours = board.build(path, FP16)
    assert (ours["cached"], ours["because"]) == (False, "no engine of this network is on the board: build it first")
    assert ours["key"] != theirs["key"]
    assert _build(board, path, {**FP16, "trtexec": "only"})["key"] == theirs["key"]
    four = {one["key"]: one["stale"] for one in board.engines.listed(ours["identity"]["tensorrt"])}
    assert four == {ours["key"]: None, theirs["key"]: None}


@needs_compiler
def test_what_cannot_be_built_is_refused_before_trtexec_builds_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    board = _board(tmp_path, monkeypatch, "8.5")
    monkeypatch.setenv("EDGESMITH_FAKE_CUDA_COMPUTE", "5.3")
    with pytest.raises(Refusal, match=r"compute capability 5\.3\) does not compute in int8"):
        _build(board, board.put(network()), {"precision": ["int8"]})
    with pytest.raises(Refusal, match=r"x \[-1, 3, -1, -1\]"):
        _build(board, board.put(network(batch="N", size="S")), FP16)
    record = _build(board, board.put(network()), {**FP16, "sparsity": True})
    assert record["notes"] == ["this GPU has no 2:4 sparsity: the flag was left out"]
    assert "--sparsity=enable" not in _header(record)["options"]


@needs_compiler
def test_a_damaged_engine_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    board = _board(tmp_path, monkeypatch, "10.3")
    path = board.put(network())
    plan = Path(_build(board, path, FP16)["path"])
    plan.write_bytes(plan.read_bytes()[:-1])
    with pytest.raises(Refusal) as caught:
        runner_file.runner(path, 1, {"cuda": "ctypes", **FP16})
    assert caught.value.code == "engine-damaged"


@needs_compiler
def test_a_child_that_holds_it_has_times_and_no_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    board = _board(tmp_path, monkeypatch, "10.3")
    path = board.put(network())
    _build(board, path, FP16)
    np.save(tmp_path / "x.npy", pictures(3))
    holder, until = child.Child(), Deadline(60)
    asked = {"runner": "tensorrt", "path": path, "threads": 1, "options": {"cuda": "ctypes", **FP16}}
    told = holder.load({**asked, "inputs": str(tmp_path / "x.npy"), "inputs_dtype": "float32"}, until, None)
    assert told["name"].startswith("FAKE trtexec of TensorRT 10.3.0 (CUDA ")
    assert told["no_power"] == trtexec_alone.NO_POWER
    assert holder.warm_up({"max_s": 1.0}, until, None)["flat"]
    window = holder.window({"runs": 10, "seconds": 0.1}, until, None)
    assert window["rewarm_ns"] == []
    assert len(window["ns"]) >= 10
    assert len(holder.parts({"runs": 5}, until, None)["compute_ns"]) >= 5
    none = holder.outputs({"folder": str(tmp_path)}, until, None)
    assert (none["files"], none["reason"]) == (None, trtexec_alone.NO_OUTPUTS)


def test_runs_that_somebody_else_took_settle_or_do_not():
    slow, fast = [50_000_000] * 4, [10_000_000] * 12
    assert timing.settles(slow + fast)
    assert not timing.settles([10_000_000 * 2**power for power in range(8)])
    assert not timing.settles(fast[:8])
