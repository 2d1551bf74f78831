"""A user's project, a real board over SSH and the command line: what a fault is played on, and what it leaves."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from device_tests.loopback_sshd import SshdBoard
from edgesmith.types import Device
from tests.e2e.project import write_inventory
from tests.processes import runs
from tests.tiny_artifacts import DATA

DEADLINE_S = 150.0
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        """Everything on the screen, in one line: messages may be wrapped."""
        return " ".join(f"{self.stdout}\n{self.stderr}".split())


class Running:
    """A started `edgesmith`, whose stderr is read as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stderr or ():
            with self._news:
                self._lines.append(line)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def wait_for(self, pattern: str) -> str:
        """Waits until a line of progress matches; returns it."""
        wanted, seen, until = re.compile(pattern), 0, time.monotonic() + DEADLINE_S
        with self._news:
            while True:
                for line in self._lines[seen:]:
                    if wanted.search(line):
                        return line
                seen = len(self._lines)
                if self.process.poll() is not None and not self._reader.is_alive():
                    raise AssertionError(f"ended before it said {pattern!r}:\n{''.join(self._lines)}")
                assert time.monotonic() < until, f"never said {pattern!r}:\n{''.join(self._lines)}"
                self._news.wait(0.5)

    def kill(self) -> None:
        """kill -9 of edgesmith, and of nothing else."""
        self.process.kill()
        self.process.wait(DEADLINE_S)
        self._reader.join(10)
        self._stdout()

    def end(self) -> Ended:
        """Waits for the end."""
        try:
            self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise
        self._reader.join(10)
        said = self._stdout()
        return Ended(self.process.returncode, said, "".join(self._lines))

    def _stdout(self) -> str:
        said = self.process.stdout.read() if self.process.stdout else ""
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        return said


class Scene:
    """A project with a ready ONNX model, and the board `pi`.

    Attributes:
        project: edgesmith is run here.
        board: a real sshd.
    """

    def __init__(self, folder: Path, board: SshdBoard) -> None:
        self.project = folder / "project"
        self.project.mkdir()
        self.board = board
        self._temporary = folder / "tmp"
        self._temporary.mkdir()
        self.sample(32)
        (self.project / "model.onnx").write_bytes((DATA / "dense.onnx").read_bytes())
        self.configure()
        self.reach_by(board.device("pi"))

    def sample(self, n: int) -> None:
        """Writes n evaluation samples; 16 bytes of each go to the board."""
        random = np.random.default_rng(0)
        x, y = (random.normal(size=(n, width)).astype(np.float32) for width in (4, 3))
        np.savez(self.project / "evaluation.npz", x=x, y=y)

    def configure(self, *, seconds: float = 0.2, timeout_seconds: float = 100.0, **changes: Any) -> None:
        """Writes edgesmith.yaml; `seconds` is how long the board measures."""
        config: dict[str, Any] = {
            "model": "model.onnx",
            "data": {"evaluation": "evaluation.npz"},
            "task": {"metric": "mae"},
            "devices": ["pi"],
            "measure": {
                "min_runs": 10,
                "min_seconds": seconds,
                "windows": max(2, round(seconds / 0.2)),
                "timeout_seconds": timeout_seconds,
            },
        }
        (self.project / "edgesmith.yaml").write_text(yaml.safe_dump({**config, **changes}))

    def reach_by(self, *devices: Device) -> None:
        """Writes devices.yaml."""
        write_inventory(self.project, *devices)

    def change(self, **fields: Any) -> None:
        """The board's entry with other fields."""
        self.reach_by(dataclasses.replace(self.board.device("pi"), **fields))

    def start(self, *arguments: str) -> Running:
        """Starts `edgesmith ...` in the project."""
        environment = os.environ | {
            "COLUMNS": "160",
            "NO_COLOR": "1",
            "TMPDIR": str(self._temporary),
            "XDG_STATE_HOME": str(self.project.parent / "state"),
        }
        return Running(
            subprocess.Popen(
                [sys.executable, "-m", "edgesmith", *arguments],
                cwd=self.project,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )

    def edgesmith(self, *arguments: str) -> Ended:
        """Runs `edgesmith ...` to its end."""
        return self.start(*arguments).end()

    @property
    def result(self) -> dict[str, Any]:
        """Of the newest run."""
        document: dict[str, Any] = json.loads((self.project / "runs" / "latest" / "result.json").read_text())
        return document

    @property
    def workdir(self) -> Path:
        """Our folder on the board, as seen from here."""
        return self.board.home / "edgesmith"

    def agent_pids(self) -> list[int]:
        """Programs that run on the board on our behalf."""
        mine = f"{self.workdir}/agent/".encode()
        return [pid for pid, line in _command_lines() if mine in line and pid != os.getpid()]

    def assert_nothing_left(self, *, upload: bool = False, killed: bool = False) -> None:
        """No process and no stray file on the board, no stray file here.

        Args:
            upload: a part of an upload may wait there for the next attempt.
            killed: by SIGKILL: nobody was there to clear our temporary folder.
        """
        wait_until(lambda: not self.agent_pids(), "our programs on the board to end")
        wait_until(lambda: not self._leases(), "the lease to be released")
        wait_until(lambda: not self._work(), "the work folder to be removed")
        stray = [path for path in self._files("incoming") if not (upload and path.name.endswith(".part"))]
        assert not stray, f"stray uploads on the board: {stray}"
        unverified = [path for path in self._files("blobs") if not _SHA256.fullmatch(path.name)]
        assert not unverified, f"files on the board that nobody verified: {unverified}"
        if not killed:
            wait_until(lambda: not list(self._temporary.iterdir()), "temporary files here to be removed")
        parts = [path for path in (self.project / "runs").rglob("*") if path.name.endswith((".part", ".tmp"))]
        assert not parts, f"half-written files here: {parts}"

    def _files(self, name: str) -> list[Path]:
        folder = self.workdir / name
        return list(folder.iterdir()) if folder.is_dir() else []

    def _work(self) -> list[Path]:
        return [path for path in self._files("work") if path.is_dir()]

    def _leases(self) -> list[Path]:
        folder = Path(self.board.device().lease_dir)
        return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size] if folder.is_dir() else []


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Waits for something that must become true."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"waited {seconds:g} s in vain for {what}"
        time.sleep(0.05)


def _command_lines() -> list[tuple[int, bytes]]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if runs(int(folder.name)):
                    found.append((int(folder.name), (folder / "cmdline").read_bytes()))
    return found
