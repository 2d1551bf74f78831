"""The file that a board's users share: whole, of nobody in particular, gone when nobody has the board."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from device_tests.agent import lease_file, lease_rules
from device_tests.agent.lease_file import LeaseFile
from device_tests.agent.protocol import Refusal
from device_tests.loopback import folder_for_boards
from tests.agent_process import running

ROOT = Path(__file__).resolve().parents[2]
SYSTEM_PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin")
NOBODY, DAEMON = 65534, 1


def filled(record: dict[str, Any], owner: str = "ann@ws") -> None:
    params = {"owner": owner, "run_id": "r", "token": owner, "ttl_s": 60.0}
    lease_rules.lease(record, lease_rules.Moment("boot", 1.0), params, {"pid": 1, "started": 1})


def refused(folder: Path) -> str:
    with pytest.raises(Refusal) as told, LeaseFile(str(folder)).locked():
        pass
    assert told.value.code == "lease-folder"
    return told.value.message


def test_a_record_stays_until_it_is_emptied_and_then_nothing_is_left(tmp_path: Path):
    folder = tmp_path / "lease"
    with LeaseFile(str(folder)).locked() as record:
        assert record == {}
        filled(record)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
    assert stat.S_IMODE((folder / "lease").stat().st_mode) == 0o666
    assert json.loads((folder / "lease").read_text())["run"]["owner"] == "ann@ws"
    with LeaseFile(str(folder)).locked() as record:
        assert record["run"]["owner"] == "ann@ws"
        record.clear()
    assert list(folder.iterdir()) == []


def test_a_look_makes_nothing(tmp_path: Path):
    folder = tmp_path / "lease"
    with LeaseFile(str(folder)).locked(create=False) as record:
        assert record == {}
    assert not folder.exists()
    folder.mkdir()
    with LeaseFile(str(folder)).locked(create=False) as record:
        assert record == {}
    assert list(folder.iterdir()) == []


def test_a_claim_that_comes_to_nothing_leaves_nothing(tmp_path: Path):
    with contextlib.suppress(ZeroDivisionError), LeaseFile(str(tmp_path)).locked():
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_shorter_record_replaces_a_longer_one(tmp_path: Path):
    for owner in ("a" * 150, "b"):
        with LeaseFile(str(tmp_path)).locked() as record:
            record.clear()
            filled(record, owner)
    with LeaseFile(str(tmp_path)).locked() as record:
        assert record["run"]["owner"] == "b"


def test_what_a_kill_in_the_middle_of_writing_leaves_is_the_new_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with LeaseFile(str(tmp_path)).locked() as record:
        filled(record, "a" * 150)
    monkeypatch.setattr(lease_file.os, "ftruncate", lambda *_: None)
    with LeaseFile(str(tmp_path)).locked() as record:
        record.clear()
        filled(record, "b")
    monkeypatch.undo()
    with LeaseFile(str(tmp_path)).locked() as record:
        assert record["run"]["owner"] == "b"


def test_a_symlinked_folder_is_refused(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "lease").symlink_to(tmp_path / "elsewhere")
    assert refused(tmp_path / "lease") == (
        f"the board's lease cannot be kept in {tmp_path}/lease: is a symbolic link, or no folder; `lease_dir:` in "
        "devices.yaml names another place, the same for all who use this board"
    )
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_symlinked_file_is_refused_and_what_it_points_to_is_left_alone(tmp_path: Path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "lease"
    folder.mkdir()
    (folder / "lease").symlink_to(victim)
    assert "is a symbolic link, or no folder" in refused(folder)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("kind", ["fifo", "hard link"])
def test_only_a_plain_file_of_its_own_is_written_to(tmp_path: Path, kind: str):
    victim = tmp_path / "victim"
    victim.write_text("")
    folder = tmp_path / "lease"
    folder.mkdir()
    if kind == "fifo":
        os.mkfifo(folder / "lease")
    else:
        (folder / "lease").hardlink_to(victim)
    assert "its file 'lease' is not a plain file of its own" in refused(folder)


def test_a_file_in_the_folders_place_and_a_folder_that_is_nowhere_are_told(tmp_path: Path):
    (tmp_path / "file").touch()
    assert "is a symbolic link, or no folder" in refused(tmp_path / "file")
    assert "there is no folder to make it in" in refused(tmp_path / "no" / "lease")


def test_a_relative_folder_is_refused():
    with pytest.raises(Refusal, match="lease_dir is not absolute: 'lease'"):
        LeaseFile("lease")


def test_a_lock_that_somebody_keeps_is_not_waited_for_forever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lease_file, "PATIENCE_S", 0.05)
    with (tmp_path / "lease").open("w") as kept:
        fcntl.flock(kept, fcntl.LOCK_EX)
        assert refused(tmp_path) == f"{tmp_path}/lease is kept locked by another program"


def test_a_full_memory_file_system_is_told_and_leaves_no_empty_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lease_file.os, "pwrite", full)
    with pytest.raises(Refusal, match="No space left on device"), LeaseFile(str(tmp_path)).locked() as record:
        filled(record)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["nonsense\n", "[]\n", '{"run": 1}\n', '{"run": {}}', "no newline"])
def test_what_is_no_record_is_nobodys_to_take_and_can_be_cleared_on_purpose(tmp_path: Path, content: str):
    (tmp_path / "lease").write_text(content)
    with pytest.raises(Refusal, match="release --force` clears it") as told, LeaseFile(str(tmp_path)).locked():
        pass
    assert told.value.code == "lease-unreadable"
    assert (tmp_path / "lease").read_text() == content
    with LeaseFile(str(tmp_path)).locked(create=False, clear=True) as record:
        assert record == {}
    assert list(tmp_path.iterdir()) == []


def test_a_board_finds_a_place_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    private, shared = tmp_path / "private", tmp_path / "shared"
    for folder, mode in ((private, 0o755), (shared, 0o1777)):
        folder.mkdir()
        folder.chmod(mode)
    monkeypatch.setattr(lease_file, "PLACES", (str(tmp_path / "nowhere"), str(private), str(shared)))
    with LeaseFile("auto").locked() as record:
        filled(record)
    assert (shared / "edgesmith" / "lease").exists()


RACER = """
import sys
from pathlib import Path
from device_tests.agent.lease_file import LeaseFile

