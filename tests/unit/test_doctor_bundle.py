"""The bundle for a bug report holds what helps, and nothing of who owns the board or how to get in."""

from __future__ import annotations

import getpass
import json
import socket
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from device_tests.loopback import InProcessBoard, folder_for_boards
from edgesmith.doctor import boards, running
from edgesmith.doctor.bundle import write_bundle
from edgesmith.doctor.files_there import CAP_BYTES, cut
from edgesmith.doctor.redact import Redactor
from edgesmith.doctor.rows import Row
from edgesmith.progress import Silent
from edgesmith.types import Device

HOSTILE = Device(
    name="annes-orin",
    transport="ssh",
    host="orin7.lab.example.org",
    port=20022,
    user="annschmidt",
    identity_file=Path("/home/annschmidt/.ssh/id_orin"),
    known_hosts=Path("/srv/keys/known_hosts"),
    host_key="SHA256:" + "Zk9" * 14 + "A",
    jump="gatekeeper@bastion.example.org:2200",
    power=("/opt/annschmidt/plug", "--token", "hunter2"),
)
SECRETS = (
    *("annes-orin", "orin7", "example.org", "20022", "annschmidt", "id_orin", "/srv/keys", "Zk9Zk9"),
    *("gatekeeper", "bastion", "2200", "hunter2"),
)

TEXTS = {
    "cannot reach annschmidt@orin7.lab.example.org:20022": "cannot reach <user>@<board>",
    "ssh: connect to host orin7.lab.example.org port 20022: timed out": "ssh: connect to host <board> port <port>: "
    "timed out",
    "orin7 says hello at 10.1.2.3:20022 and fe80::1%eth0": "<board> says hello at <address> and <address>",
    "bastion.example.org [192.168.1.20]:2200": "<board> [<address>",
    "/home/annschmidt/.ssh/id_orin": "<path>",
    "/home/somebody/edge/bin/python": "~/edge/bin/python",
    "at /root/.cache/edgesmith": "at ~/.cache/edgesmith",
    "workdir /data/annschmidt/edgesmith": "workdir /data/<user>/edgesmith",
    "key SHA256:" + "Zk9" * 14 + "A": "key <key>",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKb me": "<key> me",
    "EDGESMITH_LIBCUDART=/opt/x/libcudart.so: no": "<variable> no",
    "GPU 0: Orin (UUID: 3f2504e0-4f89-11d3-9a0c-0305e82c3301)": "GPU 0: Orin (UUID: <id>)",
    "eth0 48:b0:2d:11:22:33 up": "eth0 <mac> up",
    "serial-number: 1422919012345": "serial-number <serial>",
    # What must stay.
    "TensorRT 10.3.0.30 at 8.7, opset 13": "TensorRT 10.3.0.30 at 8.7, opset 13",
    "cpu@46.125C tj@44.5C": "cpu@46.125C tj@44.5C",
    "17:42:01 nvinfer1::rt::Region step 12:30:45": "17:42:01 nvinfer1::rt::Region step 12:30:45",
    "NVIDIA Jetson Orin Nano, nvidia-l4t-core 36.4.3": "NVIDIA Jetson Orin Nano, nvidia-l4t-core 36.4.3",
    "Tactic: 0x9cb304e2edbc1221 in 0.0123 ms, [1,32,16,16]": "Tactic: 0x9cb304e2edbc1221 in 0.0123 ms, [1,32,16,16]",
}


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_taken_out_and_what_stays(text: str):
    found = Redactor(HOSTILE, versions=["tensorrt 10.3.0.30"]).text(text)
    assert found.startswith(TEXTS[text]), found
    assert not [secret for secret in SECRETS if secret in found]


def test_names_that_are_words_go_only_where_they_stand_for_somebody():
    device = replace(HOSTILE, name="orin", host="orin", user="nvidia", jump="")
    redacted = Redactor(device).text
    assert redacted("nvidia-l4t-core, nvidia@orin, /home/nvidia/x") == "nvidia-l4t-core, <user>@<board>, ~/x"
    assert redacted("jetson-orin-nano is orin, orin.local") == "jetson-orin-nano is <board>, <board>.local"


