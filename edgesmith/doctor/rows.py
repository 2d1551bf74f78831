"""One line of what the doctor found, and those about what something lacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from device_tests.capability import CapabilityRecord
from device_tests.install import missing
from device_tests.probe import profile_for
from edgesmith.types import Device
from targets import wheels


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was looked at.

    Attributes:
        fix: the command that mends it; empty where it is fine.
    """

    name: str
    ok: bool
    text: str
    fix: str = ""

    def as_dict(self) -> dict[str, object]:
        """For --json."""
        return {"name": self.name, "ok": self.ok, "text": self.text, "fix": self.fix or None}


def lacking(prefix: str, record: CapabilityRecord, device: Device, *, ours: bool) -> Iterator[Row]:
    """What a board lacks, with the commands for it.

    Args:
        prefix: of every row's name.
        record: what the board is.
        device: as the inventory has it.
        ours: its runtimes come with the tool chain, and have rows already.
    """
    profile, warning = profile_for(device, record)
    if warning:
        yield Row(f"{prefix}profile", ok=False, text=warning)
    for one in missing(record, profile):
        if not (ours and one.name in wheels.RUNTIMES):
            yield Row(f"{prefix}{one.name}", ok=False, text=one.text, fix="\n".join(one.commands))
