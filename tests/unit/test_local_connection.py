"""This machine as a board: processes, files, deadlines."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_tests.deadline import Deadline
from device_tests.local import Local
from edgesmith.errors import BoardError, DeadlineExceeded

SOON = Deadline.after(3600)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    with Local(tmp_path / "board") as connection:
        yield connection


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_command_gets_its_arguments_as_they_are_and_runs_in_the_root(local: Local, tmp_path: Path):
    awkward = ["a b", "$HOME", "'", '"', "*", "", "ä"]
    done = local.run([*python("import sys, os; print(sys.argv[1:], os.getcwd())"), *awkward], SOON)
    assert done.exit_status == 0
    assert done.stdout.decode() == f"{awkward} {tmp_path / 'board'}\n"


def test_stdin_reaches_it_and_both_outputs_come_back(local: Local):
    done = local.run(
        python("import sys; print(sys.stdin.read()[::-1]); sys.stderr.write('log'); sys.exit(3)"), SOON, b"abc"
    )
    assert (done.exit_status, done.signal, done.stdout, done.stderr) == (3, None, b"cba\n", b"log")


def test_an_end_by_signal_is_named(local: Local):
    done = local.run(python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"), SOON)
    assert (done.exit_status, done.signal) == (None, "SEGV")


@pytest.mark.parametrize(("name", "status"), [("no-such-program", 127), ("/etc/hostname", 126)])
def test_what_cannot_be_started_ends_as_in_a_shell(local: Local, name: str, status: int):
    assert local.run([name], SOON).exit_status == status


def test_past_the_deadline_the_whole_group_is_killed(local: Local, tmp_path: Path):
    grandchild = (
        f"import time; open({str(tmp_path / 'pid')!r}, 'w').write(str(__import__('os').getpid())); time.sleep(60)"
    )
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    with pytest.raises(DeadlineExceeded, match="did not end in time; it was killed"):
        local.run(python(code), Deadline.after(2))
    pid = int((tmp_path / "pid").read_text())
    end = time.monotonic() + 10
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_process_is_spoken_to_by_lines(local: Local):
    process = local.spawn(python("import sys\nfor line in sys.stdin: print(line.upper(), end='', flush=True)"), SOON)
    process.send(b"one", SOON)
    assert process.receive(SOON) == b"ONE"
    process.send(b"two", SOON)
    assert process.receive(SOON) == b"TWO"
    assert process.close(Deadline.after(10)).exit_status == 0


def test_silence_is_a_deadline_and_the_end_is_an_error_with_the_log(local: Local):
    process = local.spawn(
        python("import sys; sys.stdin.readline(); sys.stderr.write('went wrong\\n'); sys.exit(4)"), SOON
    )
    with pytest.raises(DeadlineExceeded, match="said nothing in time"):
        process.receive(Deadline.after(0.05))
    process.send(b"go", SOON)
    with pytest.raises(BoardError, match=r"ended with exit status 4\.\nIts last lines:\n    went wrong"):
        process.receive(SOON)


def test_a_process_that_will_not_leave_is_killed(local: Local):
    process = local.spawn(python("import time; print('up', flush=True); time.sleep(60)"), SOON)
    assert process.receive(SOON) == b"up"
    assert process.close(Deadline.after(0.1)).signal == "KILL"


def test_closing_the_connection_ends_what_it_started(tmp_path: Path):
    with Local(tmp_path) as local:
        process = local.spawn(python("import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"), SOON)
        pid = int(process.receive(SOON))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_files_arrive_whole_and_bytes_are_told(local: Local, tmp_path: Path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3 << 20))
    told: list[int] = []
    local.put(source, "deep/er/file", SOON, told.append)
    assert sum(told) == 3 << 20
    local.get("deep/er/file", tmp_path / "back", SOON)
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    assert not list(tmp_path.rglob("*.part"))


def test_a_full_disk_says_so(local: Local, tmp_path: Path):
    (tmp_path / "source").write_bytes(b"x")
    (tmp_path / "board").mkdir(exist_ok=True)
    (tmp_path / "board" / "file.part").symlink_to("/dev/full")
    with pytest.raises(BoardError, match=r"no space left on device \([\d,]+ bytes free\)"):
        local.put(tmp_path / "source", "file", SOON)


def test_what_cannot_be_fetched_is_named(local: Local, tmp_path: Path):
    with pytest.raises(BoardError, match="No such file or directory"):
        local.get("nowhere", tmp_path / "back", SOON)
