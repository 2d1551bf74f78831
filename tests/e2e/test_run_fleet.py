"""Several boards in one run: side by side, one dead between them, and Ctrl-C that leaves nothing behind."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from device_tests.loopback import InProcessBoard, folder_for_boards
from edgesmith.result import result_schema
from tests.e2e.project import Project, write_inventory

Boards = dict[str, InProcessBoard]


@pytest.fixture
def boards(digits: Project) -> Iterator[Boards]:
    """Boards "one" and "two", and a third in the inventory that nobody answers at."""
    with (
        folder_for_boards() as folder,
        InProcessBoard(folder / "one") as one,
        InProcessBoard(folder / "two") as two,
    ):
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            dead = replace(one.device("dead"), port=bound.getsockname()[1])
        write_inventory(digits.root, one.device("one"), two.device("two"), dead)
        yield {"one": one, "two": two}


@pytest.mark.slow
def test_a_dead_board_is_an_error_in_its_place_and_quarantined_after_the_second_time(digits: Project, boards: Boards):
    digits.write_config(devices=["two", "dead", "local", "one"], targets=["tflite"])
    first = digits.edgesmith("run")
    assert first.returncode == 3, first.stdout + first.stderr
    result = digits.result()
    jsonschema.validate(result, result_schema())
    rows = [(row["device"], row["variant"], row["verdict"]) for row in result["results"]]
    assert rows == [
        (device, variant, "ERROR" if device == "dead" else "PASS")
        for device in ("two", "dead", "local", "one")
        for variant in ("float", "compressed")
    ]
    assert {lease["device"] for lease in result["leases"]} == {"one", "two", "local"}
    assert {lease["run_id"] for lease in result["leases"]} == {result["run_id"]}
    steps = [(step["device"], step["rung"]) for step in result["recovery"]]
    assert steps[0] == ("dead", "reconnect")
    assert steps[-1] == ("dead", "power command")
    assert {device for device, _ in steps} == {"dead"}
    logs = digits.root / "runs" / "latest" / "logs"
    assert sorted(path.name for path in logs.iterdir()) == ["dead.log", "local.log", "one.log", "two.log"]
    assert "Recovery: reconnect" in (logs / "dead.log").read_text()
    assert "measure on two: done" in (logs / "two.log").read_text()
    assert "two: measure" in first.stderr

    second = digits.edgesmith("run")
    assert second.returncode == 3, second.stdout + second.stderr
    assert digits.result()["recovery"][-1]["rung"] == "quarantine"
    for shown in (second.stdout, (digits.root / "runs/latest/summary.md").read_text()):
        assert "It is quarantined now." in " ".join(shown.split())

    again = digits.edgesmith("run")
    assert again.returncode == 3, again.stdout + again.stderr
    dead = [row for row in digits.result()["results"] if row["device"] == "dead"]
    assert {finding["code"] for row in dead for finding in row["findings"]} == {"Quarantined"}
    assert "`edgesmith devices health dead`" in dead[0]["findings"][0]["next_step"]
    assert digits.result()["recovery"] == []


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_fleet_leaves_no_lease_and_no_agent_and_resumes(
    digits: Project, boards: Boards, sent: signal.Signals, code: int
):
    slow = {"min_runs": 50, "min_seconds": 2.0 if sent is signal.SIGINT else 2.1, "windows": 4}
    digits.write_config(devices=["one", "two"], targets=["tflite"], measure=slow)
    process = digits.start("run")
    try:
        for board in boards.values():
            wait_until(lambda board=board: (is_leased(board) and agents_of(board)) or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        process.send_signal(sent)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, stderr
    assert "edgesmith run --resume" in stderr
    assert "Traceback" not in stderr
    interrupted = digits.result()
    assert (interrupted["state"], interrupted["exit_code"]) == ("interrupted", code)
    jsonschema.validate(interrupted, result_schema())
    for board in boards.values():
        wait_until(lambda board=board: not is_leased(board) and not agents_of(board))
        assert [path.name for path in (board.home / "edgesmith" / "work").iterdir()] == [".lock"]

    resumed = digits.edgesmith("run", "--resume")
    assert resumed.returncode in (0, 4), resumed.stdout + resumed.stderr
    result = digits.result()
    assert result["run_id"] == interrupted["run_id"]
    assert [row["device"] for row in result["results"]] == ["one", "one", "two", "two"]
    assert result["recovery"] == []


def is_leased(board: InProcessBoard) -> bool:
    return (Path(board.device().lease_dir) / "lease").exists()


def agents_of(board: InProcessBoard) -> list[int]:
    """Programs that run with the board's login folder as theirs."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                place = (folder / "cwd").readlink()
            except OSError:
                continue  # gone meanwhile
            if place.is_relative_to(board.home):
                found.append(int(folder.name))
    return found


def wait_until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)
