"""`edgesmith devices` over the real command line, against a board that speaks SSH: every verb and every refusal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from device_tests.inventory import load_inventory
from device_tests.loopback import InProcessBoard, folder_for_boards
from device_tests.session import BoardSession
from edgesmith import cli
from edgesmith.progress import Silent
from edgesmith.types import LeaseRequest
from tests.devices_desk import Devices, entry, write

WRONG = "SHA256:" + "A" * 43


def add(board: InProcessBoard, *more: str) -> list[str]:
    key = ["--identity-file", str(board.device().identity_file)]
    return ["add", "pi", f"pi@127.0.0.1:{board.port}", *key, "--python", sys.executable, *more]


# --- list


def test_list_without_an_inventory_knows_this_machine(devices: Devices):
    done = devices("list")
    assert done.code == 0
    assert [line.split() for line in done.out.splitlines()] == [
        ["name", "address", "board", "host", "key", "labels"],
        ["local", "this", "machine", "auto", "-", "-"],
    ]


def test_list_contacts_nothing_unless_asked(devices: Devices, pi: InProcessBoard):
    write(pi={**entry(pi), "labels": ["lab"]}, off={"host": "127.0.0.1", "port": 9, "jump": "pi"})
    pi.new_host_key()
    done = devices("list")
    assert done.code == 0
    assert "pinned       lab" in done.out
    assert "127.0.0.1:9 by way of pi" in done.out
    assert "known_hosts" in done.out
    assert "NOT REACHED" not in done.out
    rows = {row["name"]: row for row in devices("list", "--reach", "--json").json}
    assert rows["local"]["reachable"] is True
    assert rows["pi"]["reachable"] is False
    assert "THE HOST KEY HAS CHANGED" in rows["pi"]["reachable_reason"]
    assert rows["off"]["reachable"] is False


# --- add


def test_a_board_is_added_with_the_fingerprint_that_was_named(devices: Devices, pi: InProcessBoard):
    done = devices(*add(pi, "--label", "lab", "--reboot", "sudo -n reboot", "--fingerprint", pi.fingerprint))
    assert (done.code, done.err) == (0, "")
    own = Path(os.environ["XDG_CONFIG_HOME"], "edgesmith", "devices.yaml")
    assert f"{own}: 'pi' is written, pinned to ssh-ed25519 {pi.fingerprint}" in done.out
    assert "login works, Python 3." in done.out
    assert "next: edgesmith devices probe pi" in done.out
    found = load_inventory(own).get("pi")
    assert (found.host, found.port, found.user, found.host_key) == ("127.0.0.1", pi.port, "pi", pi.fingerprint)
    assert (found.labels, found.reboot) == (("lab",), ("sudo", "-n", "reboot"))
    assert found.identity_file == pi.device().identity_file
    assert not any(word in own.read_text() for word in ("PRIVATE", "AAAAC3", "password"))


def test_beside_a_config_the_new_file_is_beside_it(devices: Devices, pi: InProcessBoard):
    Path("edgesmith.yaml").touch()
    done = devices(*add(pi, "--fingerprint", pi.fingerprint, "--json"))
    assert done.code == 0
    assert done.json["file"] == "devices.yaml"
    assert done.json["host_key"] == pi.fingerprint
    assert load_inventory(Path("devices.yaml")).names == ("local", "pi")


def test_a_file_that_is_in_use_gets_the_board(devices: Devices, pi: InProcessBoard):
    """A second file beside the config would hide the boards of the first."""
    own = Path(os.environ["XDG_CONFIG_HOME"], "edgesmith", "devices.yaml")
    own.parent.mkdir(parents=True)
    own.write_text("# lab\ndevices:\n  zero: {host: a}   # old\n")
    Path("edgesmith.yaml").touch()
    assert devices(*add(pi, "--fingerprint", pi.fingerprint)).code == 0
    assert own.read_text().startswith("# lab\ndevices:\n  zero: {host: a}   # old\n  pi:\n    host: 127.0.0.1\n")
    assert not Path("devices.yaml").exists()


def test_an_alias_of_ssh_config_will_do(devices: Devices, pi: InProcessBoard):
    folder = Path.home() / ".ssh"
    folder.mkdir(mode=0o700)
    key = pi.device().identity_file
    (folder / "config").write_text(
        f"Host lab-pi\n  HostName 127.0.0.1\n  Port {pi.port}\n  User pi\n  IdentityFile {key}\n"
    )
    done = devices("add", "pi", "lab-pi", "--python", sys.executable, "--fingerprint", pi.fingerprint)
    assert done.code == 0
    own = Path(os.environ["XDG_CONFIG_HOME"], "edgesmith", "devices.yaml")
    assert yaml.safe_load(own.read_text())["devices"]["pi"] == {
        "host": "lab-pi",
        "host_key": pi.fingerprint,
        "python": sys.executable,
    }


def test_by_way_of_another_board(devices: Devices, pi: InProcessBoard):
    with folder_for_boards() as folder, InProcessBoard(folder / "gate") as gate:
        write(gate=entry(gate))
        done = devices(*add(pi, "--jump", "gate", "--fingerprint", pi.fingerprint))
        assert done.code == 0, done.err
        assert load_inventory(Path("devices.yaml")).get("pi").jump == load_inventory(Path("devices.yaml")).get("gate")


def test_nobody_there_to_compare_is_a_refusal(devices: Devices, pi: InProcessBoard):
    done = devices(*add(pi))
    assert done.code == 2
    assert f"pi: pi@127.0.0.1:{pi.port} shows this host key:\n    ssh-ed25519 {pi.fingerprint}" in done.err
    assert "Nobody is here to compare it (no terminal), so nothing was written." in done.err
    assert "On the board's own console: `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`" in done.err
    assert f"`--fingerprint {pi.fingerprint}`" in done.err
    assert not list(Path(os.environ["XDG_CONFIG_HOME"]).rglob("*"))


def test_another_key_than_the_one_named_is_a_refusal(devices: Devices, pi: InProcessBoard):
    done = devices(*add(pi, "--fingerprint", WRONG))
    assert done.code == 3
    assert f"DOES NOT SHOW THE KEY YOU NAMED. Named: {WRONG}. Shown: ssh-ed25519 {pi.fingerprint}." in done.err
    assert "nothing was written" in done.err


def test_a_fingerprint_that_is_none_is_told_before_anything_is_contacted(devices: Devices):
    done = devices("add", "pi", "127.0.0.1:9", "--fingerprint", "MD5:00")
    assert done.code == 2
    assert "--fingerprint: must be a fingerprint as `ssh-keygen -l` prints it" in done.err


def test_known_hosts_is_told_along(devices: Devices, pi: InProcessBoard):
    folder = Path.home() / ".ssh"
    folder.mkdir(mode=0o700)
    (folder / "known_hosts").write_text(pi.keys.known_hosts.read_text())
    assert "It is the one that known_hosts trusts for it." in devices(*add(pi)).err
    pi.new_host_key()
    assert "KNOWN_HOSTS TRUSTS ANOTHER ONE FOR IT: SHA256:" in devices(*add(pi)).err


def test_a_refused_login_writes_nothing(devices: Devices, pi: InProcessBoard):
    done = devices("add", "pi", f"pi@127.0.0.1:{pi.port}", "--fingerprint", pi.fingerprint)
    assert done.code == 3
    assert "the board refused the login of pi" in done.err
    assert not list(Path(os.environ["XDG_CONFIG_HOME"]).rglob("*"))


def test_a_board_without_that_python_is_added_and_told(devices: Devices, pi: InProcessBoard):
    done = devices(*add(pi, "--fingerprint", pi.fingerprint, "--python", "/no/such/python"))
    assert done.code == 0
    assert "pi: login works, but '/no/such/python' does not run there: " in done.out


def test_a_name_that_is_taken_is_a_refusal(devices: Devices):
    write(pi={"host": "10.0.0.7", "user": "pi"})
    done = devices("add", "pi", "10.0.0.8")
    assert done.code == 2
    assert "devices.yaml:2: 'pi' is there already (pi@10.0.0.7)." in done.err
    assert "`edgesmith devices add pi --replace-key`" in done.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["a;b", "10.0.0.7"], "the device name 'a;b' must be 1 to 63 of A-Z a-z 0-9 . _ -"),
        (["../x", "10.0.0.7"], "the device name '../x' must be"),
        (["local", "10.0.0.7"], "'local' is this machine and takes no entry."),
        (["x"], "ADDRESS is missing."),
        (["x", "$(id)"], "ADDRESS: must not hold '$', '(', ')': ~/.ssh/config may hand it to a shell (it is '$(id)')."),
        (["x", "a:b"], "ADDRESS: its port must be a number from 1 to 65535 (it is 'a:b')."),
        (["x", "pi@a", "--user", "root"], "ADDRESS names the user pi, --user names root."),
        (["x", "a:22", "--port", "23"], "ADDRESS names port 22, --port names 23."),
        (["x", "a", "--port", "70000"], "--port: Input should be less than or equal to 65535 (it is 70000)."),
        (["x", "a", "--jump", "local"], "--jump: 'local' is this machine"),
        (["x", "a", "--board", "raspberry-pi5"], "--board: is neither a board profile nor `auto`; did you mean"),
        (["x", "a", "--label", "a/b"], "--label: must be 1 to 63 of A-Z"),
        (["x", "a", "--workdir", "../x"], "--workdir: must not hold '..': name the folder itself (it is '../x')."),
        (["x", "a", "--power", "pdu 'off"], '--power: No closing quotation (it is "pdu \'off").'),
        (
            ["x", "a", "--power", "curl http://u:hunter2@pdu/"],
            "--power: 'power' does not belong here: this file is for",
        ),
    ],
)
def test_a_value_that_cannot_be_is_told_by_its_option(devices: Devices, arguments: list[str], told: str):
    done = devices("add", *arguments)
    assert done.code == 2
    assert f"ConfigError: {told}" in done.err
    assert "hunter2" not in done.err


def at_a_terminal(typed: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The same with somebody at a terminal, who types this."""
    master, slave = pty.openpty()
    try:
        os.write(master, typed.encode())
        return subprocess.run(
            [sys.executable, "-m", "edgesmith", "devices", *arguments],
            stdin=slave, capture_output=True, text=True, timeout=60, check=False,
            env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parent.parent)},
        )  # fmt: skip
    finally:
        os.close(slave)
        os.close(master)


