"""How a stage tells that it is alive. Stages get a `Progress`; only the console knows how it looks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol


class Task(Protocol):
    """One running step."""

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Moves on by `amount` of the total; `note` replaces the short text beside the bar."""


class Progress(Protocol):
    """Where tasks and lines go."""

    def task(self, label: str, total: float | None = None) -> contextlib.AbstractContextManager[Task]:
        """Opens a task; `total` None where the end is not known."""

    def note(self, text: str) -> None:
        """One line that stays."""


class _SilentTask:
    def advance(self, amount: float = 1.0, note: str = "") -> None:
        del amount, note


class Silent:
    """A `Progress` that shows nothing: for the API and for tests."""

    @contextlib.contextmanager
    def task(self, label: str, total: float | None = None) -> Iterator[Task]:
        """See `Progress.task`."""
        del label, total
        yield _SilentTask()

    def note(self, text: str) -> None:
        """See `Progress.note`."""
        del text
