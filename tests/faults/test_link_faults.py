"""Boards and links that fail, for real: what is said, how soon, and what is left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncssh
import numpy as np
import pytest

from device_tests.agent_client import AgentClient
from device_tests.agent_zip import AgentZip, build_agent
from device_tests.deadline import Deadline
from device_tests.loopback import InProcessBoard, LoopbackBoard, folder_for_boards
from device_tests.loopback_sshd import SshdBoard
from device_tests.session import BoardSession
from device_tests.ssh import Ssh
from edgesmith.errors import BoardError, ConfigError, ConnectionLost, DeadlineExceeded
from edgesmith.files import sha256_file
from edgesmith.progress import Silent, Task
from edgesmith.types import Device, Measurement, MeasureProtocol
from tests.faults.relay import Relay
from tests.processes import wait_gone
from tests.tiny_artifacts import artifact

X = np.array([[4, 8, 12, 0]], np.float32)
QUICK = MeasureProtocol(min_runs=10, min_seconds=0.01, windows=2, warmup_max_seconds=1.0, timeout_seconds=60.0)
LIVELY = {"keepalive_interval": 0.3, "keepalive_count_max": 2}
SLOW = b"""
import os, time
import numpy as np

from device_tests.agent.runners import Input

PACKAGES = ("slow",)

def probe():
    return {"slow": "1.0"}

class Runner:
    name = "slow 1.0"
    inputs = [Input("x", [4], np.dtype("float32"), None)]
    output_quantization = [None]

    def __init__(self, path, threads, options):
        with open(os.path.join(os.environ["HOME"], "pids"), "w") as note:
            note.write("%d %d" % (os.getpid(), os.getppid()))

    def __call__(self, sample):
        time.sleep(0.02)
        return sample
"""


def through(board: LoopbackBoard, relay: Relay) -> Device:
    """The board by way of the relay, whose port known_hosts has never heard of."""
    return dataclasses.replace(board.device(), port=relay.port, known_hosts=None, host_key=board.fingerprint)


def soon() -> Deadline:
    return Deadline.after(60)


@pytest.fixture
def nobody_there() -> int:
    """A port where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- reaching it ---


def test_a_dead_host_is_tried_again_and_then_told(board: LoopbackBoard, nobody_there: int):
    with pytest.raises(ConnectionLost) as lost:
        Ssh(dataclasses.replace(board.device("pi5-lab"), port=nobody_there), Deadline.after(10))
    assert f":{nobody_there}: refused: nothing listens there." in lost.value.what
    assert lost.value.what.startswith("pi5-lab: ssh to ")
    assert "Is sshd running on the board" in lost.value.next_step
    assert lost.value.exit_code == 3


def test_a_host_that_is_silent_is_given_up_at_the_deadline(board: LoopbackBoard, relay: Relay):
    relay.silent = True
    start = time.monotonic()
    with pytest.raises(ConnectionLost, match="no answer in time") as lost:
        Ssh(through(board, relay), Deadline.after(1.5))
    assert time.monotonic() - start < 15
    assert "Is the board on and on the network?" in lost.value.next_step


def test_a_host_that_is_just_starting_is_reached_at_the_third_attempt(board: LoopbackBoard, relay: Relay):
    relay.drop_next = 2
    with Ssh(through(board, relay), Deadline.after(30)) as ssh:
        assert ssh.run(["true"], soon()).exit_status == 0
    assert relay.accepted == 3


def test_a_name_that_does_not_exist_is_told_at_once(board: LoopbackBoard):
    with pytest.raises(BoardError, match=r"the name 'no-such-board\.invalid' is not known") as refused:
        Ssh(dataclasses.replace(board.device(), host="no-such-board.invalid"), soon())
    assert "Check `host:` in devices.yaml" in refused.value.next_step


def test_a_wrong_key_is_refused_once_and_never_tried_again(board: LoopbackBoard, relay: Relay, tmp_path: Path):
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(tmp_path / "other")
    device = dataclasses.replace(through(board, relay), identity_file=tmp_path / "other")
    with pytest.raises(BoardError, match=r"the board refused the login of \w+ with .*/other\.") as refused:
        Ssh(device, soon())
    assert f"`ssh-copy-id -p {relay.port} {device.user}@127.0.0.1`" in refused.value.next_step
    assert "edgesmith never asks for a password" in refused.value.next_step
    assert relay.accepted == 1


