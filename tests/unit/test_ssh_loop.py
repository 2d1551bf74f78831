"""The loop that SSH lives on, called from threads that have deadlines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from device_tests import ssh_loop
from device_tests.deadline import Deadline
from device_tests.ssh_loop import LoopThread
from edgesmith.errors import DeadlineExceeded


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.stop()


def test_past_the_deadline_the_work_is_cancelled(loop: LoopThread):
    cancelled = threading.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(DeadlineExceeded, match="the work: no answer in time"):
        loop.call(work(), Deadline.after(0.05), "the work")
    assert cancelled.wait(10)


def test_work_that_cannot_be_stopped_is_left(loop: LoopThread, monkeypatch: pytest.MonkeyPatch):
    """Its clean-up may wait for a board that says nothing any more."""
    monkeypatch.setattr(ssh_loop, "_SLACK_S", 0.1)
    let_go = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            await let_go.wait()

    with pytest.raises(DeadlineExceeded, match="the work: no answer in time, and no way to stop"):
        loop.call(work(), Deadline.after(0.05), "the work")
    loop.soon(let_go.set)


def test_a_timeout_of_the_work_itself_is_its_own_error(loop: LoopThread):
    async def work() -> None:
        raise TimeoutError("the work's own")

    with pytest.raises(TimeoutError, match="the work's own"):
        loop.call(work(), Deadline.after(60), "the work")


def test_soon_waits_for_nothing(loop: LoopThread):
    done = threading.Event()
    loop.soon(done.set)
    assert done.wait(10)
