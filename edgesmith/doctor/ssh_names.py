"""Names that ~/.ssh/config knows hosts and users by: an inventory may only name an alias of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_DEEPEST = 4
"""Files that include files, as far as ssh goes would be 16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SshNames:
    """All of them, whichever board they are for."""

    hosts: frozenset[str]
    users: frozenset[str]
    ports: frozenset[int]


def ssh_names(config: Path | None = None) -> SshNames:
    """Reads the file and what it includes; one that is not there names nobody.

    Args:
        config: default ~/.ssh/config.
    """
    hosts: set[str] = set()
    users: set[str] = set()
    ports: set[int] = set()
    for keyword, value in _entries(config or Path.home() / ".ssh" / "config", _DEEPEST):
        if keyword in ("hostname", "hostkeyalias"):
            hosts.add(value)
        elif keyword == "user":
            users.add(value)
        elif keyword == "port" and value.isdigit():
            ports.add(int(value))
        elif keyword == "proxyjump":
            for jump in value.split(","):
                user, _, rest = jump.strip().removeprefix("ssh://").rpartition("@")
                host, _, port = rest.partition(":")
                hosts.add(host)
                users.add(user)
                ports |= {int(port)} if port.isdigit() else set()
    return SshNames(hosts=frozenset(hosts - {"", "none"}), users=frozenset(users - {""}), ports=frozenset(ports))


def _entries(path: Path, deeper: int) -> Iterator[tuple[str, str]]:
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for line in lines:
        keyword, _, value = line.strip().replace("=", " ", 1).partition(" ")
        keyword, value = keyword.lower(), value.strip().strip('"')
        if keyword == "include" and deeper:
            for pattern in value.split():
                place = Path(pattern).expanduser()
                found = place if place.is_absolute() else path.parent / place
                for included in sorted(found.parent.glob(found.name)):
                    yield from _entries(included, deeper - 1)
        elif value and not keyword.startswith("#"):
            yield keyword, value
