"""A board reached by SSH. Needs sshd with SFTP and a Python on the board, nothing else."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import math
import shlex
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

import asyncssh

from device_tests import ssh_login
from device_tests.connection import CommandResult, ended_error
from device_tests.deadline import Deadline
from device_tests.ssh_loop import ssh_loop
from edgesmith.errors import BoardError, ConnectionLost, DeadlineExceeded
from edgesmith.types import Device

_CLOSE_S = 5.0
_LITTLE = 1 << 16
_MOMENT_S = 0.5
_READ_ONLY = 1  # ST_RDONLY of statvfs@openssh.com


class Ssh:
    """Fulfils `connection.Connection` over asyncssh. Host keys are strict, and nobody is ever asked for anything."""

    def __init__(self, device: Device, deadline: Deadline, *, options: Mapping[str, Any] | None = None) -> None:
        """Connects.

        Args:
            device: where to.
            deadline: for the connection, further attempts included.
            options: further asyncssh options, which win over ours.

        Raises:
            ConfigError, BoardError, ConnectionLost: see `ssh_login.log_in`.
        """
        self.address = ssh_login.address(device)
        self._name = device.name
        self._running: list[SshProcess] = []
        try:
            self._link = ssh_loop().call(ssh_login.log_in(device, deadline, options or {}), deadline, self.address)
        except DeadlineExceeded:
            raise ConnectionLost(
                f"{device.name}: ssh to {self.address}: no answer in time.",
                next_step="Is the board on and on the network?",
            ) from None

    def run(self, argv: Sequence[str], deadline: Deadline, stdin: bytes = b"") -> CommandResult:
        """See `Connection.run`."""
        doing = f"{self._name}: '{argv[0]}'"
        return ssh_loop().call(self._run(_mortal(argv, deadline), stdin, doing), deadline, doing)

    async def _run(self, command: str, stdin: bytes, doing: str) -> CommandResult:
        async with self._errors(doing):
            process = await self._link.create_process(command, encoding=None)
            try:
                stdout, stderr = await process.communicate(stdin)
            except asyncio.CancelledError:
                process.close()
                raise
            return self._result(process, _bytes(stdout), _bytes(stderr), doing)

    def spawn(self, argv: Sequence[str], deadline: Deadline) -> SshProcess:
        """See `Connection.spawn`."""
        doing = f"{self._name}: '{argv[0]}'"
        process = ssh_loop().call(self._spawn(shlex.join(argv), doing), deadline, doing)
        self._running.append(process)
        return process

    async def _spawn(self, command: str, doing: str) -> SshProcess:
        async with self._errors(doing):
            return SshProcess(self, await self._link.create_process(command, encoding=None), doing)

    def put(self, local: Path, remote: str, deadline: Deadline, sent: Callable[[int], None] | None = None) -> int:
        """See `Connection.put`. Asks for free space first; a full disk does not always say so by itself."""
        return ssh_loop().call(self._put(local, remote, sent), deadline, f"{self._name}: sending {local.name}")

    async def _put(self, local: Path, remote: str, sent: Callable[[int], None] | None) -> int:
        part, folder, size = remote + ".part", str(PurePosixPath(remote).parent), local.stat().st_size
        told = 0

        def progress(_source: bytes, _target: bytes, done: int, _total: int) -> None:
            nonlocal told
            if sent is not None:
                sent(done - told)
            told = done

        async with self._sftp(f"sending {local.name}") as sftp:
            try:
                await sftp.makedirs(folder, exist_ok=True)
                if (full := await self._no_room(sftp, folder, local, size)) is not None:
                    raise full
                await sftp.put(str(local), part, progress_handler=progress)
                if (arrived := (await sftp.stat(part)).size) != size:
                    raise BoardError(f"{self._name}: {local.name}: {arrived} of {size} bytes arrived.")
                await self._replace(sftp, part, remote)
            except BaseException as error:
                meant = await self._failure(sftp, folder, local, error)
                with contextlib.suppress(asyncssh.Error, OSError):
                    await sftp.remove(part)
                if meant is not None:
                    raise meant from None
                raise
        return told

    async def _replace(self, sftp: asyncssh.SFTPClient, source: str, target: str) -> None:
        try:
            await sftp.posix_rename(source, target)
        except asyncssh.SFTPOpUnsupported:
            with contextlib.suppress(asyncssh.SFTPNoSuchFile):
                await sftp.remove(target)
            await sftp.rename(source, target)

    async def _no_room(self, sftp: asyncssh.SFTPClient, folder: str, local: Path, need: int) -> BoardError | None:
        """The error where `folder` does not take `need` more bytes."""
        try:
            found = await sftp.statvfs(folder)
        except asyncssh.SFTPError:
            return None  # the server cannot say; the transfer will
        if found.flags & _READ_ONLY:
            return BoardError(
                f"{self._name}: {folder} on the board is on a read-only file system.",
                next_step="A worn memory card is mounted read-only: see `dmesg` there, or set `workdir:`.",
            )
        free = found.bavail * found.frsize
        if free >= need:
            return None
        return BoardError(
            f"{self._name}: no space left on the board: {local.name} has {local.stat().st_size:,} bytes, "
            f"{free:,} are free in {folder}.",
            next_step="Free some there, or set `workdir:` in devices.yaml to a place with more room.",
        )

    async def _failure(
        self, sftp: asyncssh.SFTPClient, folder: str, local: Path, error: BaseException
    ) -> BoardError | None:
        """What a bare "Failure" means: sshd says no more than that where a disk is full or read-only."""
        if not isinstance(error, asyncssh.SFTPFailure):
            return None
        with contextlib.suppress(asyncssh.Error, OSError):
            # What has arrived of the file has used up the room: even a little more would not fit.
            if (full := await self._no_room(sftp, folder, local, _LITTLE)) is not None:
                return full
        return BoardError(
            f"{self._name}: {local.name} could not be written to {folder}: {error.reason}.",
            next_step="Is there room, and may this user write there? `df -h` and `ls -ld` on the board tell.",
        )

    def get(self, remote: str, local: Path, deadline: Deadline) -> None:
        """See `Connection.get`."""
        ssh_loop().call(self._get(remote, local), deadline, f"{self._name}: fetching {remote}")

    async def _get(self, remote: str, local: Path) -> None:
        part = local.with_name(local.name + ".part")
        async with self._sftp(f"fetching {remote}") as sftp:
            try:
                await sftp.get(remote, str(part))
                part.replace(local)
            finally:
                part.unlink(missing_ok=True)

    def close(self) -> None:
        """See `Connection.close`."""
        while self._running:
            with contextlib.suppress(ConnectionLost, DeadlineExceeded):
                self._running.pop().close(Deadline.after(_CLOSE_S))
        with contextlib.suppress(DeadlineExceeded):
            ssh_loop().call(self._close(), Deadline.after(_CLOSE_S), f"{self._name}: closing")

    async def _close(self) -> None:
        self._link.close()
        try:
            await self._link.wait_closed()
        except asyncio.CancelledError:
            self._link.abort()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.asynccontextmanager
    async def _sftp(self, doing: str) -> AsyncIterator[asyncssh.SFTPClient]:
        async with self._errors(f"{self._name}: {doing}"):
            try:
                sftp = await self._link.start_sftp_client()
            except (asyncssh.SFTPError, asyncssh.ChannelOpenError) as error:
                if await self._is_gone():
                    raise
                raise BoardError(
                    f"{self._name}: the board gives no SFTP: {error.reason}.",
                    next_step="sshd_config there needs `Subsystem sftp internal-sftp`; a ForceCommand must let it by.",
                ) from None
            async with sftp:
                yield sftp

    @contextlib.asynccontextmanager
    async def _errors(self, doing: str) -> AsyncIterator[None]:
        """Asyncssh's errors as ours."""
        try:
            yield
        except (asyncssh.ConnectionLost, asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection, ConnectionError):
            raise self.lost(doing) from None
        except OSError:
            # The socket's own, or of a file here.
            if await self._is_gone():
                raise self.lost(doing) from None
            raise
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPPermissionDenied) as error:
            raise BoardError(
                f"{doing}: {error.reason}.", next_step="May this user read and write `workdir:` on the board?"
            ) from None
        except asyncssh.Error as error:
            if await self._is_gone():
                raise self.lost(doing) from None
            raise BoardError(f"{doing}: {error.reason}.") from None

    async def _is_gone(self) -> bool:
        """Whether the link is down. A refusal can be the first sign of it: it gets a moment to show."""
        try:
            async with asyncio.timeout(_MOMENT_S):
                await self._link.wait_closed()
        except TimeoutError:
            return False
        return True

    def lost(self, doing: str) -> ConnectionLost:
        """The error for a link that is gone."""
        return ConnectionLost(
            f"{doing}: the connection to {self.address} was lost.",
            next_step="Did the board restart, or lose its network or power? Run again: what was done is kept.",
        )

    def _result(
        self, process: asyncssh.SSHClientProcess[bytes], stdout: bytes, stderr: bytes, doing: str
    ) -> CommandResult:
        # asyncssh reports a lost connection as a command without a status, and raises nothing.
        if process.exit_signal:
            return CommandResult(exit_status=None, signal=process.exit_signal[0], stdout=stdout, stderr=stderr)
        if process.exit_status is None:
            raise self.lost(doing)
        return CommandResult(exit_status=process.exit_status, signal=None, stdout=stdout, stderr=stderr)

    async def finished(self, process: asyncssh.SSHClientProcess[bytes], stderr: bytes, doing: str) -> CommandResult:
        """Waits for the end of a process whose output has ended."""
        await process.wait_closed()
        return self._result(process, b"", stderr, doing)


