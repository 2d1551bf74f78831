"""The fault table, second half: what breaks in the middle. Real sshd, real link, the command line.

A link or an agent that is lost is mended by the recovery ladder and told; what cannot be mended is an ERROR.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from device_tests.deadline import Deadline
from device_tests.loopback import folder_for_boards
from device_tests.loopback_sshd import SshdBoard
from device_tests.session import BoardSession
from edgesmith.progress import Silent
from tests.faults.relay import Relay
from tests.faults.scene import Ended, Running, Scene, wait_until

pytestmark = [pytest.mark.sshd]

SAMPLES = 200_000
PAYLOAD = SAMPLES * 16
CUT_AT = PAYLOAD * 3 // 4
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


@pytest.fixture
def scene(tmp_path: Path, nobodys_ssh_setup: None) -> Iterator[Scene]:
    with folder_for_boards() as folder, SshdBoard(folder / "board") as board:
        yield Scene(tmp_path, board)


@pytest.fixture
def link(scene: Scene) -> Iterator[Relay]:
    """The way to the board, which can be spoilt."""
    running = Relay(scene.board.port)
    scene.change(port=running.port, known_hosts=None, host_key=scene.board.fingerprint)
    yield running
    running.close()


def measuring(scene: Scene, running: Running) -> int:
    """Waits until the board is at work for us; returns the agent's pid."""
    running.wait_for(r"measure on pi")
    wait_until(lambda: len(scene.agent_pids()) >= 2, "the agent and its child")
    return min(scene.agent_pids())


def assert_mended(scene: Scene, ended: Ended, *rungs: str) -> None:
    """The run passed, and says what had to be done for it."""
    assert ended.exit_code == 0, ended.said
    climbed = [(step["rung"], step["outcome"]) for step in scene.result["recovery"]]
    assert climbed == [(rung, "helped") for rung in rungs], scene.result["recovery"]
    for rung in rungs:
        assert f"Recovery: {rung}" in ended.said
    assert [row["verdict"] for row in scene.result["results"]] == ["PASS"]
    scene.assert_nothing_left()


def test_a_link_cut_during_an_upload_goes_on_where_it_was(scene: Scene, link: Relay):
    scene.sample(SAMPLES)
    link.cut_after = CUT_AT
    ended = scene.edgesmith("run")
    assert_mended(scene, ended, "reconnect")
    # Everything once, and what the buffers of a cut link threw away; begun anew, all that went before the cut twice.
    assert PAYLOAD < link.up < PAYLOAD + CUT_AT, link.up
    assert scene.result["work"]["bytes_sent"] >= PAYLOAD


def test_a_link_cut_during_a_run(scene: Scene, link: Relay):
    scene.configure(seconds=4)
    running = scene.start("run")
    measuring(scene, running)
    link.reset()
    ended = running.end()
    assert "was lost" in ended.said
    assert_mended(scene, ended, "reconnect")


def test_a_half_open_link(scene: Scene, link: Relay):
    """Bytes vanish, the sockets stay up: neither side is told. Ours notices by its keepalive."""
    scene.configure(seconds=4)
    running = scene.start("run")
    measuring(scene, running)
    link.stalled = True
    running.wait_for("was lost")
    link.stalled = False
    assert_mended(scene, running.end(), "reconnect")


def test_sshd_killed_for_good(scene: Scene):
    scene.configure(seconds=4)
    running = scene.start("run")
    measuring(scene, running)
    scene.board.stop()
    ended = running.end()
    assert ended.exit_code == 3, ended.said
    assert "Traceback" not in ended.said
    outcomes = {step["rung"]: step["outcome"] for step in scene.result["recovery"]}
    assert outcomes["reconnect"] == "did not help"
    assert outcomes["reboot"].startswith("not possible: ")
    assert outcomes["power command"].startswith("not possible: ")
    assert "quarantine" in outcomes
    assert [row["verdict"] for row in scene.result["results"]] == ["ERROR"]
    scene.assert_nothing_left()

    scene.board.start()
    refused = scene.edgesmith("run")
    assert refused.exit_code == 3
    assert "edgesmith devices health pi" in refused.said
    healthy = scene.edgesmith("devices", "health", "pi")
    assert healthy.exit_code == 0, healthy.said
    assert scene.edgesmith("run", "--resume").exit_code == 0
    scene.assert_nothing_left()


