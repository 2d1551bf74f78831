"""docs/how-to/jetson.md: every command in it is marked, and those marked as tested are run here, on a FAKE board."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from device_tests.fake_jetson.build import build_cudart
from device_tests.fake_jetson.site import write_site
from device_tests.fake_jetson.trtexec_tool import PLACE, write_trtexec
from device_tests.inventory import load_inventory
from device_tests.loopback import InProcessBoard, folder_for_boards
from targets.jetpack import JETPACKS

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs" / "how-to" / "jetson.md").read_text(encoding="utf-8")
TESTED, NOT_RUN = "# tested", "# not run by us"
VERSION = "10.3"


def _blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in _blocks("sh") for line in block.splitlines()]
ON_BOARD = [
    "python3 -m venv --system-site-packages ~/edge",
    "~/edge/bin/python -c 'import numpy, tensorrt; print(tensorrt.__version__)'",
    "sed -i 's/^include-system-site-packages.*/include-system-site-packages = true/' ~/edge/pyvenv.cfg",
]
TRTEXEC = "/usr/src/tensorrt/bin/trtexec --help | head -n 1"
ADD = "edgesmith devices add orin ME@10.0.0.9 --python '~/edge/bin/python' --fingerprint SHA256:OF_THE_BOARD"
LOOK = ["edgesmith devices probe orin", "edgesmith doctor --device orin"]


def test_every_command_says_what_stands_behind_it():
    assert [line for line in COMMANDS if not line.endswith((f" {TESTED}", f" {NOT_RUN}"))] == []


def test_what_is_marked_as_tested_is_what_is_run_here():
    marked = [line.removesuffix(TESTED).rstrip() for line in COMMANDS if line.endswith(TESTED)]
    assert marked == [*ON_BOARD, TRTEXEC, ADD, *LOOK]


def test_the_inventory_on_the_page_is_one(tmp_path: Path):
    (block,) = _blocks("yaml")
    path = tmp_path / "devices.yaml"
    path.write_text(block.replace("SHA256:OF_THE_BOARD", "SHA256:" + "A" * 43))
    found = load_inventory(path).get("orin")
    # Seen from the login folder.
    assert (found.host, found.user, found.python) == ("10.0.0.9", "ME", "edge/bin/python")


def test_the_table_agrees_with_our_own():
    rows = {row[0].strip(): [cell.strip() for cell in row] for row in _rows() if row[0].strip() != "4.6"}
    assert len(rows) == 6
    for name, row in rows.items():
        own = next(one for one in JETPACKS if one.name == name.replace(" to ", "-"))
        assert (row[3].partition(", ")[2], row[4]) == (own.python, own.cuda)
        assert row[5] == own.tensorrt


def _rows() -> list[list[str]]:
    lines = [line for line in PAGE.splitlines() if re.match(r"\| \d", line)]
    return [line.strip("|").split("|") for line in lines]


@pytest.mark.slow
def test_the_boards_commands(tmp_path: Path):
    """Under a home of their own; pip comes with a venv, which takes its seconds."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(Path(sys.base_prefix, "bin", "python3"))
    # What apt puts beside Ubuntu's Python: numpy, and the binding.
    packages = [write_site(tmp_path / "site", VERSION), PROJECT, Path(np.__file__).parents[1]]
    home = tmp_path / "home"
    home.mkdir()
    environment = {
        "HOME": str(home),
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": ":".join(map(str, packages)),
    }
    making, importing, opening = ON_BOARD
    _sh(making, environment)
    assert _sh(importing, environment).strip() == "10.3.0"
    settings = home / "edge" / "pyvenv.cfg"
    assert "include-system-site-packages = true" in settings.read_text()
    settings.write_text(settings.read_text().replace("site-packages = true", "site-packages = false"))
    _sh(opening, environment)
    assert "include-system-site-packages = true" in settings.read_text()


def test_trtexec_tells_the_version(tmp_path: Path):
    write_trtexec(tmp_path / PLACE, VERSION)
    told = _sh(TRTEXEC.replace("/usr/src", str(tmp_path / "usr/src")), dict(os.environ))
    assert told.strip() == "&&&& RUNNING TensorRT.trtexec [TensorRT v100300] [b17] # trtexec --help"


def _sh(line: str, environment: dict[str, str]) -> str:
    done = subprocess.run(["sh", "-c", line], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def jetson(nobodys_ssh_setup: None, tmp_path: Path) -> Iterator[InProcessBoard]:
    """A board over real SSH, with the fake TensorRT where its Python looks."""
    with folder_for_boards() as folder, InProcessBoard(folder / "board") as board:
        site = write_site(tmp_path / "site", VERSION, compute="8.7")
        library = build_cudart("12.6", tmp_path / "cuda")
        board.greeting = f"export PYTHONPATH={site} EDGESMITH_LIBCUDART={library} EDGESMITH_FAKE_CUDA_COMPUTE=8.7; "
        yield board


@pytest.mark.slow
def test_the_workstations_commands(jetson: InProcessBoard, tmp_path: Path):
    here = tmp_path / "here"
    here.mkdir()
    scripts = Path(sys.executable).parent
    assert shutil.which("edgesmith", path=str(scripts))
    environment = {
        **os.environ,
        "PATH": f"{scripts}:{os.environ['PATH']}",
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    key = f" --identity-file {jetson.device().identity_file}"
    line = ADD.replace("10.0.0.9", f"127.0.0.1:{jetson.port}").replace("SHA256:OF_THE_BOARD", jetson.fingerprint + key)
    line = line.replace("ME@", "me@").replace("'~/edge/bin/python'", sys.executable)

    def call(command: str) -> str:
        done = subprocess.run(
            ["sh", "-c", command], env=environment, cwd=here, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "'orin' is written" in call(line)
    for look in LOOK:
        assert "10.3.0" in call(look)