class SshProcess:
    """Fulfils `connection.Process`."""

    def __init__(self, ssh: Ssh, process: asyncssh.SSHClientProcess[bytes], doing: str) -> None:
        """To be made on the loop."""
        self._ssh = ssh
        self._process = process
        self._doing = doing
        self._tail: collections.deque[bytes] = collections.deque(maxlen=40)
        self._log = asyncio.get_running_loop().create_task(self._read_log())

    def send(self, line: bytes, deadline: Deadline) -> None:
        """See `Process.send`."""
        ssh_loop().call(self._send(line), deadline, self._doing)

    async def _send(self, line: bytes) -> None:
        try:
            self._process.stdin.write(line + b"\n")
            await self._process.stdin.drain()
        except (OSError, asyncssh.Error):
            raise await self._ended() from None

    def receive(self, deadline: Deadline) -> bytes:
        """See `Process.receive`."""
        return ssh_loop().call(self._receive(), deadline, self._doing)

    async def _receive(self) -> bytes:
        try:
            line = await self._process.stdout.readline()
        except (OSError, asyncssh.Error):
            line = b""
        if not line:
            raise await self._ended()
        return line.rstrip(b"\n")

    def stderr_tail(self) -> str:
        """See `Process.stderr_tail`."""
        return b"".join(self._tail).decode("utf-8", "replace")

    def close(self, deadline: Deadline) -> CommandResult:
        """See `Process.close`.

        Raises:
            ConnectionLost: the link went away, so how it ended is not known.
        """
        return ssh_loop().call(self._close(deadline), Deadline.after(deadline.remaining_s + _CLOSE_S), self._doing)

    async def _close(self, deadline: Deadline) -> CommandResult:
        with contextlib.suppress(OSError, asyncssh.Error):
            self._process.stdin.write_eof()
        try:
            async with asyncio.timeout(deadline.remaining_s):
                await self._process.wait_closed()
        except TimeoutError:
            # sshd passes a signal on for any user but root; for root the program has its closed stdin and its own
            # deadline to go by.
            self._process.kill()
            self._process.close()
            return CommandResult(exit_status=None, signal="KILL", stdout=b"", stderr=b"".join(self._tail))
        return await self._ssh.finished(self._process, b"".join(self._tail), self._doing)

    async def _read_log(self) -> None:
        with contextlib.suppress(OSError, asyncssh.Error):
            async for line in self._process.stderr:
                self._tail.append(line)

    async def _ended(self) -> BoardError | ConnectionLost:
        try:
            async with asyncio.timeout(_CLOSE_S):
                ended = await self._ssh.finished(self._process, b"".join(self._tail), self._doing)
        except (ConnectionLost, TimeoutError):
            return self._ssh.lost(self._doing)
        return ended_error(self._doing, ended)


def _mortal(argv: Sequence[str], deadline: Deadline) -> str:
    """The command line, with an end on the board itself where it has `timeout`: sshd ends nothing when we hang up."""
    seconds = math.ceil(deadline.remaining_s) + 1
    script = f'command -v timeout >/dev/null && exec timeout -s KILL {seconds} "$@"; exec "$@"'
    return shlex.join(["sh", "-c", script, "sh", *argv])


def _bytes(data: bytes | str | None) -> bytes:
    return data if isinstance(data, bytes) else b""
