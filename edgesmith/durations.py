"""Spans of time as people write and read them: "90s", "45m", "2h", "1h30m", "2d"."""

from __future__ import annotations

import re

from edgesmith.errors import ConfigError

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_SPAN = re.compile("".join(rf"(?:(\d{{1,9}}){unit})?" for unit in _UNITS), re.ASCII)


def parse_duration(text: str, *, option: str) -> float:
    """Seconds.

    Args:
        text: e.g. "2h".
        option: where it stands, for the message.

    Raises:
        ConfigError: it is no span of time; shows how one is written.
    """
    found = _SPAN.fullmatch(text.strip())
    counts = found.groups() if found else ()
    if not any(counts):
        raise ConfigError(f"{option}: {text!r} is no span of time.", next_step="Write 90s, 45m, 2h, 1h30m or 2d.")
    seconds = sum(int(count) * unit for count, unit in zip(counts, _UNITS.values(), strict=True) if count)
    if not seconds:
        raise ConfigError(f"{option}: {text!r} is no time at all.")
    return float(seconds)


def show_duration(seconds: float) -> str:
    """For people: the two largest units, "1 h 30 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, whole = divmod(whole, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])
