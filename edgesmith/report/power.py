"""Power, energy and power mode in words."""

from __future__ import annotations

from collections.abc import Sequence

from edgesmith.report.figures import Row, one_line
from edgesmith.result import PowerModeRecord, Result


def meaning(result: Result) -> tuple[str, ...]:
    """What the energies in a table are the energies of; empty where there are none."""
    covers = dict.fromkeys(one_line(r.power.covers) for r in result.results if r.power)
    if not covers:
        return ()
    return (
        "Energy: of one inference, idle power included: a slower model takes more of it. Power: the mean meanwhile.",
        f"Both are of: {'; '.join(covers)}.",
    )


def mode_mark(rows: Sequence[Row]) -> str:
    """The power mode of a device in a word or two; empty where it has none."""
    names = dict.fromkeys(_mark(mode) for mode in _modes(rows))
    return ", ".join(names)


def mode_sentence(rows: Sequence[Row]) -> str:
    """The same, and what became of the mode that was on before."""
    return "; ".join(dict.fromkeys(_sentence(mode) for mode in _modes(rows)))


def _modes(rows: Sequence[Row]) -> list[PowerModeRecord]:
    return [row.record.power_mode for row in rows if row.record.power_mode]


def _mark(mode: PowerModeRecord) -> str:
    return f"{one_line(mode.mode or 'no mode')}{', clocks held' if mode.clocks_locked else ''}"


def _sentence(mode: PowerModeRecord) -> str:
    if mode.restored is None:
        return f"{_mark(mode)}: as it was found"
    before = f" (before: {one_line(mode.mode_before)})" if mode.mode_before != mode.mode and mode.mode_before else ""
    return f"{_mark(mode)}, set for this{before} and {'put back' if mode.restored else 'NOT put back'} afterwards"
