"""SSH boards on this machine, for tests: ours, and of whoever tests without hardware.

`InProcessBoard` needs nothing: asyncssh's own server in a thread, with real SFTP and real processes behind it. A real
sshd is in `loopback_sshd`. Both have keys of their own and never touch ~/.ssh.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import asyncssh

from device_tests.deadline import Deadline
from device_tests.ssh_loop import LoopThread
from edgesmith.types import Device

LOOPBACK = "127.0.0.1"
_READY_S = 10.0
_CHUNK = 1 << 16


@contextlib.contextmanager
def folder_for_boards() -> Iterator[Path]:
    """A folder that a login user can enter; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="edgesmith-board-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


class LoopbackBoard(Protocol):
    """What both kinds can do.

    Attributes:
        home: the login folder.
        port: where it listens.
    """

    home: Path
    port: int

    @property
    def fingerprint(self) -> str:
        """Of the host key it shows now."""

    def device(self, name: str = "board") -> Device:
        """The inventory's view of it: own user key, own known_hosts."""

    def drop(self) -> None:
        """Cuts every connection; what runs there is not told more than that its stdin has ended."""

    def new_host_key(self) -> None:
        """The board was set up anew, or somebody is in between; known_hosts keeps the old key."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class BoardKeys:
    """Keys and known_hosts of a board, as files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host, self.user, self.known_hosts = folder / "host_key", folder / "user_key", folder / "known_hosts"
        for path in (self.host, self.user):
            self.make(path)

    def make(self, path: Path) -> None:
        """Writes a fresh key pair."""
        path.unlink(missing_ok=True)
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(path)
        path.chmod(0o600)
        key.write_public_key(path.with_name(path.name + ".pub"))

    def trust(self, port: int, address: str = LOOPBACK) -> None:
        """Writes known_hosts for the host key of now."""
        public = self.host.with_name("host_key.pub").read_text()
        self.known_hosts.write_text(f"[{address}]:{port} {public}")

    @property
    def fingerprint(self) -> str:
        """Of the host key of now."""
        return asyncssh.read_public_key(self.host.with_name("host_key.pub")).get_fingerprint()

    def device(self, name: str, port: int, user: str, address: str = LOOPBACK) -> Device:
        """See `LoopbackBoard.device`."""
        return Device(
            name=name,
            transport="ssh",
            host=address,
            port=port,
            user=user,
            identity_file=self.user,
            known_hosts=self.known_hosts,
            python=sys.executable,
            workdir="edgesmith",
            # Boards of one machine share its memory file system: each needs a place of its own.
            lease_dir=str(self.folder.resolve() / "lease"),
        )