folder, rounds = sys.argv[1], int(sys.argv[2])
inside = Path(folder) / "inside"
entry = dict(kind="run", owner="o", run_id="r", token="t", ttl_s=1, boot_id="b", claimed_s=0, renewed_s=0, stale=[])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(rounds):
    with LeaseFile(folder).locked() as record:
        assert not record and not inside.exists(), "somebody else is inside"
        record["run"] = dict(entry, process={"pid": 1, "started": 1})
        inside.touch()
        inside.unlink()
        record.clear()
"""


def test_a_file_that_comes_and_goes_is_still_one_lock(tmp_path: Path):
    """The file is removed under its lock and made anew by the next: never are two inside."""
    pipe = subprocess.PIPE
    argv = [sys.executable, "-c", RACER, str(tmp_path), "200"]
    racers = [subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT) for _ in range(3)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        _, log = racer.communicate(timeout=60)
        assert racer.returncode == 0, log
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0 or SYSTEM_PYTHON is None, reason="takes other users' agents, so root, to start")
def test_it_passes_from_user_to_user_in_a_sticky_folder():
    assert SYSTEM_PYTHON is not None
    with folder_for_boards() as folder, contextlib.ExitStack() as stack:
        (folder / "open").mkdir()
        (folder / "open").chmod(0o777)
        place = folder / "open" / "lease"
        first, second, root = (
            stack.enter_context(running(folder, python=SYSTEM_PYTHON, user=user)) for user in (NOBODY, DAEMON, None)
        )

        def claim(agent: Any, who: str, ttl_s: float) -> Any:
            return agent.ask("lease", lease_dir=str(place), owner=who, run_id="r", token=who, ttl_s=ttl_s)

        assert claim(first, "first", 2.0)["granted"]
        first.process.kill()
        assert (place / "lease").stat().st_uid == NOBODY
        while not (told := claim(second, "second", 60))["granted"]:
            assert told["holder"]["owner"] == "first"
        assert told["taken_over"]["owner"] == "first"
        assert root.ask("holder", lease_dir=str(place))["run"]["owner"] == "second"
        assert second.ask("unlease") == {"released": True}
        # The second may not remove what the first has made; empty it is nobody's lease.
        assert (place / "lease").read_bytes() == b""
        assert claim(root, "root", 60)["granted"]
        assert root.ask("unlease") == {"released": True}
        assert list(place.iterdir()) == []
