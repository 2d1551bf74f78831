"""Live progress on stderr, so that `--json` on stdout stays clean."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from edgesmith.progress import Progress as Shown
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

    @contextlib.contextmanager
    def board(self, name: str) -> Iterator[BoardRow]:
        """One row for a board among others, for as long as it is worked with."""
        name = one_line(name)
        bars = self._bars_of_one_more()
        if bars is None:
            yield BoardRow(name, self._line, self._clock, lambda label, total: self._plain(f"{name}: {label}", total))
            return
        row = bars.add_task(name, total=1.0, note="")
        try:
            yield BoardRow(name, self._line, self._clock, lambda label, total: _RowStep(bars, row, label, total))
        finally:
            bars.remove_task(row)
            self._leave()

    def _start(self, label: str, total: float | None) -> _Task:
        bars = self._bars_of_one_more()
        if bars is None:
            return self._plain(label, total)
        return _BarTask(bars, bars.add_task(label, total=total, note=""))

    def _plain(self, label: str, total: float | None) -> _Task:
        if self._quiet:
            return _Task()
        self._line(f"{label} ...")
        return _PlainTask(self._line, label, total, self._every_seconds, self._clock)

    def _bars_of_one_more(self) -> Progress | None:
        """The bars on the screen, to which a row is added; None where there are none to be."""
        if self._quiet or not self._console.is_terminal:
            return None
        with self._lock:
            self._open += 1
            if self._bars is None:
                self._bars = _bars(self._console)
                self._bars.start()
            return self._bars

    def _leave(self) -> None:
        with self._lock:
            self._open -= 1 if self._bars else 0
            if self._bars and not self._open:
                self._bars.stop()
                self._bars = None

    def _line(self, text: str) -> None:
        if not self._quiet:
            self._console.print(Text(figures.printable(text)), soft_wrap=not self._console.is_terminal)


class BoardRow:
    """A `Progress` of one row: what is done on a board, step after step. Used by the one thread of that board."""

    def __init__(
        self,
        board: str,
        line: Callable[[str], None],
        clock: Callable[[], float],
        step: Callable[[str, float | None], _Task],
    ) -> None:
        self._board = board
        self._line = line
        self._clock = clock
        self._step = step

    @contextlib.contextmanager
    def task(self, label: str, total: float | None = None) -> Iterator[_Task]:
        """See `Progress.task`: the row shows this step until it ends."""
        label = self._beside_its_name(label)
        started = self._clock()
        step = self._step(label, total)
        ended = "stopped"
        try:
            yield step
            ended = "done"
        finally:
            step.close()
            self.note(f"{label}: {ended}, {figures.seconds(self._clock() - started)}")

    def note(self, text: str) -> None:
        """See `Progress.note`: a line with the board's name before it."""
        self._line(f"{self._board}: {text.removeprefix(f'{self._board}: ')}")

    def _beside_its_name(self, label: str) -> str:
        """A label as it reads beside the board's name: "measure on pi" is "measure" there."""
        label = one_line(label)
        for word in (" on ", " to ", " at ", " for "):
            label = label.removesuffix(f"{word}{self._board}")
        return label


def board_row(progress: Shown, name: str) -> AbstractContextManager[Shown]:
    """A progress for one board among others; what is no console shows each board as it shows one."""
    return progress.board(name) if isinstance(progress, ConsoleProgress) else contextlib.nullcontext(progress)


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


class _RowStep(_Task):
    """A step in a row that stays: the bar starts again, the row's clock goes on."""

    # At its total rich would stop the clock.
    _WHOLE = 0.999

    def __init__(self, bars: Progress, row: TaskID, label: str, total: float | None) -> None:
        self._bars = bars
        self._row = row
        self._label = label
        self._scale = self._WHOLE / total if total else 0.0
        bars.update(row, completed=0.0, note=label)

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        shown = f"{self._label}, {one_line(note)}" if note else self._label
        self._bars.update(self._row, advance=amount * self._scale, note=shown)

    def close(self) -> None:
        self._bars.update(self._row, completed=0.0, note="")


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
