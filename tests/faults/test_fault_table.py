"""The fault table, first half: boards that refuse. Each fault is real, on a real sshd, through the command line.

Every row says the exit code, what the screen must say, and leaves nothing behind on either side.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import pytest

from device_tests.loopback import folder_for_boards
from device_tests.loopback_sshd import SshdBoard
from tests.faults.scene import Scene

pytestmark = [pytest.mark.sshd]

Arrange = Callable[[Scene], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def wrong_key(scene: Scene) -> Iterator[None]:
    key = scene.project / "other_key"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(key)
    key.chmod(0o600)
    scene.change(identity_file=key)
    yield


@contextlib.contextmanager
def unknown_host_key(scene: Scene) -> Iterator[None]:
    (scene.project / "empty").touch()
    scene.change(known_hosts=scene.project / "empty")
    yield


@contextlib.contextmanager
def changed_host_key(scene: Scene) -> Iterator[None]:
    scene.board.new_host_key()
    yield


@contextlib.contextmanager
def refused_port(scene: Scene) -> Iterator[None]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        scene.change(port=probe.getsockname()[1])
    yield


@contextlib.contextmanager
def never_answers(scene: Scene) -> Iterator[None]:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        scene.change(port=mute.getsockname()[1])
        yield


@contextlib.contextmanager
def no_python(scene: Scene) -> Iterator[None]:
    scene.change(python="/opt/nothing/bin/python3")
    yield


def environment(folder: Path, *packages: str, **modules: str) -> Path:
    """An interpreter of its own that sees only these packages of ours, and these modules; returns its path."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    theirs = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    ours = Path(sysconfig.get_paths()["purelib"])
    for package in packages:
        for found in ours.glob(f"{package}*"):
            (theirs / found.name).symlink_to(found)
    for name, code in modules.items():
        (theirs / f"{name}.py").write_text(code)
    return folder / "bin" / "python"


@contextlib.contextmanager
def no_numpy(scene: Scene) -> Iterator[None]:
    scene.change(python=str(environment(scene.board.home.parent / "bare")))
    yield


@contextlib.contextmanager
def no_runtime(scene: Scene) -> Iterator[None]:
    scene.change(python=str(environment(scene.board.home.parent / "numpy-only", "numpy")))
    yield


_RUNTIME = """
__version__ = "1.0"
class SessionOptions:
    intra_op_num_threads = inter_op_num_threads = 1
    def __getattr__(self, name): return lambda *_: None
class Spec:
    name, shape, type = "x", [1, 4], "tensor(float)"
class InferenceSession:
    def __init__(self, *_, **__): pass
    def get_inputs(self): return [Spec]
    get_outputs = get_inputs
    def get_providers(self): return []
    def run(self, *_):
        %s
"""


@contextlib.contextmanager
def runtime_crashes(scene: Scene) -> Iterator[None]:
    crash = _RUNTIME % "import ctypes; ctypes.string_at(0)"
    scene.change(python=str(environment(scene.board.home.parent / "crashing", "numpy", onnxruntime=crash)))
    yield


@contextlib.contextmanager
def runtime_hangs(scene: Scene) -> Iterator[None]:
    scene.configure(timeout_seconds=5)
    hang = _RUNTIME % "import time; time.sleep(3600)"
    scene.change(python=str(environment(scene.board.home.parent / "hanging", "numpy", onnxruntime=hang)))
    yield


@contextlib.contextmanager
def as_it_is(scene: Scene) -> Iterator[None]:
    yield


@dataclass(frozen=True)
class Fault:
    """One row of the table.

    Attributes:
        says: all of it is on the screen; "{key}" is the board's fingerprint of now.
        prepare: shell that makes the board; {home} is its login folder.
    """

    name: str
    arrange: Arrange
    exit_code: int
    says: tuple[str, ...]
    prepare: str = ""


TABLE = (
    Fault("wrong key", wrong_key, 3, ("the board refused the login of", "`ssh-copy-id -p", "edgesmith never asks")),
    Fault(
        "unknown host key", unknown_host_key, 3, ("its host key is not known: ssh-ed25519 {key}.", "`host_key: {key}`")
    ),
    Fault(
        "changed host key",
        changed_host_key,
        3,
        ("THE HOST KEY HAS CHANGED. Trusted: SHA256:", "Shown now: {key}.", "set up anew, or somebody is in between"),
    ),
    Fault("refused port", refused_port, 3, ("refused: nothing listens there", "Is sshd running on the board")),
    Fault("accepts and never answers", never_answers, 3, ("no answer in time", "Is the board on and on the network?")),
    Fault(
        "disk full",
        as_it_is,
        3,
        ("no space left on the board",),
        prepare="mount -t tmpfs -o size=40k tmpfs {home}",
    ),
    Fault(
        "read-only home",
        as_it_is,
        3,
        ("on a read-only file system", "set `workdir:`"),
        prepare="mount --bind {home} {home}; mount -o remount,bind,ro {home}",
    ),
    Fault("no python", no_python, 3, ("'/opt/nothing/bin/python3' is not there", "`python:` in devices.yaml")),
    Fault(
        "python without numpy",
        no_numpy,
        3,
        ("No runtime for onnxruntime (No module named 'numpy')", "-m pip install onnxruntime"),
    ),
    Fault(
        "runtime missing",
        no_runtime,
        3,
        ("No runtime for onnxruntime (No module named 'onnxruntime')", "-m pip install onnxruntime"),
    ),
    Fault("runtime crashes", runtime_crashes, 3, ("the runtime crashed: SIGSEGV during",)),
    Fault("runtime hangs", runtime_hangs, 3, ("no answer to", "Raise `measure.timeout_seconds`")),
)


@pytest.mark.skipif(os.getuid() != 0, reason="a disk of its own needs root")
@pytest.mark.parametrize("fault", TABLE, ids=lambda fault: fault.name)
def test_a_board_that_refuses(fault: Fault, tmp_path: Path, nobodys_ssh_setup: None):
    with folder_for_boards() as folder:
        prepare = fault.prepare.format(home=folder / "board" / "home")
        with SshdBoard(folder / "board", prepare=prepare) as board:
            scene = Scene(tmp_path, board)
            with fault.arrange(scene):
                ended = scene.edgesmith("run")
            assert ended.exit_code == fault.exit_code, ended
            for text in fault.says:
                assert text.format(key=board.fingerprint) in ended.said, ended.said
            assert "Traceback" not in ended.said
            assert scene.result["state"] in ("finished", "failed")
            assert (scene.project / "runs" / "latest" / "report.html").is_file()
            scene.assert_nothing_left()
