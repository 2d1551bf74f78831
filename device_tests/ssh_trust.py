"""Whose host key is trusted: the pin of the inventory, else known_hosts. Strict in every case."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncssh

from edgesmith.types import Device

# Without certificates: a pin names a plain key.
PLAIN_HOST_KEYS = (
    "ssh-ed25519",
    *(f"ecdsa-sha2-nistp{bits}" for bits in (256, 384, 521)),
    *(f"rsa-sha2-{bits}" for bits in (512, 256)),
)

Trusted = Sequence[Sequence[Any]]


class HostTrust:
    """Decides about the key a host shows, and remembers both sides for the message.

    Attributes:
        shown: fingerprint the host showed; empty before it did.
        expected: fingerprints we trust for it; empty where it is unknown.
        known_as: what known_hosts calls it, as `ssh-keygen -R` takes it; empty before it was asked.
    """

    def __init__(self, pin: str, known_hosts: Sequence[str] | bytes) -> None:
        """`known_hosts`: files, or the content of one."""
        self._pin = pin
        self._known_hosts = known_hosts
        self.shown = ""
        self.shown_type = ""
        self.expected: tuple[str, ...] = (pin,) if pin else ()
        self.known_as = ""
        self._is_named = bool(pin)

    @property
    def met_a_stranger(self) -> bool:
        """Nothing is known of the host, and it has shown no key of its own: a certificate, then."""
        return bool(self.known_as) and not self._is_named and not self.shown

    def match(self, host: str, addr: str, port: int | None) -> Trusted:
        """Asyncssh asks: keys trusted for this host."""
        self.known_as = f"'[{host}]:{port}'" if port else host
        if self._pin:
            return ((), (), ())
        found = asyncssh.match_known_hosts(self._known_hosts or b"", host, addr, port)
        self.expected = tuple(dict.fromkeys(key.get_fingerprint() for key in found[0]))
        self._is_named = any(found)
        return found

    def client(self) -> asyncssh.SSHClient:
        """Asyncssh's callbacks."""
        return _Client(self)

    def accepts(self, key: asyncssh.SSHKey) -> bool:
        """Asyncssh asks about a key that `match` did not name."""
        self.shown, self.shown_type = key.get_fingerprint(), key.get_algorithm()
        return bool(self._pin) and self.shown == self._pin


class _Client(asyncssh.SSHClient):
    def __init__(self, trust: HostTrust) -> None:
        self._trust = trust

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        del host, addr, port
        return self._trust.accepts(key)


def known_hosts_files(device: Device, meant: asyncssh.SSHClientConnectionOptions) -> list[str]:
    """Files that say which host keys are trusted. "UserKnownHostsFile none" does not switch the check off here.

    Args:
        device: whose `known_hosts:` wins.
        meant: the options with ~/.ssh/config read in.
    """
    if device.known_hosts is not None:
        return [str(device.known_hosts)]
    named = meant.known_hosts
    files = named if isinstance(named, list) and named else [Path.home() / ".ssh" / "known_hosts"]
    return [str(file) for file in files if Path(file).expanduser().is_file()]
