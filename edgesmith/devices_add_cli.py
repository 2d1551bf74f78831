"""`edgesmith devices add`: parse, let a person compare the key, print."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgesmith.cli_options import DevicesFile, Json, print_json
from edgesmith.errors import ConfigError

if TYPE_CHECKING:
    from device_tests.enrol import Enrolled
    from edgesmith.types import Device


def add(
    name: Annotated[str, typer.Argument(help="What the board shall be called.")],
    address: Annotated[str, typer.Argument(help="[user@]host[:port], or a Host alias of ~/.ssh/config.")] = "",
    user: Annotated[str, typer.Option(help="Login; default: as ~/.ssh/config says.")] = "",
    port: Annotated[int | None, typer.Option(help="Default: as ~/.ssh/config says, else 22.")] = None,
    jump: Annotated[str, typer.Option(help="By way of this device, or user@host:port.")] = "",
    identity_file: Annotated[Path | None, typer.Option(help="Private key; its path is written, never the key.")] = None,
    board: Annotated[str, typer.Option(help="Profile; default: found out.")] = "",
    label: Annotated[list[str] | None, typer.Option(help="For choosing boards; repeat.")] = None,
    python: Annotated[str, typer.Option(help="Interpreter on the board; default python3.")] = "",
    workdir: Annotated[str, typer.Option(help="Our folder on the board.")] = "",
    power: Annotated[str, typer.Option(help="Command of this machine that power-cycles it; run without a shell.")] = "",
    reboot: Annotated[str, typer.Option(help="Command of the board that restarts it: 'sudo -n reboot'.")] = "",
    fingerprint: Annotated[str, typer.Option(help="The host key must be this SHA256:...; then nobody is asked.")] = "",
    replace_key: Annotated[
        bool, typer.Option("--replace-key", help="Of a known board that was set up anew: pin its new key.")
    ] = False,
    devices_file: DevicesFile = None,
    as_json: Json = False,
) -> None:
    """Adds a board: shows its host key, asks, logs in, writes the entry. Stores no password and no key."""
    from device_tests import enrol
    from device_tests.inventory import find_inventory, load_inventory

    ask = _ask if sys.stdin.isatty() else None
    given = _given(
        address,
        user=user,
        port=port,
        jump=jump,
        identity_file=identity_file,
        board=board,
        labels=label,
        python=python,
        workdir=workdir,
        power=_words("--power", power),
        reboot=_words("--reboot", reboot),
    )
    if replace_key:
        known = load_inventory(devices_file or find_inventory(None))
        _check_only_the_key(known.get(name), given)
        done = enrol.replace_key(known, name, fingerprint=fingerprint, ask=ask)
    else:
        if not address:
            raise ConfigError(
                "ADDRESS is missing.", next_step=f"`edgesmith devices add {shlex.quote(name)} USER@HOST`."
            )
        path = devices_file or enrol.place_for_new()
        done = enrol.enrol(path, name, given, fingerprint=fingerprint, ask=ask)
    if as_json:
        print_json(done.as_dict())
        return
    _print_enrolled(done)


def _given(address: str, *, user: str, port: int | None, **more: Any) -> dict[str, Any]:
    """Keys of an entry, as far as they were said."""
    from device_tests.inventory_fields import parse_address

    try:
        named_user, host, named_port = parse_address(address) if address else ("", "", None)
    except ValueError as error:
        raise ConfigError(f"ADDRESS: {error} (it is {address!r}).") from None
    if user and named_user and user != named_user:
        raise ConfigError(f"ADDRESS names the user {named_user}, --user names {user}.")
    if port is not None and named_port is not None and port != named_port:
        raise ConfigError(f"ADDRESS names port {named_port}, --port names {port}.")
    given = {"host": host, "user": user or named_user, "port": port if port is not None else named_port, **more}
    return {key: value for key, value in given.items() if value not in (None, "", [])}


def _words(option: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {error} (it is {text!r}).") from None


def _check_only_the_key(device: Device, given: dict[str, Any]) -> None:
    """--replace-key changes nothing else; the address may be repeated."""
    others = {key for key, value in given.items() if getattr(device, key, None) != value}
    if others:
        raise ConfigError(
            f"{device.name}: --replace-key pins the new key and nothing else; also given: {', '.join(sorted(others))}.",
            next_step="Change those in devices.yaml.",
        )


def _ask(text: str) -> bool:
    typer.echo(text, err=True)
    return typer.confirm("Trust it?", default=False, err=True)


def _print_enrolled(done: Enrolled) -> None:
    name = done.device.name
    if done.changed:
        typer.echo(f"{done.path}: '{name}' is written, pinned to {done.key.type} {done.key.fingerprint}")
    else:
        typer.echo(f"{name}: still shows the pinned key {done.key.fingerprint}; nothing was changed")
    if done.python is None:
        typer.echo(f"{name}: login works, but {done.python_reason}; `python:` names another one")
    else:
        typer.echo(f"{name}: login works, Python {done.python}")
    typer.echo(f"next: edgesmith devices probe {name}")
