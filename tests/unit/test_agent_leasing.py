"""The lease in real agents: raced for, renewed, lapsed, lost, and given back however an agent ends."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from device_tests.agent import leasing, stale
from device_tests.agent.leasing import LEAVES_AFTER, Leasing
from device_tests.agent.protocol import HEARTBEAT, Deadline, Refusal
from tests.agent_process import AgentProcess, running

ROUNDS = 100


class Clock:
    """A board's uptime, set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "lease")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], AgentProcess]]:
    started: list[AgentProcess] = []

    def run() -> AgentProcess:
        started.append(AgentProcess(tmp_path))
        return started[-1]

    yield run
    for agent in started:
        agent.process.kill()
        agent.process.communicate()


def agent_of(clock: Clock, left: list[str], name: str) -> Leasing:
    """An agent's leasing in this process. It is told apart by its pid, as real ones are."""
    found = Leasing(lambda: left.append(name), clock, end_work=lambda: left.append(f"{name}'s work"))
    found._process = {"pid": len(name), "started": len(name)}
    return found


def claim(agent: Any, place: str, who: str, ttl_s: float = 60.0, token: str = "") -> Any:
    params = {"lease_dir": place, "owner": f"{who}@ws", "run_id": f"run-{who}", "token": token or who, "ttl_s": ttl_s}
    return agent.ask("lease", **params) if isinstance(agent, AgentProcess) else agent.lease(params, None, None)


def until(check: Callable[[], Any], seconds: float = 20.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)
    return found


# --- with a clock set by hand ---


