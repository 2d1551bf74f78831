"""A board's power: what it is asked to run in, what it ran in, and what it took."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerRequest:
    """What a board is put into while it is measured, and taken out of afterwards. Part of a measurement's identity.

    Attributes:
        mode: a power mode of a Jetson, by its name; None: the one that is on stays.
        lock_clocks: hold all clocks still at what the mode allows.
    """

    mode: str | None = None
    lock_clocks: bool = False

    @property
    def changes(self) -> bool:
        """Whether anything is asked for."""
        return self.mode is not None or self.lock_clocks


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerStep:
    """One command that put something back; `status` is None where it did not end, or could not be run."""

    command: str
    status: int | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerRestored:
    """How a board was put back.

    Attributes:
        ok: it is as it was before.
        mode: its power mode since.
        differs: what is not as before.
    """

    ok: bool
    mode: str | None
    steps: tuple[PowerStep, ...]
    differs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerState:
    """What a board was measured in.

    Attributes:
        mode: its power mode meanwhile; None where it has none.
        clocks_locked: no clock of CPU and GPU could move.
        loose: those that could, though they were asked to be held.
        restored: None where nothing was changed.
        recovered: what earlier sessions had left, and was put back first.
    """

    asked: PowerRequest
    mode: str | None
    mode_before: str | None
    clocks_locked: bool
    loose: tuple[str, ...]
    restored: PowerRestored | None
    recovered: tuple[PowerRestored, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RailPower:
    """One power rail, while something ran."""

    name: str
    mean_mw: float
    max_mw: float
    energy_mj: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """What a board took while an artifact ran. Every figure is None where it could not be had; `reason` tells why.

    Attributes:
        mean_mw, max_mw, energy_mj: of the board's total, idle power included; energy of all timed windows.
        energy_mj_per_run: of one inference.
        seconds: of all windows together.
        samples: reads in them. rate_hz: reads a second. longest_gap_ms: without one.
        failed: reads that gave no value.
        half_rate_error: how much the energy would change with half the reads, a fraction.
        statement: what the rate makes uncertain; empty where it is enough.
        source: by which chips, or "tegrastats".
        covers: what the total is the total of.
    """

    mean_mw: float | None
    max_mw: float | None
    energy_mj: float | None
    energy_mj_per_run: float | None
    seconds: float | None
    samples: int
    rate_hz: float | None
    longest_gap_ms: float | None
    failed: int
    half_rate_error: float | None
    statement: str
    source: str
    covers: str
    rails: tuple[RailPower, ...]
    reason: str | None
