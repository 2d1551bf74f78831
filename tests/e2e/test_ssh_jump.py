"""Boards behind other hosts: each hop is trusted by itself, and named where it fails."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest

from device_tests import ssh_login
from device_tests.deadline import Deadline
from device_tests.loopback import InProcessBoard, LoopbackBoard, folder_for_boards
from device_tests.loopback_sshd import SshdBoard, why_no_sshd
from device_tests.ssh import Ssh
from device_tests.ssh_loop import ssh_loop
from edgesmith.errors import BoardError, ConfigError, ConnectionLost
from edgesmith.types import Device


def soon() -> Deadline:
    return Deadline.after(30)


@pytest.fixture
def bastion(board: LoopbackBoard, tmp_path: Path) -> Iterator[LoopbackBoard]:
    """A second host of the same kind as `board`."""
    with folder_for_boards() as folder, type(board)(folder / "bastion") as running:  # type: ignore[call-arg]
        yield running


@pytest.fixture
def outer(tmp_path: Path) -> Iterator[InProcessBoard]:
    """A third one."""
    with InProcessBoard(tmp_path / "outer") as running:
        yield running


def through(board: LoopbackBoard, *hops: LoopbackBoard) -> Device:
    """The board by way of hosts of the inventory, the nearest to us first."""
    jump: Device | str = ""
    for number, hop in enumerate(hops):
        jump = dataclasses.replace(hop.device(f"hop{number}"), jump=jump)
    return dataclasses.replace(board.device("pi5"), jump=jump)


def write_config(tmp_path: Path, text: str) -> Path:
    folder = tmp_path / "nobody" / ".ssh"
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "config").write_text(text)
    return folder


def entry(name: str, board: LoopbackBoard, *lines: str) -> str:
    """An entry of ~/.ssh/config."""
    device = board.device()
    settings = [
        f"Host {name}",
        "HostName 127.0.0.1",
        f"Port {board.port}",
        f"User {device.user}",
        f"IdentityFile {device.identity_file}",
        f"UserKnownHostsFile {device.known_hosts}",
        *lines,
    ]
    return "\n  ".join(settings) + "\n"


def alias(name: str = "board") -> Device:
    return Device(name="pi5", transport="ssh", host=name)


def nobody_there() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def connections(board: InProcessBoard) -> int:
    return len(board._connections)


# --- by the inventory ---


def test_over_a_host_of_the_inventory(board: LoopbackBoard, bastion: LoopbackBoard, tmp_path: Path):
    (tmp_path / "file").write_bytes(b"x" * 300_000)
    with Ssh(through(board, bastion), soon()) as ssh:
        assert ssh.run(["echo", "there"], soon()).stdout == b"there\n"
        assert ssh.put(tmp_path / "file", f"{board.home}/file", soon()) == 300_000
    assert (board.home / "file").stat().st_size == 300_000


def test_over_two_hosts_each_with_a_pin_of_its_own(board: LoopbackBoard, bastion: LoopbackBoard, outer: InProcessBoard):
    device = through(board, outer, bastion)
    inner = device.jump
    assert isinstance(inner, Device)
    pinned = dataclasses.replace(inner, known_hosts=None, host_key=bastion.fingerprint)
    with Ssh(dataclasses.replace(device, jump=pinned), soon()) as ssh:
        assert ssh.run(["true"], soon()).exit_status == 0


def test_closing_closes_every_hop(outer: InProcessBoard, tmp_path: Path):
    with InProcessBoard(tmp_path / "inner") as inner:
        with Ssh(through(inner, outer), soon()):
            assert (connections(inner), connections(outer)) == (1, 1)
        _until_none(inner, outer)
        with pytest.raises(BoardError):
            Ssh(dataclasses.replace(through(inner, outer), host_key="SHA256:" + 43 * "A", known_hosts=None), soon())
        _until_none(inner, outer)


def _until_none(*boards: InProcessBoard) -> None:
    end = Deadline.after(10)
    while any(connections(board) for board in boards):
        end.check("waiting for connections to end")
        time.sleep(0.02)


def test_a_hop_that_is_lost_loses_the_board(outer: InProcessBoard, tmp_path: Path):
    with InProcessBoard(tmp_path / "inner") as inner, Ssh(through(inner, outer), soon()) as ssh:
        process = ssh.spawn(["cat"], soon())
        outer.drop()
        with pytest.raises(ConnectionLost, match="was lost"):
            process.receive(soon())


def test_a_hop_with_another_key_is_refused_and_named(board: LoopbackBoard, bastion: LoopbackBoard):
    device = through(board, bastion)
    old = bastion.fingerprint
    bastion.new_host_key()
    with pytest.raises(BoardError) as refused:
        Ssh(device, soon())
    user = device.user
    assert refused.value.what.startswith(
        f"pi5: by way of hop0: ssh to {user}@127.0.0.1:{bastion.port}: THE HOST KEY HAS CHANGED. Trusted: {old}."
    )
    assert f"`host_key: {bastion.fingerprint}` for 'hop0' in devices.yaml" in refused.value.next_step


def test_a_hop_that_refuses_the_login_is_named(board: LoopbackBoard, bastion: LoopbackBoard, tmp_path: Path):
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(tmp_path / "other")
    device = through(board, bastion)
    wrong = dataclasses.replace(device.jump, identity_file=tmp_path / "other")  # type: ignore[type-var]
    with pytest.raises(BoardError, match=r"pi5: by way of hop0: ssh to .*: the board refused the login of"):
        Ssh(dataclasses.replace(device, jump=wrong), soon())


def test_a_hop_that_is_down_is_named(board: LoopbackBoard):
    hop = dataclasses.replace(board.device("bastion"), port=nobody_there())
    with pytest.raises(ConnectionLost, match=r"pi5: by way of bastion: ssh to .*: refused: nothing listens there"):
        Ssh(dataclasses.replace(board.device("pi5"), jump=hop), Deadline.after(1))


def test_a_board_that_its_hop_does_not_reach_is_told(board: LoopbackBoard, bastion: LoopbackBoard):
    device = dataclasses.replace(through(board, bastion), port=nobody_there())
    with pytest.raises(ConnectionLost) as lost:
        Ssh(device, Deadline.after(1))
    assert f"127.0.0.1:{device.port} by way of hop0: hop0 does not reach it: " in lost.value.what
    assert "those that the jump host sees" in lost.value.next_step


@pytest.mark.sshd
def test_a_hop_that_passes_nothing_on_is_told(tmp_path: Path, nobodys_ssh_setup: None):
    if why := why_no_sshd():
        pytest.fail(why)
    with (
        folder_for_boards() as folder,
        SshdBoard(folder / "board") as board,
        SshdBoard(folder / "closed", options=["AllowTcpForwarding no"]) as closed,
        pytest.raises(BoardError, match="by way of hop0: hop0 passes no connections on: ") as refused,
    ):
        Ssh(through(board, closed), soon())
    assert "sshd_config on hop0 needs `AllowTcpForwarding yes`" in refused.value.next_step


def test_the_board_behind_a_hop_is_checked_too(board: LoopbackBoard, bastion: LoopbackBoard, tmp_path: Path):
    (tmp_path / "empty").touch()
    device = dataclasses.replace(through(board, bastion), known_hosts=tmp_path / "empty")
    with pytest.raises(BoardError) as refused:
        Ssh(device, soon())
    assert " by way of hop0: its host key is not known: ssh-ed25519 " in refused.value.what
    assert board.fingerprint in refused.value.what


def test_the_key_of_a_board_behind_a_hop_can_be_asked_for(board: LoopbackBoard, bastion: LoopbackBoard):
    found = ssh_loop().call(ssh_login.host_key(through(board, bastion), soon(), {}), soon(), "asking")
    assert found.fingerprint == board.fingerprint
    assert found.known == (board.fingerprint,)


def test_a_silent_hop_is_the_one_that_is_named(board: LoopbackBoard):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hop = dataclasses.replace(board.device("bastion"), port=silent.getsockname()[1])
        with pytest.raises(ConnectionLost, match=r"pi5: by way of bastion: ssh to .*: no answer in time"):
            Ssh(dataclasses.replace(board.device("pi5"), jump=hop), Deadline.after(1))


# --- by address, and by ~/.ssh/config ---


def test_over_an_address_whose_key_the_users_own_setup_knows(
    board: LoopbackBoard, bastion: LoopbackBoard, tmp_path: Path
):
    hop = bastion.device()
    write_config(
        tmp_path,
        f"Host 127.0.0.1\n  IdentityFile {hop.identity_file}\n  UserKnownHostsFile {hop.known_hosts}\n",
    )
    device = dataclasses.replace(board.device(), jump=f"{hop.user}@127.0.0.1:{bastion.port}")
    with Ssh(device, soon()) as ssh:
        assert ssh.run(["true"], soon()).exit_status == 0


@pytest.mark.parametrize("jump", ["a@b:x", "@x", "a@b:0", "-oProxyCommand=x", "$(x)"])
def test_an_address_that_is_none_is_refused(board: LoopbackBoard, jump: str):
    with pytest.raises(ConfigError, match=r"board: its jump host .* must"):
        Ssh(dataclasses.replace(board.device(), jump=jump), soon())


def test_proxy_jump_over_one_host(board: LoopbackBoard, bastion: LoopbackBoard, tmp_path: Path):
    write_config(tmp_path, entry("bastion", bastion) + entry("board", board, "ProxyJump bastion"))
    with Ssh(alias(), soon()) as ssh:
        assert ssh.run(["true"], soon()).exit_status == 0


def test_proxy_jump_over_two_hosts(board: LoopbackBoard, bastion: LoopbackBoard, outer: InProcessBoard, tmp_path: Path):
    """The first of a list may have a ProxyJump of its own; the second is reached over the first."""
    write_config(
        tmp_path, entry("bastion", bastion) + entry("outer", outer) + entry("board", board, "ProxyJump outer,bastion")
    )
    with Ssh(alias(), soon()) as ssh:
        assert ssh.run(["true"], soon()).exit_status == 0
        assert connections(outer) == 1


def test_proxy_jump_of_a_jump_host(board: LoopbackBoard, bastion: LoopbackBoard, outer: InProcessBoard, tmp_path: Path):
    write_config(
        tmp_path,
        entry("bastion", bastion, "ProxyJump outer")
        + entry("outer", outer)
        + entry("board", board, "ProxyJump bastion"),
    )
    with Ssh(alias(), soon()) as ssh:
        assert ssh.run(["true"], soon()).exit_status == 0
        assert connections(outer) == 1


@pytest.mark.parametrize("setting", ["UserKnownHostsFile none", "StrictHostKeyChecking no"])
def test_an_unknown_hop_of_the_config_is_refused_with_its_fingerprint(
    board: LoopbackBoard, bastion: LoopbackBoard, tmp_path: Path, setting: str
):
    """asyncssh alone would take "none" for a reason to check nothing on the way."""
    write_config(
        tmp_path,
        f"Host bastion\n  HostName 127.0.0.1\n  Port {bastion.port}\n  {setting}\n"
        f"  IdentityFile {bastion.device().identity_file}\n" + entry("board", board, "ProxyJump bastion"),
    )
    with pytest.raises(BoardError) as refused:
        Ssh(alias(), soon())
    assert refused.value.what.startswith("pi5: by way of bastion: ssh to bastion: its host key is not known: ")
    assert bastion.fingerprint in refused.value.what
    assert "make it a device of devices.yaml" in refused.value.next_step


def test_jump_hosts_that_lead_round_in_a_circle_are_refused(
    board: LoopbackBoard, bastion: LoopbackBoard, tmp_path: Path
):
    write_config(tmp_path, "Host *\n  ProxyJump bastion\n" + entry("bastion", bastion) + entry("board", board))
    with pytest.raises(ConfigError, match="round in a circle: pi5 -> bastion -> bastion") as refused:
        Ssh(alias(), soon())
    assert "ProxyJump below `Host *`" in refused.value.next_step


def test_none_switches_proxy_jump_off(board: LoopbackBoard, tmp_path: Path):
    write_config(tmp_path, entry("board", board, "ProxyJump nowhere"))
    with Ssh(dataclasses.replace(alias(), jump="none"), soon()) as ssh:
        assert ssh.run(["true"], soon()).exit_status == 0


# --- ProxyCommand ---

RELAY = """
import os, socket, sys, threading
link = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def up():
    while data := os.read(0, 65536):
        link.sendall(data)
    link.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