def test_an_encrypted_key_is_not_asked_for(board: LoopbackBoard, tmp_path: Path):
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(tmp_path / "locked", format_name="pkcs8-pem", passphrase="secret")
    with pytest.raises(BoardError, match=r"must be in ssh-agent"):
        Ssh(dataclasses.replace(board.device(), identity_file=tmp_path / "locked"), soon())


def test_a_key_file_that_is_no_key_is_the_users_to_mend(board: LoopbackBoard, tmp_path: Path):
    (tmp_path / "key").write_text("no key")
    with pytest.raises(ConfigError, match=r"/key or a file of ~/\.ssh cannot be used: Invalid private key\."):
        Ssh(dataclasses.replace(board.device(), identity_file=tmp_path / "key"), soon())


def test_an_unknown_host_key_is_shown_with_how_to_trust_it(board: LoopbackBoard, tmp_path: Path):
    (tmp_path / "empty").touch()
    with pytest.raises(BoardError) as refused:
        Ssh(dataclasses.replace(board.device("pi5-lab"), known_hosts=tmp_path / "empty"), soon())
    assert f"its host key is not known: ssh-ed25519 {board.fingerprint}." in refused.value.what
    assert "`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`" in refused.value.next_step
    assert f"`host_key: {board.fingerprint}` for 'pi5-lab' in devices.yaml" in refused.value.next_step


def test_a_changed_host_key_shows_both_and_is_refused(board: LoopbackBoard):
    old = board.fingerprint
    board.new_host_key()
    with pytest.raises(BoardError) as refused:
        Ssh(board.device(), soon())
    assert f"THE HOST KEY HAS CHANGED. Trusted: {old}. Shown now: {board.fingerprint}." in refused.value.what
    assert f"ssh-keygen -R '[127.0.0.1]:{board.port}'" in refused.value.next_step


def test_a_pinned_host_key_that_changed_is_refused_too(board: LoopbackBoard):
    device = dataclasses.replace(board.device(), known_hosts=None, host_key=board.fingerprint)
    board.new_host_key()
    with pytest.raises(BoardError) as refused:
        Ssh(device, soon())
    assert f"Trusted: {device.host_key}. Shown now: {board.fingerprint}." in refused.value.what
    assert f"write `host_key: {board.fingerprint}`" in refused.value.next_step


# --- losing it ---


class DropIn(Silent):
    """Pulls the plug when the measurement is in a window."""

    def __init__(self, drop: Callable[[], None]) -> None:
        self._drop = drop

    @contextlib.contextmanager
    def task(self, label: str, total: float | None = None) -> Iterator[Task]:
        with super().task(label, total) as silent:
            yield self if label.startswith("measure") else silent

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        del amount
        if note.startswith("window"):
            self._drop()


def test_a_link_cut_mid_run_is_told_and_nothing_stays_on_the_board(board: LoopbackBoard, tmp_path: Path):
    agent = build_agent({"runners/slow.py": SLOW})
    long = dataclasses.replace(QUICK, min_seconds=300.0, windows=100)
    with (
        pytest.raises(ConnectionLost, match=r"the connection to .* was lost") as lost,
        BoardSession(board.device(), local_root=tmp_path, progress=DropIn(board.drop), agent=agent) as session,
    ):
        session.measure([artifact("dense.onnx", "slow")], X, long)
    assert "Run again: what was done is kept" in lost.value.next_step
    for pid in (board.home / "pids").read_text().split():
        wait_gone(int(pid))
    assert not [p for p in (board.home / "edgesmith" / "work").iterdir() if p.is_dir()]


def test_a_link_that_goes_half_open_is_noticed(board: LoopbackBoard, relay: Relay):
    with Ssh(through(board, relay), soon(), options=LIVELY) as ssh:
        process = ssh.spawn(["cat"], soon())
        process.send(b"hello", soon())
        assert process.receive(soon()) == b"hello"
        relay.stalled = True
        with pytest.raises(ConnectionLost, match="was lost"):
            process.receive(soon())
        with pytest.raises(ConnectionLost, match="was lost"):
            ssh.run(["true"], soon())


def test_an_upload_that_is_cut_leaves_nothing_that_looks_whole_and_is_gone_on_with(
    board: LoopbackBoard, relay: Relay, tmp_path: Path
):
    (tmp_path / "big").write_bytes(os.urandom(4 << 20))
    sha256 = sha256_file(tmp_path / "big")
    with (
        pytest.raises(ConnectionLost, match=r"sending big: the connection to .* was lost"),
        BoardSession(through(board, relay), local_root=tmp_path / "here", progress=Silent()) as session,
    ):
        relay.cut_after = 1 << 20
        session.push(tmp_path / "big", sha256)
    assert not (board.home / "edgesmith" / "blobs" / sha256).exists()
    with BoardSession(board.device(), local_root=tmp_path / "here", progress=Silent()) as session:
        assert session.push(tmp_path / "big", sha256) < 4 << 20
    assert sha256_file(board.home / "edgesmith" / "blobs" / sha256) == sha256