class RestartingBoard(SshdBoard):
    """All its processes end at once, and another boot id is there afterwards."""

    def _unshare(self) -> list[str]:
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]


@pytest.mark.skipif(os.getuid() != 0, reason="processes that end all at once need a namespace, and that needs root")
def test_a_board_that_restarts_during_a_run(tmp_path: Path, nobodys_ssh_setup: None):
    with folder_for_boards() as folder:
        boot_id = folder / "boot_id"
        boot_id.write_text("11111111-2222-3333-4444-555555555555\n")
        prepare = f"mount --bind {boot_id} /proc/sys/kernel/random/boot_id"
        with RestartingBoard(folder / "board", prepare=prepare) as board:
            scene = Scene(tmp_path, board)
            scene.configure(seconds=4)
            running = scene.start("run")
            measuring(scene, running)
            board.stop()
            wait_until(lambda: not scene.agent_pids(), "the board to be gone")
            running.wait_for("Recovery: reconnect")
            boot_id.write_text("66666666-7777-8888-9999-000000000000\n")
            board.start()
            assert_mended(scene, running.end(), "reconnect")


def test_an_agent_that_is_killed(scene: Scene):
    scene.configure(seconds=4)
    running = scene.start("run")
    os.kill(measuring(scene, running), signal.SIGKILL)
    ended = running.end()
    assert "ended" in ended.said
    assert_mended(scene, ended, "reconnect")


@pytest.mark.parametrize("shift", ["-9y", "+9y"])
def test_a_board_whose_clock_is_wrong_by_years(shift: str, tmp_path: Path, nobodys_ssh_setup: None):
    options = [f"SetEnv HOME={{home}} LD_PRELOAD={FAKETIME} FAKETIME={shift}"]
    assert FAKETIME.is_file(), "libfaketime is missing (Debian: faketime)"
    with folder_for_boards() as folder:
        home = folder / "board" / "home"
        with SshdBoard(folder / "board", options=[line.format(home=home) for line in options]) as board:
            scene = Scene(tmp_path, board)
            (scene.workdir / "incoming").mkdir(parents=True)
            ended = scene.edgesmith("run")
            assert ended.exit_code == 0, ended.said
            year = scene.result["results"][0]["environment_before"]["taken_at"][:4]
            assert year != scene.result["started_at"][:4], "the clock of the board is right"
            assert [row["verdict"] for row in scene.result["results"]] == ["PASS"]
            probed = scene.edgesmith("devices", "probe", "pi")
            assert "wall clock" in probed.said
            scene.assert_nothing_left()


def test_kill_9_during_an_upload_then_resume(scene: Scene, link: Relay):
    scene.sample(SAMPLES)
    link.stall_after = CUT_AT
    running = scene.start("run")
    wait_until(lambda: link.stalled, "most of the upload")
    running.kill()
    link.stalled = False
    scene.assert_nothing_left(upload=True, killed=True)
    before = link.up  # the kernel still delivered what it held of the killed upload
    ended = scene.edgesmith("run", "--resume")
    assert ended.exit_code == 0, ended.said
    assert link.up - before < PAYLOAD // 2, "the second upload started anew"
    scene.assert_nothing_left(killed=True)


def test_kill_9_during_a_run_then_resume(scene: Scene):
    scene.configure(seconds=4)
    running = scene.start("run")
    measuring(scene, running)
    running.kill()
    scene.assert_nothing_left(killed=True)
    ended = scene.edgesmith("run", "--resume")
    assert ended.exit_code == 0, ended.said
    assert [row["verdict"] for row in scene.result["results"]] == ["PASS"]
    scene.assert_nothing_left(killed=True)


