"""A session under a lease: had before anything else, kept while it is open, given back however it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from device_tests import lease
from device_tests.agent_client import AgentClient
from device_tests.agent_zip import build_agent
from device_tests.connection import CommandResult
from device_tests.deadline import Deadline
from device_tests.loopback import InProcessBoard
from device_tests.session import BoardSession
from edgesmith.errors import BoardBusy, ConnectionLost, DeadlineExceeded, InternalError, Terminated
from edgesmith.progress import Silent
from edgesmith.types import Device, LeaseRequest

# The greeting imports no runtimes: they take seconds, and a lease needs none.
LIGHT = build_agent(
    {"runtimes.py": b"def importable(_deadline):\n    return dict(runners=[], runtimes={}, missing={}, numpy=None)\n"}
)


def wanted(owner: str = "ann@ws", *, token: str = "", ttl_s: float = 60.0, wait_s: float = 0.0) -> LeaseRequest:
    name = token or lease.new_token()
    return LeaseRequest(owner=owner, run_id=f"run-{owner[:3]}", token=name, ttl_s=ttl_s, wait_s=wait_s)


@pytest.fixture(params=["local", "ssh"])
def device(request: pytest.FixtureRequest, tmp_path: Path, nobodys_ssh_setup: None) -> Iterator[Device]:
    if request.param == "local":
        yield Device(name="here", transport="local", python=sys.executable, lease_dir=str(tmp_path / "lease"))
        return
    with InProcessBoard(tmp_path / "board") as board:
        yield board.device()


@pytest.fixture
def session(device: Device, tmp_path: Path) -> Callable[..., BoardSession]:
    def make(request: LeaseRequest | None = None) -> BoardSession:
        return BoardSession(device, local_root=tmp_path / "root", progress=Silent(), lease=request, agent=LIGHT)

    return make


def record(device: Device) -> Any:
    """What the board's lease file says; None where there is none."""
    with contextlib.suppress(FileNotFoundError):
        return json.loads((Path(device.lease_dir) / "lease").read_text() or "null")
    return None


def until(check: Callable[[], Any], seconds: float = 20.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)
    return found


def test_it_is_had_while_the_session_is_open_and_nothing_is_left_of_it(
    session: Callable[..., BoardSession], device: Device
):
    with session(wanted()) as board:
        assert board.lease is not None
        assert board.lease.owner == "ann@ws"
        assert board.lease.taken_over is None
        assert record(device)["run"]["owner"] == "ann@ws"
        with pytest.raises(BoardBusy, match=r"is held by ann@ws \(run run-ann\)"), session(wanted("bob@ws")):
            pass
        assert record(device)["run"]["owner"] == "ann@ws"
    assert list(Path(device.lease_dir).iterdir()) == []
    with session(wanted("bob@ws")):
        assert record(device)["run"]["owner"] == "bob@ws"


def test_a_look_needs_none_and_disturbs_none(session: Callable[..., BoardSession], device: Device):
    with session() as board:
        assert board.lease is None
        assert not Path(device.lease_dir).exists()
    with session(wanted()), session() as look:
        assert look.lease is None
        found = lease.who(look.ask, device)
        assert found.run is not None
        assert found.run.owner == "ann@ws"


@pytest.mark.parametrize("ending", [ZeroDivisionError, KeyboardInterrupt, Terminated])
def test_it_is_given_back_whatever_ends_the_session(
    session: Callable[..., BoardSession], device: Device, ending: type[BaseException]
):
    with pytest.raises(ending), session(wanted()):
        raise ending
    assert record(device) is None


def test_it_is_given_back_when_opening_fails_after_it_was_had(
    session: Callable[..., BoardSession], device: Device, monkeypatch: pytest.MonkeyPatch
):
    seen: list[Any] = []

    def broken(*_: object) -> None:
        seen.append(record(device))
        raise KeyboardInterrupt

    monkeypatch.setattr("device_tests.session.measure.board_info", broken)
    with pytest.raises(KeyboardInterrupt), session(wanted()):
        pass
    assert seen[0]["run"]["owner"] == "ann@ws"
    assert record(device) is None


def test_who_waits_gets_it_when_the_other_leaves(session: Callable[..., BoardSession], device: Device, tmp_path: Path):
    first = session(wanted())
    first.__enter__()

    class Leave(Silent):
        def note(self, text: str) -> None:
            assert f"{device.name} is held by ann@ws (run run-ann)" in text
            first.__exit__(None, None, None)

    patient = BoardSession(
        device, local_root=tmp_path / "root", progress=Leave(), lease=wanted("bob@ws", wait_s=60), agent=LIGHT
    )
    with patient as second:
        assert second.lease is not None
        assert second.lease.owner == "bob@ws"


def test_heartbeats_renew_it(session: Callable[..., BoardSession], device: Device):
    with session(wanted(ttl_s=4.0)):
        before = record(device)["run"]["renewed_s"]
        until(lambda: record(device)["run"]["renewed_s"] > before)


