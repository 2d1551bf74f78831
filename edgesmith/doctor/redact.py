"""Takes out of texts whatever says where a board is, who uses it, or how to get in.

Known names go by what the inventory and this machine say; the rest by its form. When in doubt a text loses a word: a
bug report can do without it.
"""

from __future__ import annotations

import getpass
import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgesmith.doctor.ssh_names import ssh_names
from edgesmith.types import Device

BOARD, USER, HOME = "<board>", "<user>", "~"

_COMMON_USERS = frozenset({"root", "pi", "ubuntu", "debian", "nvidia", "jetson", "orin", "admin", "user", "edge"})
"""They name nobody, and are words of other meaning: they go only where a login name stands."""

_COMMON_HOSTS = frozenset({"local", "localhost"})

_FORMS = (
    (re.compile(r"-----BEGIN [A-Z0-9 ]*KEY-----.*?(-----END [A-Z0-9 ]*KEY-----|\Z)", re.DOTALL), "<key>"),
    (re.compile(r"\b(ssh-(rsa|dss|ed25519)|ecdsa-[\w-]+|sk-[\w@.-]+) AAAA[\w+/=]+"), "<key>"),
    (re.compile(r"\b(SHA256|MD5):[\w+/=:]{16,}"), "<key>"),
    (re.compile(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+=\S+"), "<variable>"),
    (re.compile(r"(?i)\b(serial(?:[ _-]?(?:number|no))?)(\"?\s*[:=#]\s*\"?|\s+)(?=\S*\d)[\w-]{4,}"), r"\1 <serial>"),
    (re.compile(r"\b[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\b"), "<id>"),
    (re.compile(r"\b[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}\b"), "<mac>"),
    (re.compile(r"[\w.+-]+@(?=[A-Za-z<])[\w.<>-]+"), f"{USER}@{BOARD}"),
    (re.compile(r"(/home|/Users|/export/home|/var/home)/[^/\s\"':,;)]+"), HOME),
    (re.compile(r"(?<![\w.~-])/root(?![\w-])"), HOME),
)
_IPV4 = re.compile(r"(?<![\w.-])\d{1,3}(?:\.\d{1,3}){3}(?![\w-]|\.\d)")
_IPV6 = re.compile(r"(?<![\w.:])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?:%\w+)?(?![\w:])")
_PORTS = re.compile(rf"({re.escape(BOARD)}|<address>)\]?:\d{{1,5}}\b")


class Redactor:
    """Of one board's bundle."""

    def __init__(self, device: Device, versions: Iterable[str] = ()) -> None:
        """Learns what to take out.

        Args:
            device: the board, with the way to it.
            versions: texts with version numbers that look like addresses: "10.3.0.30".
        """
        self._versions = {one for text in versions for one in _IPV4.findall(text)}
        exact: dict[str, str] = {str(Path.home()): HOME}
        words: dict[str, str] = {}
        for name, stands_for in _names(device):
            (exact if "/" in name else words)[name] = stands_for
        self._ports = [str(port) for port in _ports(device) | ssh_names().ports]
        self._exact = sorted(exact.items(), key=lambda pair: -len(pair[0]))
        self._words = [(_word(name), stands_for) for name, stands_for in sorted(words.items(), key=_longest)]

    def text(self, text: str) -> str:
        """The text without them."""
        for secret, stands_for in self._exact:
            text = text.replace(secret, stands_for)
        # Keys before names: a name in the middle of one would break its form.
        for form, stands_for in _FORMS[:4]:
            text = form.sub(stands_for, text)
        for word, stands_for in self._words:
            text = word.sub(stands_for, text)
        for form, stands_for in _FORMS[4:]:
            text = form.sub(stands_for, text)
        text = _IPV4.sub(self._address, text)
        text = _IPV6.sub(self._address, text)
        text = _PORTS.sub(r"\1", text)
        for port in self._ports:
            text = re.sub(rf"(?i)\b(port\W{{0,3}}){port}\b", r"\1<port>", text)
        return text

    def value(self, value: Any) -> Any:
        """A JSON value without them; keys that are not plain words are looked at, too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.value(one) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(one) for one in value]
        return value

    def _address(self, found: re.Match[str]) -> str:
        text = found.group()
        if text in self._versions:
            return text
        try:
            ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            return text
        return "<address>"


def _names(device: Device) -> Iterable[tuple[str, str]]:
    """(what is to go, what stands for it)."""
    hosts, users, paths = _of_device(device)
    here = {_quietly(socket.gethostname), _quietly(socket.getfqdn)}
    named = ssh_names()
    users |= {_quietly(getpass.getuser), *named.users}
    hosts |= named.hosts
    for host in hosts | here:
        if host and host.lower() not in _COMMON_HOSTS:
            yield host, BOARD if host in hosts else "<workstation>"
    for user in users:
        if user and user.lower() not in _COMMON_USERS:
            yield user, USER
    for path in paths:
        yield path, "<path>"


def _of_device(device: Device) -> tuple[set[str], set[str], set[str]]:
    hosts, users = {device.name, device.host}, {device.user}
    named = (device.identity_file, device.known_hosts, device.script)
    paths = {str(path) for path in named if path is not None}
    paths |= {word for command in (device.power, device.reboot) for word in command if "/" in word}
    if isinstance(device.jump, Device):
        found = _of_device(device.jump)
        hosts, users, paths = hosts | found[0], users | found[1], paths | found[2]
    elif device.jump:
        user, _, rest = device.jump.rpartition("@")
        hosts.add(rest.rpartition(":")[0] or rest)
        users.add(user)
    # The first word of a full name is one, too.
    hosts |= {host.partition(".")[0] for host in hosts if not _is_address(host)}
    return {one for one in hosts if one}, {one for one in users if one}, paths


def _ports(device: Device) -> set[int]:
    found = {device.port}
    if isinstance(device.jump, Device):
        found |= _ports(device.jump)
    elif device.jump.rpartition(":")[2].isdigit():
        found.add(int(device.jump.rpartition(":")[2]))
    return found


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _word(name: str) -> re.Pattern[str]:
    """The name where it stands alone: "orin" is not taken out of "jetson-orin"."""
    return re.compile(rf"(?<![A-Za-z0-9_-]){re.escape(name)}(?![A-Za-z0-9_-])")


def _longest(pair: tuple[str, str]) -> int:
    return -len(pair[0])


def _quietly(ask: Any) -> str:
    """A container may have no user, and a machine no name."""
    try:
        return str(ask())
    except (KeyError, OSError):
        return ""
