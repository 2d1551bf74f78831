"""The record of a board, what it lacks, and the command that brings it: every text as a user reads it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device_tests.agent import probing
from device_tests.agent.reading import Root
from device_tests.capability import CapabilityRecord, read_record
from device_tests.install import Missing, install_python_hint, missing
from device_tests.local import Local
from device_tests.loopback import LoopbackBoard
from device_tests.probe import describe, probe, probe_here, profile_for
from device_tests.session import BoardSession
from edgesmith.errors import ConfigError, ConnectionLost
from edgesmith.progress import Silent
from edgesmith.types import Device
from targets import board_profiles
from tests.board_trees import Tree, jetson, raspberry_pi, workstation

LIBC = {"bullseye": "2.31", "bookworm": "2.36", "trixie": "2.41", "bionic": "2.27", "focal": "2.31", "jammy": "2.35"}
PYTHON = {
    "bullseye": "3.9.2",
    "bookworm": "3.11.2",
    "trixie": "3.13.5",
    "bionic": "3.6.9",
    "focal": "3.8.10",
    "jammy": "3.10.12",
}


def record(tree: Tree, **changes: Any) -> CapabilityRecord:
    """A record of the tree, with a bare system's Python as its OS has it."""
    found = probing.look(Root(str(tree.top)), str(tree.top))
    codename = found["os_codename"] or ""
    bare = {
        "machine": "aarch64",
        "platform": "linux-aarch64",
        "pointer_bits": 64,
        "libc": f"glibc {LIBC.get(codename, '2.39')}",
        "python": PYTHON.get(codename, "3.12.3"),
        "executable": "/usr/bin/python3",
        "venv": False,
        "externally_managed": codename in ("bookworm", "trixie", "noble"),
        "pip": None,
        "ensurepip": False,
        "numpy": None,
        "runtimes": {},
        "runners": (),
        "missing": {},
        "device": "lab-1",
        "clock_off_s": 0.0,
        "disk_free_bytes": 9 * 10**9,
    }
    return read_record({**found, **bare, **changes})


def lacking(found: CapabilityRecord) -> dict[str, Missing]:
    device = Device(name="lab-1", transport="ssh")
    return {one.name: one for one in missing(found, profile_for(device, found)[0])}


def test_a_fresh_64_bit_raspberry_pi_os(tmp_path: Path):
    found = lacking(record(raspberry_pi(tmp_path, "5", "bookworm")))
    assert list(found) == ["onnxruntime", "tflite"]
    assert found["tflite"].text == "No runtime for tflite; LiteRT 2.3.0 fits Python 3.11."
    assert found["tflite"].commands == (
        "sudo apt-get update && sudo apt-get install -y python3-venv",
        "/usr/bin/python3 -m venv ~/edge",
        "~/edge/bin/pip install ai-edge-litert",
    )
    assert found["onnxruntime"].commands[-1] == "~/edge/bin/pip install onnxruntime"


def test_the_reason_of_the_failed_import_is_told(tmp_path: Path):
    why = {"tflite": "No module named 'numpy'"}
    found = lacking(
        record(raspberry_pi(tmp_path, "4", "trixie"), ensurepip=True, missing=why, runners=("onnxruntime",))
    )
    assert found["tflite"].text == ("No runtime for tflite (No module named 'numpy'); LiteRT 2.3.0 fits Python 3.13.")
    assert found["tflite"].commands == ("/usr/bin/python3 -m venv ~/edge", "~/edge/bin/pip install ai-edge-litert")


def test_bullseye_gets_the_last_litert_for_its_python_and_a_newer_pip_first(tmp_path: Path):
    found = lacking(record(raspberry_pi(tmp_path, "4", "bullseye"), ensurepip=True))
    assert found["tflite"].text == "No runtime for tflite; LiteRT 2.1.0 fits Python 3.9."
    assert found["tflite"].commands == (
        "/usr/bin/python3 -m venv ~/edge",
        "~/edge/bin/pip install -U pip",
        "~/edge/bin/pip install ai-edge-litert",
    )


