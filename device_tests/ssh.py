"""A board reached by SSH. Needs sshd with SFTP and a Python on the board, nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from device_tests import ssh_login
from device_tests.connection import CommandResult
from device_tests.deadline import Deadline
from device_tests.ssh_files import SshFiles
from device_tests.ssh_link import Link
from device_tests.ssh_loop import ssh_loop
from device_tests.ssh_process import SshProcess, mortal, result_of
from edgesmith.errors import ConnectionLost, DeadlineExceeded
from edgesmith.types import Device

_CLOSE_S = 5.0


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
            connection = ssh_loop().call(ssh_login.log_in(device, deadline, options or {}), deadline, self.address)
        except DeadlineExceeded:
            raise ConnectionLost(
                f"{device.name}: ssh to {self.address}: no answer in time.",
                next_step="Is the board on and on the network?",
            ) from None
        self._link = Link(device.name, self.address, connection)
        self._files = SshFiles(self._link)

    @property
    def rate(self) -> float | None:
        """See `Connection.rate`."""
        return self._files.rate

    def run(self, argv: Sequence[str], deadline: Deadline, stdin: bytes = b"") -> CommandResult:
        """See `Connection.run`."""
        doing = f"{self._name}: '{argv[0]}'"
        return ssh_loop().call(self._run(mortal(argv, deadline), stdin, doing), deadline, doing)

    async def _run(self, command: bytes, stdin: bytes, doing: str) -> CommandResult:
        async with self._link.errors(doing):
            process = await self._link.connection.create_process(command, encoding=None)
            try:
                stdout, stderr = await process.communicate(stdin)
            except asyncio.CancelledError:
                process.close()
                raise
            return result_of(self._link, process, _bytes(stdout), _bytes(stderr), doing)

    def spawn(self, argv: Sequence[str], deadline: Deadline) -> SshProcess:
        """See `Connection.spawn`."""
        doing = f"{self._name}: '{argv[0]}'"
        process = ssh_loop().call(self._spawn(argv, doing), deadline, doing)
        self._running.append(process)
        return process

    async def _spawn(self, argv: Sequence[str], doing: str) -> SshProcess:
        async with self._link.errors(doing):
            return await SshProcess.begin(self._link, argv, doing)

    def put(
        self,
        local: Path,
        remote: str,
        deadline: Deadline,
        sent: Callable[[int], None] | None = None,
        skipped: Callable[[int], None] | None = None,
    ) -> int:
        """See `Connection.put`. Asks for free space first; a full disk does not always say so by itself."""
        doing = f"{self._name}: sending {local.name}"
        return ssh_loop().call(self._files.put(local, remote, sent, skipped), deadline, doing)

    def get(self, remote: str, local: Path, deadline: Deadline) -> None:
        """See `Connection.get`."""
        ssh_loop().call(self._files.get(remote, local), deadline, f"{self._name}: fetching {remote}")

    def abort(self) -> None:
        """See `Connection.abort`."""
        ssh_loop().soon(self._link.connection.abort)

    def close(self) -> None:
        """See `Connection.close`."""
        while self._running:
            with contextlib.suppress(ConnectionLost, DeadlineExceeded):
                self._running.pop().close(Deadline.after(_CLOSE_S))
        with contextlib.suppress(DeadlineExceeded):
            ssh_loop().call(self._link.close(), Deadline.after(_CLOSE_S), f"{self._name}: closing")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _bytes(data: bytes | str | None) -> bytes:
    return data if isinstance(data, bytes) else b""