class InProcessBoard:
    """asyncssh's server in a thread of this process. Use as a context manager.

    Attributes:
        free_bytes: what SFTP says is free; None asks the disk.
        fail_after: the disk is full once this many bytes of a file are written.
        flip: SFTP writes arrive with a byte changed.
        greeting: shell that every command starts with: a chatty login.
    """

    def __init__(self, folder: Path) -> None:
        """`folder`: for keys and the login folder."""
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        self.keys = BoardKeys(folder)
        self.port = 0
        self.free_bytes: int | None = None
        self.fail_after: int | None = None
        self.flip = False
        self.greeting = ""
        self._connections: set[asyncssh.SSHServerConnection] = set()
        self._loop: LoopThread | None = None
        self._server: asyncssh.SSHAcceptor | None = None

    @property
    def fingerprint(self) -> str:
        """See `LoopbackBoard.fingerprint`."""
        return self.keys.fingerprint

    def device(self, name: str = "board") -> Device:
        """See `LoopbackBoard.device`."""
        return self.keys.device(name, self.port, "pi")

    def drop(self) -> None:
        """See `LoopbackBoard.drop`."""
        self._do(self._abort())

    def new_host_key(self) -> None:
        """See `LoopbackBoard.new_host_key`."""
        self.keys.make(self.keys.host)
        self._do(self._restart())

    def __enter__(self) -> Self:
        self._loop = LoopThread()
        self._do(self._listen())
        self.keys.trust(self.port)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._stop())
        if self._loop is not None:
            self._loop.stop()

    def _do(self, work: asyncio._CoroutineLike[None]) -> None:
        if self._loop is None:
            raise RuntimeError("the board is not started")
        self._loop.call(work, Deadline.after(_READY_S), "loopback board")  # type: ignore[arg-type]

    async def _listen(self) -> None:
        self._server = await asyncssh.listen(
            LOOPBACK,
            self.port,
            server_host_keys=[str(self.keys.host)],
            authorized_client_keys=str(self.keys.user.with_name("user_key.pub")),
            process_factory=self._handle,
            sftp_factory=lambda channel: _Sftp(channel, self),
            server_factory=lambda: _Server(self._connections),
            encoding=None,
        )
        self.port = self._server.get_port()

    async def _abort(self) -> None:
        for connection in tuple(self._connections):
            connection.abort()

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        await self._abort()
        # Processes see the end of their stdin and leave; their pipes close on this loop.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait(others, timeout=_READY_S / 2) if others else None

    async def _restart(self) -> None:
        await self._stop()
        await self._listen()

    async def _handle(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            f"{self.greeting}exec {process.command or 'true'}",
            cwd=self.home,
            env={**os.environ, "HOME": str(self.home)},
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            start_new_session=True,
        )
        # asyncssh only knows signals for streams; a process group gets them here, as sshd gives them.
        process.signal_received = lambda signal: _signal(child.pid, signal)  # type: ignore[method-assign]
        feeding = asyncio.create_task(_feed(process.stdin, child.stdin))
        await asyncio.gather(_drain(child.stdout, process.stdout), _drain(child.stderr, process.stderr))
        status = await child.wait()
        feeding.cancel()
        if status < 0:
            process.exit_with_signal(signal.Signals(-status).name.removeprefix("SIG"))
        else:
            process.exit(status)


async def _feed(source: asyncssh.SSHReader[bytes], target: asyncio.StreamWriter | None) -> None:
    """What the client sends; when it ends, or the link does, the program's stdin ends. Nothing else tells it."""
    if target is None:
        return
    with contextlib.suppress(OSError, asyncssh.Error):
        while data := await source.read(_CHUNK):
            target.write(data)
            await target.drain()
    target.close()


async def _drain(source: asyncio.StreamReader | None, target: asyncssh.SSHWriter[bytes]) -> None:
    """What the program says, as long as somebody listens."""
    while source is not None and (data := await source.read(_CHUNK)):
        with contextlib.suppress(OSError, asyncssh.Error):
            target.write(data)
            await target.drain()


def _signal(group: int, name: str) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.Signals[f"SIG{name}"])


class _Server(asyncssh.SSHServer):
    def __init__(self, connections: set[asyncssh.SSHServerConnection]) -> None:
        self._connections = connections
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._connections.add(conn)

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        """A board can be the way to another one, as with sshd."""
        del dest_host, dest_port, orig_host, orig_port
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._connection is not None:
            self._connections.discard(self._connection)


class _Sftp(asyncssh.SFTPServer):
    """Real files below the login folder, with the disk's faults on request."""

    def __init__(self, channel: asyncssh.SSHServerChannel[bytes], board: InProcessBoard) -> None:
        super().__init__(channel)
        self._board = board

    def map_path(self, path: bytes) -> bytes:
        return os.path.join(os.fsencode(self._board.home), path)  # noqa: PTH118 - bytes

    def statvfs(self, path: bytes) -> asyncssh.SFTPVFSAttrs:
        found = asyncssh.SFTPVFSAttrs.from_local(os.statvfs(self.map_path(path)))
        if self._board.free_bytes is not None:
            found.frsize, found.bavail = 1, self._board.free_bytes
        return found

    def write(self, file_obj: object, offset: int, data: bytes) -> int:
        if self._board.fail_after is not None and offset + len(data) > self._board.fail_after:
            self._board.free_bytes = 0
            raise asyncssh.SFTPFailure("Failure")
        if self._board.flip:
            data = bytes([data[0] ^ 1]) + data[1:]
        return super().write(file_obj, offset, data)  # type: ignore[return-value]
