"""Many steps on a board as one row of progress."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from edgesmith.progress import Progress, Task


class OneRow:
    """A `Progress` whose tasks only change the note of one task, which goes on by whole steps."""

    def __init__(self, row: Task, shown: Progress) -> None:
        """`row`: has a total of 1. `shown`: where lines go that stay."""
        self._row, self._shown = row, shown
        self._doing = ""

    def begin(self, name: str) -> None:
        """A step of its own begins; what is done in it is told beside its name."""
        self._doing = f"{name}: "
        self._row.advance(0.0, name)

    def go_on(self, share: float) -> None:
        """A share of all steps is done."""
        self._row.advance(share)

    @contextlib.contextmanager
    def task(self, label: str, total: float | None = None) -> Iterator[Task]:
        """See `Progress.task`."""
        del total
        self._row.advance(0.0, self._doing + label)
        yield _Part(self._row, self._doing + label)

    def note(self, text: str) -> None:
        """See `Progress.note`."""
        self._shown.note(text)


class _Part:
    def __init__(self, row: Task, label: str) -> None:
        self._row, self._label = row, label

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        del amount
        self._row.advance(0.0, f"{self._label}: {note}" if note else self._label)
