"""devices.yaml: what it may say, what it must not, and where it is looked for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from device_tests.inventory import Inventory, find_inventory, load_inventory
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
