"""Boards side by side on the console: one row each on a terminal, named lines elsewhere."""

from __future__ import annotations

import io
import threading
from typing import Any

import pytest
from rich.console import Console

from edgesmith.progress import Progress, Silent
from edgesmith.report.live import ConsoleProgress, board_row


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def console_progress(*, terminal: bool, **options: Any) -> tuple[ConsoleProgress, Clock, io.StringIO]:
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, width=120, force_terminal=terminal, color_system=None)
    return ConsoleProgress(console, clock=clock, **options), clock, out


def measure(row: Progress, clock: Clock) -> None:
    with row.task("connect to pi"):
        clock.now += 2
    with row.task("measure on pi", total=1.0) as task:
        clock.now += 6
        task.advance(0.4, "tflite, window 3")
    row.note("pi: the link was lost. Recovery: reconnect")


def test_lines_begin_with_the_board_s_name():
    progress, clock, out = console_progress(terminal=False)
    with board_row(progress, "pi") as row:
        measure(row, clock)
    assert out.getvalue().splitlines() == [
        "pi: connect ...",
        "pi: connect: done, 2.0 s",
        "pi: measure ...",
        "pi: measure: 40 %, tflite, window 3",
        "pi: measure: done, 6.0 s",
        "pi: the link was lost. Recovery: reconnect",
    ]


def test_a_step_that_is_cut_off_is_not_called_done():
    progress, _, out = console_progress(terminal=False)
    with pytest.raises(KeyboardInterrupt), board_row(progress, "pi") as row, row.task("send to pi"):
        raise KeyboardInterrupt
    assert out.getvalue().splitlines()[-1] == "pi: send: stopped, 0.0 s"


def test_a_terminal_shows_one_row_a_board_that_changes_with_its_steps():
    progress, _, out = console_progress(terminal=True)
    inside, shown = threading.Barrier(3, timeout=30), threading.Barrier(3, timeout=30)

    def work(name: str, step: str) -> None:
        with board_row(progress, name) as row, row.task(f"{step} on {name}", total=2) as task:
            task.advance(1, "window 1")
            inside.wait()
            shown.wait()

    threads = [threading.Thread(target=work, args=pair) for pair in (("pi[red]", "measure"), ("nano", "send"))]
    for thread in threads:
        thread.start()
    inside.wait()
    bars = progress._bars
    assert [task.description for task in bars.tasks] in (["pi[red]", "nano"], ["nano", "pi[red]"])
    assert {task.fields["note"] for task in bars.tasks} == {"measure, window 1", "send, window 1"}
    assert all(not task.finished for task in bars.tasks)  # the row's clock goes on
    shown.wait()
    for thread in threads:
        thread.join(timeout=30)
    text = out.getvalue()
    assert "pi[red]: measure: done" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") > 0
    assert progress._bars is None


def test_a_step_at_its_end_does_not_stop_the_row():
    progress, _, _ = console_progress(terminal=True)
    with board_row(progress, "pi") as row:
        with row.task("measure on pi", total=4) as task:
            task.advance(4)
        with row.task("fetch"):
            (shown,) = progress._bars.tasks
            assert (shown.completed, shown.finished, shown.fields["note"]) == (0.0, False, "fetch")


def test_quiet_shows_nothing():
    progress, clock, out = console_progress(terminal=False, quiet=True)
    with board_row(progress, "pi") as row:
        measure(row, clock)
    assert out.getvalue() == ""


def test_what_is_no_console_shows_each_board_as_it_shows_one():
    silent = Silent()
    with board_row(silent, "pi") as row:
        assert row is silent