def test_a_virtual_environment_that_is_in_use_is_installed_into(tmp_path: Path):
    tree = raspberry_pi(tmp_path, "4")
    there = record(tree, venv=True, executable="/home/pi/my edge/bin/python", pip="23.0.1", ensurepip=True)
    assert lacking(there)["tflite"].commands == ("'/home/pi/my edge/bin/python' -m pip install ai-edge-litert",)
    without = replace(there, pip=None, executable="/home/pi/edge/bin/python")
    assert lacking(without)["tflite"].commands == (
        "/home/pi/edge/bin/python -m ensurepip --upgrade",
        "/home/pi/edge/bin/python -m pip install ai-edge-litert",
    )
    old = replace(there, pip="20.0.2", executable="/home/pi/edge/bin/python")
    assert lacking(old)["tflite"].commands == (
        "/home/pi/edge/bin/python -m pip install -U pip",
        "/home/pi/edge/bin/python -m pip install ai-edge-litert",
    )


def test_a_32_bit_bookworm_gets_tflite_runtime_with_the_systems_numpy(tmp_path: Path):
    found = lacking(record(raspberry_pi(tmp_path, "4", "bookworm"), pointer_bits=32))
    assert found["tflite"].text == "No runtime for tflite; tflite-runtime 2.14.0 fits Python 3.11."
    assert found["tflite"].commands == (
        "sudo apt-get update && sudo apt-get install -y python3-venv python3-numpy",
        "/usr/bin/python3 -m venv --system-site-packages ~/edge",
        "~/edge/bin/pip install tflite-runtime 'numpy<2'",
    )
    assert found["onnxruntime"].text == (
        "ONNX Runtime has no armv7l wheel for Python 3.11; "
        "use the 64-bit system, which this board can run (onnxruntime 1.31.1 fits there)."
    )
    assert found["onnxruntime"].commands == ()


def test_a_32_bit_bullseyes_numpy_is_too_old(tmp_path: Path):
    found = lacking(record(raspberry_pi(tmp_path, "3", "bullseye"), machine="armv7l", pointer_bits=32, ensurepip=True))
    assert found["tflite"].text == (
        "No runtime for tflite; tflite-runtime 2.13.0 fits Python 3.9. It needs numpy 1.21.2 or newer, of which there "
        "is no armv7l wheel but on piwheels: the pip of Raspberry Pi OS asks there by itself, Debian's does not."
    )
    assert found["tflite"].commands == (
        "/usr/bin/python3 -m venv ~/edge",
        "~/edge/bin/pip install -U pip",
        "~/edge/bin/pip install tflite-runtime 'numpy<2'",
    )


def test_a_32_bit_trixie_has_no_litert(tmp_path: Path):
    found = lacking(record(raspberry_pi(tmp_path, "zero-2-w", "trixie"), machine="armv7l", pointer_bits=32))
    assert found["tflite"].text == (
        "LiteRT and tflite-runtime have no armv7l wheel for Python 3.13; "
        "use the 64-bit system, which this board can run (ai-edge-litert 2.3.0 fits there), "
        "or Python 3.11 on this one (tflite-runtime 2.14.0)."
    )


def test_a_board_that_can_only_run_32_bits_is_not_told_to_run_64(tmp_path: Path):
    tree = Tree(tmp_path).board("BeagleBone Black", "ti,am335x-bone-black").system("trixie")
    found = lacking(record(tree, machine="armv7l", pointer_bits=32))
    assert found["tflite"].text == (
        "LiteRT and tflite-runtime have no armv7l wheel for Python 3.13; "
        "use Python 3.11 on this one (tflite-runtime 2.14.0)."
    )
    assert found["onnxruntime"].text == (
        "ONNX Runtime has no armv7l wheel for Python 3.13, and for no other Python either."
    )


