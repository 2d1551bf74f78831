"""Live progress on stderr, so that `--json` on stdout stays clean."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from edgesmith.report import figures
from edgesmith.report.figures import one_line


class ConsoleProgress:
    """A bar for every long step on a terminal; plain lines elsewhere. Tasks may run side by side, in threads."""

    def __init__(
        self,
        console: Console | None = None,
        *,
        quiet: bool = False,
        every_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepares; shows nothing yet.

        Args:
            console: where to; default: stderr.
            quiet: show nothing at all.
            every_seconds: least time between two plain progress lines of one task.
            clock: seconds; for tests.
        """
        self._console = console or Console(stderr=True)
        self._quiet = quiet
        self._every_seconds = every_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._open = 0
        self._bars: Progress | None = None

    @contextlib.contextmanager
    def task(self, label: str, total: float | None = None) -> Iterator[_Task]:
        """See `Progress.task`. How it ended stays on the screen: done or stopped, and after how long."""
        label = one_line(label)
        started = self._clock()
        task = self._start(label, total)
        ended = "stopped"
        try:
            yield task
            ended = "done"
        finally:
            task.close()
            self._leave()
            self._line(f"{label}: {ended}, {figures.seconds(self._clock() - started)}")

    def note(self, text: str) -> None:
        """See `Progress.note`."""
        self._line(text)

    def _start(self, label: str, total: float | None) -> _Task:
        if self._quiet:
            return _Task()
        if not self._console.is_terminal:
            self._line(f"{label} ...")
            return _PlainTask(self._line, label, total, self._every_seconds, self._clock)
        with self._lock:
            self._open += 1
            if self._bars is None:
                self._bars = _bars(self._console)
                self._bars.start()
            return _BarTask(self._bars, self._bars.add_task(label, total=total, note=""))

    def _leave(self) -> None:
        with self._lock:
            self._open -= 1 if self._bars else 0
            if self._bars and not self._open:
                self._bars.stop()
                self._bars = None

    def _line(self, text: str) -> None:
        if not self._quiet:
            self._console.print(Text(figures.printable(text)), soft_wrap=not self._console.is_terminal)


def _bars(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
        console=console,
        transient=True,
        redirect_stdout=False,
    )


class _Task:
    """Shows nothing: the quiet one."""

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        del amount, note

    def close(self) -> None:
        """Nothing is open."""


class _BarTask(_Task):
    def __init__(self, bars: Progress, task_id: TaskID) -> None:
        self._bars = bars
        self._id = task_id

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        if note:
            self._bars.update(self._id, advance=amount, note=one_line(note))
        else:
            self._bars.update(self._id, advance=amount)

    def close(self) -> None:
        self._bars.remove_task(self._id)


class _PlainTask(_Task):
    def __init__(
        self, line: Callable[[str], None], label: str, total: float | None, every: float, clock: Callable[[], float]
    ) -> None:
        self._line = line
        self._label = label
        self._total = total
        self._every = every
        self._clock = clock
        self._done = 0.0
        self._said_at = clock()

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        self._done += amount
        if self._clock() - self._said_at < self._every:
            return
        self._said_at = self._clock()
        how_far = f"{100 * self._done / self._total:.0f} %" if self._total else f"{self._done:g}"
        self._line(f"{self._label}: {how_far}{f', {one_line(note)}' if note else ''}")
