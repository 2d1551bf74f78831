"""A board over real SSH: commands, files, and the whole way from artifact to figures."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from device_tests.agent_zip import build_agent
from device_tests.deadline import Deadline
from device_tests.loopback import InProcessBoard, LoopbackBoard
from device_tests.session import BoardSession
from device_tests.ssh import Ssh
from edgesmith.errors import BoardError, ConfigError, DeadlineExceeded
from edgesmith.files import sha256_file
from edgesmith.progress import Silent
from edgesmith.types import Measurement, MeasureProtocol
from tests.processes import wait_gone
from tests.tiny_artifacts import artifact

X = np.array([[4, 8, 12, 0], [0, 0, 0, 252]], np.float32)
QUICK = MeasureProtocol(min_runs=10, min_seconds=0.01, windows=2, warmup_max_seconds=1.0, timeout_seconds=60.0)


@pytest.fixture
def ssh(board: LoopbackBoard) -> Iterator[Ssh]:
    with Ssh(board.device(), Deadline.after(20)) as connection:
        yield connection


@pytest.fixture
def soon() -> Deadline:
    return Deadline.after(60)


def test_arguments_arrive_as_they_are(ssh: Ssh, board: LoopbackBoard, soon: Deadline):
    awkward = ["a b", "$HOME", "'", '"', "*", "", "ä", "; exit 9"]
    done = ssh.run([board.device().python, "-c", "import sys; print(sys.argv[1:])", *awkward], soon)
    assert done.exit_status == 0
    assert done.stdout.decode() == f"{awkward}\n"


def test_stdin_outputs_and_exit_status_come_through(ssh: Ssh, soon: Deadline):
    done = ssh.run(["sh", "-c", "cat; echo log >&2; exit 7"], soon, b"in")
    assert (done.exit_status, done.signal, done.stdout, done.stderr) == (7, None, b"in", b"log\n")


def test_exit_status_255_is_the_commands_own(ssh: Ssh, soon: Deadline):
    assert ssh.run(["sh", "-c", "exit 255"], soon).exit_status == 255


def test_an_end_by_signal_is_named(ssh: Ssh, soon: Deadline):
    done = ssh.run(["sh", "-c", "kill -KILL $$"], soon)
    assert (done.exit_status, done.signal) == (None, "KILL")


def test_a_command_that_is_not_there(ssh: Ssh, soon: Deadline):
    assert ssh.run(["no-such-program"], soon).exit_status == 127


def test_past_the_deadline_the_command_is_gone_from_the_board(ssh: Ssh, board: LoopbackBoard):
    note = board.home / "pid"
    with pytest.raises(DeadlineExceeded, match="board: 'sh': no answer in time"):
        ssh.run(["sh", "-c", f"echo $$ > {note}; exec sleep 600"], Deadline.after(3))
    wait_gone(int(note.read_text()))


def test_files_go_there_and_back(ssh: Ssh, board: LoopbackBoard, tmp_path: Path, soon: Deadline):
    source, told = tmp_path / "source", []
    source.write_bytes(os.urandom(1 << 20))
    remote = f"{board.device().workdir}/deep/file"
    ssh.put(source, remote, soon, told.append)
    assert sum(told) == 1 << 20
    assert sha256_file(board.home / "edgesmith" / "deep" / "file") == sha256_file(source)
    source.write_bytes(b"shorter")
    ssh.put(source, remote, soon)
    ssh.get(remote, tmp_path / "back", soon)
    assert (tmp_path / "back").read_bytes() == b"shorter"
    assert not list(board.home.rglob("*.part"))


def test_what_cannot_be_fetched_is_named(ssh: Ssh, tmp_path: Path, soon: Deadline):
    with pytest.raises(BoardError, match=r"board: fetching nowhere: No such file"):
        ssh.get("nowhere", tmp_path / "back", soon)
    assert not list(tmp_path.glob("back*"))


def test_lines_are_spoken_and_a_process_leaves_with_its_stdin(ssh: Ssh, soon: Deadline):
    process = ssh.spawn(["cat"], soon)
    process.send(b"one", soon)
    assert process.receive(soon) == b"one"
    with pytest.raises(DeadlineExceeded):
        process.receive(Deadline.after(0.1))
    process.send(b"x" * 1_000_000, soon)
    assert len(process.receive(soon)) == 1_000_000
    assert process.close(soon).exit_status == 0


def test_a_process_that_ends_is_an_error_with_its_last_lines(ssh: Ssh, soon: Deadline):
    process = ssh.spawn(["sh", "-c", "echo went wrong >&2; exit 3"], soon)
    with pytest.raises(BoardError, match=r"board: 'sh' ended with exit status 3\.\nIts last lines:\n    went wrong"):
        process.receive(soon)


def test_from_artifact_to_figures_and_nothing_is_sent_twice(board: LoopbackBoard, tmp_path: Path):
    models = [
        artifact("dense.tflite", "tflite"),
        artifact("dense_int8.tflite", "tflite"),
        artifact("dense.onnx", "onnx"),
    ]
    with BoardSession(board.device(), local_root=tmp_path, progress=Silent()) as session:
        first = session.measure(models, X, QUICK)
        sent = session.bytes_sent
        inputs = list((tmp_path / "inputs").iterdir())
        assert sent == len(build_agent().content) + sum(m.size_bytes for m in models) + inputs[0].stat().st_size
    with BoardSession(board.device(), local_root=tmp_path, progress=Silent()) as session:
        second = session.measure(models, X, QUICK)
        assert session.bytes_sent == 0
    for one, again in zip(first, second, strict=True):
        assert isinstance(one, Measurement)
        assert isinstance(again, Measurement)
        assert one.outputs_sha256 == again.outputs_sha256
        assert one.device == "board"
    assert first[0].outputs[0].tolist() == [[1, 2, 3], [63, 63, 63]]
    # steps of 0.5 above -128
    assert first[1].outputs[0].tolist() == [[-126, -124, -122], [-2, -2, -2]]
    assert first[2].outputs[0].tolist() == [[1, 2, 3], [63, 63, 63]]
    assert not [p for p in (board.home / "edgesmith" / "work").iterdir() if p.is_dir()]


def test_a_host_key_can_be_pinned_without_known_hosts(board: LoopbackBoard, soon: Deadline):
    device = dataclasses.replace(board.device(), known_hosts=None, host_key=board.fingerprint)
    with Ssh(device, soon) as ssh:
        assert ssh.run(["true"], soon).exit_status == 0


def test_the_users_own_ssh_config_is_honoured(board: LoopbackBoard, tmp_path: Path, soon: Deadline):
    device = board.device()
    folder = tmp_path / "nobody" / ".ssh"
    folder.mkdir(mode=0o700)
    (folder / "config").write_text(
        f"Host lab\n  HostName 127.0.0.1\n  Port {board.port}\n  User {device.user}\n"
        f"  IdentityFile {device.identity_file}\n  UserKnownHostsFile {device.known_hosts}\n"
    )
    alias = dataclasses.replace(device, host="lab", port=22, user="", identity_file=None, known_hosts=None)
    with Ssh(alias, soon) as ssh:
        assert ssh.run(["true"], soon).exit_status == 0


def test_an_ssh_config_cannot_switch_the_host_key_check_off(board: LoopbackBoard, tmp_path: Path, soon: Deadline):
    folder = tmp_path / "nobody" / ".ssh"
    folder.mkdir(mode=0o700)
    (folder / "config").write_text("Host *\n  UserKnownHostsFile none\n  StrictHostKeyChecking no\n")
    with pytest.raises(BoardError, match="its host key is not known"):
        Ssh(dataclasses.replace(board.device(), known_hosts=None), soon)


@pytest.mark.parametrize("field", ["identity_file", "known_hosts"])
def test_a_key_file_that_is_not_there_is_the_users_to_mend(
    board: LoopbackBoard, tmp_path: Path, soon: Deadline, field: str
):
    device = dataclasses.replace(board.device(), **{field: tmp_path / "nowhere"})
    with pytest.raises(ConfigError, match=f"board: {field} .*nowhere is not there"):
        Ssh(device, soon)


def test_a_chatty_login_does_not_disturb(tmp_path: Path):
    with InProcessBoard(tmp_path / "board") as board:
        board.greeting = "echo Welcome to the lab; echo '{\"id\": 1}'; "
        with BoardSession(board.device(), local_root=tmp_path / "here", progress=Silent()) as session:
            (found,) = session.measure([artifact("dense.onnx", "onnx")], X, QUICK)
    assert isinstance(found, Measurement)


def test_an_emulated_board_is_marked(tmp_path: Path):
    with InProcessBoard(tmp_path / "board") as board:
        board.greeting = "export EDGE_EMULATED=1; "
        with BoardSession(board.device(), local_root=tmp_path / "here", progress=Silent()) as session:
            assert session.info.emulated
