"""Plain columns that fit a console: numbers to the right, two header lines, the least needed columns left out first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Cells = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        key: names it in the cells.
        head: first header line.
        under: second header line: the unit.
        left: text; numbers stand to the right.
        spare: 0 = always shown; else left out where the room is short, highest first.
    """

    key: str
    head: str
    under: str = ""
    left: bool = False
    spare: int = 0


class Columns:
    """Columns as wide as their content, in at most `width` characters wherever that can be done.

    Attributes:
        dropped: heads of the columns that found no room.
    """

    def __init__(self, columns: Sequence[Column], rows: Iterable[Cells], width: int) -> None:
        cells = list(rows)
        self._widths = {c.key: max(len(c.head), len(c.under), *(len(r[c.key]) for r in cells)) for c in columns}
        kept = list(columns)
        for spare in (None, *sorted((c for c in columns if c.spare), key=lambda c: -c.spare)):
            kept = [c for c in kept if c is not spare]
            fitting = [gap for gap in (2, 1) if self._needed(kept, gap) <= width]
            if fitting:
                break
        self._kept = kept
        self._gap = fitting[0] if fitting else 1
        self.dropped = tuple(c.head for c in columns if c not in kept)

    def _needed(self, columns: Sequence[Column], gap: int) -> int:
        return 1 + sum(self._widths[c.key] for c in columns) + gap * (len(columns) - 1)

    def header(self) -> tuple[str, str]:
        """The two header lines."""
        return self.line({c.key: c.head for c in self._kept}), self.line({c.key: c.under for c in self._kept})

    def line(self, cells: Cells) -> str:
        """One row."""
        gap = " " * self._gap
        return " " + gap.join(f"{cells[c.key]:{'<' if c.left else '>'}{self._widths[c.key]}}" for c in self._kept)
