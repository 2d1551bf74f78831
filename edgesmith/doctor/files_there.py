"""What is fetched from a board for the bundle: logs of builds and layers of engines, none of it longer than a cap."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from device_tests.deadline import Deadline
from device_tests.session import BoardSession
from edgesmith.errors import BoardError

CAP_BYTES = 400_000
"""Of one file in the bundle: half of it from its beginning, half from its end."""

_FETCH_S = 60.0
_ENGINES = "engines"


class Fetched:
    """Files of a board, by their name in the bundle.

    Attributes:
        files: name -> content, cut where it is longer than the cap.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def engine(self, session: BoardSession, trial: str, key: str) -> None:
        """Takes what an engine's folder holds, but the engine."""
        for name in ("build.log", "layers.json", "engine.json"):
            self._take(session, f"{_ENGINES}/{key}/{name}", f"engines/{_folder(trial)}/{name}")

    def failed_build(self, session: BoardSession, trial: str) -> None:
        """Takes the log of the build that has just failed."""
        self._take(session, f"{_ENGINES}/last-failed.log", f"engines/{_folder(trial)}/failed-build.log")

    def _take(self, session: BoardSession, there: str, name: str) -> None:
        root = "." if session.device.transport == "local" else session.device.workdir
        with tempfile.TemporaryDirectory(prefix="edgesmith-") as scratch:
            here = Path(scratch) / "file"
            # A TensorRT without an inspector leaves no layers; a file that is not there is no failure of the board.
            with contextlib.suppress(BoardError):
                session.connection.get(f"{root}/{there}", here, Deadline.after(_FETCH_S))
                self.files[name] = cut(here.read_bytes())


def cut(content: bytes) -> bytes:
    """No longer than the cap: what is left out is told where it was."""
    if len(content) <= CAP_BYTES:
        return content
    half = CAP_BYTES // 2
    left_out = f"\n[... {len(content) - 2 * half:,} bytes are left out here ...]\n".encode()
    return content[:half] + left_out + content[-half:]


def _folder(trial: str) -> str:
    return trial.replace(" ", "-")
