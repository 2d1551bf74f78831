"""Power modes that cannot be set: what is said, and that nothing stays changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from device_tests.agent import power_modes, power_switch
from device_tests.agent.methods import Agent
from device_tests.agent.power_hold import Hold
from device_tests.agent.protocol import Deadline, Refusal
from device_tests.agent.reading import Root
from device_tests.agent.work import Folders
from device_tests.fake_jetson.tools import STATE, write_tools
from edgesmith.errors import InputError
from tests.board_trees import Tree
from tests.power_boards import Board


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


def refused(hold: Hold) -> Refusal:
    with pytest.raises(Refusal) as caught, hold:
        pytest.fail("it was not refused")
    return caught.value


def test_an_unknown_mode_names_those_that_are_there(board: Board):
    error = refused(board.hold("MODE_15W"))
    assert error.code == "power-mode-unknown"
    assert error.message == "this board has no power mode 'MODE_15W'; it has 15W, 25W, MAXN_SUPER, 7W"
    assert error.facts["modes"] == ["15W", "25W", "MAXN_SUPER", "7W"]
    assert board.calls() == []
    with board.hold("maxn_super") as held:  # the same name in other letters
        assert held.record()["mode"] == "MAXN_SUPER"


def test_a_mode_that_takes_a_restart_is_refused_and_nothing_is_answered_yes(board: Board):
    before = board.files()
    error = refused(board.hold("7W", lock=True))
    assert error.code == "power-mode-needs-reboot"
    assert error.message == (
        "power mode '7W' takes a restart of the board, which is not ours to do; set it there once: sudo nvpmodel -m 3"
    )
    assert "DO YOU WANT TO REBOOT NOW" in error.facts["told"]
    assert error.facts["restored"]["ok"]
    assert not (board.top / STATE / "rebooted").exists()
    assert board.files() == before
    # The mode was not changed: nvpmodel is not bothered a second time.
    assert [line for line in board.calls() if line.startswith("nvpmodel -m")] == ["nvpmodel -m 3"]


def test_without_root_sudo_is_used_and_may_refuse(board: Board, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FAKE_JETSON_UID", "1000")
    before = board.files()
    with board.hold("25W", lock=True, euid=1000):
        assert board.mode == "25W"
    assert board.files() == before
    assert all(line.startswith(("sudo -n", "nvpmodel", "jetson_clocks")) for line in board.calls()), board.calls()
    assert sum(line.startswith("sudo -n") for line in board.calls()) == 5
    board.state("sudo_asks")
    error = refused(board.hold("25W", euid=1000))
    assert error.code == "power-mode-denied"
    assert error.message == "jetson_clocks needs root: sudo: a password is required"
    assert board.files() == before


def test_sudo_may_complain_of_the_host_name_and_go_on(tmp_path: Path):
    Tree(tmp_path).tool("sudo", "echo 'sudo: unable to resolve host nano' >&2; shift; \"$@\"")
    Tree(tmp_path).tool("nvpmodel", "echo failed; exit 3")
    status, text = power_switch.Tools(Root(str(tmp_path)), 1000).run("nvpmodel", "-m", "1")
    assert (status, text) == (3, "sudo: unable to resolve host nano\nfailed")


@pytest.mark.parametrize(
    ("missing", "asked", "code", "message"),
    [
        ("usr/sbin/nvpmodel", {"mode": "25W"}, "power-mode-denied", "there is no nvpmodel on this board"),
        ("usr/bin/jetson_clocks", {"lock": True}, "clocks-not-lockable", "there is no jetson_clocks on this board"),
        (
            "etc/nvpmodel.conf",
            {"mode": "25W"},
            "power-mode-unknown",
            "this board has no power mode '25W'; it has none: /etc/nvpmodel.conf names no modes",
        ),
    ],
)
def test_a_board_without_the_tool_says_which(
    board: Board, missing: str, asked: dict[str, str], code: str, message: str
):
    (board.top / missing).unlink()
    mode, lock = asked.get("mode"), bool(asked.get("lock"))
    error = refused(board.hold(mode, lock=lock))
    assert (error.code, error.message) == (code, message)


def test_a_mode_that_nobody_tells_cannot_be_left(board: Board):
    (board.top / "var/lib/nvpmodel/status").unlink()
    error = refused(board.hold("25W"))
    assert error.message == "the board does not tell its power mode now, so it could not be put back"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'NVPM ERROR: failed to set power mode!'; exit 255", "status 255, the mode is 'MAXN_SUPER'"),
        ("exit 0", "status 0, the mode is 'MAXN_SUPER'"),  # it said yes and did nothing
        ("exec sleep 60", "it did not end in time"),
    ],
)
def test_an_nvpmodel_that_fails_is_told_and_undone(
    board: Board, monkeypatch: pytest.MonkeyPatch, script: str, message: str
):
    monkeypatch.setattr(power_switch, "TOOL_S", 0.5)
    before = board.files()
    Tree(board.top).write("/usr/sbin/nvpmodel", f"#!/bin/sh\n{script}\n")
    switch = power_switch.Switch(board.root, str(board.folder), 0)
    board.folder.mkdir(parents=True)
    with pytest.raises(Refusal) as caught:
        switch.apply("25W", True)
    assert caught.value.code == "power-mode-failed"
    assert message in caught.value.message
    assert switch.restore()["ok"]
    assert board.files() == before


def test_what_could_not_be_put_back_is_told_and_tried_again_later(board: Board):
    before = board.files()
    with board.hold("25W") as held:
        good = (board.top / "usr/sbin/nvpmodel").read_text()
        Tree(board.top).write("/usr/sbin/nvpmodel", "#!/bin/sh\necho broken; exit 7\n")
    told = held.record()["restored"]
    assert (told["ok"], told["mode"]) == (False, "25W")
    assert told["differs"][0] == "the power mode is '25W', it was 'MAXN_SUPER'"
    assert [(step["command"], step["status"], step["text"]) for step in told["steps"] if "-m" in step["command"]] == [
        ("nvpmodel -m 2", 7, "broken")
    ] * 2
    Tree(board.top).write("/usr/sbin/nvpmodel", good)
    with board.hold("15W") as held:
        assert held.record()["mode_before"] == "MAXN_SUPER"
    assert board.files() == before


def test_clocks_that_stay_loose_are_told(board: Board):
    board.state("gpu_stays_loose")
    with board.hold(lock=True) as held:
        pass
    record = held.record()
    assert record["clocks_locked"] is False
    assert record["loose"] == ["17000000.gpu may move between 306000 and 1020000 kHz"]
    assert record["restored"]["ok"]


def test_a_jetson_clocks_that_stores_nothing_locks_nothing(board: Board):
    before = board.files()
    Tree(board.top).tool("jetson_clocks", "exit 0")
    error = refused(board.hold("25W"))
    assert error.code == "clocks-not-lockable"
    assert board.files() == before


def test_the_board_tells_its_power_mode(board: Board):
    agent = Agent(lambda: None)
    ask = power_modes.methods(agent, board.root)["power_mode"]
    told = ask({}, Deadline(10), None)
    assert (told["mode"], told["modes"]) == ("MAXN_SUPER", ["15W", "25W", "MAXN_SUPER", "7W"])
    assert told["clocks_locked"] is False
    assert told["clocks"]["17000000.gpu"] == {"governor": "nvhost_podgov", "min_khz": 306000, "max_khz": 1020000}
    assert {name: bool(path) for name, path in told["tools"].items()} == dict.fromkeys(
        ("nvpmodel", "jetson_clocks", "sudo"), True
    )
    assert "left" not in told
    agent.folders = Folders(str(board.folder.parent))
    try:
        with board.hold("25W"):
            assert ask({}, Deadline(10), None)["left"] == []  # it has its guard
        assert (ask({}, Deadline(10), None)["left"], ask({}, Deadline(10), None)["earlier"]) == ([], [])
    finally:
        agent.folders.clean()


def test_a_machine_without_modes_has_none(tmp_path: Path):
    told = power_modes.look(Root(str(tmp_path)))
    assert (told["mode"], told["modes"], told["clocks"], told["clocks_locked"], told["loose"]) == (
        None,
        [],
        {},
        False,
        [],
    )


def test_only_jetpacks_that_we_know_have_tools(tmp_path: Path):
    with pytest.raises(InputError, match=r"no fake tools for JetPack 5\.0; there are 4\.6, 5\.1, 6\.2, 7\.0, 7\.2\."):
        write_tools(tmp_path, "5.0")
