"""What went wrong on the way to a board, which host of the way it was, and what to do about it."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass

import asyncssh

from device_tests.ssh_trust import HostTrust
from edgesmith.errors import BoardError, ConfigError, ConnectionLost, EdgesmithError
from edgesmith.types import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One host of the way to a board.

    Attributes:
        device: the host.
        board: name of the board that all of it is about.
        over: the host before it on the way; empty where it is reached directly.
        listed: it has an entry in devices.yaml; a jump host given by its address, or by ~/.ssh/config, has none.
    """

    device: Device
    board: str
    over: str = ""
    listed: bool = True

    @property
    def where(self) -> str:
        """Begins a message: "pi5: by way of bastion: ssh to ops@10.0.0.1"."""
        jump = "" if self.device.name == self.board else f"by way of {self.device.name}: "
        over = f" by way of {self.over}" if self.over else ""
        return f"{self.board}: {jump}ssh to {address(self.device)}{over}"


def explain(hop: Hop, error: Exception, trust: HostTrust) -> EdgesmithError:
    """An error of asyncssh or of the system, met while connecting, in our terms."""
    where = hop.where
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return _about_host_key(hop, error, trust)
    if isinstance(error, asyncssh.PermissionDenied):
        return _about_login(hop)
    if isinstance(error, asyncssh.KeyExchangeFailed):
        return BoardError(
            f"{where}: no common ground: {error.reason}.",
            next_step="If it is about host key algorithms, the board shows another type of key than the one trusted: "
            "compare its fingerprint and update `host_key:` in devices.yaml, or known_hosts.",
        )
    if isinstance(error, asyncssh.ChannelOpenError) and hop.over:
        return _about_tunnel(hop, error)
    for matches, say in _ABOUT_LINK:
        if matches(error):
            what, next_step = say
            return ConnectionLost(f"{where}: {what}.", next_step=next_step)
    if isinstance(error, socket.gaierror):
        return BoardError(
            f"{where}: the name '{hop.device.host}' is not known ({error.strerror}).",
            next_step="Check `host:` in devices.yaml; `ssh -G HOST` shows what an alias of ~/.ssh/config means.",
        )
    if isinstance(error, asyncssh.DisconnectError):
        return ConnectionLost(f"{where}: the connection was dropped: {error.reason}.", next_step=_IS_IT_ON)
    if isinstance(error, ValueError | FileNotFoundError | PermissionError):
        return unusable(hop, error)
    return ConnectionLost(f"{where}: {str(error) or type(error).__name__}.", next_step=_IS_IT_ON)


def unusable(hop: Hop, error: Exception) -> ConfigError:
    """The error for a key or a configuration that cannot be read."""
    own = f"{hop.device.identity_file} or " if hop.device.identity_file else ""
    return ConfigError(f"{hop.where}: {own}a file of ~/.ssh cannot be used: {str(error).rstrip('.')}.")


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


def _about_tunnel(hop: Hop, error: asyncssh.ChannelOpenError) -> EdgesmithError:
    if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
        return BoardError(
            f"{hop.where}: {hop.over} passes no connections on: {error.reason}.",
            next_step=f"sshd_config on {hop.over} needs `AllowTcpForwarding yes`, and a `PermitOpen` that lets it by.",
        )
    return ConnectionLost(
        f"{hop.where}: {hop.over} does not reach it: {error.reason}.",
        next_step="The address and port are those that the jump host sees. Is the board on and on the network there?",
    )


def _about_host_key(hop: Hop, error: asyncssh.HostKeyNotVerifiable, trust: HostTrust) -> EdgesmithError:
    if not trust.shown:
        return BoardError(
            f"{hop.where}: its host key cannot be trusted: {error.reason}.",
            next_step="known_hosts says so by a line @revoked or @cert-authority. A revoked key may be in other hands: "
            "the board needs a new one (`ssh-keygen -A` there, after removing the old)."
            if "revoked" in error.reason
            else "known_hosts trusts an authority for it (@cert-authority), and its certificate does not fit.",
        )
    compare = compare_on_board(trust.shown_type)
    if hop.listed:
        name = hop.device.name
        pin = f"write `host_key: {trust.shown}` for '{name}' in devices.yaml"
        pin += f" (`edgesmith devices add {name} --replace-key` does)"
    else:
        pin = f"make it a device of devices.yaml with `host_key: {trust.shown}` and name that as `jump:`"
    if trust.expected:
        return BoardError(
            f"{hop.where}: THE HOST KEY HAS CHANGED. Trusted: {', '.join(trust.expected)}. Shown now: {trust.shown}. "
            "The board was set up anew, or somebody is in between.",
            next_step=f"Compare before you trust it. {compare} If it is the same, {pin}"
            f"{'.' if hop.device.host_key else f', or remove the old line with `ssh-keygen -R {trust.known_as}`.'}",
        )
    return BoardError(
        f"{hop.where}: its host key is not known: {trust.shown_type} {trust.shown}.",
        next_step=f"Compare it. {compare} If it is the same, {pin}, or log in once with `ssh`.",
    )


def compare_on_board(key_type: str) -> str:
    """How a person sees the fingerprint without the network in between."""
    kind = next((kind for kind in ("ed25519", "ecdsa", "rsa") if kind in key_type), key_type)
    return f"On the board's own console: `ssh-keygen -lf /etc/ssh/ssh_host_{kind}_key.pub`."


def _about_login(hop: Hop) -> EdgesmithError:
    device = hop.device
    key = device.identity_file or "your keys"
    user = device.user or "USER"
    target = f"{f'-p {device.port} ' if device.port != 22 else ''}{user}@{device.host}"
    return BoardError(
        f"{hop.where}: the board refused the login of {user} with {key}.",
        next_step=f"Is it the right user and key? `ssh-copy-id {target}` brings a key there. "
        "An encrypted key must be in ssh-agent (`ssh-add`): edgesmith never asks for a password.",
    )


def address(device: Device) -> str:
    """For messages: "pi@10.0.0.7:2222"; the port only where it is not 22."""
    user = f"{device.user}@" if device.user else ""
    port = "" if device.port == 22 else f":{device.port}"
    return f"{user}{device.host}{port}"
