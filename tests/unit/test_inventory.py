"""devices.yaml: what it may say, what it must not, and where it is looked for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from device_tests.inventory import Board, Inventory, find_inventory, load_inventory
from device_tests.inventory_fields import parse_address
from edgesmith.errors import ConfigError

PIN = "SHA256:" + "A" * 43


def inventory(folder: Path, text: str) -> Inventory:
    path = folder / "devices.yaml"
    path.write_text(text)
    return load_inventory(path)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as error:
        inventory(folder, text)
    return str(error.value).replace(str(folder) + "/", "")


def test_an_entry_becomes_a_device(tmp_path: Path):
    found = inventory(
        tmp_path,
        f"""
devices:
  pi5-lab:
    host: 10.0.0.7
    port: 2222
    user: pi
    identity_file: keys/lab
    known_hosts: /etc/hosts
    host_key: {PIN}
    python: ~/edge/bin/python
    workdir: ~/work
    board: raspberry-pi-5
    labels: [lab, arm64]
    targets: [tflite]
""",
    ).get("pi5-lab")
    assert (found.transport, found.host, found.port, found.user) == ("ssh", "10.0.0.7", 2222, "pi")
    assert found.identity_file == tmp_path / "keys" / "lab"
    assert found.known_hosts == Path("/etc/hosts")
    assert found.host_key == PIN
    assert (found.python, found.workdir) == ("edge/bin/python", "work")
    assert (found.board, found.labels, found.targets) == ("raspberry-pi-5", ("lab", "arm64"), ("tflite",))


def test_local_needs_no_entry_and_runs_this_python():
    found = load_inventory(None).get("local")
    assert (found.transport, found.python) == ("local", sys.executable)


def test_an_unknown_device_gets_a_suggestion_and_a_place(tmp_path: Path):
    known = inventory(tmp_path, "devices:\n  pi5-lab: {host: a}\n")
    with pytest.raises(ConfigError, match=r"devices\.yaml:1: no device 'pi5-lap'; did you mean 'pi5-lab'\?"):
        known.get("pi5-lap")
    with pytest.raises(
        ConfigError, match=r"no device 'xavier'; known devices: local, pi5-lab\.\nAdd it: `edgesmith devices add xavier"
    ):
        known.get("xavier")
    with pytest.raises(ConfigError, match=r"there is no devices\.yaml: no device 'xavier'"):
        load_inventory(None).get("xavier")


def test_an_unknown_key_gets_a_suggestion_and_a_line(tmp_path: Path):
    text = "devices:\n  pi:\n    host: a\n    usr: pi\n"
    assert refusal(tmp_path, text) == "devices.yaml:4: unknown key 'devices.pi.usr'; did you mean 'user'?"


@pytest.mark.parametrize("key", ["password", "passphrase", "api_token", "private_key"])
def test_secrets_are_refused_with_a_reason(tmp_path: Path, key: str):
    told = refusal(tmp_path, f"devices:\n  pi:\n    host: a\n    {key}: raspberry\n")
    assert told.startswith(f"devices.yaml:4: '{key}' does not belong here: this file is for version control")
    assert "ssh-copy-id" in told
    assert "raspberry" not in told


def test_a_pin_must_be_a_fingerprint(tmp_path: Path):
    told = refusal(tmp_path, "devices:\n  pi: {host: a, host_key: MD5:12:34}\n")
    assert "devices.yaml:2: 'devices.pi.host_key': must be a fingerprint as `ssh-keygen -l` prints it" in told


def test_local_takes_no_entry(tmp_path: Path):
    told = refusal(tmp_path, "devices:\n  local: {host: a}\n")
    assert told == "devices.yaml:2: 'local' is this machine and takes no entry."


def test_a_host_is_needed(tmp_path: Path):
    told = refusal(tmp_path, "devices:\n  pi: {user: pi}\n")
    assert told.startswith("devices.yaml:2: 'devices.pi': needs `host:`, an address or a Host alias of ~/.ssh/config")


def test_the_file_beside_the_config_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    config = tmp_path / "project" / "edgesmith.yaml"
    config.parent.mkdir()
    assert find_inventory(config) is None
    own = tmp_path / "config" / "edgesmith" / "devices.yaml"
    own.parent.mkdir(parents=True)
    own.touch()
    assert find_inventory(config) == own
    assert find_inventory(None) == own
    (config.parent / "devices.yaml").touch()
    assert find_inventory(config) == config.parent / "devices.yaml"


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (
            "{host: -oProxyCommand=x}",
            "'devices.pi.host': must not begin with '-': programs would take it for an option",
        ),
        ("{host: 'a b'}", "'devices.pi.host': must not hold ' ': ~/.ssh/config may hand it to a shell (it is 'a b')."),
        ('{host: "a\\nb"}', "'devices.pi.host': must not hold '\\n'"),
        ("{host: a, user: 'x;id'}", "'devices.pi.user': must not hold ';'"),
        (
            "{host: a, workdir: ../x}",
            "'devices.pi.workdir': must not hold '..': name the folder itself (it is '../x').",
        ),
        ("{host: a, workdir: '~/'}", "'devices.pi.workdir': must be a folder of its own"),
        ("{host: a, workdir: .}", "'devices.pi.workdir': must be a folder of its own: what is in it may be removed"),
        ("{host: a, releases: ~ann/x}", "'devices.pi.releases': must be relative to the login folder, or absolute"),
        ('{host: a, python: "py\\0"}', "'devices.pi.python': must not hold control characters such as '\\x00'"),
        ("{host: a, python: -c}", "'devices.pi.python': must not begin with '-'"),
        ("{host: a, lease_dir: here}", "'devices.pi.lease_dir': must be an absolute path: all who use the board must"),
        ("{host: a, labels: lab}", "'devices.pi.labels': must be a list (it is 'lab')."),
        ("{host: a, labels: [a/b]}", "'devices.pi.labels.0': must be 1 to 63 of A-Z a-z 0-9 . _ -"),
        ("{host: a, board: raspberry-pi5}", "is neither a board profile nor `auto`; did you mean 'raspberry-pi-5'?"),
        (
            "{host: a, reboot: sudo reboot}",
            "must be a list, one argument each, because no shell is there: [sudo, reboot]",
        ),
        ("{host: a, power: [pdu, 3]}", "'devices.pi.power.1': Input should be a valid string (it is 3)."),
        ("{host: a, power: ['']}", "'devices.pi.power': must begin with a program"),
        ("{host: a, fake: x.yaml}", "'devices.pi': a fake board is a script and has no link: remove host."),
        ("{fake: x.yaml, port: 22, jump: b}", "a fake board is a script and has no link: remove port, jump."),
    ],
)
def test_what_an_entry_must_not_hold(tmp_path: Path, entry: str, told: str):
    text = f"# boards\ndevices:\n  pi: {entry}\n"
    shown = refusal(tmp_path, text)
    assert shown.startswith("devices.yaml:3: ")
    assert told in shown


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (
            "../x",
            "devices.yaml:2: the device name '../x' must be 1 to 63 of A-Z a-z 0-9 . _ -, and begin with a letter",
        ),
        ("12", "devices.yaml:2: YAML reads the device name as int 12.\nPut the name in quotes."),
        ("on", "devices.yaml:1: YAML reads the device name as bool True."),
    ],
)
def test_a_device_name_is_checked_where_it_stands(tmp_path: Path, key: str, told: str):
    assert refusal(tmp_path, f"devices:\n  {key}: {{host: a}}\n").startswith(told)


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path):
    told = refusal(tmp_path, "devices:\n  pi: {host: a}\n  pi5: {host: b}\n  pi: {host: c}\n")
    assert told == "devices.yaml:4: 'pi' is there twice, first in line 2."


@pytest.mark.parametrize("value", ["-----BEGIN OPENSSH PRIVATE KEY-----", "[curl, 'http://admin:hunter2@pdu/off']"])
def test_a_secret_in_a_value_is_refused_and_not_repeated(tmp_path: Path, value: str):
    told = refusal(tmp_path, f"devices:\n  pi:\n    host: a\n    power: {value}\n")
    assert told.startswith("devices.yaml:4: 'power' does not belong here")
    assert "hunter2" not in told


def test_no_entry_yet_is_no_error(tmp_path: Path):
    assert inventory(tmp_path, "devices:\n  # pi: {host: a}\n").names == ("local",)


def test_a_fake_board_has_a_script(tmp_path: Path):
    found = inventory(tmp_path, "devices:\n  slow: {fake: boards/slow.yaml, labels: [ci]}\n").get("slow")
    assert (found.transport, found.script, found.host) == ("fake", tmp_path / "boards" / "slow.yaml", "")


def test_a_jump_is_another_device_or_an_address(tmp_path: Path):
    known = inventory(
        tmp_path,
        "devices:\n  gate: {host: g}\n  pi: {host: a, jump: gate}\n  far: {host: b, jump: pi}\n"
        "  out: {host: c, jump: 'ann@gw.lab:2222'}\n",
    )
    assert known.get("far").jump == known.get("pi")
    assert known.get("pi").jump == known.get("gate")
    assert known.get("out").jump == "ann@gw.lab:2222"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: {host: x, jump: b}, b: {host: y, jump: a}", "'jump' leads round in a circle: a -> b -> a."),
        ("a: {host: x, jump: a}", "'jump' leads round in a circle: a -> a."),
        ("z: {host: x, jump: a}, a: {host: x, jump: b}, b: {host: y, jump: a}", "in a circle: a -> b -> a."),
        ("a: {host: x, jump: local}", "'devices.a.jump': 'local' is this machine: boards are reached from it anyway"),
        ("a: {host: x, jump: '-w'}", "'devices.a.jump': must not begin with '-'"),
        ("a: {host: x, jump: 'b;c'}", "'devices.a.jump': must not hold ';'"),
        ("a: {host: x, jump: 'b:c'}", "'devices.a.jump': its port must be a number from 1 to 65535 (it is 'b:c')."),
        ("f: {fake: s.yaml}, a: {host: x, jump: f}", "'f' is a fake board: nothing can be reached by way of it"),
    ],
)
def test_a_way_that_leads_nowhere_is_refused(tmp_path: Path, text: str, told: str):
    assert told in refusal(tmp_path, f"devices: {{{text}}}\n")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a", ("", "a", None)),
        ("pi@10.0.0.7", ("pi", "10.0.0.7", None)),
        ("pi@10.0.0.7:2222", ("pi", "10.0.0.7", 2222)),
        ("fe80::1%eth0", ("", "fe80::1%eth0", None)),
        ("pi@[fe80::1]:22", ("pi", "fe80::1", 22)),
        ("[::1]", ("", "::1", None)),
    ],
)
def test_an_address_in_one_word(text: str, found: tuple[str, str, int | None]):
    assert parse_address(text) == found


@pytest.mark.parametrize(
    "text", ["", "@a", "a@", "a:", ":22", "[::1", "[::1]x", "[::1]:", "a:0", "a:65536", "a:٢", "a b"]
)
def test_what_is_no_address(text: str):
    with pytest.raises(ValueError, match=r"must|port"):
        parse_address(text)


def test_without_a_config_the_file_here_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "devices.yaml").touch()
    assert find_inventory(None) == tmp_path / "devices.yaml"


def test_every_key_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "devices.md").read_text()
    assert [key for key in Board.model_fields if f"`{key}`" not in text and f"`{key}:`" not in text] == []
