"""Fixtures of boards over SSH: asyncssh's server in this process and, marked `sshd`, a real OpenSSH sshd."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_tests.loopback import InProcessBoard, LoopbackBoard, folder_for_boards
from device_tests.loopback_sshd import SshdBoard, why_no_sshd


@pytest.fixture
def nobodys_ssh_setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No ~/.ssh and no agent of whoever runs the tests."""
    (tmp_path / "nobody").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@pytest.fixture(params=["inprocess", pytest.param("sshd", marks=pytest.mark.sshd)])
def board(request: pytest.FixtureRequest, nobodys_ssh_setup: None) -> Iterator[LoopbackBoard]:
    """A fresh board, running."""
    kind = InProcessBoard if request.param == "inprocess" else SshdBoard
    if kind is SshdBoard and (why := why_no_sshd()):
        (pytest.fail if os.environ.get("EDGESMITH_REQUIRE_SSHD") == "1" else pytest.skip)(why)
    with folder_for_boards() as folder, kind(folder / "board") as running:
        yield running
