"""One artifact in every power mode of a board: what speed costs there.

Each mode is set and put back by the agent. One that takes a restart of the board is left out: a restart is not ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from device_tests.deadline import Deadline
from device_tests.session import BoardSession
from edgesmith.errors import BoardError, InfrastructureError, PowerModeRefused
from edgesmith.report.columns import Column, Columns
from edgesmith.types import Measurement

if TYPE_CHECKING:
    from edgesmith.measure_one import Row

Taken = Measurement | InfrastructureError
_LOOK_S = 60.0
_ONE_MODES_OWN = ("power-mode-unknown", "power-mode-needs-reboot", "power-mode-failed")
"""What may be otherwise in the next mode. Every other refusal is the same for all of them."""


@dataclass(frozen=True, slots=True)
class ModeSweep:
    """Which modes; empty: all that the board has."""

    modes: tuple[str, ...] = ()

    def take(self, session: BoardSession, measure: Callable[[str], Taken]) -> Iterator[tuple[str, Taken]]:
        """Measures in one mode after the other.

        Args:
            session: the board, leased.
            measure: in the mode of that name.

        Raises:
            BoardError: it has no power modes.
            PowerModeRefused: it lets us set none.
        """
        name = session.device.name
        known = tuple(session.ask("power_mode", {}, Deadline.after(_LOOK_S))["modes"])
        if not known:
            raise BoardError(
                f"{name}: this board has no power modes.", next_step="Measure it without --sweep: it is taken as it is."
            )
        not_restored = ""
        for mode in self.modes or known:
            if not_restored:
                yield mode, BoardError(f"{name}: skipped: after {not_restored} the board was not as before.")
                continue
            taken = measure(mode)
            if isinstance(taken, PowerModeRefused) and taken.code not in _ONE_MODES_OWN:
                raise taken
            state = taken.power_state if isinstance(taken, Measurement) else None
            if state is not None and state.restored is not None and not state.restored.ok:
                not_restored = mode
            yield mode, taken


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Latency and power by mode, board by board, for people."""
    for device, group in itertools.groupby(rows, key=lambda row: row.device):
        of_device = list(group)
        cells = [_cells(row) for row in of_device]
        columns = Columns(
            (
                Column("mode", "power mode", left=True),
                Column("p50", "p50", "ms"),
                Column("p95", "p95", "ms"),
                Column("power", "power", "W"),
                Column("energy", "energy", "mJ"),
                Column("note", "", left=True),
            ),
            cells,
            width=1000,
        )
        yield device
        for line in (*columns.header(), *map(columns.line, cells)):
            yield line.rstrip()
        covers = next((row.power.covers for row in of_device if row.power), None)
        if covers:
            yield f" power and energy: {covers}; idle power included. energy: of one inference."
        reasons = {row.energy_mj_reason: None for row in of_device if row.latency_ms and row.energy_mj_reason}
        for reason in reasons:
            yield f" energy n/a: {reason}"


def _cells(row: Row) -> dict[str, str]:
    latency = row.latency_ms
    p50, p95 = (latency.p50, latency.p95) if latency else (None, None)
    return {
        "mode": row.asked_mode or "",
        "p50": "n/a" if p50 is None else f"{p50:.3f}",
        "p95": "n/a" if p95 is None else f"{p95:.3f}",
        "power": "n/a" if row.power is None else f"{row.power.mean_mw / 1000:.2f}",
        "energy": "n/a" if row.energy_mj is None else f"{row.energy_mj:.3g}",
        "note": row.note,
    }
