"""One login to one board, and what the errors of asyncssh mean on it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncssh

from edgesmith.errors import BoardError, ConnectionLost

LINK_ERRORS = (asyncssh.ConnectionLost, asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection, ConnectionError)
"""Errors that can only mean that the link is gone."""
_MOMENT_S = 0.5


class Link:
    """A connection that is logged in. Everything here runs on the SSH loop.

    Attributes:
        name: the board's, for messages.
        address: where it leads, for messages.
        connection: asyncssh's.
    """

    def __init__(self, name: str, address: str, connection: asyncssh.SSHClientConnection) -> None:
        self.name = name
        self.address = address
        self.connection = connection

    @contextlib.asynccontextmanager
    async def errors(self, doing: str) -> AsyncIterator[None]:
        """Asyncssh's errors as ours."""
        try:
            yield
        except LINK_ERRORS:
            raise self.lost(doing) from None
        except OSError:
            # The socket's own, or of a file here.
            if await self.is_gone():
                raise self.lost(doing) from None
            raise
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPPermissionDenied) as error:
            raise BoardError(
                f"{doing}: {error.reason}.", next_step="May this user read and write `workdir:` on the board?"
            ) from None
        except asyncssh.Error as error:
            if await self.is_gone():
                raise self.lost(doing) from None
            raise BoardError(f"{doing}: {error.reason}.") from None

    async def is_gone(self) -> bool:
        """Whether the link is down. A refusal can be the first sign of it: it gets a moment to show."""
        try:
            async with asyncio.timeout(_MOMENT_S):
                await self.connection.wait_closed()
        except TimeoutError:
            return False
        return True

    def lost(self, doing: str) -> ConnectionLost:
        """The error for a link that is gone."""
        return ConnectionLost(
            f"{doing}: the connection to {self.address} was lost.",
            next_step="Did the board restart, or lose its network or power? Run again: what was done is kept.",
        )

    async def close(self) -> None:
        """Ends it in order; aborts it where that takes too long."""
        self.connection.close()
        try:
            await self.connection.wait_closed()
        except asyncio.CancelledError:
            self.connection.abort()
            raise