def test_musl_has_no_wheels(tmp_path: Path):
    found = lacking(record(Tree(tmp_path), libc="musl", python="3.12.3"))
    assert found["onnxruntime"].text == (
        "ONNX Runtime has no aarch64 wheel for Python 3.12: its C library is musl. "
        "Use a system with glibc, such as Debian."
    )


def test_a_jetson_nano_gets_tflite_by_the_python_3_8_of_its_archive(tmp_path: Path):
    found = lacking(record(jetson(tmp_path, "nano")))
    assert found["tflite"].text == (
        "LiteRT and tflite-runtime have no aarch64 wheel for Python 3.6; use Python 3.8 with tflite-runtime 2.13.0."
    )
    assert found["tflite"].commands == (
        "sudo apt-get update && sudo apt-get install -y python3.8 python3.8-venv",
        "python3.8 -m venv ~/edge",
        "~/edge/bin/pip install -U pip",
        "~/edge/bin/pip install tflite-runtime 'numpy<2'",
    )
    assert found["onnxruntime"].text == "No runtime for onnxruntime; ONNX Runtime 1.10.0 fits Python 3.6."
    assert found["onnxruntime"].commands == (
        "sudo apt-get update && sudo apt-get install -y python3-venv",
        "/usr/bin/python3 -m venv --system-site-packages ~/edge",
        "~/edge/bin/pip install -U 'pip<22'",
        "~/edge/bin/pip install onnxruntime",
    )


def test_tensorrt_comes_with_jetpack_and_is_optional(tmp_path: Path):
    bare = record(jetson(tmp_path, "orin-nano"), tensorrt=None)
    found = lacking(bare)["tensorrt"]
    assert found.optional
    assert found.text == "TensorRT is not installed. It comes with JetPack, by apt; pip cannot bring it to a Jetson."
    assert found.commands == ("sudo apt-get update && sudo apt-get install -y nvidia-jetpack",)


def test_tensorrt_that_this_python_cannot_import(tmp_path: Path):
    system = record(jetson(tmp_path, "orin-nano"))
    found = lacking(system)["tensorrt"]
    assert found.text == "TensorRT 10.3.0.30 is there, and this Python cannot import it."
    assert found.commands == ("sudo apt-get update && sudo apt-get install -y python3-libnvinfer",)
    assert lacking(replace(system, venv=True))["tensorrt"].text == (
        "TensorRT 10.3.0.30 is there, and this Python cannot import it. A virtual environment sees it only when made "
        "so: `python3 -m venv --system-site-packages ~/edge`."
    )
    assert "tensorrt" not in lacking(replace(system, tensorrt_python=True))


def test_a_jetsons_environment_sees_the_tensorrt_of_the_system(tmp_path: Path):
    found = lacking(record(jetson(tmp_path, "orin-nano")))
    assert "/usr/bin/python3 -m venv --system-site-packages ~/edge" in found["tflite"].commands


def test_what_disturbs_but_does_not_stop(tmp_path: Path):
    tree = raspberry_pi(tmp_path, "4").tool("vcgencmd", "exit 255")
    poor = record(tree, disk_free_bytes=120_000_000, clock_off_s=-3e8, runners=("onnxruntime", "tflite"))
    found = lacking(poor)
    assert [one.optional for one in found.values()] == [True] * 3
    assert found["disk"].text == (
        f"Only 120 MB are free at {poor.workdir}; a runtime takes up to 200 MB, models come on top."
    )
    assert found["clock"].commands == ("sudo timedatectl set-ntp true",)
    assert found["throttle state"].commands == ('sudo usermod -aG video "$USER"',)


def test_a_machine_with_everything_lacks_nothing(tmp_path: Path):
    found = record(workstation(tmp_path), machine="x86_64", runners=("onnxruntime", "tflite"))
    assert lacking(found) == {}


