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
import yaml

from device_tests.fake_jetson.site import write_site
from device_tests.fake_jetson.trtexec_tool import PLACE, write_trtexec
from device_tests.inventory import load_inventory
from device_tests.loopback import InProcessBoard, folder_for_boards
from edgesmith.config import TensorRt
from targets.jetpack import JETPACKS
from tests.e2e.project import make_project
from tests.fake_jetsons import FakeJetson

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
RUN = ["edgesmith plan", "edgesmith run"]
ENGINES = ["edgesmith devices engines orin", "edgesmith devices engines orin --remove-stale"]
FILE = "runs/latest/artifacts/tensorrt/compressed-*.onnx"
SWEEP = f"edgesmith measure {FILE} --data test.npz --device orin --sweep power-modes"
DEPLOY = ["edgesmith deploy --device orin", "edgesmith devices releases orin"]
BACK = "edgesmith rollback model --device orin"


def _yaml(start: str) -> str:
    (block,) = [block for block in _blocks("yaml") if block.startswith(start)]
    return block


def _scripts(ci: str) -> list[str]:
    """What a pipeline has its runner do, in order, without what is not run by us."""
    read = yaml.safe_load(_yaml(ci))
    if "jobs" in read:
        steps = [step["run"] for step in read["jobs"]["gate"]["steps"] if "run" in step]
    else:  # GitLab runs the lines of a script in one shell, and what comes after in another
        gate = read["gate"]
        steps = [*gate["before_script"], "\n".join(gate["script"]), "\n".join(gate["after_script"])]
    return [step.replace("sleep 300", "sleep 0") for step in steps if NOT_RUN not in step]


CI = ["# .github/workflows/jetson.yml", "# .gitlab-ci.yml"]


def test_every_command_says_what_stands_behind_it():
    assert [line for line in COMMANDS if not line.endswith((f" {TESTED}", f" {NOT_RUN}"))] == []


def test_what_is_marked_as_tested_is_what_is_run_here():
    marked = [line.removesuffix(TESTED).rstrip() for line in COMMANDS if line.endswith(TESTED)]
    assert marked == [*ON_BOARD, TRTEXEC, ADD, *LOOK, *RUN, *ENGINES, SWEEP, *DEPLOY, BACK]


def test_the_inventory_on_the_page_is_one(tmp_path: Path):
    path = tmp_path / "devices.yaml"
    path.write_text(_yaml("devices:").replace("SHA256:OF_THE_BOARD", "SHA256:" + "A" * 43))
    found = load_inventory(path).get("orin")
    # Seen from the login folder.
    assert (found.host, found.user, found.python) == ("10.0.0.9", "ME", "edge/bin/python")


def test_every_key_of_the_section_is_told_and_is_one():
    rows = [line.split("|")[1] for line in PAGE.partition("| key of `tensorrt:`")[2].partition("\n\n")[0].splitlines()]
    told = {match for cell in rows[2:] for match in re.findall(r"`(\w+)[:`]", cell)} - {"only"}
    settings = yaml.safe_load(_yaml("# edgesmith.yaml"))["tensorrt"]
    assert told | set(settings) == set(TensorRt.model_fields)


def test_the_table_agrees_with_our_own():
    rows = {row[0].strip(): [cell.strip() for cell in row] for row in _rows() if row[0].strip() != "4.6"}
    assert len(rows) == 6
    for name, row in rows.items():
        own = next(one for one in JETPACKS if one.name == name.replace(" to ", "-"))
        assert (row[3].partition(", ")[2], row[4]) == (own.python, own.cuda)
        assert row[5] == own.tensorrt


def _rows() -> list[list[str]]:
    """Of the first table, the only one that wide."""
    lines = [line for line in PAGE.splitlines() if re.match(r"\| \d", line)]
    return [cells for line in lines if len(cells := line.strip("|").split("|")) == 8]


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


