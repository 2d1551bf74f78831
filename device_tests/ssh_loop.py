"""asyncssh lives on one event loop in one background thread; the rest of edgesmith calls it and waits."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import functools
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import asyncssh

from device_tests.deadline import Deadline
from edgesmith.errors import DeadlineExceeded

ResultT = TypeVar("ResultT")
_SLACK_S = 5.0


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        logging.getLogger("asyncio").addFilter(_is_news)
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_forgotten)
        self._thread = threading.Thread(target=self._loop.run_forever, name="edgesmith-ssh", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, ResultT], deadline: Deadline, doing: str) -> ResultT:
        """Runs `work` on the loop and waits; past the deadline, or on Ctrl-C, it is cancelled.

        Raises:
            DeadlineExceeded: names `doing`.
        """
        future = asyncio.run_coroutine_threadsafe(_bounded(work, deadline), self._loop)
        # A TimeoutError of the work itself comes as a result: only what is left is the end of our own patience.
        concurrent.futures.wait([future], deadline.remaining_s + _SLACK_S)
        try:
            return future.result(0)
        except _OutOfTimeError:
            raise DeadlineExceeded(f"{doing}: no answer in time.") from None
        except TimeoutError:
            if future.done():
                raise
            raise DeadlineExceeded(f"{doing}: no answer in time, and no way to stop waiting for one.") from None
        finally:
            future.cancel()

    def soon(self, work: Callable[[], object]) -> None:
        """Runs `work` on the loop as soon as it gets to it; waits for nothing."""
        self._loop.call_soon_threadsafe(work)

    def stop(self) -> None:
        """Ends loop and thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_SLACK_S)
        if not self._thread.is_alive():
            self._loop.close()


class _OutOfTimeError(Exception):
    """Our deadline, told apart from a TimeoutError of the work itself."""


async def _bounded(work: Coroutine[Any, Any, ResultT], deadline: Deadline) -> ResultT:
    scope = asyncio.timeout(deadline.remaining_s)
    try:
        async with scope:
            return await work
    except TimeoutError:
        if scope.expired():
            raise _OutOfTimeError from None
        raise


def _forgotten(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """After a transfer broke, asyncssh leaves a dozen failed requests that nobody asks for: the first was reported."""
    if not isinstance(context.get("exception"), asyncssh.SFTPError | asyncssh.DisconnectError):
        loop.default_exception_handler(context)


def _is_news(record: logging.LogRecord) -> bool:
    """Not: once for every block that was still to be sent when a link broke, and once for a ProxyCommand that ended."""
    return not str(record.msg).startswith(("socket.send() raised exception", "Unknown child process pid"))


def ssh_loop() -> LoopThread:
    """The one loop of this process, started when first needed."""
    with _starting:  # boards are reached side by side: two threads may be the first
        return _started()


_starting = threading.Lock()


@functools.cache
def _started() -> LoopThread:
    thread = LoopThread()
    atexit.register(thread.stop)
    return thread
