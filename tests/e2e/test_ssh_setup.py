"""The user's own SSH set-up is honoured: ~/.ssh/config, known_hosts in all its forms, the agent. Nobody is asked."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import hashlib
import hmac
import json
import os
import pty
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import asyncssh
import pytest

from device_tests.deadline import Deadline
from device_tests.loopback import InProcessBoard, LoopbackBoard, folder_for_boards
from device_tests.loopback_sshd import SshdBoard
from device_tests.ssh import Ssh
from edgesmith.errors import BoardError
from edgesmith.types import Device


def soon() -> Deadline:
    return Deadline.after(30)


@pytest.fixture
def home(board: LoopbackBoard, tmp_path: Path) -> Path:
    """~/.ssh of the user."""
    folder = tmp_path / "nobody" / ".ssh"
    folder.mkdir(mode=0o700)
    return folder


def works(device: Device) -> None:
    with Ssh(device, soon()) as ssh:
        assert ssh.run(["true"], soon()).exit_status == 0


def public_line(board: LoopbackBoard) -> str:
    keys = board.keys  # type: ignore[attr-defined]
    return str((keys.folder / "host_key.pub").read_text().strip())


# --- config ---


def test_included_files_and_patterns(board: LoopbackBoard, home: Path):
    device = board.device()
    (home / "conf.d").mkdir()
    (home / "config").write_text("Include conf.d/*\nHost *\n  User nobody-else\n")
    (home / "conf.d" / "lab").write_text(
        f"Host lab-* !lab-3\n  HostName 127.0.0.1\n  User {device.user}\n"
        f"Match originalhost lab-1\n  Port {board.port}\n  IdentityFile {device.identity_file}\n"
        f"  UserKnownHostsFile {device.known_hosts}\n"
    )
    works(Device(name="pi", transport="ssh", host="lab-1"))


def test_a_host_key_alias(board: LoopbackBoard, home: Path):
    """Boards that take turns behind one address, each with a name of its own in known_hosts."""
    device = board.device()
    (home / "known_hosts").write_text(f"[bench-pi]:{board.port} {public_line(board)}\n")
    (home / "config").write_text("Host *\n  HostKeyAlias bench-pi\n")
    works(dataclasses.replace(device, known_hosts=None))


def test_what_the_inventory_says_wins(board: LoopbackBoard, home: Path):
    device = board.device()
    (home / "config").write_text("Host 127.0.0.1\n  User nobody-else\n  Port 1\n  IdentityFile /nowhere\n")
    works(device)


# --- known_hosts ---


def test_hashed_names(board: LoopbackBoard, tmp_path: Path):
    salt = os.urandom(20)
    digest = hmac.new(salt, f"[127.0.0.1]:{board.port}".encode(), hashlib.sha1).digest()
    name = f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"
    (tmp_path / "hashed").write_text(f"{name} {public_line(board)}\n")
    works(dataclasses.replace(board.device(), known_hosts=tmp_path / "hashed"))


def test_a_revoked_key_is_refused_though_it_is_known(board: LoopbackBoard, tmp_path: Path):
    line = f"[127.0.0.1]:{board.port} {public_line(board)}\n"
    (tmp_path / "revoked").write_text(f"{line}@revoked * {public_line(board)}\n")
    with pytest.raises(BoardError, match="its host key cannot be trusted: Host key is revoked") as refused:
        Ssh(dataclasses.replace(board.device(), known_hosts=tmp_path / "revoked"), soon())
    assert "may be in other hands" in refused.value.next_step


@pytest.fixture
def certified(board: LoopbackBoard, tmp_path: Path) -> Iterator[Callable[[Sequence[str]], LoopbackBoard]]:
    """A board of the same kind whose host key an authority has signed for some names."""
    authority = asyncssh.generate_private_key("ssh-ed25519")
    authority.write_public_key(tmp_path / "authority.pub")
    with contextlib.ExitStack() as stack:

        def made(principals: Sequence[str]) -> LoopbackBoard:
            folder = stack.enter_context(folder_for_boards()) / "certified"
            certificate = folder / "host_key-cert.pub"
            if isinstance(board, SshdBoard):
                running: LoopbackBoard = SshdBoard(folder, options=[f"HostCertificate {certificate}"])
            else:
                running = InProcessBoard(folder)
            key = asyncssh.read_public_key(folder / "host_key.pub")
            authority.generate_host_certificate(key, "board", principals=principals).write_certificate(certificate)
            stack.enter_context(running)
            return running

        yield made


def test_an_authority_that_vouches_for_the_host(certified: Callable[[Sequence[str]], LoopbackBoard], tmp_path: Path):
    board = certified(["127.0.0.1"])
    authority = (tmp_path / "authority.pub").read_text()
    (tmp_path / "known").write_text(f"@cert-authority * {authority}")
    works(dataclasses.replace(board.device(), known_hosts=tmp_path / "known"))


def test_a_certificate_for_another_host_is_refused(certified: Callable[[Sequence[str]], LoopbackBoard], tmp_path: Path):
    board = certified(["other-board"])
    authority = (tmp_path / "authority.pub").read_text()
    (tmp_path / "known").write_text(f"@cert-authority * {authority}")
    with pytest.raises(BoardError, match=r"its host key cannot be trusted: .*principal") as refused:
        Ssh(dataclasses.replace(board.device(), known_hosts=tmp_path / "known"), soon())
    assert "@cert-authority" in refused.value.next_step


def test_an_unknown_host_with_a_certificate_shows_the_key_that_can_be_compared(
    certified: Callable[[Sequence[str]], LoopbackBoard], tmp_path: Path
):
    board = certified(["127.0.0.1"])
    (tmp_path / "empty").touch()
    with pytest.raises(BoardError) as refused:
        Ssh(dataclasses.replace(board.device(), known_hosts=tmp_path / "empty"), soon())
    assert f"its host key is not known: ssh-ed25519 {board.fingerprint}." in refused.value.what


def test_a_pin_holds_for_a_host_that_has_a_certificate(certified: Callable[[Sequence[str]], LoopbackBoard]):
    board = certified(["127.0.0.1"])
    works(dataclasses.replace(board.device(), known_hosts=None, host_key=board.fingerprint))


# --- the agent ---


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A real ssh-agent, empty; SSH_AUTH_SOCK names it."""
    if shutil.which("ssh-agent") is None:
        pytest.fail("ssh-agent is missing (Debian: openssh-client)")
    with folder_for_boards() as folder:
        listens_at = folder / "agent"
        process = subprocess.Popen(["ssh-agent", "-D", "-a", str(listens_at)], stdout=subprocess.DEVNULL)
        end = Deadline.after(10)
        while not answers(listens_at):
            end.check("waiting for ssh-agent")
            time.sleep(0.01)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(listens_at))
        yield listens_at
        process.kill()
        process.wait()


