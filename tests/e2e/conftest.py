"""Boards to test on: asyncssh's server in this process and, marked `sshd`, a real OpenSSH sshd."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_tests.loopback import InProcessBoard, LoopbackBoard, SshdBoard, folder_for_boards, why_no_sshd
from tests.e2e.project import Project, make_project


@pytest.fixture(autouse=True)
def _nobodys_ssh_setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No ~/.ssh and no agent of whoever runs the tests."""
    (tmp_path / "nobody").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@pytest.fixture(params=["inprocess", pytest.param("sshd", marks=pytest.mark.sshd)])
def board(request: pytest.FixtureRequest) -> Iterator[LoopbackBoard]:
    """A fresh board, running."""
    kind = InProcessBoard if request.param == "inprocess" else SshdBoard
    if kind is SshdBoard and (why := why_no_sshd()):
        (pytest.fail if os.environ.get("EDGESMITH_REQUIRE_SSHD") == "1" else pytest.skip)(why)
    with folder_for_boards() as folder, kind(folder / "board") as running:
        yield running


@pytest.fixture(scope="session")
def trained_digits(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A trained net with its data; its first run, which every later one builds on, is done."""
    project = make_project(tmp_path_factory.mktemp("digits"))
    project.write_config()
    first = project.edgesmith("run")
    assert first.returncode == 0, first.stdout + first.stderr
    shutil.copytree(project.root / "runs" / "latest", project.root / "first")
    return project


@pytest.fixture
def digits(trained_digits: Project) -> Project:
    """The same, with its base config again, whatever the test before wrote."""
    trained_digits.write_config()
    (trained_digits.root / "devices.yaml").unlink(missing_ok=True)
    return trained_digits