def test_a_transfer_over_a_half_open_link_ends(board: LoopbackBoard, relay: Relay, tmp_path: Path):
    (tmp_path / "big").write_bytes(os.urandom(4 << 20))

    def stall(amount: int) -> None:
        relay.stalled = True

    with (
        Ssh(through(board, relay), soon(), options=LIVELY) as ssh,
        pytest.raises(ConnectionLost, match="was lost"),
    ):
        ssh.put(tmp_path / "big", f"{board.device().workdir}/big", soon(), stall)


def test_one_board_that_is_lost_leaves_the_other_alone(tmp_path: Path):
    with (
        InProcessBoard(tmp_path / "a") as one,
        InProcessBoard(tmp_path / "b") as two,
        Ssh(one.device(), soon()) as first,
        Ssh(two.device(), soon()) as second,
    ):
        one.drop()
        with pytest.raises(ConnectionLost):
            first.run(["true"], soon())
        assert second.run(["true"], soon()).exit_status == 0


# --- what arrives ---


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[InProcessBoard]:
    with InProcessBoard(tmp_path / "board") as board:
        yield board


def test_an_artifact_that_arrives_damaged_is_refused_and_removed(faulty: InProcessBoard, tmp_path: Path):
    model = artifact("dense.onnx", "onnx")
    with BoardSession(faulty.device(), local_root=tmp_path / "here", progress=Silent()) as session:
        faulty.flip = True
        with pytest.raises(BoardError, match=r"dense\.onnx: the upload arrived damaged and was removed: sha256 "):
            session.push(model.path, model.sha256)
        faulty.flip = False
        assert session.push(model.path, model.sha256) == model.size_bytes


def test_an_agent_that_arrives_damaged_is_never_started(faulty: InProcessBoard, tmp_path: Path):
    faulty.flip = True
    with (
        pytest.raises(BoardError, match=r"the agent arrived damaged in edgesmith\.\nThe board's disk may be full"),
        BoardSession(faulty.device(), local_root=tmp_path / "here", progress=Silent()),
    ):
        raise AssertionError
    assert not list((faulty.home / "edgesmith").rglob("*.zip"))


def test_too_little_room_is_told_before_anything_is_sent(faulty: InProcessBoard, tmp_path: Path):
    (tmp_path / "big").write_bytes(bytes(5000))
    faulty.free_bytes = 4999
    with Ssh(faulty.device(), soon()) as ssh, pytest.raises(BoardError) as refused:
        ssh.put(tmp_path / "big", "edgesmith/big", soon())
    assert "no space left on the board: big has 5,000 bytes, 4,999 are free in edgesmith." in refused.value.what
    assert "set `workdir:` in devices.yaml" in refused.value.next_step
    assert list((faulty.home / "edgesmith").iterdir()) == []


