"""What a result says of the same artifact on several boards, one line each."""

from __future__ import annotations

from dataclasses import dataclass

from edgesmith.report.figures import one_line
from edgesmith.result import ParityDevice, ParityRecord, Result

_MOST_NAMES = 4
_HERE = "this machine's check"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityLine:
    """One artifact.

    Attributes:
        artifact: "tflite compressed".
        text: "outputs on pi and local: identical in all 6,470 elements".
    """

    artifact: str
    text: str
    identical: bool


def parity_lines(result: Result) -> tuple[ParityLine, ...]:
    """One line for every artifact that was compared."""
    return tuple(
        ParityLine(
            artifact=f"{one_line(record.target)} {record.variant}",
            text=_text(record),
            identical=all(device.identical for device in record.devices),
        )
        for record in result.parity
    )


def _text(record: ParityRecord) -> str:
    """Boards with the same outcome share its words."""
    alike: dict[str, list[ParityDevice]] = {}
    for device in record.devices:
        alike.setdefault(_outcome(device, record), []).append(device)
    parts = [f"outputs on {_names(devices)} and {_reference(record)}: {said}" for said, devices in alike.items()]
    return "; ".join(parts)


def _outcome(device: ParityDevice, record: ParityRecord) -> str:
    if device.identical:
        return f"identical in all {record.elements:,} elements"
    said = f"differ in {device.different:,} of {record.elements:,} elements"
    if device.max_abs_diff is None:
        return f"{said} ({one_line(device.max_abs_diff_reason or 'no reason was recorded')})"
    if device.unit == "LSB":
        return f"{said}, at most {device.max_abs_diff:g} LSB"
    return f"{said}, by at most {device.max_abs_diff:.2g}"


def _reference(record: ParityRecord) -> str:
    return _HERE if record.reference is None else one_line(record.reference)


def _names(devices: list[ParityDevice]) -> str:
    names = [one_line(device.device) for device in devices]
    return ", ".join(names) if len(names) <= _MOST_NAMES else f"{len(names)} boards"
