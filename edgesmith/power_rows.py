"""Power and power mode of a measurement, as they stand in `result.json`."""

from __future__ import annotations

from typing import TypedDict

from device_tests import power
from edgesmith.result import PowerModeRecord, PowerRecord, RailRecord
from edgesmith.types import Finding, Measurement, Power, PowerState

_NOT_ASKED = "power was not measured"


class Figures(TypedDict):
    """Fields of `DeviceResult`, and of a row of `edgesmith measure`."""

    energy_mj: float | None
    energy_mj_reason: str | None
    power: PowerRecord | None
    power_mode: PowerModeRecord | None


def figures(measured: Measurement) -> Figures:
    """What is known of the power of one artifact on one board."""
    took = measured.power
    energy = None if took is None else took.energy_mj_per_run
    reason = None if energy is not None else (took.reason if took and took.reason else _NOT_ASKED)
    return Figures(
        energy_mj=energy,
        energy_mj_reason=reason,
        power=None if took is None else _power(took),
        power_mode=None if measured.power_state is None else _mode(measured.power_state),
    )


def findings(measured: Measurement) -> tuple[Finding, ...]:
    """What a reader should know of them."""
    found = () if measured.power_state is None else power.findings(measured.power_state)
    statement = "" if measured.power is None else measured.power.statement
    if not statement:
        return found
    return (*found, Finding(severity="info", code="power_rate", text=f"energy is uncertain: {statement}"))


def _power(took: Power) -> PowerRecord | None:
    if took.mean_mw is None or took.max_mw is None or took.rate_hz is None:
        return None
    return PowerRecord(
        mean_mw=took.mean_mw,
        max_mw=took.max_mw,
        rate_hz=took.rate_hz,
        statement=took.statement,
        covers=took.covers,
        source=took.source,
        rails=tuple(RailRecord(name=rail.name, mean_mw=rail.mean_mw, max_mw=rail.max_mw) for rail in took.rails),
    )


def _mode(state: PowerState) -> PowerModeRecord | None:
    if state.mode is None and not state.asked.changes:
        return None
    return PowerModeRecord(
        mode=state.mode,
        mode_before=state.mode_before,
        clocks_locked=state.clocks_locked,
        loose=state.loose,
        restored=None if state.restored is None else state.restored.ok,
    )
