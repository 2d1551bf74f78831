"""The workstation's side of a lease: patience, what is told meanwhile, and what an owner is called."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from device_tests import lease
from device_tests.deadline import Deadline
from edgesmith.errors import BoardBusy, ConnectionLost, DeadlineExceeded
from edgesmith.progress import Silent
from edgesmith.types import Device, LeaseHolder, LeaseRequest

BOARD = Device(name="pi5-lab", transport="ssh", lease_dir="/run/lock/edgesmith")
MINE = LeaseRequest(owner="ann@ws", run_id="run-1", token="mine", wait_s=600.0)
GRANTED = {"granted": True, "taken_over": None, "stale": []}


def holder(owner: str = "bob@ci", **changed: object) -> dict[str, Any]:
    return {"kind": "run", "owner": owner, "run_id": "run-9", "held_s": 180.0, "expires_in_s": 42.0} | changed


def held(owner: str = "bob@ci", **changed: object) -> dict[str, Any]:
    return {"granted": False, "holder": holder(owner, **changed)}


class Board:
    """Answers as scripted; the last answer is given for ever."""

    def __init__(self, *answers: Mapping[str, Any]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, Mapping[str, Any]]] = []

    def __call__(self, method: str, params: Mapping[str, Any], deadline: Deadline) -> Mapping[str, Any]:
        assert 0 < deadline.remaining_s < 60
        self.asked.append((method, params))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Notes(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def acquire(board: Board, request: LeaseRequest = MINE) -> tuple[Any, list[str]]:
    notes = Notes()
    return lease.acquire(board, BOARD, request, notes, poll_s=0.0), notes.lines


def test_a_free_board_is_had_at_once_and_nothing_is_told():
    board = Board(GRANTED)
    got, lines = acquire(board)
    assert lines == []
    assert (got.device, got.owner, got.run_id, got.token, got.taken_over) == (
        "pi5-lab",
        "ann@ws",
        "run-1",
        "mine",
        None,
    )
    asked = {"lease_dir": BOARD.lease_dir, "owner": "ann@ws", "run_id": "run-1", "token": "mine", "ttl_s": 60.0}
    assert board.asked == [("lease", asked)]


def test_who_has_it_is_told_once_for_every_change():
    busy, other = held(), held("cid@ws", run_id="", held_s=5.0, expires_in_s=55.0)
    reserved = held("dan@ws", kind="hold", run_id="", expires_in_s=7200.0)
    _, lines = acquire(Board(busy, busy, busy, other, other, reserved, GRANTED))
    assert lines == [
        "pi5-lab is held by bob@ci (run run-9) for 3 min, lapses in 42 s unless renewed; waiting up to 10 min",
        "pi5-lab is held by cid@ws for 5 s, lapses in 55 s unless renewed; waiting up to 10 min",
        "pi5-lab is reserved by dan@ws for 2 h more; waiting up to 10 min",
    ]


def test_a_lapsed_lease_that_was_taken_over_is_reported():
    got, lines = acquire(Board(held(), dict(GRANTED, taken_over=holder(expires_in_s=0.0))))
    assert got.taken_over == LeaseHolder(kind="run", owner="bob@ci", run_id="run-9", held_s=180.0, expires_in_s=0.0)
    assert lines[-1] == "pi5-lab: the lease of bob@ci (run run-9) had lapsed and was taken over"


def test_an_agent_that_a_lost_link_has_left_is_reported():
    _, lines = acquire(Board(dict(GRANTED, stale=[4711])))
    assert lines == ["pi5-lab: an agent that a lost link had left there was told to leave (pid 4711)"]


def test_when_the_patience_has_run_out_it_is_said_who_has_it_and_what_can_be_done():
    impatient = LeaseRequest(owner="ann@ws", run_id="run-1", token="mine", wait_s=0.01)
    board = Board(held())
    with pytest.raises(BoardBusy) as busy:
        acquire(board, impatient)
    assert busy.value.what == (
        "pi5-lab is held by bob@ci (run run-9) for 3 min, lapses in 42 s unless renewed; waited 0 s for it."
    )
    assert busy.value.next_step == (
        "Wait, ask them, or end it: `edgesmith devices release pi5-lab --force`; a run that works there fails then."
    )
    assert busy.value.exit_code == 3
    assert not busy.value.may_pass
    assert len(board.asked) >= 2


def test_without_patience_it_is_asked_once():
    board = Board(held(owner="ann@ws"))
    with pytest.raises(BoardBusy) as busy:
        acquire(board, LeaseRequest(owner="ann@ws", run_id="run-1", token="mine", wait_s=0.0))
    assert busy.value.what.endswith("unless renewed.")
    assert len(board.asked) == 1


def test_what_others_wrote_on_the_board_does_not_steer_the_terminal():
    with pytest.raises(BoardBusy) as busy:
        acquire(Board(held("\x1b[2Jbob\n" * 99)), LeaseRequest(owner="a", run_id="r", token="t", wait_s=0.0))
    assert "\x1b" not in busy.value.what
    assert "\n" not in busy.value.what
    assert len(busy.value.what) < 300


def test_who_has_a_board():
    board = Board({"run": holder(), "hold": None})
    found = lease.who(board, BOARD)
    assert found.run is not None
    assert found.run.owner == "bob@ci"
    assert found.hold is None
    assert board.asked == [("holder", {"lease_dir": BOARD.lease_dir})]


def test_a_reservation_says_whom_it_replaced_or_who_is_in_the_way():
    assert lease.reserve(Board({"granted": True, "taken_over": None}), BOARD, "ann@ws", 60.0) is None
    replaced = lease.reserve(Board({"granted": True, "taken_over": holder()}), BOARD, "ann@ws", 60.0, force=True)
    assert replaced is not None
    with pytest.raises(BoardBusy, match="pi5-lab is held by bob@ci"):
        lease.reserve(Board(held()), BOARD, "ann@ws", 60.0)


def test_giving_back_says_what_went_and_who_is_left():
    found = lease.give_back(Board({"released": [holder("ann@ws", kind="hold")], "holder": holder()}), BOARD, "ann@ws")
    assert [one.kind for one in found.gone] == ["hold"]
    assert found.holder is not None
    assert found.holder.owner == "bob@ci"


def test_ending_stale_agents_is_told_one_by_one():
    board = Board({"agents": [{"pid": 7, "outcome": "ended"}, {"pid": 9, "outcome": "was gone"}]})
    assert lease.kill_stale(board, BOARD, "mine") == ("the agent with pid 7 ended", "the agent with pid 9 was gone")
    assert board.asked == [("kill_stale", {"lease_dir": BOARD.lease_dir, "token": "mine"})]


def test_the_owner_is_user_and_host_unless_it_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("EDGESMITH_OWNER", raising=False)
    monkeypatch.setattr(lease.getpass, "getuser", lambda: "ann")
    monkeypatch.setattr(lease.socket, "gethostname", lambda: "ws")
    assert lease.owner() == "ann@ws"
    monkeypatch.setenv("EDGESMITH_OWNER", "ci\x07 job 12")
    assert lease.owner() == "ci? job 12"


def test_a_user_without_a_name_has_a_number(monkeypatch: pytest.MonkeyPatch):
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.delenv("EDGESMITH_OWNER", raising=False)
    monkeypatch.setattr(lease.getpass, "getuser", nameless)
    monkeypatch.setattr(lease.os, "getuid", lambda: 12345)
    assert lease.owner().startswith("uid12345@")


def test_tokens_differ():
    assert len({lease.new_token() for _ in range(100)}) == 100


def test_heartbeats_go_on_over_a_slow_link_and_end_with_a_lost_one():
    beats: list[float] = []
    lost = threading.Event()

    def beat(deadline: Deadline) -> None:
        beats.append(deadline.remaining_s)
        if len(beats) == 1:
            raise DeadlineExceeded("slow")
        if len(beats) == 3:
            lost.set()
            raise ConnectionLost("gone")

    heartbeat = lease.Heartbeat(beat, 0.001)
    assert lost.wait(20)
    heartbeat._thread.join(20)
    assert not heartbeat._thread.is_alive()
    assert len(beats) == 3


def test_a_heartbeat_that_was_stopped_beats_no_more():
    beats: list[float] = []
    heartbeat = lease.Heartbeat(lambda deadline: beats.append(deadline.remaining_s), 3600)
    heartbeat.stop()
    assert not heartbeat._thread.is_alive()
    assert beats == []
