"""A link that can be made bad: no root, no netem."""

from __future__ import annotations

import asyncio
import contextlib

from device_tests.deadline import Deadline
from device_tests.ssh_loop import LoopThread


class Relay:
    """A TCP relay whose link can be spoilt. Runs on a loop of its own.

    Attributes:
        port: where to connect.
        stalled: half-open: bytes stop, the sockets stay up.
        cut_after: reset everything, once, when this many bytes went up.
        stall_after: the same, half-open.
        silent: accept, and say nothing.
        drop_next: so many connections are closed at once.
        accepted: connections so far.
        up: bytes that went up so far.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self.stalled = self.silent = False
        self.cut_after: int | None = None
        self.stall_after: int | None = None
        self.drop_next = self.accepted = 0
        self._target = target
        self.up = 0
        self._links: set[asyncio.StreamWriter] = set()
        self._loop = LoopThread()
        self._server = self._loop.call(self._start(), Deadline.after(10), "relay")

    def close(self) -> None:
        """Ends the relay and its connections."""
        self._loop.call(self._stop(), Deadline.after(10), "relay")
        self._loop.stop()

    async def _start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _stop(self) -> None:
        self._server.close()
        self._reset()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def reset(self) -> None:
        """Cuts every connection."""
        self._loop.call(self._reset_now(), Deadline.after(10), "relay")

    async def _reset_now(self) -> None:
        self._reset()

    def _reset(self) -> None:
        for link in self._links:
            link.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._links.add(writer)
        self.accepted += 1
        if self.drop_next:
            self.drop_next -= 1
            writer.close()
            return
        if self.silent:
            await asyncio.sleep(3600)
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._links.add(there_writer)
        await asyncio.gather(self._pump(reader, there_writer, up=True), self._pump(there_reader, writer, up=False))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 14):
                self.up += len(data) if up else 0
                if self.cut_after is not None and self.up > self.cut_after:
                    self.cut_after = None
                    self._reset()
                if self.stall_after is not None and self.up > self.stall_after:
                    self.stall_after, self.stalled = None, True
                while self.stalled:
                    await asyncio.sleep(0.02)
                writer.write(data)
                await writer.drain()
        writer.close()