def answers(agent: Path) -> bool:
    """Its socket is listened on: the file is there a moment earlier."""
    with socket.socket(socket.AF_UNIX) as there:
        return there.connect_ex(str(agent)) == 0


def add(agent: Path, *keys: asyncssh.SSHKey) -> None:
    async def adding() -> None:
        async with asyncssh.connect_agent(str(agent)) as client:
            await client.add_keys(list(keys))

    asyncio.run(adding())


def lock(key: Path) -> None:
    """Encrypts a key file, in the form that ssh-keygen gives it."""
    key.chmod(0o600)
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", str(key)], check=True, timeout=30)


def user_key(board: LoopbackBoard) -> asyncssh.SSHKey:
    return asyncssh.read_private_key(str(board.device().identity_file))


@pytest.mark.sshd
def test_a_key_that_only_the_agent_has(board: LoopbackBoard, agent: Path):
    add(agent, user_key(board))
    works(dataclasses.replace(board.device(), identity_file=None))


@pytest.mark.sshd
def test_an_agent_that_the_config_names(board: LoopbackBoard, home: Path, agent: Path, monkeypatch: pytest.MonkeyPatch):
    add(agent, user_key(board))
    monkeypatch.delenv("SSH_AUTH_SOCK")
    (home / "config").write_text(f"Host *\n  IdentityAgent {agent}\n")
    works(dataclasses.replace(board.device(), identity_file=None))


