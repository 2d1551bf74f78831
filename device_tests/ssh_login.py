"""Reaching a board by SSH, over its jump hosts where it has some: what is offered, and when it is tried again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import asyncssh

from device_tests.deadline import Deadline
from device_tests.inventory_fields import check_host
from device_tests.ssh_explain import Hop, address, compare_on_board, explain, unusable
from device_tests.ssh_jump import check_way, jump_of
from device_tests.ssh_trust import PLAIN_HOST_KEYS, HostTrust, known_hosts_files
from edgesmith.errors import ConfigError, ConnectionLost
from edgesmith.types import Device

__all__ = ["HostKey", "address", "compare_on_board", "host_key", "log_in"]

_PAUSES_S = (0.5, 2.0)
_ATTEMPT_S = 10.0
_OF_THE_WAY = ("host", "port", "config", "tunnel", "proxy_command")
_TO_TELL_S = 0.2
"""An attempt ends a little before the deadline of it all: its error names the host that was silent."""

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


async def log_in(device: Device, deadline: Deadline, extra: Mapping[str, Any]) -> asyncssh.SSHClientConnection:
    """Connects, trying again after what may pass: refused, unreachable, silent, dropped.

    Jump hosts are reached by the same rules, one after the other; closing the connection closes theirs.

    Args:
        device: where to. What it leaves open is taken from ~/.ssh/config, as ssh does.
        deadline: for all hosts and attempts.
        extra: further asyncssh options; tests use them to keep a developer's own setup out.

    Raises:
        ConfigError: a file that the inventory names is not there, or ~/.ssh/config cannot be read.
        BoardError: a refusal that trying again does not change: host key, login.
        ConnectionLost: not reached.
    """
    return await _Login(device.name, deadline, extra).log_in((device,))


async def host_key(device: Device, deadline: Deadline, extra: Mapping[str, Any]) -> HostKey:
    """The key a host shows, without logging in and without trusting it: for a person to compare.

    Its jump hosts are logged in to, and must be trusted.

    Raises:
        ConfigError, BoardError, ConnectionLost: as `log_in`.
    """
    return await _Login(device.name, deadline, extra).ask_key((device,))


class _Login:
    """The way to one board. A `way` names hosts from the board back to the one to be reached now."""

    def __init__(self, board: str, deadline: Deadline, extra: Mapping[str, Any]) -> None:
        self._board = board
        self._deadline = deadline
        self._extra = extra

    async def log_in(self, way: tuple[Device, ...], *, listed: bool = True) -> asyncssh.SSHClientConnection:
        """Connects, by way of the jump hosts."""

        async def attempt(options: Mapping[str, Any], trust: HostTrust) -> asyncssh.SSHClientConnection:
            return await asyncssh.connect(**options, known_hosts=trust.match, client_factory=trust.client)

        async with self._ready(way, listed=listed) as (hop, options, meant):
            connection = await self._persistently(hop, options, meant, attempt)
            # Whoever closes or loses this connection closes the one below it.
            connection.set_tunnel(options["tunnel"])
        return connection

    async def ask_key(self, way: tuple[Device, ...]) -> HostKey:
        """Asks for the host key, by way of the jump hosts."""
        async with self._ready(way) as (hop, options, meant):

            async def attempt(options: Mapping[str, Any], trust: HostTrust) -> HostKey:
                asked = {name: options[name] for name in _OF_THE_WAY if name in options}
                key = await asyncssh.get_server_host_key(**asked, server_host_key_algs=list(PLAIN_HOST_KEYS))
                if key is None:
                    raise asyncssh.KeyExchangeFailed("it shows no host key")
                trust.match(meant.host_key_alias or meant.host, "", None if meant.port == 22 else meant.port)
                return HostKey(type=key.get_algorithm(), fingerprint=key.get_fingerprint(), known=trust.expected)

            found = await self._persistently(hop, options, meant, attempt)
            if options["tunnel"] is not None:
                options["tunnel"].close()
            return found

    @contextlib.asynccontextmanager
    async def _ready(
        self, way: tuple[Device, ...], *, listed: bool = True
    ) -> AsyncIterator[tuple[Hop, dict[str, Any], asyncssh.SSHClientConnectionOptions]]:
        """All that connecting takes, the jump hosts reached; they are let go where it fails."""
        device = way[-1]
        options = _options(device, self._extra)
        hop = Hop(device=device, board=self._board, listed=listed)
        try:
            meant = await asyncssh.SSHClientConnectionOptions.construct(**options)
        except (OSError, ValueError) as error:
            raise unusable(hop, error) from None
        if (jump := jump_of(device, meant)) is None:
            options |= {"tunnel": None, **_proxy_command(device, meant)}
        else:
            check_way(self._board, (*way, jump))
            options["tunnel"] = await self.log_in((*way, jump), listed=jump is device.jump)
            hop = replace(hop, over=jump.name)
        try:
            yield hop, options, meant
        except BaseException:
            if options["tunnel"] is not None:
                options["tunnel"].abort()
            raise

    async def _persistently(
        self,
        hop: Hop,
        options: Mapping[str, Any],
        meant: asyncssh.SSHClientConnectionOptions,
        attempt: Callable[[Mapping[str, Any], HostTrust], Awaitable[ReachedT]],
    ) -> ReachedT:
        """Tries again after what may pass; other errors, and the last one, are told in our terms."""
        known = known_hosts_files(hop.device, meant)
        for pause in (*_PAUSES_S, None):
            trust = HostTrust(hop.device.host_key, known)
            try:
                left_s = max(0.0, self._deadline.remaining_s - _TO_TELL_S)
                return await asyncio.wait_for(attempt(options, trust), min(_ATTEMPT_S, left_s))
            except (OSError, asyncssh.Error, ValueError) as error:
                if isinstance(error, asyncssh.HostKeyNotVerifiable) and trust.met_a_stranger:
                    # Once more for the plain key behind the certificate, since that is what a person can compare.
                    options = {**options, "server_host_key_algs": list(PLAIN_HOST_KEYS)}
                    continue
                told = explain(hop, error, trust)
                if pause is None or not isinstance(told, ConnectionLost) or self._deadline.remaining_s <= pause:
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
        options |= _only_this_key(device.identity_file)
    if device.host_key:
        options["server_host_key_algs"] = list(PLAIN_HOST_KEYS)
    return options | dict(extra)


def _only_this_key(identity_file: Path) -> dict[str, Any]:
    """The agent is asked for this key alone: with many in it, sshd hangs up before the right one has its turn."""
    beside = identity_file.with_name(identity_file.name + ".pub")
    with contextlib.suppress(OSError, asyncssh.KeyImportError):
        if b"PRIVATE KEY" not in identity_file.read_bytes():
            # A public key: the agent, or a token behind it, has the other half.
            return {"agent_identities": [asyncssh.read_public_key(identity_file)]}
    options: dict[str, Any] = {"client_keys": [str(identity_file)]}
    for public in (identity_file, beside):
        with contextlib.suppress(OSError, asyncssh.KeyImportError):
            options["agent_identities"] = [asyncssh.read_public_key(public)]
    return options


def _proxy_command(device: Device, meant: asyncssh.SSHClientConnectionOptions) -> dict[str, Any]:
    """ProxyCommand of ~/.ssh/config, run as ssh(1) runs it: by a shell, and without a way to ask anybody.

    asyncssh would split it by itself, without the shell it was written for, and take its stderr for the board's words,
    and the end of its stderr for the end of the link: so that goes nowhere, and the shell around it holds its pipe.
    """
    written = meant.config.get("ProxyCommand")
    if not isinstance(written, str):
        return {}
    try:
        # They have been put into it for %h, %n and %r.
        for name in (device.host, meant.host, meant.username):
            check_host(name)
    except ValueError as error:
        raise ConfigError(f"{device.name}: with a ProxyCommand, host and user {error}.") from None
    script = f"export SSH_ASKPASS_REQUIRE=never\nexec 3>&2 2>/dev/null\n(\n{written}\n) 3>&-\nexit $?"
    return {"proxy_command": ["sh", "-c", script]}