def test_what_an_alias_of_the_ssh_config_means_goes_too(nobodys_ssh_setup: None):
    folder = Path.home() / ".ssh"
    folder.mkdir()
    (folder / "config").write_text(
        "Include conf.d/*\nHost lab\n  HostName=deep.example.net\n  User carolyn\n  Port 20044\n"
    )
    (folder / "conf.d").mkdir()
    (folder / "conf.d" / "more").write_text("Host *\n  ProxyJump dora@gate.example.net:20055\n")
    redacted = Redactor(replace(HOSTILE, host="lab", user="", jump="")).text
    found = redacted(
        "lab is carolyn@deep.example.net:20044 by dora@gate.example.net, port 20055; carolyn, gate.example.net"
    )
    assert found == "<board> is <user>@<board> by <user>@<board>, port <port>; <user>, <board>"


def test_keys_and_lists_are_looked_into():
    found = Redactor(HOSTILE).value({"annschmidt": ["orin7", 20022, None, {"a": "10.0.0.1"}]})
    assert found == {"<user>": ["<board>", 20022, None, {"a": "<address>"}]}


def test_a_whole_bundle_of_a_hostile_inventory_holds_no_secret(
    nobodys_ssh_setup: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    few = replace(running.LONG, min_runs=4, min_seconds=0.01, windows=2, warmup_max_seconds=0.1)
    monkeypatch.setattr(running, "LONG", few)
    monkeypatch.setenv("EDGESMITH_OWNER", "annschmidt@annes-laptop")
    with folder_for_boards() as folder, InProcessBoard(folder / "orin7") as server:
        secret_home = server.home / "home" / "annschmidt"
        device = replace(
            server.device("annes-orin"),
            user="annschmidt",
            workdir=str(secret_home / "edgesmith"),
            host_key=server.fingerprint,
            power=HOSTILE.power,
        )
        # Standing in for a runtime that writes into the log what it should not.
        server.greeting = "export MY_TOKEN=hunter2; echo annschmidt@10.1.2.3 48:b0:2d:11:22:33 >&2; "
        found = boards.examine_board(device, Silent())
        port, key = str(server.port), server.fingerprint
    assert found.ok, found.rows
    here = (Row("disk", ok=True, text=f"9 GB free in {Path.home()}/annschmidt at {socket.gethostname()}"),)
    bundle = tmp_path / "bundle.zip"
    write_bundle(bundle, found, here)
    with zipfile.ZipFile(bundle) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    names = {"README.txt", "doctor.json", "capability.json", "agent.log", "latency/onnxruntime-int8.json"}
    assert names <= texts.keys()
    secrets = {
        *("annes-orin", "annschmidt", "annes-laptop", "hunter2", "10.1.2.3", "127.0.0.1", "48:b0:2d", "MY_TOKEN="),
        *(str(device.identity_file), str(device.known_hosts), f":{port}", f"port {port}", key, key[7:]),
        *({getpass.getuser()} - {"root"}),
        str(Path.home()),
        *({socket.gethostname()} - {"localhost"}),
    }
    leaks = [(name, secret) for name, text in texts.items() for secret in secrets if secret and secret in text]
    assert leaks == []
    told = json.loads(texts["doctor.json"])
    assert told["board"][0]["name"] == "<board>: board"
    assert "<mac>" in texts["agent.log"]
    assert len(told["self_test"]["trials"]) == 4
    assert json.loads(texts["capability.json"])["device"] == "<board>"


def test_a_long_log_loses_its_middle():
    found = cut(b"begin" + b"x" * (CAP_BYTES * 3) + b"end")
    assert len(found) < CAP_BYTES + 100
    assert found.startswith(b"begin")
    assert found.endswith(b"end")
    assert b"bytes are left out here" in found
