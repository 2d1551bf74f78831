"""trtexec beside the Python binding, on the engine that the binding has built. All of it FAKE."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from device_tests.agent.protocol import Deadline, Refusal
from device_tests.agent.tensorrt import onnx_inputs, onnx_nodes, trtexec_beside
from device_tests.fake_jetson.trtexec_tool import PLACE, write_trtexec
from tests.fake_tensorrt_board import VERSIONS, Board, network

pytestmark = pytest.mark.slow  # the fake libcudart needs a C compiler

FP16 = {"precision": ["fp16"]}


def _measure(board: Board, path: str, options: dict[str, Any], **how: Any) -> dict[str, Any]:
    scratch = board.folder / "scratch"
    scratch.mkdir(exist_ok=True)
    asked, folder, root = {"cuda": "ctypes", **options}, board.engines.root, board.root
    deadline = Deadline(60)
    found: dict[str, Any] = trtexec_beside.measure(
        path, asked, folder, str(scratch), deadline, root, seconds=1, runs=20, **how
    )
    return found


def _board(folder: Path, monkeypatch: pytest.MonkeyPatch, version: str, **script: Any) -> Board:
    board = Board(folder, monkeypatch, version)
    write_trtexec(folder / "root" / PLACE, version, **script)
    return board


@pytest.mark.parametrize("version", VERSIONS)
def test_the_bindings_engine_is_the_one_that_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str):
    board = _board(tmp_path, monkeypatch, version)
    path = board.put(network())
    record = board.build(path, FP16)
    found = _measure(board, path, FP16)
    assert found["engine"] == {"key": record["key"], "sha256": record["sha256"]}
    assert found["runs"] >= 20
    assert [row["name"] for row in found["layers"]] == [node.name for node in onnx_nodes.read(path)]
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("other", [{"precision": []}, {**FP16, "sparsity": True}, {**FP16, "optimization_level": 1}])
def test_an_engine_for_something_else_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]
):
    board = _board(tmp_path, monkeypatch, "8.6")
    path = board.put(network())
    board.build(path, other)
    with pytest.raises(Refusal, match="no engine of this network is on the board") as caught:
        _measure(board, path, FP16)
    assert caught.value.code == "engine-missing"


def test_nor_is_one_of_another_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    board = _board(tmp_path, monkeypatch, "8.5")
    path = board.put(network())
    board.build(path, FP16)
    write_trtexec(tmp_path / "root" / PLACE, "8.6")
    with pytest.raises(
        Refusal, match=r"of TensorRT 8\.6\.2 cannot time what was measured: its engine is of TensorRT 8\.5"
    ):
        _measure(board, path, FP16)


def test_a_damaged_engine_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    board = _board(tmp_path, monkeypatch, "10.3")
    path = board.put(network())
    plan = Path(board.build(path, FP16)["path"])
    plan.write_bytes(plan.read_bytes()[:-1])
    with pytest.raises(Refusal) as caught:
        _measure(board, path, FP16)
    assert caught.value.code == "engine-damaged"


def test_an_open_batch_is_one_sample_and_what_a_profile_says_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without shapes the program takes 1 for every open size, and says so: it is told them."""
    board = _board(tmp_path, monkeypatch, "8.5")
    for name, proto, profile in (
        ("batch", network(batch="N"), None),
        ("sizes", network(batch="N", size="S"), {"x": [[1, 3, 8, 8], [1, 3, 16, 16], [1, 3, 32, 32]]}),
    ):
        path, options = board.put(proto), {**FP16, "profile": profile}
        board.build(path, options)
        found = _measure(board, path, options)
        assert found["engine"] is not None, name
        assert found["notes"] == [], name


def test_sizes_that_trtexec_chose_itself_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    board = _board(tmp_path, monkeypatch, "8.5")
    path = board.put(network(batch="N"))
    board.build(path, FP16)
    # As if the file were one that we cannot read.
    monkeypatch.setattr(onnx_inputs, "read", lambda _path: [])
    (note,) = _measure(board, path, FP16)["notes"]
    assert "Dynamic dimensions required for input: x" in note


def test_it_is_fed_our_own_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    board = _board(tmp_path, monkeypatch, "10.3")
    path = board.put(network())
    board.build(path, FP16)
    sample = np.arange(3 * 8 * 8, dtype=np.float32).reshape(1, 8, 8, 3).transpose(0, 3, 1, 2)
    assert any("random numbers" in line for line in _measure(board, path, FP16)["difference"])
    told = _measure(board, path, FP16, take=lambda _inputs: {"x": sample})
    assert not any("random numbers" in line for line in told["difference"])
    written = np.fromfile(board.folder / "scratch" / "input-0.raw", np.float32)
    assert np.array_equal(written.reshape(1, 3, 8, 8), sample)
    with pytest.raises(Refusal, match="Cannot find input tensor other"):
        _measure(board, path, FP16, take=lambda _inputs: {"other": sample})


def test_inputs_are_read_from_the_file(tmp_path: Path):
    def value(name: str, shape: list[Any] | None) -> onnx.ValueInfoProto:
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    inputs = [
        value("x", ["N", 3, None]),
        value("big", [1, 300]),
        value("w", [2]),
        value("scalar", []),
        value("any", None),
    ]
    weight = onnx.numpy_helper.from_array(np.zeros(2, np.float32), "w")
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", inputs, [value("y", None)], [weight])
    path = tmp_path / "net.onnx"
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    found = [("x", [-1, 3, -1]), ("big", [1, 300]), ("scalar", []), ("any", [])]
    assert onnx_inputs.read(str(path)) == found
    whole = path.read_bytes()
    for content in (b"", b"no model", whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert onnx_inputs.read(str(path)) == []


def test_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    board = _board(tmp_path, monkeypatch, "8.2")
    monkeypatch.setenv("EDGESMITH_FAKE_CUDA_DEVICES", "0")
    with pytest.raises(Refusal) as caught:
        _measure(board, board.put(network()), FP16)
    assert caught.value.code == "no-gpu"
