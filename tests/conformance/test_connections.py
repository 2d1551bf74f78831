"""One contract, three links: this machine, SSH and the fake board behave alike wherever callers rely on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_tests.connect import connect
from device_tests.connection import Connection
from device_tests.deadline import Deadline
from device_tests.inventory import load_inventory
from device_tests.loopback import InProcessBoard, folder_for_boards
from device_tests.session import BoardSession
from edgesmith.errors import BoardBusy, BoardError, ConnectionLost, DeadlineExceeded
from edgesmith.progress import Silent
from edgesmith.types import Device, LeaseRequest, Measurement, MeasureProtocol
from tests.tiny_artifacts import artifact

X = np.array([[4, 8, 12, 0], [0, 0, 0, 252]], np.float32)
EXPECTED = np.array([[1, 2, 3], [63, 63, 63]], np.float32)
QUICK = MeasureProtocol(min_runs=20, min_seconds=0.02, windows=2, warmup_max_seconds=1.0, timeout_seconds=60.0)
MODELS = [artifact("dense.tflite", "tflite"), artifact("dense_int8.tflite", "tflite"), artifact("dense.onnx", "onnx")]
REMOTE = "of-edgesmith/deep/file"

Open = Callable[..., BoardSession]


@pytest.fixture(params=["local", "ssh", "fake"])
def device(request: pytest.FixtureRequest, nobodys_ssh_setup: None, tmp_path: Path) -> Iterator[Device]:
    """A board of each transport."""
    if request.param == "local":
        yield load_inventory(None).get("local")
    elif request.param == "fake":
        (tmp_path / "script.yaml").write_text("latency: [{median_ms: 0.5}]")
        yield Device(name="board", transport="fake", script=tmp_path / "script.yaml")
    else:
        with folder_for_boards() as folder, InProcessBoard(folder / "board") as running:
            yield running.device()


@pytest.fixture
def link(device: Device, tmp_path: Path) -> Iterator[Connection]:
    with connect(device, Deadline.after(20), tmp_path / "local") as opened:
        yield opened


@pytest.fixture
def session(device: Device, tmp_path: Path) -> Open:
    def open_it(**more: Any) -> BoardSession:
        return BoardSession(device, local_root=tmp_path / "local", progress=Silent(), **more)

    return open_it


@pytest.fixture
def soon() -> Deadline:
    return Deadline.after(60)


def test_a_program_that_is_not_there(link: Connection, soon: Deadline):
    assert link.run(["no-such-program", "$HOME"], soon).exit_status == 127


def test_no_time_is_left(link: Connection):
    with pytest.raises(DeadlineExceeded):
        link.run(["cat", "/proc/uptime"], Deadline.after(0))


def test_the_boot_id_can_be_read(link: Connection, soon: Deadline):
    first, second = (link.run(["cat", "/proc/sys/kernel/random/boot_id"], soon).stdout.strip() for _ in range(2))
    assert first == second != b""


def test_a_file_goes_there_and_back_whole(link: Connection, tmp_path: Path, soon: Deadline):
    source, told = tmp_path / "source", []
    source.write_bytes(os.urandom(300_000))
    assert link.put(source, REMOTE, soon, told.append) == sum(told) == 300_000
    link.get(REMOTE, tmp_path / "back", soon)
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.endswith(".part")) == []


def test_a_file_replaces_a_longer_one(link: Connection, tmp_path: Path, soon: Deadline):
    source = tmp_path / "source"
    for content in (b"longer", b"short"):
        source.write_bytes(content)
        link.put(source, REMOTE, soon)
    link.get(REMOTE, tmp_path / "back", soon)
    assert (tmp_path / "back").read_bytes() == b"short"


def test_an_empty_file(link: Connection, tmp_path: Path, soon: Deadline):
    (tmp_path / "empty").touch()
    assert link.put(tmp_path / "empty", REMOTE, soon) == 0
    link.get(REMOTE, tmp_path / "back", soon)
    assert (tmp_path / "back").read_bytes() == b""


def test_what_is_not_there_cannot_be_fetched_and_leaves_nothing(link: Connection, tmp_path: Path, soon: Deadline):
    with pytest.raises(BoardError):
        link.get("of-edgesmith/nowhere", tmp_path / "back", soon)
    assert not list(tmp_path.glob("back*"))


def test_closing_twice_is_fine(link: Connection):
    link.close()
    link.close()


def test_the_whole_session(session: Open):
    """Push, have, verify, measure, infer, forget: the same answers on every link."""
    with session() as board:
        found = board.measure(MODELS, X, QUICK)
        inferred = board.infer(MODELS[0], X)
        sent = board.bytes_sent
        assert board.push(MODELS[0].path, MODELS[0].sha256) == 0
    for one in found:
        assert isinstance(one, Measurement)
        assert len(one.samples_ns) == len(one.windows) >= 20
        assert (one.samples_ns > 0).all()
        assert one.runner
    np.testing.assert_allclose(found[0].outputs[0], EXPECTED)
    np.testing.assert_array_equal(inferred.outputs[0], found[0].outputs[0])
    np.testing.assert_array_equal(found[1].outputs[0][0], [-126, -124, -122])
    np.testing.assert_allclose(found[2].outputs[0], EXPECTED)
    assert sent > 0
    with session() as board:
        board.measure(MODELS, X, QUICK)
        assert board.bytes_sent == 0


def test_an_artifact_that_is_no_model_fails_alone(session: Open, tmp_path: Path):
    import dataclasses

    from edgesmith.files import sha256_file

    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"TFL3" * 100)
    bad = dataclasses.replace(MODELS[0], path=broken, sha256=sha256_file(broken))
    with session() as board:
        failed, fine = board.measure([bad, MODELS[2]], X, QUICK)
    assert isinstance(failed, BoardError)
    assert isinstance(fine, Measurement)


def test_one_owner_at_a_time(session: Open):
    def request(owner: str) -> LeaseRequest:
        return LeaseRequest(owner=owner, run_id="conformance", token=owner, wait_s=0.0)

    with session(lease=request("ann")) as mine:
        assert mine.lease is not None
        with pytest.raises(BoardBusy, match="ann"), session(lease=request("bob")):
            pass
    with session(lease=request("bob")) as theirs:
        assert theirs.lease is not None
        assert theirs.lease.taken_over is None


def test_a_cut_link_is_told_as_one(session: Open):
    with session() as board:
        board.abort()
        with pytest.raises(ConnectionLost):
            board.infer(MODELS[0], X)


def test_the_greetings_have_the_same_keys(session: Open, soon: Deadline):
    """A fake's says one thing more: that it is one."""
    with session() as board:
        told = set(board.ask("hello", {"workdir": "of-edgesmith"}, soon))
    from device_tests.agent import environment

    assert told - {"fake"} >= set(environment.identity()) | {"runners", "runtimes", "missing", "numpy", "protocol"}
