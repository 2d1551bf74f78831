"""All that `edgesmith devices probe` tells of one board: its record, what it is taken for, and what it lacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from device_tests.capability import CapabilityRecord
from device_tests.install import Missing, missing
from device_tests.probe import describe, probe, profile_for
from device_tests.session import BoardSession


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """One board.

    Attributes:
        profile: what it is taken for, "Raspberry Pi 5"; empty where no profile fits.
        warning: the inventory calls it something else; empty where not.
        limits: what is known of boards of that kind.
    """

    record: CapabilityRecord
    profile: str
    limits: tuple[str, ...]
    warning: str
    missing: tuple[Missing, ...]

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            **self.record.as_dict(),
            "profile": self.profile or None,
            "limits": list(self.limits),
            "warning": self.warning or None,
            "lacks": [one.as_dict() for one in self.missing],
        }

    def lines(self) -> tuple[str, ...]:
        """For people."""
        lines = [f"{self.record.device}: {self.profile or 'no board profile fits'}"]
        lines += [f"  {line}" for line in describe(self.record)]
        lines += [f"  {'note':12} {text}" for text in (self.warning, *self.limits) if text]
        for one in self.missing:
            lines.append(f"  {'could have' if one.optional else 'LACKS':12} {one.name}: {one.text}")
            lines += [f"  {'':12}   {command}" for command in one.commands]
        return tuple(lines)


def probe_board(session: BoardSession) -> Probed:
    """Asks a board what it is.

    Raises:
        ConfigError: the inventory names a profile that there is not.
        BoardError, ConnectionLost, DeadlineExceeded: as `BoardSession`.
    """
    record = probe(session)
    profile, warning = profile_for(session.device, record)
    return Probed(
        record=record,
        profile=profile.title if profile else "",
        limits=profile.limits if profile else (),
        warning=warning,
        missing=missing(record, profile),
    )
