"""`edgesmith devices ...` typed in an empty folder, and a board over SSH for it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from device_tests.loopback import InProcessBoard, folder_for_boards
from edgesmith import cli

BARE = str(Path(sys.base_prefix, "bin", "python3"))
"""Without any runtime, whose import takes its time."""


@dataclass
class Done:
    """What a call left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> object:
        return json.loads(self.out)


Devices = Callable[..., Done]


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Devices:
    """Runs `edgesmith devices ...` in an empty folder, with nobody at the terminal."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("EDGESMITH_OWNER", "me@desk")
    monkeypatch.setattr("signal.signal", lambda *_: None)  # pytest keeps its own

    def call(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["edgesmith", "devices", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        return Done(int(ended.value.code or 0), shown.out, shown.err)

    return call


@pytest.fixture
def pi(nobodys_ssh_setup: None) -> Iterator[InProcessBoard]:
    """A board, running."""
    with folder_for_boards() as folder, InProcessBoard(folder / "board") as board:
        yield board


def entry(board: InProcessBoard) -> dict[str, object]:
    known = board.device()
    return {
        "host": known.host,
        "port": known.port,
        "user": known.user,
        "identity_file": str(known.identity_file),
        "host_key": board.fingerprint,
        "python": BARE,
        "workdir": known.workdir,
        "lease_dir": known.lease_dir,
    }


def write(**boards: dict[str, object]) -> Path:
    path = Path("devices.yaml")
    path.write_text(yaml.safe_dump({"devices": boards}))
    return path
