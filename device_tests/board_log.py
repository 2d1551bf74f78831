"""What happened with one board in one run, as it happened: a line at a time, on disk before the next thing is done."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from edgesmith.progress import Progress, Task


class BoardLog:
    """One file, only ever added to. Without a path nothing is written."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()

    def line(self, text: str) -> None:
        """Adds lines, each with its time."""
        if self._path is None:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self._lock:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as stream:
                stream.writelines(f"{now} {line}\n" for line in text.splitlines())


class Logged:
    """A `Progress` that also writes to a log: every step with its beginning and its end, and every note."""

    def __init__(self, shown: Progress, log: BoardLog) -> None:
        self._shown = shown
        self._log = log

    @contextlib.contextmanager
    def task(self, label: str, total: float | None = None) -> Iterator[Task]:
        """See `Progress.task`."""
        self._log.line(f"{label} ...")
        try:
            with self._shown.task(label, total) as task:
                yield task
        except BaseException as error:
            self._log.line(f"{label}: stopped: {str(error) or type(error).__name__}")
            raise
        self._log.line(f"{label}: done")

    def note(self, text: str) -> None:
        """See `Progress.note`."""
        self._log.line(text)
        self._shown.note(text)
