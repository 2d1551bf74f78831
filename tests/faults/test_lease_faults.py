"""Leases when links fail: whoever is gone has nothing any more, and whoever is there loses nothing."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from device_tests import lease
from device_tests.deadline import Deadline
from device_tests.loopback import LoopbackBoard
from device_tests.session import BoardSession
from edgesmith.errors import BoardBusy
from edgesmith.progress import Silent
from edgesmith.types import Device, LeaseRequest
from tests.faults.relay import Relay


def wanted(owner: str, ttl_s: float = 60.0) -> LeaseRequest:
    return LeaseRequest(owner=owner, run_id="run", token=lease.new_token(), ttl_s=ttl_s, wait_s=0.0)


def through(board: LoopbackBoard, relay: Relay) -> Device:
    """The board by way of the relay, whose port known_hosts has never heard of."""
    return dataclasses.replace(board.device(), port=relay.port, known_hosts=None, host_key=board.fingerprint)


def records(board: LoopbackBoard) -> list[Path]:
    folder = Path(board.device().lease_dir)
    return list(folder.iterdir()) if folder.exists() else []


def until(check: Callable[[], Any], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


def session(device: Device, tmp_path: Path, request: LeaseRequest) -> BoardSession:
    return BoardSession(device, local_root=tmp_path / "here", progress=Silent(), lease=request)


@pytest.mark.slow
def test_on_a_half_open_link_the_agent_leaves_by_itself_and_gives_the_lease_back(
    board: LoopbackBoard, relay: Relay, tmp_path: Path
):
    """The board's sshd never notices, so nobody ends its stdin: only the heartbeats stop."""
    with session(through(board, relay), tmp_path, wanted("ann@ws", ttl_s=4.0)) as lost:
        agent = lost.ask("hello", {"workdir": "edgesmith"}, Deadline.after(60))["pid"]
        with pytest.raises(BoardBusy), session(board.device(), tmp_path, wanted("bob@ws")):
            pass
        relay.stalled = True
        until(lambda: not records(board))
        until(lambda: not Path(f"/proc/{agent}").exists())
        with session(board.device(), tmp_path, wanted("bob@ws")) as next_one:
            assert next_one.lease is not None
            assert next_one.lease.taken_over is None, "it was given back, not left to lapse"


def test_a_link_that_is_cut_frees_the_board_at_once(board: LoopbackBoard, tmp_path: Path):
    with session(board.device(), tmp_path, wanted("ann@ws", ttl_s=3600.0)):
        board.drop()
        until(lambda: not records(board))