@pytest.mark.sshd
def test_an_encrypted_key_that_is_in_the_agent_among_many(board: LoopbackBoard, agent: Path, tmp_path: Path):
    """Only the key that is named is asked for: sshd hangs up after the sixth."""
    key = user_key(board)
    others = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(8)]
    add(agent, *others, key)
    key.write_private_key(tmp_path / "locked")
    key.write_public_key(tmp_path / "locked.pub")
    lock(tmp_path / "locked")
    works(dataclasses.replace(board.device(), identity_file=tmp_path / "locked"))


@pytest.mark.sshd
def test_a_public_key_alone_names_the_one_in_the_agent(board: LoopbackBoard, agent: Path, tmp_path: Path):
    """The private half may be in a token."""
    others = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(8)]
    add(agent, *others, user_key(board))
    user_key(board).write_public_key(tmp_path / "token.pub")
    works(dataclasses.replace(board.device(), identity_file=tmp_path / "token.pub"))


# --- nobody is asked ---

CONNECT = """
import json, sys
from pathlib import Path
from device_tests.deadline import Deadline
from device_tests.ssh import Ssh
from edgesmith.errors import EdgesmithError
from edgesmith.types import Device
named = json.loads(sys.argv[1])
files = {name: Path(named.pop(name)) for name in ("identity_file", "known_hosts")}
try:
    Ssh(Device(**named, **files), Deadline.after(15))
except EdgesmithError as error:
    sys.exit(type(error).__name__)
"""


@pytest.mark.parametrize(
    "reason",
    [pytest.param("encrypted key", marks=pytest.mark.sshd), "password", "unknown host key", "jump host"],
)
def test_nothing_is_ever_asked_at_a_terminal(board: LoopbackBoard, home: Path, tmp_path: Path, reason: str):
    device = board.device()
    key = tmp_path / "key"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(key)
    if reason == "encrypted key":
        lock(key)
    (tmp_path / "empty").touch()
    known_hosts = device.known_hosts if reason != "unknown host key" else tmp_path / "empty"
    jump = f"x@127.0.0.1:{board.port}" if reason == "jump host" else ""
    asked = {"name": "pi", "transport": "ssh", "host": "127.0.0.1", "port": board.port, "user": "pi", "jump": jump}
    asked |= {"identity_file": str(key), "known_hosts": str(known_hosts)}
    (tmp_path / "askpass").write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\necho secret\n")
    (tmp_path / "askpass").chmod(0o755)
    env = {**os.environ, "SSH_ASKPASS": str(tmp_path / "askpass"), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":0"}
    status, said = _at_a_terminal([sys.executable, "-c", CONNECT, json.dumps(asked)], env)
    assert said.strip() == b"BoardError"
    assert os.waitstatus_to_exitcode(status) == 1
    assert not (tmp_path / "asked").exists()


def _at_a_terminal(command: Sequence[str], env: dict[str, str]) -> tuple[int, bytes]:
    """(wait status, all that was written to a terminal of its own)."""
    pid, master = pty.fork()
    if pid == 0:
        os.chdir(Path(__file__).parents[2])
        os.execvpe(command[0], list(command), env)  # noqa: S606
    said, end = b"", Deadline.after(60)
    with contextlib.suppress(OSError):  # EIO: the other side has closed
        while select.select([master], [], [], end.remaining_s)[0]:
            said += os.read(master, 4096)
    os.close(master)
    return os.waitpid(pid, 0)[1], said
