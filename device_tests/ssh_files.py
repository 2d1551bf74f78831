"""Files to and from a board by SFTP: gone on with after a cut, whole or not there under their name."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path, PurePosixPath

import asyncssh

from device_tests.ssh_link import LINK_ERRORS, Link
from edgesmith.errors import BoardError

_MEASURABLE = 1 << 18
_LITTLE = 1 << 16
_READ_ONLY = 1  # ST_RDONLY of statvfs@openssh.com

Told = Callable[[int], None]


class SshFiles:
    """Transfers over one link. Everything here runs on the SSH loop.

    Attributes:
        rate: bytes per second of the last upload that was long enough to tell; None before it.
    """

    def __init__(self, link: Link) -> None:
        self.rate: float | None = None
        self._link = link

    async def put(self, local: Path, remote: str, sent: Told | None, skipped: Told | None) -> int:
        """See `Connection.put`.

        What a cut link leaves of the `.part` is a true beginning, since sshd carries out writes in order. What a full
        disk leaves is not: writes after the failed one may have succeeded, behind a hole. So that one is removed.
        """
        size, part, folder = local.stat().st_size, os.fsencode(f"{remote}.part"), str(PurePosixPath(remote).parent)
        async with self._sftp(f"sending {local.name}") as sftp:
            try:
                await sftp.makedirs(os.fsencode(folder), exist_ok=True)
                begun = await _begun(sftp, part, size)
                if (refused := await self._no_room(sftp, folder, local, size - begun)) is not None:
                    raise refused
                if begun and skipped is not None:
                    skipped(begun)
                await self._send(sftp, local, part, begun, sent)
                if (arrived := (await sftp.stat(part)).size) != size:
                    raise BoardError(f"{self._link.name}: {local.name}: {arrived} of {size} bytes arrived.")
                await _replace(sftp, part, os.fsencode(remote))
            except LINK_ERRORS:
                raise
            except Exception as error:
                meant = await self._failure(sftp, folder, local, error)
                with contextlib.suppress(asyncssh.Error, OSError):
                    await sftp.remove(part)
                if meant is not None:
                    raise meant from None
                raise
        return size - begun

    async def get(self, remote: str, local: Path) -> None:
        """See `Connection.get`."""
        part = local.with_name(local.name + ".part")
        async with self._sftp(f"fetching {remote}") as sftp:
            try:
                await sftp.get(os.fsencode(remote), os.fsencode(part))
                part.replace(local)
            finally:
                part.unlink(missing_ok=True)

    async def _send(self, sftp: asyncssh.SFTPClient, local: Path, part: bytes, begun: int, sent: Told | None) -> None:
        """Writes from `begun` on, several blocks ahead of the answers."""
        waiting: collections.deque[tuple[float, asyncio.Task[int]]] = collections.deque()
        window, pace = _Window(sftp.limits.max_write_len), _Pace()

        async def answered() -> None:
            asked, task = waiting[0]
            amount = await task
            waiting.popleft()
            window.answered(amount, time.monotonic() - asked)
            pace.answered(amount)

        file = await sftp.open(part, "r+b" if begun else "wb", block_size=0)
        try:
            with local.open("rb") as source:
                at = source.seek(begun)
                while block := source.read(window.block):
                    waiting.append((time.monotonic(), asyncio.create_task(file.write(block, at))))
                    at += len(block)
                    window.sent(len(block))
                    # Now, not when it is answered: what a cut link swallows has been sent, too.
                    if sent is not None:
                        sent(len(block))
                    while window.is_full:
                        await answered()
            while waiting:
                await answered()
        finally:
            for _, task in waiting:
                task.cancel()
            await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)
        await file.close()
        self.rate = pace.rate or self.rate

    async def _no_room(self, sftp: asyncssh.SFTPClient, folder: str, local: Path, need: int) -> BoardError | None:
        """The error where `folder`, or the nearest one above that is there, does not take `need` more bytes."""
        found = None
        for place in (folder, *map(str, PurePosixPath(folder).parents)):
            try:
                found = await sftp.statvfs(os.fsencode(place))
            except asyncssh.SFTPNoSuchFile:
                continue
            except asyncssh.SFTPError:
                pass
            break
        if found is None:
            return None  # the server cannot say; the transfer will
        if found.flags & _READ_ONLY:
            return BoardError(
                f"{self._link.name}: {folder} on the board is on a read-only file system.",
                next_step="A worn memory card is mounted read-only: see `dmesg` there, or set `workdir:`.",
            )
        free = found.bavail * found.frsize
        if free >= need:
            return None
        return BoardError(
            f"{self._link.name}: no space left on the board: {local.name} has {local.stat().st_size:,} bytes, "
            f"{free:,} are free in {folder}.",
            next_step="Free some there, or set `workdir:` in devices.yaml to a place with more room.",
        )

    async def _failure(
        self, sftp: asyncssh.SFTPClient, folder: str, local: Path, error: Exception
    ) -> BoardError | None:
        """What a bare "Failure" means: sshd says no more than that where a disk is full or read-only."""
        if not isinstance(error, asyncssh.SFTPFailure):
            return None
        with contextlib.suppress(asyncssh.Error, OSError):
            # What has arrived of the file has used up the room: even a little more would not fit.
            if (full := await self._no_room(sftp, folder, local, _LITTLE)) is not None:
                return full
        return BoardError(
            f"{self._link.name}: {local.name} could not be written to {folder}: {error.reason}.",
            next_step="Is there room, and may this user write there? `df -h` and `ls -ld` on the board tell.",
        )

    @contextlib.asynccontextmanager
    async def _sftp(self, doing: str) -> AsyncIterator[asyncssh.SFTPClient]:
        async with self._link.errors(f"{self._link.name}: {doing}"):
            try:
                sftp = await self._link.connection.start_sftp_client()
            except (asyncssh.SFTPError, asyncssh.ChannelOpenError) as error:
                if await self._link.is_gone():
                    raise
                raise BoardError(
                    f"{self._link.name}: the board gives no SFTP: {error.reason}.",
                    next_step="sshd_config there needs `Subsystem sftp internal-sftp`; a ForceCommand must let it by.",
                ) from None
            try:
                yield sftp
            finally:
                # Without waiting for the board's answer: on a link that says nothing any more none would come.
                sftp.exit()


class _Window:
    """How much may wait for its answer: enough to fill the link, and no more than it takes half a second for.

    What waits is in the way of keepalives and heartbeats on the same link, and is sent again after a cut.
    """

    _SOON_S, _LATE_S = 0.5, 1.0
    _LEAST, _MOST = 1 << 16, 1 << 21  # the most: the window of a channel of sshd

    def __init__(self, longest_write: int) -> None:
        """`longest_write`: what the server takes in one request."""
        self._longest = min(longest_write, 1 << 18)
        self._room = 1 << 18
        self._waiting = 0

    @property
    def block(self) -> int:
        """How much to send in one request: large ones cost less, small ones are answered sooner."""
        return min(self._longest, max(self._room // 8, self._LEAST // 2))

    @property
    def is_full(self) -> bool:
        """Whether to wait for an answer first."""
        return self._waiting + self.block > self._room

    def sent(self, amount: int) -> None:
        """So much is on its way."""
        self._waiting += amount

    def answered(self, amount: int, after_s: float) -> None:
        """So much has arrived, so long after it was sent."""
        self._waiting -= amount
        if after_s < self._SOON_S:
            self._room = min(self._room + amount, self._MOST)
        elif after_s > self._LATE_S:
            self._room = max(self._room - amount, self._LEAST)


class _Pace:
    """How fast answers come. Counted from the first one, so that neither its way there nor ours back weighs in."""

    def __init__(self) -> None:
        self._first: float | None = None
        self._last = 0.0
        self._bytes = 0

    def answered(self, amount: int) -> None:
        """So many bytes have arrived."""
        self._last = time.monotonic()
        if self._first is None:
            self._first = self._last
        else:
            self._bytes += amount

    @property
    def rate(self) -> float | None:
        """Bytes per second; None where too little went to tell."""
        if self._first is None or self._bytes < _MEASURABLE or self._last <= self._first:
            return None
        return self._bytes / (self._last - self._first)


async def _begun(sftp: asyncssh.SFTPClient, part: bytes, size: int) -> int:
    """How much of an upload of this size is there already. What cannot be a beginning of it is removed."""
    try:
        found = (await sftp.stat(part)).size or 0
    except asyncssh.SFTPNoSuchFile:
        return 0
    if found <= size:
        return found
    await sftp.remove(part)
    return 0


async def _replace(sftp: asyncssh.SFTPClient, source: bytes, target: bytes) -> None:
    try:
        await sftp.posix_rename(source, target)
    except asyncssh.SFTPOpUnsupported:
        with contextlib.suppress(asyncssh.SFTPNoSuchFile):
            await sftp.remove(target)
        await sftp.rename(source, target)