def test_a_person_is_asked_and_no_is_no(devices: Devices, pi: InProcessBoard):
    done = at_a_terminal("\n", *add(pi))
    assert done.returncode == 2
    assert (
        f"ssh-ed25519 {pi.fingerprint}\nNobody has vouched for it yet.\nCompare it. On the board's own" in done.stderr
    )
    assert "Trust it? [y/N]" in done.stderr
    assert "pi: its host key was not confirmed; nothing was written." in done.stderr
    assert not list(Path(os.environ["XDG_CONFIG_HOME"]).rglob("*"))


def test_a_person_who_says_yes_adds_it(devices: Devices, pi: InProcessBoard):
    done = at_a_terminal("y\n", *add(pi, "--json"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["host_key"] == pi.fingerprint


# --- add --replace-key


def test_a_changed_key_shows_both_and_what_to_check(devices: Devices, pi: InProcessBoard):
    write(pi=entry(pi))
    before = pi.fingerprint
    pi.new_host_key()
    done = devices("add", "pi", "--replace-key")
    assert done.code == 2
    assert "THE HOST KEY HAS CHANGED." in done.err
    assert f"Pinned: {before}\n    Shown now: {pi.fingerprint} (ssh-ed25519)\n" in done.err
    assert "It was re-flashed, or somebody is in between: if nobody set this board up anew, do not go on." in done.err
    assert load_inventory(Path("devices.yaml")).get("pi").host_key == before
    done = devices("add", "pi", "--replace-key", "--fingerprint", pi.fingerprint)
    assert done.code == 0
    assert load_inventory(Path("devices.yaml")).get("pi").host_key == pi.fingerprint


def test_a_key_that_has_not_changed_changes_nothing(devices: Devices, pi: InProcessBoard):
    path = write(pi=entry(pi))
    before = path.read_text()
    done = devices("add", "pi", f"pi@127.0.0.1:{pi.port}", "--replace-key")
    assert done.code == 0
    assert f"pi: still shows the pinned key {pi.fingerprint}; nothing was changed" in done.out
    assert path.read_text() == before


def test_replacing_a_key_changes_nothing_else(devices: Devices):
    write(pi={"host": "10.0.0.7"})
    done = devices("add", "pi", "10.0.0.8", "--label", "x", "--replace-key")
    assert done.code == 2
    assert "--replace-key pins the new key and nothing else; also given: host, labels." in done.err


def test_this_machine_has_no_key(devices: Devices):
    done = devices("add", "local", "--replace-key")
    assert done.code == 2
    assert "local: has no host key: it is not reached by SSH." in done.err


# --- probe, health


def test_probe_tells_what_the_board_is(devices: Devices, pi: InProcessBoard):
    write(pi={**entry(pi), "python": sys.executable})
    done = devices("probe", "pi", "-q")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("pi: ")
    assert f"at {sys.executable}" in done.out
    (told,) = devices("probe", "pi", "--json").json
    assert (told["device"], told["lacks"]) == ("pi", [])


def test_a_changed_key_is_refused_and_the_next_board_is_asked_all_the_same(devices: Devices, pi: InProcessBoard):
    write(pi=entry(pi))
    before = pi.fingerprint
    pi.new_host_key()
    done = devices("probe", "pi", "local", "-q")
    assert done.code == 3
    assert f"THE HOST KEY HAS CHANGED. Trusted: {before}. Shown now: {pi.fingerprint}." in done.err
    assert done.out.startswith("local: ")
    rows = devices("probe", "pi", "local", "--json").json
    assert [row["device"] for row in rows] == ["pi", "local"]
    assert "THE HOST KEY HAS CHANGED" in rows[0]["error"]


def test_an_unknown_key_is_refused(devices: Devices, pi: InProcessBoard):
    write(pi={key: value for key, value in entry(pi).items() if key != "host_key"})
    done = devices("probe", "pi")
    assert done.code == 3
    assert f"its host key is not known: ssh-ed25519 {pi.fingerprint}." in done.err


def test_an_unknown_device_gets_a_suggestion_before_anything_is_contacted(devices: Devices):
    write(pi5={"host": "10.0.0.7"})
    done = devices("probe", "pi5", "pi4")
    assert done.code == 2
    assert "devices.yaml:1: no device 'pi4'; did you mean 'pi5'?" in done.err
    assert "Add it: `edgesmith devices add pi4 USER@ADDRESS`." in done.err


def test_quarantine_is_shown_and_only_health_lifts_it(devices: Devices, pi: InProcessBoard):
    write(pi={**entry(pi), "python": sys.executable})
    done = devices("quarantine", "pi", "--reason", "the SD card is worn")
    assert done.code == 0
    assert "by me@desk: the SD card is worn\n`edgesmith devices health pi` lifts it" in done.out
    assert "QUARANTINED since 20" in devices("list").out
    (_, row) = devices("list", "--json").json
    assert row["quarantine"]["reason"] == "the SD card is worn"
    done = devices("health", "pi", "-q")
    assert done.code == 0, done.out
    assert "pi: well; the quarantine is lifted" in done.out
    (_, row) = devices("list", "--json").json
    assert row["quarantine"] is None


def test_a_quarantine_says_why(devices: Devices):
    write(pi={"host": "10.0.0.7"})
    assert "--reason: say why, for the next person." in devices("quarantine", "pi", "--reason", " ").err
    assert "this machine cannot be quarantined" in devices("quarantine", "local", "--reason", "x").err


def test_health_of_a_board_that_is_not_there(devices: Devices):
    write(pi={"host": "127.0.0.1", "port": 9})
    done = devices("health", "pi", "-q")
    assert done.code == 3
    assert "pi: NOT well" in done.out
    assert "refused: nothing listens there" in done.out


# --- lease, release


def test_a_board_is_leased_shown_and_released(devices: Devices, pi: InProcessBoard):
    write(pi=entry(pi))
    assert devices("lease", "pi", "-q").out == "pi is free\n"
    done = devices("lease", "pi", "--for", "2h", "-q")
    assert done.out == "pi is yours (me@desk) for 2 h; `edgesmith devices release pi` ends it.\n"
    (holder,) = devices("lease", "pi", "--json").json["holders"]
    assert (holder["kind"], holder["owner"]) == ("hold", "me@desk")
    assert devices("release", "pi", "-q").out == "pi: the reservation of me@desk is ended\n"
    assert devices("release", "pi", "-q").out == "pi was free already\n"


def test_a_board_of_somebody_else_is_neither_leased_nor_released(
    devices: Devices, pi: InProcessBoard, monkeypatch: pytest.MonkeyPatch
):
    write(pi=entry(pi))
    monkeypatch.setenv("EDGESMITH_OWNER", "ann@lab")
    assert devices("lease", "pi", "--for", "2h").code == 0
    monkeypatch.setenv("EDGESMITH_OWNER", "me@desk")
    done = devices("lease", "pi", "--for", "1h")
    assert done.code == 3
    assert "BoardBusy: pi is reserved by ann@lab for 2 h more." in done.err
    assert "`edgesmith devices release pi --force`" in done.err
    done = devices("release", "pi")
    assert done.code == 3
    assert "BoardBusy: pi is reserved by ann@lab for 2 h more, and you are me@desk." in done.err
    assert "--force` takes it away all the same." in done.err
    done = devices("release", "pi", "--force", "-q")
    assert (done.code, done.out) == (0, "pi: the reservation of ann@lab is ended\n")


def test_waiting_for_somebody_else_has_an_end_and_says_for_whom(
    devices: Devices, pi: InProcessBoard, monkeypatch: pytest.MonkeyPatch
):
    write(pi=entry(pi))
    monkeypatch.setenv("EDGESMITH_OWNER", "ann@lab")
    assert devices("lease", "pi", "--for", "3s").code == 0
    monkeypatch.setenv("EDGESMITH_OWNER", "me@desk")
    done = devices("lease", "pi", "--for", "1h", "--wait", "1m")
    assert done.code == 0
    assert "pi is reserved by ann@lab" in done.err
    assert "Waiting up to 1 min." in done.err
    assert "pi is yours (me@desk) for 1 h" in done.out


def test_a_run_is_not_taken_the_board_from_by_accident(devices: Devices, pi: InProcessBoard, tmp_path: Path):
    device = load_inventory(write(pi=entry(pi))).get("pi")
    request = LeaseRequest(owner="ann@lab", run_id="20261122-1", token="t", wait_s=0.0)
    with BoardSession(device, local_root=tmp_path, progress=Silent(), lease=request):
        done = devices("release", "pi")
        assert done.code == 3
        assert "pi is held by ann@lab (run 20261122-1)" in done.err
        assert "and you are me@desk. A run may be in progress there: it would be ended" in done.err


def test_spans_of_time_are_told_before_anything_is_contacted(devices: Devices):
    write(pi={"host": "127.0.0.1", "port": 9})
    done = devices("lease", "pi", "--for", "soon")
    assert done.code == 2
    assert "--for: 'soon' is no span of time.\nWrite 90s, 45m, 2h, 1h30m or 2d." in done.err
    assert "--wait: '5' is no span of time." in devices("lease", "pi", "--for", "1h", "--wait", "5").err