def test_heartbeats_renew_it_and_no_wall_clock_is_asked(clock: Clock, place: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(time, "time", lambda: pytest.fail("the wall clock was asked"))
    ann, bob = agent_of(clock, [], "ann"), agent_of(clock, [], "bobby")
    assert claim(ann, place, "ann")["granted"]
    for _ in range(5):
        clock.now += 50
        assert ann.heartbeat(HEARTBEAT + b"\n")
        assert not claim(bob, place, "bob")["granted"]
    clock.now += 61
    assert claim(bob, place, "bob")["taken_over"]["owner"] == "ann@ws"


def test_only_a_heartbeat_is_taken_for_one(clock: Clock):
    agent = agent_of(clock, [], "ann")
    for line in (b'{"id": 1, "method": "hello"}\n', b'{"heartbeat": false}\n', b"\n"):
        assert not agent.heartbeat(line)
    assert agent.heartbeat(HEARTBEAT)


def test_a_heartbeat_after_a_takeover_ends_the_work_and_says_who_has_the_board(clock: Clock, place: str):
    left: list[str] = []
    ann, bob = agent_of(clock, left, "ann"), agent_of(clock, left, "bobby")
    claim(ann, place, "ann")
    clock.now += 61
    claim(bob, place, "bob")
    ann.heartbeat(HEARTBEAT)
    assert left == ["ann's work"]
    with pytest.raises(Refusal) as lost:
        ann.check()
    assert lost.value.code == "lease-lost"
    assert lost.value.message == "the lease of this board was lost: bob@ws has it now (run run-bob)"
    assert not ann.release()
    assert bob.release()
    bob.check()


def test_a_lease_that_was_taken_away_by_force_is_lost(clock: Clock, place: str):
    left: list[str] = []
    ann = agent_of(clock, left, "ann")
    claim(ann, place, "ann")
    ann.unhold({"lease_dir": place, "owner": "bob@ws", "force": True}, None, None)
    ann.heartbeat(HEARTBEAT)
    assert ann.lost == "the lease of this board was lost: nobody has it now"


def test_an_agent_that_is_leaving_takes_no_lease(clock: Clock, place: str):
    agent = agent_of(clock, [], "ann")
    agent.close()
    with pytest.raises(Refusal, match="the agent is about to leave"):
        claim(agent, place, "ann")


def test_a_reservation_lets_its_owner_in_and_is_seen_by_all(clock: Clock, place: str):
    ann, bob = agent_of(clock, [], "ann"), agent_of(clock, [], "bobby")
    assert ann.hold({"lease_dir": place, "owner": "ann@ws", "seconds": 3600}, None, None)["granted"]
    assert claim(bob, place, "bob")["holder"]["kind"] == "hold"
    assert claim(ann, place, "ann")["granted"]
    told = bob.holder({"lease_dir": place}, None, None)
    assert (told["run"]["owner"], told["hold"]["expires_in_s"]) == ("ann@ws", 3600.0)
    assert ann.release()
    assert bob.unhold({"lease_dir": place, "owner": "bob@ws"}, None, None)["released"] == []
    assert len(bob.unhold({"lease_dir": place, "owner": "ann@ws"}, None, None)["released"]) == 1
    assert list(Path(place).iterdir()) == []


# --- real agents ---


def test_in_a_hundred_races_there_is_one_winner_each_time(start: Callable[[], AgentProcess], place: str):
    racers = start(), start()
    for number in range(ROUNDS):
        order = racers if number % 2 else racers[::-1]
        for name, racer in enumerate(order):
            racer.begin("lease", lease_dir=place, owner="o", run_id="r", token=f"{number}-{name}", ttl_s=60)
        answers = [racer.answer() for racer in order]
        assert sorted(answer["granted"] for answer in answers) == [False, True], f"round {number}: {answers}"
        assert not any(answer.get("taken_over") for answer in answers)
        winner = order[0] if answers[0]["granted"] else order[1]
        assert winner.ask("unlease") == {"released": True}
    assert list(Path(place).iterdir()) == []


@pytest.mark.parametrize("how", ["SIGTERM", "SIGHUP", "stdin"])
def test_it_is_given_back_when_the_agent_has_to_leave(start: Callable[[], AgentProcess], place: str, how: str):
    agent = start()
    claim(agent, place, "ann")
    if how == "stdin":
        assert agent.process.stdin is not None
        agent.process.stdin.close()
        agent.process.stdin = None
    else:
        agent.process.send_signal(signal.Signals[how])
    assert agent.ended() == (0, "")
    assert list(Path(place).iterdir()) == []


def test_an_agent_that_hears_no_heartbeat_leaves_and_gives_it_back(start: Callable[[], AgentProcess], place: str):
    """A half-open link: its stdin stays open, and nobody is there."""
    agent = start()
    claim(agent, place, "ann", ttl_s=0.5)
    assert agent.ended() == (0, "")
    assert list(Path(place).iterdir()) == []


def test_it_leaves_before_its_lease_lapses():
    """Its children are gone before anybody else may begin."""
    assert LEAVES_AFTER < 1.0


def test_heartbeats_keep_it_also_while_it_works(start: Callable[[], AgentProcess], place: str):
    agent = start()

    def renewed() -> float:
        return json.loads((Path(place) / "lease").read_text())["run"]["renewed_s"]

    claim(agent, place, "ann")
    before = renewed()
    agent.begin("hello", workdir="board")  # imports every runtime: a second at least
    agent.beat()
    until(lambda: renewed() > before)
    assert not select.select([agent.process.stdout], [], [], 0)[0], "it has answered already: this test shows nothing"
    assert agent.answer()["pid"] == agent.pid


def test_after_a_kill_the_lease_stays_until_it_lapses_and_is_then_taken_over(
    start: Callable[[], AgentProcess], place: str
):
    killed, other = start(), start()
    claim(killed, place, "ann", ttl_s=3.0)
    killed.process.kill()
    killed.process.wait()
    refusals = 0
    while not (told := claim(other, place, "bob", ttl_s=1.0))["granted"]:
        assert told["holder"]["owner"] == "ann@ws"
        refusals += 1
    assert refusals
    assert told["taken_over"]["run_id"] == "run-ann"


def test_one_that_stood_still_for_too_long_ends_its_work_and_says_so(start: Callable[[], AgentProcess], place: str):
    stalled, other = start(), start()
    assert stalled.ask("hello", workdir="board")["pid"] == stalled.pid
    claim(stalled, place, "ann", ttl_s=1.0)
    stalled.process.send_signal(signal.SIGSTOP)
    until(lambda: claim(other, place, "bob", ttl_s=60)["granted"])
    stalled.process.send_signal(signal.SIGCONT)
    stalled.beat()
    for method, params in (("have", {"sha256": []}), ("holder", {"lease_dir": place})):
        told = stalled.ask(method, **params)
        assert told["code"] == "lease-lost"
        assert told["message"] == "the lease of this board was lost: bob@ws has it now (run run-bob)"
    assert stalled.ended()[0] == 0, "nobody is there to be told any more"
    assert other.ask("unlease") == {"released": True}


def test_the_same_token_comes_back_and_can_end_the_agent_it_left(start: Callable[[], AgentProcess], place: str):
    left, back = start(), start()
    claim(left, place, "ann", token="mine")
    left.process.send_signal(signal.SIGSTOP)  # it can neither clean up nor notice
    told = claim(back, place, "ann", token="mine")
    assert told == {"granted": True, "taken_over": None, "stale": [left.pid]}
    assert back.ask("kill_stale", lease_dir=place, token="mine") == {"agents": [{"pid": left.pid, "outcome": "ended"}]}
    assert left.process.wait(20) == -signal.SIGKILL
    assert back.ask("kill_stale", lease_dir=place, token="mine") == {
        "agents": [{"pid": left.pid, "outcome": "was gone"}]
    }
    assert back.ask("holder", lease_dir=place)["run"]["owner"] == "ann@ws"


def test_coming_back_has_the_stale_agent_leave_in_order(start: Callable[[], AgentProcess], place: str, tmp_path: Path):
    left, back = start(), start()
    left.ask("hello", workdir="board")
    claim(left, place, "ann", token="mine")
    assert claim(back, place, "ann", token="mine")["stale"] == [left.pid]
    assert left.ended()[0] == 0
    assert [path for path in (tmp_path / "board" / "work").iterdir() if path.is_dir()] == []
    # Its leaving does not touch the lease, which is the new agent's.
    assert back.ask("unlease") == {"released": True}


def test_nobody_elses_agent_is_ended(start: Callable[[], AgentProcess], place: str):
    holder, other = start(), start()
    claim(holder, place, "ann")
    assert other.ask("kill_stale", lease_dir=place, token="guess") == {"agents": []}
    assert holder.process.poll() is None


def test_a_lease_dir_that_cannot_be_used_is_an_answer(start: Callable[[], AgentProcess], tmp_path: Path):
    told = claim(start(), str(tmp_path / "no" / "where"), "ann")
    assert told["code"] == "lease-folder"
    assert "there is no folder to make it in" in told["message"]


# --- whom `kill_stale` may end ---


def test_only_an_agent_with_the_same_start_is_an_agent(
    start: Callable[[], AgentProcess], monkeypatch: pytest.MonkeyPatch
):
    # Whoever looks is an agent, too: other processes of the name that this test runs under are none.
    monkeypatch.setattr(sys, "argv", ["agent.zip"])
    agent = start()
    born = stale.started(agent.pid)
    assert born is not None
    assert not stale.is_agent({"pid": agent.pid, "started": born + 1}), "another process has that pid by now"
    assert not stale.is_agent({"pid": agent.pid, "started": None})
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert stale.end({"pid": other.pid, "started": stale.started(other.pid)}, Deadline(1)) == "was gone"
    assert other.poll() is None
    other.communicate()


def test_an_agent_of_another_edgesmith_is_known_by_its_name(tmp_path: Path):
    script = tmp_path / f"agent-{'0' * 64}.zip"
    script.write_text("input()")
    with subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE) as other:
        assert until(lambda: stale.is_agent({"pid": other.pid, "started": stale.started(other.pid)}))
        assert stale.end({"pid": other.pid, "started": stale.started(other.pid)}, Deadline(20)) == "ended"


def test_its_children_go_with_it(tmp_path: Path):
    script = tmp_path / f"agent-{'0' * 64}.zip"
    script.write_text(
        "import subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        child = int(agent.stdout.readline())
        assert stale.end({"pid": agent.pid, "started": stale.started(agent.pid)}, Deadline(20)) == "ended"
    until(lambda: stale.started(child) is None)


def test_uptime_and_boot_id_are_the_kernels():
    assert abs(leasing._uptime() - float(Path("/proc/uptime").read_text().split()[0])) < 5
    assert leasing._boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert stale.started(os.getpid()) is not None


def test_running_leaves_nothing_running(tmp_path: Path):
    with running(tmp_path) as agent:
        assert agent.process.poll() is None
    assert agent.process.returncode is not None