def test_the_record_for_people(tmp_path: Path):
    lines = describe(record(raspberry_pi(tmp_path, "5"), pip="23.0.1", runtimes={"onnxruntime": "1.31.1"}))
    assert lines[0] == "board        Raspberry Pi 5 Model B Rev 1.0 (bcm2712)"
    assert "processor    cortex-a76, 4 cores: asimd asimdhp fphp asimddp" in lines
    assert "memory       8.4 GB, 6.3 GB available, 0.2 GB swap" in lines
    assert "python       3.11.2 at /usr/bin/python3, the system's, pip 23.0.1, no numpy" in lines
    assert "runtimes     onnxruntime 1.31.1" in lines
    assert "clock        cores 0-3: 600 MHz of 600-2400, ondemand" in lines
    assert "heat         cpu-thermal 48.3 °C" in lines
    assert "power        pmic: VDD_CORE" in lines
    assert "throttling   under-voltage now, throttled now, under-voltage since boot, throttled since boot" in lines
    assert not any(line.startswith(("nvidia", "wall clock", "power mode")) for line in lines)


def test_a_jetson_for_people(tmp_path: Path):
    lines = describe(record(jetson(tmp_path, "xavier-nx"), clock_off_s=-4.1e8))
    assert "processor    nvidia-carmel, 6 cores, 4 of them online: asimd asimdhp fphp" in lines
    assert (
        "nvidia       JetPack 5.1.2, L4T 35.4.1, CUDA 11.4.298, TensorRT 8.5.2 (not importable from this Python)"
        in lines
    )
    assert "power mode   MODE_15W_6CORE (there are also MODE_15W_2CORE, MODE_15W_4CORE)" in lines
    assert "clock        cores 2-3: 1190 MHz of 115-1907, schedutil" in lines
    assert any(line.startswith("wall clock   off by 13 years (behind): it says 20") for line in lines)


def test_a_clock_without_limits_is_shown_as_far_as_it_is_known(tmp_path: Path):
    tree = raspberry_pi(tmp_path, "4").bare_clock(1800000)
    assert "clock        1800 MHz, governor not known" in describe(record(tree))


def test_a_32_bit_userland_and_an_emulator_say_so(tmp_path: Path):
    lines = describe(record(raspberry_pi(tmp_path, "4"), pointer_bits=32, emulated=True))
    assert lines[0] == "board        Raspberry Pi 4 Model B Rev 1.4 (bcm2711), EMULATED"
    assert "32-bit userland on a 64-bit kernel (aarch64)" in lines[1]


def test_the_record_is_json_with_what_follows_from_it(tmp_path: Path):
    told = json.loads(json.dumps(record(jetson(tmp_path, "orin-nano")).as_dict()))
    assert (told["l4t"], told["jetpack"], told["userland_32bit"]) == ("36.4.4", "6.1-6.2", False)
    assert told["clocks"][1]["cpus"] == [4, 5]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda top: raspberry_pi(top, "3"), "raspberry-pi-3"),
        (lambda top: raspberry_pi(top, "4"), "raspberry-pi-4"),
        (lambda top: raspberry_pi(top, "5"), "raspberry-pi-5"),
        (lambda top: raspberry_pi(top, "zero-2-w"), "raspberry-pi-zero-2-w"),
        (lambda top: jetson(top, "nano"), "jetson-nano"),
        (lambda top: jetson(top, "xavier-nx"), "jetson-xavier-nx"),
        (lambda top: jetson(top, "orin-nano"), "jetson-orin-nano"),
        (lambda top: jetson(top, "thor"), "jetson-agx-thor"),
    ],
)
def test_auto_is_what_the_board_says(tmp_path: Path, make: Any, expected: str):
    found = record(make(tmp_path))
    assert profile_for(Device(name="b", transport="ssh"), found) == (board_profiles.get(expected), "")
    assert profile_for(Device(name="b", transport="ssh", board=expected), found) == (board_profiles.get(expected), "")
    generic = board_profiles.get("generic-arm64")
    assert profile_for(Device(name="b", transport="ssh", board="generic-arm64"), found) == (generic, "")


