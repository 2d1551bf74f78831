"""The boards of an inventory as one table: what is written of each, what is remembered, and whether it answers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_tests.connect import connect
from device_tests.deadline import Deadline
from device_tests.inventory import Inventory
from device_tests.quarantine import BoardState, BoardStates
from edgesmith.errors import EdgesmithError
from edgesmith.types import Device

_REACH_S = 15.0
_AT_ONCE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One board.

    Attributes:
        reachable: None where nobody asked.
        reason: why it could not be reached; empty where it could.
    """

    device: Device
    state: BoardState
    reachable: bool | None = None
    reason: str = ""

    @property
    def address(self) -> str:
        """Where it is: "pi@10.0.0.7:2222", with the way to it."""
        if self.device.transport == "local":
            return "this machine"
        if self.device.transport == "fake":
            return f"script {self.device.script}"
        jump = self.device.jump if isinstance(self.device.jump, str) else self.device.jump.name
        user = f"{self.device.user}@" if self.device.user else ""
        port = "" if self.device.port == 22 else f":{self.device.port}"
        return f"{user}{self.device.host}{port}" + (f" by way of {jump}" if jump else "")

    @property
    def trust(self) -> str:
        """What the host key is held against."""
        if self.device.transport != "ssh":
            return "-"
        return "pinned" if self.device.host_key else "known_hosts"

    @property
    def status(self) -> str:
        """One line for people; empty where there is nothing to say."""
        parts = []
        if self.state.quarantine is not None:
            held = self.state.quarantine
            parts.append(f"QUARANTINED since {held.since} by {held.by}: {held.reason}")
        elif self.state.errors_in_a_row:
            parts.append(f"{self.state.errors_in_a_row} run(s) in a row failed there: {self.state.last_error}")
        if self.reachable is not None:
            parts.append("answers" if self.reachable else f"NOT REACHED: {self.reason}")
        return "; ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        held = self.state.quarantine
        return {
            "name": self.device.name,
            "transport": self.device.transport,
            "address": self.address,
            "board": self.device.board,
            "labels": list(self.device.labels),
            "host_key": self.device.host_key or None,
            "quarantine": held and {"since": held.since, "reason": held.reason, "by": held.by},
            "errors_in_a_row": self.state.errors_in_a_row,
            "reachable": self.reachable,
            "reachable_reason": self.reason or (None if self.reachable is not None else "--reach was not asked for"),
        }


def list_boards(known: Inventory, states: BoardStates, *, reach: bool = False) -> tuple[Listed, ...]:
    """Every board, "local" first.

    Args:
        known: the inventory.
        states: what is remembered here.
        reach: log in to each, side by side; else nothing is contacted.
    """
    devices = [known.get(name) for name in known.names]
    reasons = _reached(devices) if reach else [None] * len(devices)
    return tuple(
        Listed(
            device=device,
            state=states.get(device),
            reachable=None if reason is None else not reason,
            reason=reason or "",
        )
        for device, reason in zip(devices, reasons, strict=True)
    )


def _reached(devices: Sequence[Device]) -> list[str | None]:
    """For each: why it could not be reached, empty where it could."""
    with (
        tempfile.TemporaryDirectory(prefix="edgesmith-") as scratch,
        ThreadPoolExecutor(min(len(devices), _AT_ONCE)) as pool,
    ):
        return list(pool.map(lambda device: _why_not(device, Path(scratch)), devices))


def _why_not(device: Device, scratch: Path) -> str:
    try:
        connect(device, Deadline.after(_REACH_S), scratch).close()
    except EdgesmithError as error:
        return error.what
    return ""
