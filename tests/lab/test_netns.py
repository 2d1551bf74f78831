"""The lab of boards in network namespaces: what it is for works, and nothing of it stays."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from device_tests.deadline import Deadline
from device_tests.ssh import Ssh
from edgesmith.errors import ConnectionLost
from tests.lab import netns
from tests.lab.netns import NetnsLab

pytestmark = pytest.mark.netns

MakeLab = Callable[[int], NetnsLab]


def soon() -> Deadline:
    return Deadline.after(60)


def interfaces() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


def test_each_board_has_an_address_and_a_name_of_its_own(netns_lab: MakeLab):
    lab = netns_lab(2)
    seen = set()
    for number, board in enumerate(lab.boards, start=1):
        assert board.device().host == f"10.77.{number}.2"
        with Ssh(board.device(), soon()) as ssh:
            seen.add(ssh.run(["readlink", "/proc/self/ns/net"], soon()).stdout)
    assert len(seen) == 2


def test_processes_that_a_test_starts_are_in_the_lab_too(netns_lab: MakeLab):
    lab = netns_lab(1)
    (host, port) = lab.boards[0].device().host, lab.boards[0].port
    connect = f"import socket; print(socket.create_connection(({host!r}, {port}), 10).recv(4))"
    done = subprocess.run([sys.executable, "-c", connect], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "b'SSH-'"


def test_a_cable_that_is_pulled_out_cuts_one_board_off(netns_lab: MakeLab):
    lab = netns_lab(2)
    one, two = (board.device() for board in lab.boards)
    lab.cut(1)
    with pytest.raises(ConnectionLost):
        Ssh(one, Deadline.after(2))
    with Ssh(two, soon()) as ssh:
        assert ssh.run(["true"], soon()).exit_status == 0
    lab.mend(1)
    with Ssh(one, soon()) as ssh:
        assert ssh.run(["true"], soon()).exit_status == 0


def test_a_half_open_link_is_noticed_and_can_be_mended(netns_lab: MakeLab):
    lab = netns_lab(1)
    device = lab.boards[0].device()
    with Ssh(device, soon(), options={"keepalive_interval": 0.3, "keepalive_count_max": 2}) as ssh:
        lab.drop(1)
        with pytest.raises(ConnectionLost, match="was lost"):
            ssh.run(["sleep", "600"], soon())
    lab.undrop(1)
    with Ssh(device, soon()) as ssh:
        assert ssh.run(["true"], soon()).exit_status == 0


def test_a_slow_link_still_carries_every_byte(netns_lab: MakeLab, tmp_path: Path):
    lab = netns_lab(1)
    board = lab.boards[0]
    content = os.urandom(200_000)
    (tmp_path / "model").write_bytes(content)
    lab.shape(1, "8mbit")
    with Ssh(board.device(), soon()) as ssh:
        ssh.put(tmp_path / "model", f"{board.home}/model", soon())
        assert (board.home / "model").read_bytes() == content
        lab.unshape(1)
        assert ssh.run(["true"], soon()).exit_status == 0


def test_this_machines_own_network_is_not_touched_and_nothing_stays(tmp_path: Path, netns_lab: MakeLab):
    """`netns_lab` only decides whether there can be a lab here."""
    before = (interfaces(), Path("/proc/thread-self/ns/net").readlink(), set(netns._namespaces()))
    folder = tmp_path / "lab"
    with NetnsLab(folder, 2) as lab:
        assert Path("/proc/thread-self/ns/net").readlink() != before[1]
        listening = [board._process.pid for board in lab.boards if board._process]
    assert (interfaces(), Path("/proc/thread-self/ns/net").readlink(), set(netns._namespaces())) == before
    assert len(listening) == 2
    assert not [pid for pid in listening if Path("/proc", str(pid)).exists()]


def test_what_a_killed_run_left_is_swept_and_what_a_living_one_has_is_not(netns_lab: MakeLab):
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    left, living = f"edgesmith-{int(ended.stdout)}-1-board1", f"edgesmith-{os.getpid()}-999-lab"
    for name in (left, living):
        netns._ip("netns", "add", name)
    orphan = subprocess.Popen(["ip", "netns", "exec", left, "sleep", "600"])
    try:
        while not netns._run("ip", "netns", "pids", left):
            assert orphan.poll() is None
        netns.sweep()
        assert left not in netns._namespaces()
        assert living in netns._namespaces()
        assert orphan.wait(10) == -9
    finally:
        orphan.kill()
        orphan.wait()
        netns._remove(living)


def test_a_lab_that_cannot_be_built_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, netns_lab: MakeLab):
    before = set(netns._namespaces())

    def broken(self: NetnsLab, number: int, name: str) -> None:
        netns._ip("-n", name, "link", "add", "nonsense")

    monkeypatch.setattr(NetnsLab, "_connect", broken)
    with pytest.raises(RuntimeError, match=r"ip -n edgesmith-\d+-\d+-board1 link add nonsense: "):
        NetnsLab(tmp_path / "lab", 1).__enter__()
    assert set(netns._namespaces()) == before
