"""The emulated Raspberry Pi is what it says it is, its power can be cut, and this machine is as it was afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from device_tests.deadline import Deadline
from device_tests.session import BoardSession
from device_tests.ssh import Ssh
from edgesmith.errors import ConnectionLost
from edgesmith.progress import Silent
from edgesmith.types import Measurement, MeasureProtocol, Validity
from tests.lab.arm64 import ArmBoard, arm64_programs
from tests.tiny_artifacts import artifact

pytestmark = [pytest.mark.arm64, pytest.mark.timeout(900)]

X = np.array([[4, 8, 12, 0]], np.float32)
QUICK = MeasureProtocol(min_runs=10, min_seconds=0.01, windows=2, warmup_max_seconds=10.0, timeout_seconds=300.0)
REGISTERED = Path("/proc/sys/fs/binfmt_misc")


def soon() -> Deadline:
    return Deadline.after(60)


def test_it_is_an_emulated_raspberry_pi_4(arm_board: ArmBoard, tmp_path: Path):
    with BoardSession(arm_board.device(), local_root=tmp_path, progress=Silent()) as session:
        info = session.info
    assert (info.machine, info.emulated, info.cores) == ("aarch64", True, 4)
    assert info.model == "Raspberry Pi 4 Model B Rev 1.4"
    assert info.cpu == "cortex-a72"
    assert info.kernel.endswith("+rpt-rpi-v8")
    assert info.python.startswith("3.11.")
    assert info.runners == ("onnxruntime", "tflite")


@pytest.mark.parametrize(("file", "format_"), [("dense.tflite", "tflite"), ("dense.onnx", "onnx")])
def test_a_model_runs_on_the_real_aarch64_wheels_and_is_not_valid_as_latency(
    arm_board: ArmBoard, tmp_path: Path, file: str, format_: str
):
    with BoardSession(arm_board.device(), local_root=tmp_path, progress=Silent()) as session:
        (found,) = session.measure([artifact(file, format_)], X, QUICK)
    assert isinstance(found, Measurement)
    assert found.validity is Validity.UNKNOWN
    assert "the board is emulated: this is emulation time, not latency" in found.validity_reasons


def test_a_power_cut_takes_everything_that_ran_there(arm_board: ArmBoard):
    with Ssh(arm_board.device(), soon()) as ssh:
        process = ssh.spawn(["sh", "-c", "touch made; echo made; exec sleep 600"], soon())
        process.receive(soon())
        assert arm_board.inside("/home/pi/made").exists()
        arm_board.stop()
        with pytest.raises(ConnectionLost):
            process.receive(soon())
    arm_board.start()
    with Ssh(arm_board.device(), soon()) as ssh:
        listed = ssh.run(["ls", "-A"], soon())
    assert listed.stdout.split() == []


def test_the_userland_is_never_written_to(arm_board: ArmBoard, arm64_userland: Path):
    with Ssh(arm_board.device(), soon()) as ssh:
        assert ssh.run(["touch", "/home/pi/mine"], soon()).exit_status == 0
    assert arm_board.inside("/home/pi/mine").exists()
    assert not (arm64_userland / "home/pi/mine").exists()


def test_its_disk_is_as_large_as_it_says(arm_board: ArmBoard):
    with Ssh(arm_board.device(), soon()) as ssh:
        free = ssh.run(["df", "--output=size", "-B1M", "/home/pi"], soon())
    assert free.stdout.split()[-1] == b"256"


def test_arm64_programs_start_until_the_last_test_run_is_done(arm64_userland: Path):
    """`arm64_userland` is one user of the registration; others come and go while it stays."""
    handlers = {path.name for path in REGISTERED.iterdir()}
    with arm64_programs():
        pass
    other = "import tests.lab.arm64 as lab\nwith lab.arm64_programs(): pass"
    subprocess.run([sys.executable, "-c", other], cwd=Path(__file__).parents[2], check=True, timeout=60)
    assert {path.name for path in REGISTERED.iterdir()} == handlers