def test_a_disk_that_fills_up_on_the_way_is_recognised(faulty: InProcessBoard, tmp_path: Path):
    """sshd says no more than "Failure"."""
    (tmp_path / "big").write_bytes(bytes(200_000))
    faulty.fail_after = 100_000
    with Ssh(faulty.device(), soon()) as ssh:
        with pytest.raises(BoardError, match="no space left on the board: big has 200,000 bytes, 0 are free"):
            ssh.put(tmp_path / "big", "edgesmith/big", soon())
        assert list((faulty.home / "edgesmith").iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(board: LoopbackBoard, tmp_path: Path):
    (tmp_path / "file").write_bytes(b"x")
    (board.home / "edgesmith" / "file" / "inside").mkdir(parents=True)
    with Ssh(board.device(), soon()) as ssh, pytest.raises(BoardError) as refused:
        ssh.put(tmp_path / "file", f"{board.device().workdir}/file", soon())
    assert "board: file could not be written to " in refused.value.what
    assert "may this user write there?" in refused.value.next_step
    assert not list(board.home.rglob("*.part"))


@pytest.mark.sshd
@pytest.mark.skipif(os.getuid() != 0, reason="a disk of its own needs root")
@pytest.mark.parametrize(
    ("prepare", "text"),
    [
        ("mount -t tmpfs -o size=1m tmpfs {home}", "no space left on the board: big has 3,000,000 bytes, 1,0"),
        ("mount --bind {home} {home}; mount -o remount,bind,ro {home}", "is on a read-only file system"),
    ],
)
def test_a_real_disk_that_is_full_or_read_only(tmp_path: Path, prepare: str, text: str):
    (tmp_path / "big").write_bytes(os.urandom(3_000_000))
    with folder_for_boards() as folder:
        home = folder / "board" / "home"
        with (
            SshdBoard(folder / "board", prepare=prepare.format(home=home)) as board,
            Ssh(board.device(), soon()) as ssh,
            pytest.raises(BoardError) as refused,
        ):
            ssh.put(tmp_path / "big", f"{home}/big", soon())
    assert text in refused.value.what


@pytest.mark.sshd
def test_a_board_without_sftp_says_what_its_sshd_needs(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"x")
    with (
        folder_for_boards() as folder,
        SshdBoard(folder / "board", options=["Subsystem sftp /bin/false"]) as board,
        Ssh(board.device(), soon()) as ssh,
        pytest.raises(BoardError, match="the board gives no SFTP") as refused,
    ):
        ssh.put(tmp_path / "file", "file", soon())
    assert "`Subsystem sftp internal-sftp`" in refused.value.next_step


# --- what runs there ---


def test_a_missing_python_is_told(board: LoopbackBoard, tmp_path: Path):
    device = dataclasses.replace(board.device(), python="python9")
    with pytest.raises(BoardError, match=r"'python9' is not there or not executable \(exit status 127\)") as refused:
        BoardSession(device, local_root=tmp_path, progress=Silent()).__enter__()
    assert "`python:` in devices.yaml" in refused.value.next_step


def started(connection: Ssh, board: LoopbackBoard, agent: AgentZip) -> AgentClient:
    path = board.home / "agent.zip"
    path.write_bytes(agent.content)
    process = connection.spawn([board.device().python, "-u", str(path)], soon())
    return AgentClient(process, "board", grace_s=0.0)


def replaced(main: str) -> AgentZip:
    return build_agent({"__main__.py": f"import sys, time\n\ndef main():\n    {main}\n".encode()})


def test_an_agent_that_hangs_is_a_deadline_with_its_log(board: LoopbackBoard):
    agent = replaced("print('edgesmith-agent 1'); sys.stderr.write('thinking\\n'); sys.stderr.flush(); time.sleep(60)")
    with Ssh(board.device(), soon()) as ssh:
        client = started(ssh, board, agent)
        client.wait_until_ready(soon())
        with pytest.raises(DeadlineExceeded, match=r"no answer to 'hello' in time\.\nIts last lines:\n    thinking"):
            client.call("hello", {}, Deadline.after(0.5))


def test_an_agent_that_dies_is_told_with_its_last_lines(board: LoopbackBoard):
    with Ssh(board.device(), soon()) as ssh:
        client = started(ssh, board, replaced("sys.exit('no such luck')"))
        with pytest.raises(BoardError, match=r"ended with exit status 1\.\nIts last lines:\n    no such luck"):
            client.wait_until_ready(soon())


def test_an_agent_of_another_protocol_is_told(board: LoopbackBoard):
    with Ssh(board.device(), soon()) as ssh:
        client = started(ssh, board, replaced("print('edgesmith-agent 99'); sys.stdin.read()"))
        with pytest.raises(BoardError, match="the agent there says 'edgesmith-agent 99', this edgesmith speaks protoc"):
            client.wait_until_ready(soon())


def test_an_agent_that_babbles_is_told(board: LoopbackBoard):
    with Ssh(board.device(), soon()) as ssh:
        client = started(ssh, board, replaced("print('edgesmith-agent 1'); print('[1, 2]'); sys.stdin.read()"))
        client.wait_until_ready(soon())
        with pytest.raises(BoardError, match=r"the agent's line is no answer: b'\[1, 2\]'"):
            client.call("hello", {}, soon())


def test_after_every_fault_the_next_session_works(board: LoopbackBoard, tmp_path: Path):
    agent = build_agent({"runners/slow.py": SLOW})
    with (
        contextlib.suppress(ConnectionLost),
        BoardSession(board.device(), local_root=tmp_path, progress=DropIn(board.drop), agent=agent) as session,
    ):
        session.measure([artifact("dense.onnx", "slow")], X, QUICK)
    with BoardSession(board.device(), local_root=tmp_path, progress=Silent(), agent=agent) as session:
        (found,) = session.measure([artifact("dense.onnx", "onnx")], X, QUICK)
    assert isinstance(found, Measurement)
