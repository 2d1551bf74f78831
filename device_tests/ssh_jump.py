"""By way of which host a board is reached: what the inventory says, else ProxyJump of ~/.ssh/config."""

from __future__ import annotations

from dataclasses import replace

import asyncssh

from device_tests.inventory_fields import parse_address
from edgesmith.errors import ConfigError
from edgesmith.types import Device

_LONGEST = 8


def jump_of(device: Device, meant: asyncssh.SSHClientConnectionOptions) -> Device | None:
    """The last host before `device`; it may have a jump host of its own. None where it is reached directly.

    A jump host of the inventory brings its own pin, key and known_hosts. One that is given by its address is found
    as `ssh -J` finds it, by ~/.ssh/config.

    Args:
        device: where to.
        meant: its options with ~/.ssh/config read in.

    Raises:
        ConfigError: no address.
    """
    if isinstance(device.jump, Device):
        return device.jump
    text = device.jump or (meant.tunnel if isinstance(meant.tunnel, str) else "")
    if not text or text.lower() == "none":
        return None
    found: Device | None = None
    for address in text.split(","):
        hop = _named(device.name, address.strip())
        found = hop if found is None else replace(hop, jump=found)
    return found


def check_way(board: str, way: tuple[Device, ...]) -> None:
    """Refuses jump hosts that lead round in a circle, such as one that `Host *` gives to itself.

    Args:
        board: its name, for the message.
        way: from the board to the jump host that was found last.
    """
    *before, last = way
    if len(way) > _LONGEST or any(_place(device) == _place(last) for device in before):
        names = " -> ".join(device.name for device in way)
        raise ConfigError(
            f"{board}: its jump hosts lead round in a circle: {names}.",
            next_step="Look at `jump:` in devices.yaml, and at ProxyJump below `Host *` in ~/.ssh/config.",
        )


def _place(device: Device) -> tuple[str, int, str]:
    return device.host, device.port, device.user


def _named(board: str, address: str) -> Device:
    try:
        user, host, port = parse_address(address.removeprefix("ssh://"))
    except ValueError as error:
        raise ConfigError(f"{board}: its jump host {address!r} {error}.") from None
    return Device(name=address, transport="ssh", host=host, port=port or 22, user=user)