def test_kill_9_while_the_report_is_written_then_resume(scene: Scene):
    running = scene.start("run")
    written = scene.project / "runs" / "latest"
    wait_until(lambda: (written / "result.json").is_file() and scene.result["state"] == "finished", "the verdict")
    running.kill()
    missing = [name for name in ("report.html", "junit.xml", "summary.md") if not (written / name).is_file()]
    ended = scene.edgesmith("run", "--resume")
    assert ended.exit_code == 0, ended.said
    assert all((written / name).is_file() for name in ("report.html", "junit.xml", "summary.md")), missing
    assert scene.result["work"]["bytes_sent"] == 0
    scene.assert_nothing_left(killed=True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_by_hand_during_a_run_then_resume(scene: Scene, number: signal.Signals, code: int):
    scene.configure(seconds=4)
    running = scene.start("run")
    measuring(scene, running)
    running.process.send_signal(number)
    ended = running.end()
    assert ended.exit_code == code, ended.said
    assert "`edgesmith run --resume` goes on" in ended.said
    assert scene.result["state"] == "interrupted"
    assert scene.result["recovery"] == []
    scene.assert_nothing_left()
    assert scene.edgesmith("run", "--resume").exit_code == 0


def test_two_runs_want_one_board(scene: Scene):
    """The second waits, says for whom, and goes on when the first is done."""
    scene.configure(seconds=20)
    first = scene.start("run")
    measuring(scene, first)
    scene.configure()
    second = scene.start("run")
    assert "is held by" in second.wait_for("is held by")
    assert first.end().exit_code == 0
    ended = second.end()
    assert ended.exit_code == 0, ended.said
    (lease,) = scene.result["leases"]
    assert lease["waited_s"] > 0
    assert lease["taken_over"] is None
    scene.assert_nothing_left()


def test_a_board_that_stays_held_is_not_waited_for_for_ever(scene: Scene):
    scene.configure(seconds=30)
    first = scene.start("run")
    measuring(scene, first)
    scene.configure()
    ended = scene.edgesmith("run", "--lease-wait", "1")
    assert ended.exit_code == 3, ended.said
    assert "pi is held by" in ended.said
    assert "waited 1 s for it" in ended.said
    assert "edgesmith devices release pi" in ended.said
    assert scene.result["recovery"] == []
    first.process.send_signal(signal.SIGINT)
    assert first.end().exit_code == 130
    scene.assert_nothing_left()


def test_two_owners_race_for_one_lease_a_hundred_times(scene: Scene):
    """Two workstations, two logins, two agents: one winner each round, and never two."""
    device = scene.board.device("pi")
    start = threading.Barrier(2, timeout=60)
    wins: dict[str, list[bool]] = {"ann@one": [], "bob@two": []}

    def play(owner: str) -> None:
        local_root = scene.project / owner
        with BoardSession(device, local_root=local_root, progress=Silent(), greet=False) as session:
            claim = {"lease_dir": device.lease_dir, "owner": owner, "run_id": "race", "token": owner, "ttl_s": 60.0}
            for _ in range(100):
                start.wait()
                won = session.ask("lease", claim, Deadline.after(30))["granted"]
                wins[owner].append(won)
                start.wait()
                if won:
                    session.ask("unlease", {}, Deadline.after(30))

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(play, owner) for owner in wins]:
            done.result()
    rounds = list(zip(*wins.values(), strict=True))
    assert len(rounds) == 100
    assert all(sum(won) == 1 for won in rounds), rounds
    assert all(any(won) for won in wins.values()), "one owner won every round: no race"
    scene.assert_nothing_left()


def test_a_board_that_is_another_machine_by_now_gets_no_artifact_of_the_old_one(scene: Scene):
    """Its card was changed for a 32-bit system: what was compiled for the old one is not measured there."""
    python = scene.board.home.parent / "python"

    def system(*machine: str) -> None:
        python.write_text(f'#!/bin/sh\nexec {shlex.join([*machine, sys.executable])} "$@"\n')
        python.chmod(0o755)

    system()
    scene.change(python=str(python))
    assert scene.edgesmith("run").exit_code == 0
    before = scene.result["results"][0]["board"]["machine"]
    system("setarch", "i686")
    ended = scene.edgesmith("run", "--remeasure")
    assert ended.exit_code == 3, ended.said
    assert f"pi: the board is i686 now; the artifacts were made for {before}." in ended.said
    assert "Run again: they will be compiled for what the board is now." in ended.said
    assert [row["verdict"] for row in scene.result["results"]] == ["ERROR"]
    assert scene.edgesmith("run", "--remeasure").exit_code == 0
    assert scene.result["results"][0]["board"]["machine"] == "i686"
    scene.assert_nothing_left()
