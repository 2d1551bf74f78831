"""Programs on a board: how their command lines are written, how they end, and how they are made to end."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import math
import os
import shlex
from collections.abc import Sequence
from typing import Self

import asyncssh

from device_tests.connection import CommandResult, ended_error
from device_tests.deadline import Deadline
from device_tests.ssh_link import Link
from device_tests.ssh_loop import ssh_loop
from edgesmith.errors import BoardError, ConfigError, ConnectionLost

_CLOSE_S = 5.0
_PID_LINE = "edgesmith-pid "
_SAY_PID = f'echo "{_PID_LINE}$$"; exec "$0" "$@"'
_KILL = 'kill -9 "-$0" 2>/dev/null || kill -9 "$0"'  # its group; dash takes this form only
# sshd ends nothing when we hang up. Where there is no `timeout`, or only the one of an old busybox, whose arguments
# are others, the shell watches by itself. A program in the background of a shell loses its stdin unless it is handed
# on by another number. The watch sleeps by the second, so that nothing of it is left for long when it is ended.
_MORTAL = """
if timeout -s KILL 9 true 2>/dev/null; then exec timeout -s KILL "$0" "$@"; fi
exec 3<&0
"$@" <&3 3<&- &
child=$!
(left=$0; while [ $left -gt 0 ]; do sleep 1; left=$((left - 1)); done; kill -9 $child) 3<&- </dev/null >/dev/null 2>&1 &
guard=$!
wait $child
ended=$?
kill $guard
exit $ended
"""


def command_line(argv: Sequence[str]) -> bytes:
    """The one line that sshd gives to the login shell: every argument quoted, and none reads as anything but itself.

    Bytes, since arguments may be file names that are no UTF-8.

    Raises:
        ConfigError: an argument holds a NUL, with which no program can be started.
    """
    if any("\0" in argument for argument in argv):
        raise ConfigError(f"a command for a board cannot hold a NUL character: {list(argv)!r}.")
    return os.fsencode(shlex.join(argv))


def mortal(argv: Sequence[str], deadline: Deadline) -> bytes:
    """A command line with an end on the board itself, a moment after ours."""
    return command_line(["sh", "-c", _MORTAL, str(math.ceil(deadline.remaining_s) + 1), *argv])


def result_of(
    link: Link, process: asyncssh.SSHClientProcess[bytes], stdout: bytes, stderr: bytes, doing: str
) -> CommandResult:
    """How it ended.

    Raises:
        ConnectionLost: asyncssh reports a lost connection as a command without a status, and raises nothing.
    """
    if process.exit_signal:
        return CommandResult(exit_status=None, signal=process.exit_signal[0], stdout=stdout, stderr=stderr)
    if process.exit_status is None:
        raise link.lost(doing)
    return CommandResult(exit_status=process.exit_status, signal=None, stdout=stdout, stderr=stderr)


class SshProcess:
    """Fulfils `connection.Process`."""

    def __init__(self, link: Link, process: asyncssh.SSHClientProcess[bytes], doing: str) -> None:
        """To be made on the loop; `begin` makes a whole one."""
        self._link = link
        self._process = process
        self._doing = doing
        self._pid = 0
        self._tail: collections.deque[bytes] = collections.deque(maxlen=40)
        self._log = asyncio.get_running_loop().create_task(self._read_log())

    @classmethod
    async def begin(cls, link: Link, argv: Sequence[str], doing: str) -> Self:
        """Starts the program; it is known by its process id there before this returns."""
        command = command_line(["sh", "-c", _SAY_PID, *argv])
        started = cls(link, await link.connection.create_process(command, encoding=None), doing)
        while not started._pid:
            line = (await started._receive()).decode("ascii", "replace")
            # A login shell's start-up files may have printed before it, without a newline at the end.
            said = line.rpartition(_PID_LINE)
            started._pid = int(said[2]) if said[1] and said[2].isdecimal() else 0
        return started

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
            await self._kill()
            self._process.close()
            return CommandResult(exit_status=None, signal="KILL", stdout=b"", stderr=b"".join(self._tail))
        return await self._finished()

    async def _kill(self) -> None:
        """By a command of its own: sshd passes no signal on to what root runs."""
        with contextlib.suppress(asyncssh.Error, OSError):
            await self._link.connection.run(command_line(["sh", "-c", _KILL, str(self._pid)]), check=False)

    async def _finished(self) -> CommandResult:
        """Waits for the end, once its output has ended."""
        await self._process.wait_closed()
        return result_of(self._link, self._process, b"", b"".join(self._tail), self._doing)

    async def _read_log(self) -> None:
        with contextlib.suppress(OSError, asyncssh.Error):
            async for line in self._process.stderr:
                self._tail.append(line)

    async def _ended(self) -> BoardError | ConnectionLost:
        try:
            async with asyncio.timeout(_CLOSE_S):
                ended = await self._finished()
        except (ConnectionLost, TimeoutError):
            return self._link.lost(self._doing)
        return ended_error(self._doing, ended)
