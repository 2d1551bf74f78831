"""No program outlives what it was started for: not its deadline, not its connection, whatever the board has on it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_tests.deadline import Deadline
from device_tests.loopback import InProcessBoard, LoopbackBoard
from device_tests.ssh import Ssh
from edgesmith.errors import ConnectionLost, DeadlineExceeded
from tests.processes import wait_gone


def soon() -> Deadline:
    return Deadline.after(60)


def until(deadline: Deadline, path: Path) -> str:
    """The content of a file that is being written."""
    while not (path.exists() and path.read_text().endswith("\n")):
        deadline.check(f"waiting for {path}")
        time.sleep(0.02)
    return path.read_text().strip()


STUBBORN = "trap '' TERM HUP INT PIPE; echo $$ > {note}; exec <&- >&- 2>&-; while :; do sleep 1; done"


# --- a deadline, on boards of all kinds ---

OLD_BUSYBOX = """#!/bin/sh
# `timeout [-t SECONDS] PROGRAM`: what stands first is the program.
exec "$@"
"""


@pytest.fixture(params=["timeout", "no timeout", "old busybox"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[InProcessBoard]:
    """A board whose PATH has just what a small system has."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "sleep", "cat", "kill", *(["timeout", "true"] if request.param == "timeout" else [])):
        if (found := shutil.which(name)) is not None:
            (tools / name).symlink_to(found)
    if request.param == "old busybox":
        (tools / "timeout").write_text(OLD_BUSYBOX)
        (tools / "timeout").chmod(0o755)
    with InProcessBoard(tmp_path / "board") as board:
        board.greeting = f"PATH={tools}; "
        yield board


def test_past_its_deadline_a_command_is_gone(kind: InProcessBoard):
    note = kind.home / "pid"
    with Ssh(kind.device(), soon()) as ssh:
        with pytest.raises(DeadlineExceeded, match="board: 'sh': no answer in time"):
            ssh.run(["sh", "-c", STUBBORN.format(note=note)], Deadline.after(1))
        wait_gone(int(until(soon(), note)))


def test_within_it_everything_is_as_ever(kind: InProcessBoard):
    with Ssh(kind.device(), soon()) as ssh:
        done = ssh.run(["sh", "-c", "cat; echo log >&2; exit 7"], soon(), b"in")
        assert (done.exit_status, done.stdout, done.stderr) == (7, b"in", b"log\n")
        assert ssh.run(["no-such-program"], soon()).exit_status == 127
        assert ssh.run(["sh", "-c", "exit 0"], soon()).exit_status == 0


def test_no_watch_stays_behind_a_command_that_is_done(kind: InProcessBoard):
    """Its sleep would be there for as long as the deadline was away."""
    with Ssh(kind.device(), soon()) as ssh:
        ssh.run(["sh", "-c", "exit 0"], Deadline.after(54321))
    end = Deadline.after(20)
    while [line for line in _command_lines() if "54321" in line or "54322" in line]:
        end.check("waiting for the watch to end")
        time.sleep(0.05)


def _command_lines() -> list[str]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
            except OSError:
                continue
    return found


# --- a program that stays ---


def test_one_that_does_not_leave_is_ended_by_its_number(board: LoopbackBoard):
    """Its stdin is closed, it does not care; and sshd passes no signals on to what root runs."""
    note = board.home / "pid"
    with Ssh(board.device(), soon()) as ssh:
        process = ssh.spawn(["sh", "-c", STUBBORN.format(note=note)], soon())
        pid = int(until(soon(), note))
        assert process.close(Deadline.after(0.2)).signal == "KILL"
        wait_gone(pid)


def test_with_all_that_it_started(board: LoopbackBoard):
    mine, childs = board.home / "mine", board.home / "childs"
    script = f"sleep 600 <&- >&- 2>&- & echo $! > {childs}; " + STUBBORN.format(note=mine)
    with Ssh(board.device(), soon()) as ssh:
        process = ssh.spawn(["sh", "-c", script], soon())
        pids = [int(until(soon(), note)) for note in (mine, childs)]
        process.close(Deadline.after(0.2))
        for pid in pids:
            wait_gone(pid)


def test_closing_the_connection_ends_what_it_started(board: LoopbackBoard, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("device_tests.ssh._CLOSE_S", 0.2)
    note = board.home / "pid"
    with Ssh(board.device(), soon()) as ssh:
        ssh.spawn(["sh", "-c", STUBBORN.format(note=note)], soon())
        pid = int(until(soon(), note))
        monkeypatch.setattr("device_tests.ssh_process._CLOSE_S", 5.0)
    wait_gone(pid)


def test_a_login_that_talks_before_it_is_no_part_of_it(tmp_path: Path):
    with InProcessBoard(tmp_path / "board") as board:
        board.greeting = "echo 'edgesmith-pid x'; echo edgesmith-pid; printf 'Welcome! '; "
        with Ssh(board.device(), soon()) as ssh:
            process = ssh.spawn(["cat"], soon())
            process.send(b"hello", soon())
            assert process.receive(soon()) == b"hello"


def test_a_board_that_starts_nothing_says_so(tmp_path: Path):
    with InProcessBoard(tmp_path / "board") as board:
        board.greeting = "echo 'This account is for files only.' >&2; exit 1; "
        with (
            Ssh(board.device(), soon()) as ssh,
            pytest.raises(Exception, match=r"board: 'cat' ended with exit status 1\.\n.*\n    This account is for"),
        ):
            ssh.spawn(["cat"], soon())


def test_a_board_that_starts_nothing_in_time_says_so(tmp_path: Path):
    with InProcessBoard(tmp_path / "board") as board:
        board.greeting = "sleep 2; "
        with Ssh(board.device(), soon()) as ssh, pytest.raises(DeadlineExceeded, match="board: 'cat': no answer in"):
            ssh.spawn(["cat"], Deadline.after(0.3))


def test_after_an_abort_closing_waits_for_nothing(board: LoopbackBoard):
    ssh = Ssh(board.device(), soon())
    process = ssh.spawn(["cat"], soon())
    ssh.abort()
    with pytest.raises(ConnectionLost, match="was lost"):
        process.receive(soon())
    ssh.close()
    ssh.close()
    with pytest.raises(ConnectionLost, match="was lost"):
        ssh.run(["true"], soon())