while data := link.recv(65536):
    os.write(1, data)
"""


@pytest.fixture
def relay_command(board: LoopbackBoard, tmp_path: Path) -> str:
    (tmp_path / "relay.py").write_text(RELAY)
    return f"{board.device().python} {tmp_path}/relay.py %h %p"


def test_a_proxy_command_is_run_as_ssh_runs_it(board: LoopbackBoard, tmp_path: Path, relay_command: str):
    """By a shell; what it complains of is no part of the conversation."""
    command = f"ProxyCommand sh -c 'echo hello >&2; exec {relay_command}'"
    write_config(tmp_path, entry("board", board, command))
    with Ssh(alias(), soon()) as ssh:
        assert ssh.run(["true"], soon()).exit_status == 0


def test_a_proxy_command_that_fails_is_told(board: LoopbackBoard, tmp_path: Path):
    write_config(tmp_path, entry("board", board, "ProxyCommand false"))
    with pytest.raises(ConnectionLost, match="pi5: ssh to board: "):
        Ssh(alias(), Deadline.after(1))


@pytest.mark.parametrize("field", ["host", "user"])
def test_no_name_reaches_the_shell_of_a_proxy_command(
    board: LoopbackBoard, tmp_path: Path, relay_command: str, field: str
):
    write_config(tmp_path, f"Host *\n  ProxyCommand touch {tmp_path}/ran %n %h %r; {relay_command}\n")
    device = dataclasses.replace(alias(), **{field: f"$(touch {tmp_path}/broken)"})
    with pytest.raises(ConfigError, match=r"with a ProxyCommand, host and user must not hold"):
        Ssh(device, soon())
    assert not (tmp_path / "broken").exists()
    assert not (tmp_path / "ran").exists()


@pytest.mark.sshd
def test_ssh_itself_as_a_proxy_command(board: LoopbackBoard, bastion: LoopbackBoard, tmp_path: Path):
    folder = write_config(tmp_path, "")
    (folder / "hop").write_text(entry("bastion", bastion))
    write_config(tmp_path, entry("board", board, f"ProxyCommand ssh -F {folder}/hop -W %h:%p bastion"))
    with Ssh(alias(), soon()) as ssh:
        assert ssh.run(["true"], soon()).exit_status == 0


def test_the_loop_is_not_held_up_by_a_hop(board: LoopbackBoard):
    """While one board's jump host is silent, another board is reached."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hop = dataclasses.replace(board.device("bastion"), port=silent.getsockname()[1])

        async def both() -> None:
            slow = asyncio.create_task(
                ssh_login.log_in(dataclasses.replace(board.device(), jump=hop), Deadline.after(20), {})
            )
            connection = await ssh_login.log_in(board.device(), Deadline.after(20), {})
            assert not slow.done()
            slow.cancel()
            await asyncio.gather(slow, return_exceptions=True)
            connection.abort()

        ssh_loop().call(both(), soon(), "both")
