"""Reaching a board by SSH: whose key to trust, what to offer, when to try again, and what to say when it fails."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import asyncssh

from device_tests.deadline import Deadline
from edgesmith.errors import BoardError, ConfigError, ConnectionLost, EdgesmithError
from edgesmith.types import Device

_PAUSES_S = (0.5, 2.0)
_ATTEMPT_S = 10.0
# Without certificates: a pin names a plain key.
_PLAIN_HOST_KEYS = (
    "ssh-ed25519",
    *(f"ecdsa-sha2-nistp{bits}" for bits in (256, 384, 521)),
    *(f"rsa-sha2-{bits}" for bits in (512, 256)),
)

Trusted = Sequence[Sequence[Any]]
ReachedT = TypeVar("ReachedT")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKey:
    """What a host shows, and what is known of it here.

    Attributes:
        type: its algorithm, "ssh-ed25519".
        fingerprint: "SHA256:...".
        known: fingerprints that the pin or known_hosts trust for this host; empty where it is unknown.
    """

    type: str
    fingerprint: str
    known: tuple[str, ...]


class HostTrust:
    """Decides about the key a host shows, and remembers both sides for the message.

    Attributes:
        shown: fingerprint the host showed; empty before it did.
        expected: fingerprints we trust for it; empty where it is unknown.
    """

    def __init__(self, pin: str, known_hosts: Sequence[str] | bytes) -> None:
        """`known_hosts`: files, or the content of one."""
        self._pin = pin
        self._known_hosts = known_hosts
        self.shown = ""
        self.shown_type = ""
        self.expected: tuple[str, ...] = (pin,) if pin else ()

    def match(self, host: str, addr: str, port: int | None) -> Trusted:
        """Asyncssh asks: keys trusted for this host."""
        if self._pin:
            return ((), (), ())
        found = asyncssh.match_known_hosts(self._known_hosts or b"", host, addr, port)
        self.expected = tuple(dict.fromkeys(key.get_fingerprint() for key in found[0]))
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


async def log_in(device: Device, deadline: Deadline, extra: Mapping[str, Any]) -> asyncssh.SSHClientConnection:
    """Connects, trying again after what may pass: refused, unreachable, silent, dropped.

    Args:
        device: where to. What it leaves open is taken from ~/.ssh/config, as ssh does.
        deadline: for all attempts.
        extra: further asyncssh options; tests use them to keep a developer's own setup out.

    Raises:
        ConfigError: a file that the inventory names is not there, or ~/.ssh/config cannot be read.
        BoardError: a refusal that trying again does not change: host key, login.
        ConnectionLost: not reached.
    """
    options = _options(device, extra)
    known = _known_hosts(device, options)

    async def attempt(trust: HostTrust) -> asyncssh.SSHClientConnection:
        return await asyncssh.connect(**options, known_hosts=trust.match, client_factory=trust.client)

    return await _persistently(device, deadline, known, attempt)


async def host_key(device: Device, deadline: Deadline, extra: Mapping[str, Any]) -> HostKey:
    """The key a host shows, without logging in and without trusting it: for a person to compare.

    Raises:
        ConfigError, BoardError, ConnectionLost: as `log_in`.
    """
    options = _options(device, extra)
    known = _known_hosts(device, options)
    asked = {key: options[key] for key in ("host", "port", "config") if key in options}

    async def attempt(trust: HostTrust) -> HostKey:
        key = await asyncssh.get_server_host_key(**asked, server_host_key_algs=list(_PLAIN_HOST_KEYS))
        if key is None:
            raise asyncssh.KeyExchangeFailed("it shows no host key")
        meant = asyncssh.SSHClientConnectionOptions(**options)
        trust.match(meant.host_key_alias or meant.host, "", None if meant.port == 22 else meant.port)
        return HostKey(type=key.get_algorithm(), fingerprint=key.get_fingerprint(), known=trust.expected)

    return await _persistently(device, deadline, known, attempt)


async def _persistently(
    device: Device, deadline: Deadline, known: Sequence[str], attempt: Callable[[HostTrust], Awaitable[ReachedT]]
) -> ReachedT:
    """Tries again after what may pass; other errors, and the last one, are told in our terms."""
    for pause in (*_PAUSES_S, None):
        trust = HostTrust(device.host_key, known)
        try:
            return await asyncio.wait_for(attempt(trust), min(_ATTEMPT_S, deadline.remaining_s))
        except (OSError, asyncssh.Error, ValueError) as error:
            told = _explain(device, error, trust)
            if pause is None or not isinstance(told, ConnectionLost) or deadline.remaining_s <= pause:
                raise told from None
            await asyncio.sleep(pause)
    raise AssertionError


def _options(device: Device, extra: Mapping[str, Any]) -> dict[str, Any]:
    for what, path in (("identity_file", device.identity_file), ("known_hosts", device.known_hosts)):
        if path is not None and not path.is_file():
            raise ConfigError(f"{device.name}: {what} {path} is not there.")
    options: dict[str, Any] = {
        "host": device.host,
        "config": (),  # ~/.ssh/config
        "keepalive_interval": 5,
        "keepalive_count_max": 3,
        "password_auth": False,
        "kbdint_auth": False,
        # A key that is encrypted can still be in the agent; nobody is ever asked for its passphrase.
        "ignore_encrypted": True,
    }
    if device.port != 22:
        options["port"] = device.port
    if device.user:
        options["username"] = device.user
    if device.identity_file is not None:
        options["client_keys"] = [str(device.identity_file)]
    if device.host_key:
        options["server_host_key_algs"] = list(_PLAIN_HOST_KEYS)
    return options | dict(extra)


def _known_hosts(device: Device, options: Mapping[str, Any]) -> list[str]:
    """Files that say which host keys are trusted. "UserKnownHostsFile none" does not switch the check off here."""
    if device.known_hosts is not None:
        return [str(device.known_hosts)]
    try:
        named = asyncssh.SSHClientConnectionOptions(**options).known_hosts
    except (OSError, ValueError) as error:
        raise ConfigError(f"{device.name}: the SSH client's own configuration cannot be used: {error}.") from None
    files = named if isinstance(named, list) and named else [Path.home() / ".ssh" / "known_hosts"]
    return [str(file) for file in files if Path(file).expanduser().is_file()]


def _explain(device: Device, error: Exception, trust: HostTrust) -> EdgesmithError:
    where = f"{device.name}: ssh to {address(device)}"
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return _about_host_key(device, where, error, trust)
    if isinstance(error, asyncssh.PermissionDenied):
        return _about_login(device, where)
    if isinstance(error, asyncssh.KeyExchangeFailed):
        return BoardError(
            f"{where}: no common ground: {error.reason}.",
            next_step="If it is about host key algorithms, the board shows another type of key than the one trusted: "
            "compare its fingerprint and update `host_key:` in devices.yaml, or known_hosts.",
        )
    for matches, say in _ABOUT_LINK:
        if matches(error):
            what, next_step = say
            return ConnectionLost(f"{where}: {what}.", next_step=next_step)
    if isinstance(error, socket.gaierror):
        return BoardError(
            f"{where}: the name '{device.host}' is not known ({error.strerror}).",
            next_step="Check `host:` in devices.yaml; `ssh -G HOST` shows what an alias of ~/.ssh/config means.",
        )
    if isinstance(error, asyncssh.DisconnectError):
        return ConnectionLost(f"{where}: the connection was dropped: {error.reason}.", next_step=_IS_IT_ON)
    if isinstance(error, ValueError | FileNotFoundError | PermissionError):
        own = f"{device.identity_file} or " if device.identity_file else ""
        return ConfigError(f"{where}: {own}a file of ~/.ssh cannot be used: {str(error).rstrip('.')}.")
    return ConnectionLost(f"{where}: {str(error) or type(error).__name__}.", next_step=_IS_IT_ON)


_IS_IT_ON = "Is the board on and on the network? `ping` it; a board that has just started needs 20 to 60 s."
_ABOUT_LINK: tuple[tuple[Callable[[Exception], bool], tuple[str, str]], ...] = (
    (
        lambda error: isinstance(error, ConnectionRefusedError),
        ("refused: nothing listens there", "Is sshd running on the board, and is `port:` in devices.yaml right?"),
    ),
    (
        lambda error: isinstance(error, TimeoutError | asyncio.TimeoutError),
        ("no answer in time", _IS_IT_ON),
    ),
    (
        lambda error: isinstance(error, OSError) and error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH),
        ("no route to it", _IS_IT_ON),
    ),
    (
        lambda error: isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN,
        ("its name could not be looked up just now", "Is the name server reachable? An address needs none."),
    ),
)


def _about_host_key(
    device: Device, where: str, error: asyncssh.HostKeyNotVerifiable, trust: HostTrust
) -> EdgesmithError:
    if not trust.shown:
        return BoardError(f"{where}: its host key cannot be trusted: {error.reason}.")
    compare = compare_on_board(trust.shown_type)
    pin = f"`host_key: {trust.shown}` for '{device.name}' in devices.yaml"
    if trust.expected:
        return BoardError(
            f"{where}: THE HOST KEY HAS CHANGED. Trusted: {', '.join(trust.expected)}. Shown now: {trust.shown}. "
            "The board was set up anew, or somebody is in between.",
            next_step=f"Compare before you trust it. {compare} If it is the same, write {pin}"
            f"{'.' if device.host_key else f', or remove the old line with `ssh-keygen -R {_known_as(device)}`.'}",
        )
    return BoardError(
        f"{where}: its host key is not known: {trust.shown_type} {trust.shown}.",
        next_step=f"Compare it. {compare} If it is the same, write {pin}, or log in once with `ssh`.",
    )


def compare_on_board(key_type: str) -> str:
    """How a person sees the fingerprint without the network in between."""
    kind = next((kind for kind in ("ed25519", "ecdsa", "rsa") if kind in key_type), key_type)
    return f"On the board's own console: `ssh-keygen -lf /etc/ssh/ssh_host_{kind}_key.pub`."


def _about_login(device: Device, where: str) -> EdgesmithError:
    key = device.identity_file or "your keys"
    user = device.user or "USER"
    target = f"{f'-p {device.port} ' if device.port != 22 else ''}{user}@{device.host}"
    return BoardError(
        f"{where}: the board refused the login of {user} with {key}.",
        next_step=f"Is it the right user and key? `ssh-copy-id {target}` brings a key there. "
        "An encrypted key must be in ssh-agent (`ssh-add`): edgesmith never asks for a password.",
    )


def _known_as(device: Device) -> str:
    return device.host if device.port == 22 else f"'[{device.host}]:{device.port}'"


def address(device: Device) -> str:
    """For messages: "pi@10.0.0.7:2222"; the port only where it is not 22."""
    user = f"{device.user}@" if device.user else ""
    port = "" if device.port == 22 else f":{device.port}"
    return f"{user}{device.host}{port}"