@pytest.mark.parametrize("ci", CI)
@pytest.mark.parametrize(
    ("codes", "ends", "calls"), [([0], 0, 1), ([1], 1, 1), ([2], 2, 1), ([3, 0], 0, 2), ([4, 4], 4, 2), ([3, 1], 1, 2)]
)
def test_the_gate_tries_again_only_what_is_not_the_models_fault(
    tmp_path: Path, ci: str, codes: list[int], ends: int, calls: int
):
    """Of edgesmith only its exit codes, in turn."""
    told = tmp_path / "calls"
    stub = tmp_path / "edgesmith"
    stub.write_text(
        f'#!/bin/sh\necho "$*" >> {told}\nset -- {" ".join(map(str, codes))}\n'
        f"shift $(( $(wc -l < {told}) - 1 ))\nexit $1\n"
    )
    stub.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", _scripts(ci)[0]], env=environment, cwd=tmp_path, check=False
    )
    assert done.returncode == ends
    assert told.read_text().splitlines() == ["run --quiet --lease-wait 3600"] * calls


@pytest.fixture
def server(nobodys_ssh_setup: None) -> Iterator[InProcessBoard]:
    """A board over real SSH."""
    with folder_for_boards() as folder, InProcessBoard(folder / "board") as board:
        yield board


@pytest.mark.slow
def test_the_workstations_commands(server: InProcessBoard, tmp_path: Path):
    """All of them, one after the other, as a reader of the page would."""
    jetson = FakeJetson(tmp_path / "jetson", "6.2")
    server.greeting = jetson.greeting
    here = tmp_path / "here"
    here.mkdir()
    make_project(here)
    (here / "evaluation.npz").rename(here / "test.npz")
    # A stand-in's latency is that of this machine, which may be too busy to be judged.
    config = re.sub(r"^  latency.*\n", "", _yaml("# edgesmith.yaml"), flags=re.MULTILINE)
    config += "measure: {min_runs: 20, min_seconds: 0.2, windows: 2, warmup_max_seconds: 1.0}\n"
    (here / "edgesmith.yaml").write_text(config)
    scripts = Path(sys.executable).parent
    assert shutil.which("edgesmith", path=str(scripts))
    summary = tmp_path / "github"
    environment = {
        **os.environ,
        "PATH": f"{scripts}:{os.environ['PATH']}",
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "GITHUB_STEP_SUMMARY": str(summary),
    }
    key = f" --identity-file {server.device().identity_file}"
    line = ADD.replace("10.0.0.9", f"127.0.0.1:{server.port}").replace("SHA256:OF_THE_BOARD", server.fingerprint + key)
    line = line.replace("ME@", "me@").replace("'~/edge/bin/python'", str(jetson.measured.python))

    def call(command: str, code: int = 0) -> str:
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", command],
            env=environment,
            cwd=here,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    assert "'orin' is written" in call(line)
    for look in LOOK:
        assert "10.3.0" in call(look)
    assert (here / "edgesmith-doctor-orin.zip").is_file()
    plan, run = map(call, RUN)
    assert "measure-orin" in plan
    assert "FAKE TensorRT" in run
    found, stale = map(call, ENGINES)
    assert "int8" in found
    assert "10.3.0" in stale
    assert "15W" in call(SWEEP)
    deployed, listed = map(call, DEPLOY)
    assert "model" in deployed
    assert "current" in listed
    call(f"{DEPLOY[0]} --variant float")
    assert "rolled back" in call(BACK)

    gate, report = _scripts(CI[0])
    call(report)
    assert "orin" in summary.read_text()
    assert "<testsuite" in (here / "gate" / "junit.xml").read_text()
    shutil.rmtree(here / "gate")
    call(_scripts(CI[1])[1])
    assert (here / "gate" / "junit.xml").is_file()
    # An earlier run's report does not stand in for one that never was.
    (here / "edgesmith.yaml").write_text("modell: typo.keras\n")
    call(gate, code=2)
    call(report, code=1)