def test_another_board_than_the_inventory_says_is_a_warning(tmp_path: Path):
    found = record(raspberry_pi(tmp_path, "4"))
    profile, warning = profile_for(Device(name="pi5-lab", transport="ssh", board="raspberry-pi-5"), found)
    assert profile == board_profiles.get("raspberry-pi-5")
    assert warning == (
        "pi5-lab: the inventory calls it raspberry-pi-5, the board says it is 'Raspberry Pi 4 Model B Rev 1.4'. "
        "Profile raspberry-pi-5 is used; `board: raspberry-pi-4` or `board: auto` in devices.yaml would fit."
    )
    with pytest.raises(ConfigError, match="There is no board 'raspberry-pi-6'"):
        profile_for(Device(name="pi", transport="ssh", board="raspberry-pi-6"), found)


def test_a_board_without_a_name_under_a_named_profile_is_a_warning(tmp_path: Path):
    found = record(Tree(tmp_path), machine="riscv64")
    assert profile_for(Device(name="b", transport="ssh"), found) == (None, "")
    _, warning = profile_for(Device(name="b", transport="ssh", board="jetson-nano"), found)
    assert warning == (
        "b: the inventory calls it jetson-nano, the board is riscv64 and has no model name. "
        "Profile jetson-nano is used; `board: auto` in devices.yaml would fit."
    )


def test_this_machine_without_importing_anything():
    found = probe_here()
    assert (found.device, found.runners) == ("local", ("tflite", "onnxruntime"))
    assert abs(found.clock_off_s) < 1


def test_a_board_over_ssh(board: LoopbackBoard, tmp_path: Path):
    with BoardSession(board.device(), local_root=tmp_path, progress=Silent()) as session:
        found = probe(session)
    assert (found.device, found.machine, found.python) == (
        board.device().name,
        session.info.machine,
        session.info.python,
    )
    assert found.runners == session.info.runners
    assert found.numpy == session.info.numpy
    assert found.workdir == str(board.home / "edgesmith")
    assert abs(found.clock_off_s) < 5
    assert not [one for one in lacking(found).values() if not one.optional]


class Bare(Local):
    """A board that runs nothing but `cat /etc/os-release`."""

    def __init__(self, top: Path, release: str | None) -> None:
        super().__init__(top)
        self.release = release

    def run(self, argv: Any, deadline: Any, stdin: bytes = b"") -> Any:
        assert list(argv) == ["cat", "/etc/os-release"]
        if self.release is None:
            raise ConnectionLost("gone")
        return super().run(["printf", "%s", self.release], deadline)


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        (
            'ID=debian\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
            (
                "The board runs Debian GNU/Linux 12 (bookworm). Install Python there: "
                "`sudo apt-get update && sudo apt-get install -y python3 python3-venv`."
            ),
        ),
        (
            'ID=armbian\nID_LIKE="debian"\nNAME=Armbian\n',
            (
                "The board runs Armbian. Install Python there: "
                "`sudo apt-get update && sudo apt-get install -y python3 python3-venv`."
            ),
        ),
        ("ID=alpine\nNAME=Alpine\n", "The board runs Alpine. Install Python there: `sudo apk add python3 py3-pip`."),
        (
            "ID=rocky\nID_LIKE='rhel centos fedora'\nNAME=Rocky\n",
            "The board runs Rocky. Install Python there: `sudo dnf install -y python3`.",
        ),
        (
            "ID=openwrt\nNAME=OpenWrt\n",
            "The board runs OpenWrt. Install Python there: `opkg update && opkg install python3`.",
        ),
        (
            "ID=poky\nPRETTY_NAME='Poky 5.0'\n",
            "Install Python 3.6 or newer on the board (Poky 5.0 is not a system we know how to add packages to).",
        ),
        (
            None,
            "Install Python 3.6 or newer on the board (its system is not known).",
        ),
    ],
)
def test_a_board_without_python_is_told_how_to_get_it(tmp_path: Path, release: str | None, expected: str):
    assert install_python_hint(Bare(tmp_path, release)) == expected
