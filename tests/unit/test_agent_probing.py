"""The probe reads every board's own files, and None is what is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from device_tests.agent import probing, runtimes
from device_tests.agent.protocol import MARKER, PROTOCOL, Deadline
from device_tests.agent.reading import Root
from device_tests.agent_zip import build_agent
from device_tests.capability import CapabilityRecord
from tests.board_trees import Tree, jetson, raspberry_pi, workstation


def look(tree: Tree) -> dict[str, Any]:
    return probing.look(Root(str(tree.top)), str(tree.top))


@pytest.mark.parametrize(
    ("kind", "soc", "cpu", "features", "high"),
    [
        ("3", "bcm2837", "cortex-a53", ["asimd"], 1400000),
        ("4", "bcm2711", "cortex-a72", ["asimd"], 1800000),
        ("5", "bcm2712", "cortex-a76", ["asimd", "asimdhp", "fphp", "asimddp"], 2400000),
        ("zero-2-w", "bcm2837", "cortex-a53", ["asimd"], 1000000),
    ],
)
def test_a_raspberry_pi(tmp_path: Path, kind: str, soc: str, cpu: str, features: list[str], high: int):
    found = look(raspberry_pi(tmp_path, kind))
    assert found["model"].startswith("Raspberry Pi")
    assert "\0" not in found["model"]
    assert (found["soc"], found["cpu"], found["cpu_features"]) == (soc, cpu, features)
    assert (found["cores"], found["cores_online"]) == (4, 4)
    assert (found["os_id"], found["os_version"], found["os_codename"]) == ("debian", "12", "bookworm")
    assert found["clocks"][0]["max_khz"] == high
    assert found["clocks"][0]["cpus"] == [0, 1, 2, 3]
    assert found["clocks"][0]["governors"] == ["performance", "powersave", "schedutil"]
    assert found["temperatures"] == [{"type": "cpu-thermal", "celsius": 48.312}]
    assert found["throttled"] == "0x50005"
    assert found["uptime_s"] == 361.2
    assert found["swap_bytes"] == 200 << 20
    assert [found[key] for key in ("l4t", "tensorrt", "cuda", "cudnn", "power_mode")] == [None] * 5


def test_only_a_raspberry_pi_5_measures_its_rails(tmp_path: Path):
    four, five = look(raspberry_pi(tmp_path / "4", "4")), look(raspberry_pi(tmp_path / "5", "5"))
    assert four["rails"] == []
    assert five["rails"] == [{"source": "pmic", "name": "VDD_CORE", "path": None, "readable": True}]


def test_a_32_bit_kernels_processor_is_known_by_its_part(tmp_path: Path):
    found = look(raspberry_pi(tmp_path, "3", "bullseye", armv7=True))
    assert (found["cpu"], found["cpu_features"], found["os_codename"]) == ("cortex-a53", ["neon"], "bullseye")


def test_the_firmware_tells_of_throttling_where_the_tool_does_not(tmp_path: Path):
    tree = raspberry_pi(tmp_path, "4").tool("vcgencmd", "echo VCHI initialization failed; exit 255")
    assert look(tree)["throttled"] is None
    tree.write("/sys/devices/platform/soc/soc:firmware/get_throttled", "50000\n")
    assert look(tree)["throttled"] == "0x50000"


def test_the_old_place_of_the_device_tree_is_looked_at_last(tmp_path: Path):
    tree = (
        Tree(tmp_path)
        .write("/proc/device-tree/model", "Old board\0")
        .write("/proc/device-tree/compatible", "a,b\0c,d\0")
    )
    found = look(tree)
    assert (found["model"], found["compatible"], found["soc"]) == ("Old board", ["a,b", "c,d"], "d")
    assert look(tree.board("New board", "x,y"))["model"] == "New board"


def test_a_jetson_nano_on_jetpack_4(tmp_path: Path):
    found = look(jetson(tmp_path, "nano"))
    assert (found["l4t"], found["soc"], found["cpu"]) == ("32.7.4", "tegra210", "cortex-a57")
    assert (found["tensorrt"], found["cuda"], found["cudnn"]) == ("8.2.1", "10.2.300", "8.2.1.32")
    assert (found["power_mode"], found["power_modes"]) == ("5W", ["MAXN", "5W"])
    assert [rail["name"] for rail in found["rails"]] == ["POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU"]
    assert found["rails"][0]["path"] == "/sys/bus/iio/devices/iio:device0/in_power0_input"
    assert found["temperatures"][2] == {"type": "PMIC-Die", "celsius": None}


def test_a_jetson_xavier_nx_on_jetpack_5(tmp_path: Path):
    found = look(jetson(tmp_path, "xavier-nx"))
    assert (found["l4t"], found["jetpack_package"], found["cpu"]) == ("35.4.1", "5.1.2", "nvidia-carmel")
    assert (found["tensorrt"], found["cuda"]) == ("8.5.2", "11.4.298")
    assert (found["cores"], found["cores_online"]) == (6, 4)
    assert [clock["cpus"] for clock in found["clocks"]] == [[0, 1], [2, 3], [4, 5]]
    assert [rail["name"] for rail in found["rails"]] == ["VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"]


@pytest.mark.parametrize(("kind", "l4t"), [("orin-nano", "36.4.4"), ("orin-nano-jetpack7", "39.2.0")])
def test_a_jetson_orin_nano(tmp_path: Path, kind: str, l4t: str):
    found = look(jetson(tmp_path, kind))
    assert (found["l4t"], found["soc"]) == (l4t, "tegra234")
    assert "nvidia,p3767-0005" in found["compatible"]
    assert (found["tensorrt"], found["cuda"], found["cudnn"]) == ("10.3.0.30", "12.6.68", "9.3.0.75")
    assert found["power_mode"] == "MAXN_SUPER"
    assert "asimddp" in found["cpu_features"]
    # zone10 comes after zone2, and a sensor that is off has no value.
    assert [zone["type"] for zone in found["temperatures"]][-2:] == ["cv0-thermal", "tj-thermal"]
    assert found["temperatures"][-2]["celsius"] is None


def test_a_jetson_thor_without_packages(tmp_path: Path):
    found = look(jetson(tmp_path, "thor"))
    assert (found["l4t"], found["tensorrt"], found["trtexec"]) == ("38.4.0", "10.13.3", True)
    assert (found["cores"], found["cores_online"]) == (14, 13)
    assert {"i8mm", "sve2", "asimddp"} <= set(found["cpu_features"])
    assert [(rail["source"], rail["name"]) for rail in found["rails"]] == [
        ("ina3221", "VDD_GPU"),
        ("ina3221", "VIN_SYS_5V0"),
        ("ina238", "VIN"),
    ]


def test_l4t_is_known_by_its_package_where_its_file_is_gone(tmp_path: Path):
    tree = jetson(tmp_path, "xavier-nx")
    (tmp_path / "etc/nv_tegra_release").unlink()
    assert look(tree)["l4t"] == "35.4.1"


def test_the_power_mode_is_asked_for_where_no_file_tells_it(tmp_path: Path):
    tree = jetson(tmp_path, "orin-nano").tool("nvpmodel", "echo 'NV Power Mode: 25W'; echo 1")
    (tmp_path / "var/lib/nvpmodel/status").unlink()
    assert look(tree)["power_mode"] == "25W"


def test_an_x86_machine(tmp_path: Path):
    found = look(workstation(tmp_path))
    assert (found["model"], found["soc"], found["cpu"]) == (None, None, "Intel(R) Core(TM) i7")
    assert found["cpu_features"][-3:] == ["avx512bw", "avx512_vnni", "avx_vnni"]
    assert [(rail["source"], rail["name"]) for rail in found["rails"]] == [("rapl", "package-0")]
    assert found["clock_lock"] == {
        "possible": False,
        "how": "",
        "reason": "there is no cpufreq here: the clocks are not this system's to set",
    }


def test_a_bare_tree_is_no_error(tmp_path: Path):
    found = look(Tree(tmp_path))
    absent = ("model", "soc", "os_id", "cpu", "memory_bytes", "throttled", "uptime_s", "l4t", "power_mode")
    assert [found[key] for key in absent] == [None] * len(absent)
    assert (found["clocks"], found["temperatures"], found["rails"], found["cpu_features"]) == ([], [], [], [])
    assert found["cores"] == os.cpu_count()


@pytest.mark.parametrize(
    ("kind", "sudo", "expected"),
    [
        ("orin-nano", "exit 0", "sudo -n jetson_clocks"),
        ("thor", "exit 0", "sudo -n may write scaling_governor"),
        ("orin-nano", "echo a password is required >&2; exit 1", ""),
    ],
)
def test_whether_clocks_could_be_held_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, sudo: str, expected: str
):
    # Root may write anything: the answer of a plain user is played.
    monkeypatch.setattr(Root, "writable", lambda *_: False)
    found = look(jetson(tmp_path, kind).tool("sudo", sudo))["clock_lock"]
    assert (found["possible"], found["how"]) == (bool(expected), expected)
    assert bool(found["reason"]) is not bool(expected)


def test_without_sudo_clocks_cannot_be_held_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Root, "writable", lambda *_: False)
    found = look(raspberry_pi(tmp_path, "4"))["clock_lock"]
    assert found["reason"] == "scaling_governor belongs to root, and there is no sudo"


def test_a_writable_governor_needs_no_sudo(tmp_path: Path):
    tree = raspberry_pi(tmp_path, "4").tool("sudo", "touch asked")
    assert look(tree)["clock_lock"]["how"] == "scaling_governor is writable"


def test_a_tool_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("device_tests.agent.reading.COMMAND_S", 0.2)
    tree = raspberry_pi(tmp_path, "4").tool("vcgencmd", "exec sleep 60")
    assert look(tree)["throttled"] is None


def test_nothing_of_the_tree_is_changed(tmp_path: Path):
    tree = jetson(tmp_path, "orin-nano")

    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}

    before = content()
    look(tree)
    assert content() == before


PYENV = Path.home() / ".pyenv" / "versions"
OLDEST = PYENV / "3.6.15" / "bin" / "python"


@pytest.mark.parametrize("python", [sys.executable, *([str(OLDEST)] if OLDEST.exists() else [])])
def test_the_agent_answers_with_every_key_of_the_record(tmp_path: Path, python: str):
    place = tmp_path / "agent.zip"
    place.write_bytes(build_agent().content)
    asked = {"id": 1, "protocol": PROTOCOL, "method": "probe", "params": {}, "timeout_s": 60}
    pipe = subprocess.PIPE
    with subprocess.Popen([python, "-u", place], stdin=pipe, stdout=pipe, stderr=pipe, cwd=tmp_path) as agent:
        assert agent.stdin is not None
        assert agent.stdout is not None
        assert agent.stdout.readline().decode().strip() == MARKER
        agent.stdin.write(json.dumps(asked).encode() + b"\n")
        agent.stdin.flush()
        answer = json.loads(agent.stdout.readline())
        agent.communicate(timeout=20)
    found = answer["result"]
    assert {field.name for field in fields(CapabilityRecord)} - {"device", "clock_off_s"} <= set(found)
    assert found["executable"] == python
    assert set(found["runners"]) | set(found["missing"]) == {"onnxruntime", "tensorrt", "tflite"}


def test_the_runtimes_are_tried_once_in_an_agents_life(monkeypatch: pytest.MonkeyPatch):
    tried = []

    def count(deadline: Deadline) -> dict[str, Any]:
        tried.append(deadline)
        return {"runners": ["tflite"]}

    monkeypatch.setattr(runtimes, "_FOUND", {})
    monkeypatch.setattr(runtimes, "_try", count)
    assert runtimes.importable(Deadline(1)) == runtimes.importable(Deadline(1)) == {"runners": ["tflite"]}
    assert len(tried) == 1
