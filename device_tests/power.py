"""What the agent is asked and tells of power, as records, and what a reader should know of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from device_tests.agent.power_hold import APPLY_S, RESTORE_S
from edgesmith.errors import PowerModeRefused
from edgesmith.types import Finding, Power, PowerRequest, PowerState

_POWER: TypeAdapter[Power] = TypeAdapter(Power)
_STATE: TypeAdapter[PowerState] = TypeAdapter(PowerState)
_NEXT = {
    "power-mode-unknown": "Name one that it has; `edgesmith measure --sweep power-modes` goes through them all.",
    "power-mode-denied": "Let the board's user run both without a password, by a line in /etc/sudoers.d: "
    "`USER ALL=(root) NOPASSWD: /usr/sbin/nvpmodel, /usr/bin/jetson_clocks`; or ask for no power mode.",
    "power-mode-needs-reboot": "Set it there by hand, let the board restart, and measure again.",
    "power-mode-failed": "`sudo nvpmodel -q` on the board tells the mode that is on.",
    "power-mode-busy": "Measure again when that has ended: it takes a few minutes at most.",
    "clocks-not-lockable": "Measure without --lock-clocks (`lock_clocks: true`): the figures vary more.",
}
"""By the agent's word for why it did not set a power mode."""


def asked(request: PowerRequest | None) -> dict[str, Any] | None:
    """The "power" of the question "measure"; None where nothing is to be changed."""
    if request is None or not request.changes:
        return None
    return {"mode": request.mode, "lock_clocks": request.lock_clocks}


def patience_s(request: PowerRequest) -> float:
    """How much longer a measurement may take because of its power mode."""
    return APPLY_S + RESTORE_S if request.changes else 0.0


def refusal(device: str, code: str, message: str, facts: Mapping[str, Any]) -> PowerModeRefused | None:
    """The agent's refusal to set a power mode; None where it refused something else."""
    if code not in _NEXT:
        return None
    restored = facts.get("restored") or {}
    differs = "; ".join(restored.get("differs", ()))
    left = f" The board is not as it was before: {differs}." if differs else ""
    return PowerModeRefused(f"{device}: {message}.{left}", code=code, next_step=_NEXT[code])


def read_power(told: Mapping[str, Any]) -> Power:
    """The figures of one artifact.

    Raises:
        pydantic.ValidationError: a key is missing or of the wrong kind.
    """
    return _POWER.validate_python(dict(told))


def read_state(told: Mapping[str, Any]) -> PowerState:
    """What it was measured in. Raises as `read_power`."""
    return _STATE.validate_python(dict(told))


def findings(state: PowerState) -> tuple[Finding, ...]:
    """What a reader should know of the power mode: nothing where all went as asked."""
    found = []
    if state.restored is not None and not state.restored.ok:
        found.append(
            Finding(
                severity="warning",
                code="power-mode-not-restored",
                text=f"the board is not as it was before: {'; '.join(state.restored.differs)}",
                next_step=_next_step(state),
            )
        )
    if state.loose:
        found.append(
            Finding(
                severity="warning",
                code="clocks-loose",
                text=f"clocks were to be held still, and could move: {'; '.join(state.loose)}",
            )
        )
    if state.recovered:
        modes = ", ".join(sorted({str(one.mode) for one in state.recovered}))
        found.append(
            Finding(
                severity="info",
                code="power-mode-recovered",
                text=f"an earlier session had been cut off; the board was first put back into {modes}",
            )
        )
    return tuple(found)


def _next_step(state: PowerState) -> str:
    mode = f"`sudo nvpmodel -q` tells its mode, which was {state.mode_before}; " if state.mode_before else ""
    return f"{mode}a restart of the board lets go of held clocks."
