"""Power modes: set on request, by name, and put back whatever happens to whom."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from device_tests.agent import power_hold, power_journal, power_modes
from device_tests.agent.power_hold import Hold
from device_tests.agent.protocol import Refusal
from device_tests.fake_jetson.tools import TOOLS
from tests.power_boards import Board
from tests.processes import runs, stat, wait_gone

OTHER = {"4.6": "MAXN", "5.1": "MODE_15W_4CORE", "6.2": "25W", "7.0": "MAXN", "7.2": "15W"}


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


def told(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


@pytest.mark.parametrize("jetpack", TOOLS)
def test_a_mode_is_held_by_name_and_put_back(tmp_path: Path, jetpack: str):
    board = Board(tmp_path, jetpack)
    before, mode = board.files(), board.mode
    assert mode == TOOLS[jetpack].modes[TOOLS[jetpack].now].name
    with board.hold(OTHER[jetpack], lock=True) as held:
        assert board.mode == OTHER[jetpack]
        assert power_modes.look(board.root)["clocks_locked"]
        assert runs(held.guard_pid)
        assert held.record()["restored"] is None
    wait_gone(held.guard_pid)
    assert board.files() == before
    numbers = {one.name: number for number, one in enumerate(TOOLS[jetpack].modes)}
    assert [line for line in board.calls() if not line.startswith("nvpmodel -q")] == [
        "jetson_clocks --store",
        f"nvpmodel -m {numbers[OTHER[jetpack]]}",
        f"nvpmodel done {numbers[OTHER[jetpack]]}",
        "jetson_clocks",
        f"nvpmodel -m {numbers[str(mode)]}",
        f"nvpmodel done {numbers[str(mode)]}",
        "jetson_clocks --restore",
    ]
    record = held.record()
    assert (record["mode"], record["mode_before"]) == (OTHER[jetpack], mode)
    assert (record["clocks_locked"], record["loose"], record["recovered"]) == (True, [], [])
    assert record["asked"] == {"mode": OTHER[jetpack], "lock_clocks": True}
    assert (record["restored"]["ok"], record["restored"]["mode"], record["restored"]["differs"]) == (True, mode, [])
    assert sorted(path.name for path in board.folder.iterdir()) == ["lock"]


def test_nothing_is_changed_that_nobody_asked_for(board: Board):
    before = board.files()
    for held in (board.hold(), Hold(None, str(board.folder), board.root), board.hold("MAXN_SUPER")):
        with held:
            assert board.files() == before
        assert held.record()["mode"] == "MAXN_SUPER"
        assert held.record()["clocks_locked"] is False
    # nvpmodel may ask for a restart even for the mode that is on: it is not asked to set it.
    assert board.calls() == []


def test_a_lock_that_was_there_before_is_there_afterwards(board: Board):
    subprocess.run([board.top / "usr/bin/jetson_clocks"], check=True, env={**os.environ, "FAKE_JETSON_UID": "0"})
    locked = board.files()
    with board.hold("15W"):
        assert not power_modes.look(board.root)["clocks_locked"]  # nvpmodel has opened the limits
    assert board.files() == locked


def test_a_measurement_that_fails_leaves_the_board_as_it_was(board: Board):
    before = board.files()
    with pytest.raises(ZeroDivisionError), board.hold("25W", lock=True):
        raise ZeroDivisionError
    assert board.files() == before


PYENV = Path.home() / ".pyenv" / "versions"
OLDEST = PYENV / "3.6.15" / "bin" / "python"
PYTHONS = [sys.executable, *([str(OLDEST)] if OLDEST.exists() else [])]


@pytest.mark.parametrize("python", PYTHONS, ids=lambda path: Path(path).parents[1].name)
@pytest.mark.parametrize(("mode", "lock"), [("25W", True), (None, True), ("15W", False)])
def test_an_agent_killed_with_9_leaves_the_board_as_it_was(board: Board, mode: str | None, lock: bool, python: str):
    before = board.files()
    with board.agent(mode, lock=lock, python=python) as agent:
        guard = told(agent)
        assert board.files() != before
        # Whoever ends a stale agent ends its children, too.
        assert int(stat(guard)[1]) != agent.pid
        agent.kill()
    report = board.wait_report()
    wait_gone(guard)
    assert board.files() == before
    assert report["why"] == "the agent was gone"
    assert report["restored"]["ok"]
    assert report["restored"]["mode"] == "MAXN_SUPER"
    assert report["restored"]["differs"] == []
    assert [step["status"] for step in report["restored"]["steps"]] == [0] * len(report["restored"]["steps"])
    assert power_journal.pending(str(board.folder)) == []


def test_an_agent_killed_while_the_mode_is_being_set_leaves_no_half_of_it(board: Board):
    before = board.files()
    board.state("nvpmodel.delay_s", "1")
    with board.agent("25W") as agent:
        end = time.monotonic() + 20
        while "nvpmodel -m 1" not in board.calls():
            assert time.monotonic() < end
            time.sleep(0.01)
        # The whole group, as a terminal or a supervisor would; nvpmodel is in the middle of its work.
        os.killpg(agent.pid, signal.SIGKILL)
    board.state("nvpmodel.delay_s", "0")
    assert board.wait_report()["restored"]["ok"]
    assert board.files() == before
    # The step under way was waited for, and only then undone.
    set_and_back = [line for line in board.calls() if line.startswith("nvpmodel")]
    assert set_and_back == ["nvpmodel -m 1", "nvpmodel done 1", "nvpmodel -m 2", "nvpmodel done 2"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_guard_that_is_told_to_go_restores_first(board: Board, number: signal.Signals):
    before = board.files()
    with board.hold("25W", lock=True) as held:
        os.kill(held.guard_pid, number)
        wait_gone(held.guard_pid)
        assert board.files() == before
    assert board.reports()[-1]["why"] == f"signal {int(number)}"
    # Nobody is left to be asked; what is there is as it was.
    assert held.record()["restored"]["ok"]


def test_a_guard_killed_with_9_is_replaced_by_the_agent(board: Board):
    before = board.files()
    with board.hold("25W", lock=True) as held:
        os.kill(held.guard_pid, signal.SIGKILL)
        wait_gone(held.guard_pid)
        assert board.files() != before
    assert board.files() == before
    assert held.record()["restored"]["ok"]


def test_what_both_left_is_put_back_by_the_next(board: Board):
    before = board.files()
    with board.agent("25W", lock=True) as agent:
        guard = told(agent)
        os.kill(guard, signal.SIGKILL)
        agent.kill()
    wait_gone(guard)
    assert [left["mode"] for left in power_journal.left(str(board.folder))] == ["MAXN_SUPER"]
    with board.hold("15W") as held:
        assert board.mode == "15W"
    assert held.record()["mode_before"] == "MAXN_SUPER"
    assert [(one["ok"], one["mode"]) for one in held.record()["recovered"]] == [(True, "MAXN_SUPER")]
    assert board.files() == before
    assert power_journal.left(str(board.folder)) == []


def test_after_a_restart_of_the_board_only_the_mode_is_put_back(board: Board):
    boot = board.top / "proc/sys/kernel/random/boot_id"
    boot.parent.mkdir(parents=True)
    boot.write_text("first\n")
    with board.agent("25W", lock=True) as agent:
        guard = told(agent)
        os.kill(guard, signal.SIGKILL)
        agent.kill()
    wait_gone(guard)
    boot.write_text("second\n")
    with board.hold("15W") as held:
        pass
    assert (board.mode, held.record()["recovered"][0]["ok"]) == ("MAXN_SUPER", True)
    # The lock went with the restart: what was stored before is not written over the new clocks.
    assert "jetson_clocks --restore" not in board.calls()


def test_leaving_in_order_restores_before_it_is_over(board: Board):
    before = board.files()
    held = board.hold("25W", lock=True).__enter__()
    power_hold.abandon()
    assert board.files() == before
    assert board.reports()[-1]["why"] == "the agent was gone"
    held.__exit__(None, None, None)
    power_hold.abandon()  # nothing is held any more


def test_two_guards_at_once_are_refused(board: Board):
    with board.hold("25W"), pytest.raises(Refusal) as refused, power_journal.locked(str(board.folder)):
        pytest.fail("two guards at once")
    assert refused.value.code == "power-mode-busy"
    assert power_journal.left(str(board.folder)) == []


def test_the_notes_are_written_before_anything_is_changed(board: Board):
    board.state("nvpmodel.delay_s", "1")
    with board.agent("25W") as agent:
        end = time.monotonic() + 20
        while "nvpmodel -m 1" not in board.calls():
            assert time.monotonic() < end
            time.sleep(0.01)
        noted = power_journal.pending(str(board.folder))
        board.state("nvpmodel.delay_s", "0")
        agent.kill()
    assert [(one["mode"], one["mode_set"]) for one in noted] == [("MAXN_SUPER", True)]
    board.wait_report()
