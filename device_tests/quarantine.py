"""What this machine remembers of each board: errors in a row, quarantine, and how fast it was when it was well.

A board is quarantined when the recovery ladder is at its end, or after two runs in a row with an infrastructure error;
`edgesmith devices health` lifts it. This machine itself is never quarantined: whoever runs edgesmith sits in front of
it, it has no link that could fail unseen, and locking it out would take the one board that mends the others.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from edgesmith.errors import ConfigError, InfrastructureError, Quarantined
from edgesmith.files import sha256_json, write_bytes
from edgesmith.types import Device

RUNS_IN_A_ROW = 2
"""So many runs with an infrastructure error, one after the other, quarantine a board."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantine:
    """Why a board may not judge a model.

    Attributes:
        since: ISO 8601, UTC, by this machine's clock.
        by: "edgesmith" for the rule, else who asked for it.
    """

    since: str
    reason: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthBand:
    """How fast the board was at its first health check; later ones are held against it.

    Attributes:
        model_sha256: of the shipped model that was timed.
        runner: what executed it; another runtime is another speed, and starts anew.
    """

    model_sha256: str
    runner: str
    median_ns: int
    set_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardState:
    """One board.

    Attributes:
        name, address: for people who read the file.
        errors_in_a_row: runs with an infrastructure error since the last one without.
        last_error: of those runs; empty where there was none.
    """

    name: str
    address: str
    errors_in_a_row: int = 0
    last_error: str = ""
    quarantine: Quarantine | None = None
    band: HealthBand | None = None


_STATE = TypeAdapter(BoardState)


def boards_folder() -> Path:
    """Where the states are: `$XDG_STATE_HOME/edgesmith/boards`, by default below ~/.local/state."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "edgesmith" / "boards"


class BoardStates:
    """The states in one folder, one file a board. Threads and other processes may use the same folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, device: Device) -> Path:
        """The board's file. Named by a digest: whatever the name holds, it stays in the folder."""
        identity = {"name": device.name, "transport": device.transport, "address": _address(device)}
        return self._folder / f"{sha256_json(identity)[:32]}.json"

    def get(self, device: Device) -> BoardState:
        """What is known of the board.

        Raises:
            InfrastructureError: the file is there and cannot be read.
        """
        path = self.path(device)
        try:
            return _STATE.validate_json(path.read_bytes())
        except FileNotFoundError:
            return BoardState(name=device.name, address=_address(device))
        except (OSError, ValidationError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no state of a board"
            raise InfrastructureError(
                f"{device.name}: {path}: what is known of this board cannot be read: {reason}.",
                next_step=f"Remove the file and check the board: {_health(device)}.",
            ) from None

    def check(self, device: Device) -> None:
        """Lets a board pass that may judge a model.

        Raises:
            Quarantined: says why and since when.
        """
        held = self.get(device).quarantine
        if held is not None:
            raise Quarantined(
                f"{device.name}: quarantined since {held.since} by {held.by}: {held.reason}",
                next_step=f"When it is mended: {_health(device)}. A board that passes is free again.",
            )

    def quarantine(self, device: Device, reason: str, by: str) -> None:
        """Keeps a board from judging models. One that is quarantined already keeps its first reason.

        Raises:
            ConfigError: this machine cannot be quarantined.
        """
        if device.transport == "local":
            raise ConfigError(f"{device.name}: this machine cannot be quarantined; leave it out of `devices:` instead.")
        with self._changing(device) as state:
            if state.quarantine is None:
                now = datetime.now(UTC).isoformat(timespec="seconds")
                self._write(device, replace(state, quarantine=Quarantine(since=now, reason=reason, by=by)))

    def lift(self, device: Device) -> None:
        """Sets a board free and forgets its errors: it has passed its health check, or somebody says so."""
        with self._changing(device) as state:
            self._write(device, replace(state, quarantine=None, errors_in_a_row=0, last_error=""))

    def record_error(self, device: Device, reason: str) -> int:
        """Counts a run in which the infrastructure failed. For once a run.

        Returns:
            How many there were in a row, this one included.
        """
        with self._changing(device) as state:
            count = state.errors_in_a_row + 1
            self._write(device, replace(state, errors_in_a_row=count, last_error=reason))
        return count

    def record_success(self, device: Device) -> None:
        """A run in which the infrastructure held: errors start at nought again."""
        if self.get(device).errors_in_a_row:
            with self._changing(device) as state:
                self._write(device, replace(state, errors_in_a_row=0, last_error=""))

    def set_band(self, device: Device, band: HealthBand) -> None:
        """Remembers how fast the board is when it is well."""
        with self._changing(device) as state:
            self._write(device, replace(state, band=band))

    @contextlib.contextmanager
    def _changing(self, device: Device) -> Iterator[BoardState]:
        """The state, for a change that nobody else makes at the same time."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            gate = self.path(device).with_suffix(".lock").open("w")
        except OSError as error:
            raise self._unwritable(error) from None
        with gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            yield self.get(device)

    def _write(self, device: Device, state: BoardState) -> None:
        try:
            write_bytes(self.path(device), _STATE.dump_json(state, indent=2) + b"\n")
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> InfrastructureError:
        return InfrastructureError(
            f"{self._folder}: what is known of the boards cannot be kept: {error.strerror or error}.",
            next_step="XDG_STATE_HOME names another place.",
        )


def _address(device: Device) -> str:
    """Where the device is reached: another board under the same name has a state of its own."""
    if device.transport == "local":
        return "local"
    if device.transport == "fake":
        return str(device.script)
    return f"{device.user}@{device.host}:{device.port}"


def _health(device: Device) -> str:
    return f"`edgesmith devices health {device.name}`"