def test_a_lease_that_is_lost_meanwhile_is_told_and_the_board_is_left_alone(
    session: Callable[..., BoardSession], device: Device
):
    with session(wanted(ttl_s=6.0)) as board, session() as other:
        lease.give_back(other.ask, device, "bob@ws", force=True)
        with pytest.raises(BoardBusy) as lost:
            until(lambda: not board.ask("have", {"sha256": []}, Deadline.after(20)))
        assert lost.value.what == f"{device.name}: the lease of this board was lost: nobody has it now."
        assert "stood still for longer than the lease lasts" in lost.value.next_step


def test_the_same_token_comes_back_to_its_lease_and_ends_the_agent_it_left(
    session: Callable[..., BoardSession], device: Device
):
    request = wanted(token="mine")
    with session(request) as left:
        pid = left.ask("hello", {"workdir": "."}, Deadline.after(60))["pid"]
        os.kill(pid, signal.SIGSTOP)
        with session(request) as back:
            assert lease.kill_stale(back.ask, device, "mine") == (f"the agent with pid {pid} ended",)
            assert record(device)["run"]["token"] == "mine"
            with contextlib.suppress(ConnectionLost):
                left.abort()
    assert record(device) is None


def test_a_call_that_waits_is_ended_from_another_thread(session: Callable[..., BoardSession], device: Device):
    with session(wanted()) as board:
        pid = board.ask("hello", {"workdir": "."}, Deadline.after(60))["pid"]
        os.kill(pid, signal.SIGSTOP)  # it answers nothing
        threading.Timer(0.1, board.abort).start()
        with pytest.raises(ConnectionLost, match=f"{device.name}: the connection was cut from here"):
            board.ask("have", {"sha256": []}, Deadline.after(600))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    until(lambda: not Path(f"/proc/{pid}").exists() or record(device) is None)


def test_an_agent_whose_link_was_cut_leaves_in_order(session: Callable[..., BoardSession], device: Device):
    with contextlib.suppress(ConnectionLost), session(wanted()) as board:
        board.abort()
        until(lambda: record(device) is None)


def test_who_is_stopped_while_waiting_for_a_board_waits_no_more(
    session: Callable[..., BoardSession], device: Device, tmp_path: Path
):
    class Stop(Silent):
        def note(self, text: str) -> None:
            assert "waiting up to 10 min" in text
            second.abort()

    with session(wanted()):
        second = BoardSession(
            device, local_root=tmp_path / "root", progress=Stop(), lease=wanted("bob@ws", wait_s=600), agent=LIGHT
        )
        with pytest.raises(ConnectionLost, match="cut from here"), second:
            pass
        assert record(device)["run"]["owner"] == "ann@ws"


def test_one_that_is_stopped_before_it_is_open_does_not_open(session: Callable[..., BoardSession], device: Device):
    board = session(wanted())
    board.abort()
    with pytest.raises(ConnectionLost, match="cut from here"), board:
        pass
    assert record(device) is None


def test_a_place_that_cannot_hold_a_lease_is_told(device: Device, tmp_path: Path):
    nowhere = dataclasses.replace(device, lease_dir=str(tmp_path / "no" / "where"))
    session = BoardSession(nowhere, local_root=tmp_path / "root", progress=Silent(), lease=wanted())
    with pytest.raises(Exception, match=r"the board's lease cannot be kept in .*`lease_dir:` in devices.yaml"), session:
        pass


def test_a_session_that_is_not_open_says_so(session: Callable[..., BoardSession]):
    board = session()
    for use in (lambda: board.info, lambda: board.connection, lambda: board.ask("hello", {}, Deadline.after(1))):
        with pytest.raises(InternalError, match="the board session is not open"):
            use()


class Slow:
    """A process whose link takes a line at a time, as long as it is told to."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.sending = threading.Event()
        self.go_on = threading.Event()
        self.inside = 0

    def send(self, line: bytes, deadline: Deadline) -> None:
        self.inside += 1
        assert self.inside == 1, "two lines at once"
        self.sending.set()
        assert self.go_on.wait(deadline.remaining_s)
        self.sent.append(line)
        self.inside -= 1

    def receive(self, deadline: Deadline) -> bytes:
        return b'{"id": 1, "result": {}}'

    def stderr_tail(self) -> str:
        return ""

    def close(self, deadline: Deadline) -> CommandResult:
        raise NotImplementedError


def test_a_heartbeat_never_gets_in_between_a_line():
    process = Slow()
    client = AgentClient(process, "board")
    asking = threading.Thread(target=client.call, args=("have", {}, Deadline.after(20)))
    asking.start()
    assert process.sending.wait(20)
    with pytest.raises(DeadlineExceeded, match="board: the line before is still being sent"):
        client.heartbeat(Deadline.after(0.01))
    process.go_on.set()
    client.heartbeat(Deadline.after(20))
    asking.join(20)
    assert process.sent[1] == b'{"heartbeat": true}'
