"""`runs/<id>/`: everything one run knows, readable at any moment, whatever happened to the run."""

from __future__ import annotations

import datetime as dt
import secrets
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgesmith.errors import InfrastructureError, InputError
from edgesmith.files import safe_name, write_text
from edgesmith.result import Result, read_result
from edgesmith.types import Device

LATEST = "latest"
RESULT = "result.json"


def utc_now() -> str:
    """ISO 8601, seconds, UTC."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


@dataclass(slots=True)
class RunFolder:
    """One run's folder.

    Attributes:
        path: `runs/<id>`.
        resumed: it was there before.
    """

    path: Path
    resumed: bool = False
    _steps: int = 0

    @property
    def run_id(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def result_path(self) -> Path:
        """Where `result.json` is."""
        return self.path / RESULT

    def write_result(self, result: Result) -> None:
        """Replaces `result.json`."""
        result.write(self.result_path)

    def log(self, text: str) -> None:
        """Adds one line to `run.log`, at once on disk."""
        with (self.path / "run.log").open("a", encoding="utf-8") as stream:
            stream.write(f"{utc_now()} {text}\n")

    def board_log(self, device: Device) -> Path:
        """Where one board's log of this run is."""
        return self.path / "logs" / f"{safe_name(device.name)}.log"

    def step(self, label: str, command: Sequence[str], inputs: Sequence[str] = ()) -> Path:
        """Opens `NN-<label>/` with the command that does this one step again.

        Args:
            label: e.g. "compile-tflite-float".
            command: argument vector of the replay.
            inputs: what it works on, by hash, one a line.
        """
        self._steps += 1
        folder = self.path / f"{self._steps:02d}-{safe_name(label)}"
        folder.mkdir(exist_ok=True)
        lines = [shlex.join(command), *(f"# {line}" for line in inputs)]
        write_text(folder / "command.txt", "\n".join(lines) + "\n")
        self.log(f"step {folder.name}")
        return folder

    def keep(self, source: Path, relative: str) -> str:
        """Puts a copy (a hard link where the disk allows) of a stored file into the run; returns its relative name."""
        place = self.path / relative
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        try:
            place.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, place)
        return relative


def create(runs_dir: Path) -> RunFolder:
    """Makes a new run folder and points `latest` to it.

    Raises:
        InfrastructureError: the place cannot be written.
    """
    stamp = dt.datetime.now(dt.UTC).strftime("%Y%m%d-%H%M%S")
    path = runs_dir / f"{stamp}-{secrets.token_hex(2)}"
    try:
        path.mkdir(parents=True)
        point_latest(runs_dir, path.name)
    except OSError as error:
        raise InfrastructureError(
            f"{runs_dir}: no run folder can be made here: {error}.", next_step="Choose another place with --runs-dir."
        ) from error
    return RunFolder(path)


def point_latest(runs_dir: Path, run_id: str) -> None:
    """Points `runs/latest` to a run, atomically."""
    link = runs_dir / f".{LATEST}.{secrets.token_hex(4)}"
    link.symlink_to(run_id, target_is_directory=True)
    link.replace(runs_dir / LATEST)


def reopen(runs_dir: Path, run_id: str = LATEST) -> tuple[RunFolder, Result]:
    """Finds a run to go on with.

    Raises:
        InputError: there is none, or its result cannot be read.
    """
    path = (runs_dir / run_id).resolve()
    if not path.is_dir():
        raise InputError(f"{runs_dir / run_id}: no run to resume.", next_step="Start one with `edgesmith run`.")
    folder = RunFolder(path, resumed=True)
    return folder, read_result(folder.result_path)
