"""`edgesmith devices`: the boards, who may use them, and whether they are well. Parse, call, print."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgesmith.errors import ConfigError, InfrastructureError

if TYPE_CHECKING:
    from device_tests.enrol import Enrolled
    from device_tests.inventory import Inventory
    from device_tests.quarantine import BoardStates
    from device_tests.session import BoardSession
    from edgesmith.progress import Progress
    from edgesmith.types import Device

app = typer.Typer(help="The boards: add, probe, check, lease.", no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(help="A device of the inventory.")]
Names = Annotated[list[str], typer.Argument(help="Devices of the inventory.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
DevicesFile = Annotated[Path | None, typer.Option(help="A devices.yaml; default: the one here, then the user's.")]


@app.command("list")
def list_(
    reach: Annotated[bool, typer.Option("--reach", help="Log in to each; else nothing is contacted.")] = False,
    devices_file: DevicesFile = None,
    as_json: Json = False,
) -> None:
    """Every board, with what is known of it here."""
    from device_tests.listing import list_boards

    rows = list_boards(_inventory(devices_file), _states(), reach=reach)
    if as_json:
        _print_json([row.as_dict() for row in rows])
        return
    table = [("name", "address", "board", "host key", "labels", "")]
    table += [
        (row.device.name, row.address, row.device.board, row.trust, ",".join(row.device.labels) or "-", row.status)
        for row in rows
    ]
    _print_table(table)


@app.command()
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
        known = _inventory(devices_file)
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
        _print_json(done.as_dict())
        return
    _print_enrolled(done)


@app.command()
def probe(
    names: Names,
    devices_file: DevicesFile = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """What a board is, what it has, and the command for what it lacks. Changes nothing there."""
    from device_tests.probe_report import probe_board

    progress = _progress(quiet=quiet or as_json)

    def look(device: Device) -> Shown:
        with _session(device, progress) as session:
            found = probe_board(session)
        return Shown(found.as_dict(), found.lines())

    _each(names, devices_file, look, as_json=as_json)


@app.command()
def lease(
    name: Name,
    duration: Annotated[
        str, typer.Option("--for", help="90s, 45m, 2h. Without it: only tells who has the board.")
    ] = "",
    wait: Annotated[str, typer.Option(help="How long to wait for somebody else.")] = "",
    devices_file: DevicesFile = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Keeps a board for you: your own runs get in, others wait. It ends by itself."""
    from device_tests import lease as leases
    from device_tests.reserve import reserve
    from edgesmith.durations import parse_duration, show_duration

    seconds = parse_duration(duration, option="--for") if duration else None
    wait_s = parse_duration(wait, option="--wait") if wait else 0.0
    device = _inventory(devices_file).get(name)
    by = leases.owner()
    progress = _progress(quiet=quiet or as_json)
    with _session(device, progress) as session:
        if seconds is not None:
            before = reserve(session, by, seconds, progress, wait_s=wait_s)
        found = leases.who(session.ask, device)
    holders = [one for one in (found.run, found.hold) if one is not None and one.expires_in_s > 0]
    if as_json:
        _print_json({"device": name, "owner": by, "holders": [_holder(one) for one in holders]})
        return
    if seconds is not None:
        typer.echo(f"{name} is yours ({by}) for {show_duration(seconds)}; `edgesmith devices release {name}` ends it.")
        if before is not None and before.owner != by:
            typer.echo(f"The claim of {before.owner} had lapsed and was taken over.")
        return
    for one in holders:
        typer.echo(leases.describe(device, one))
    if not holders:
        typer.echo(f"{name} is free")


@app.command()
def release(
    name: Name,
    force: Annotated[bool, typer.Option("--force", help="Also what is not yours; a run there is ended.")] = False,
    devices_file: DevicesFile = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Gives a board back."""
    from device_tests import lease as leases
    from device_tests import reserve

    device = _inventory(devices_file).get(name)
    with _session(device, _progress(quiet=quiet or as_json)) as session:
        gone = reserve.release(session, leases.owner(), force=force)
    if as_json:
        _print_json({"device": name, "released": [_holder(one) for one in gone]})
        return
    for one in gone:
        what = "lease of a run" if one.kind == "run" else "reservation"
        typer.echo(f"{name}: the {what} of {one.owner} is ended")
    if not gone:
        typer.echo(f"{name} was free already")


@app.command()
def quarantine(
    name: Name,
    reason: Annotated[str, typer.Option(help="Why, for the next person.")],
    devices_file: DevicesFile = None,
    as_json: Json = False,
) -> None:
    """Keeps a board from judging models until it passes `devices health`."""
    from device_tests import lease as leases

    if not reason.strip():
        raise ConfigError("--reason: say why, for the next person.")
    device = _inventory(devices_file).get(name)
    states = _states()
    states.quarantine(device, reason.strip(), leases.owner())
    held = states.get(device).quarantine
    if as_json:
        _print_json(
            {"device": name, "since": held and held.since, "reason": held and held.reason, "by": held and held.by}
        )
        return
    if held is not None:
        typer.echo(f"{name}: quarantined since {held.since} by {held.by}: {held.reason}")
        typer.echo(f"`edgesmith devices health {name}` lifts it when the board passes.")


def _inventory(devices_file: Path | None) -> Inventory:
    from device_tests.inventory import find_inventory, load_inventory

    return load_inventory(devices_file or find_inventory(Path("edgesmith.yaml")))


def _states() -> BoardStates:
    from device_tests.quarantine import BoardStates, boards_folder

    return BoardStates(boards_folder())


@contextlib.contextmanager
def _session(device: Device, progress: Progress) -> Iterator[BoardSession]:
    """An open session without a lease: it looks and asks, it does not measure."""
    from device_tests.session import BoardSession

    with (
        tempfile.TemporaryDirectory(prefix="edgesmith-") as scratch,
        BoardSession(device, local_root=Path(scratch), progress=progress) as session,
    ):
        yield session


@dataclass(frozen=True, slots=True)
class Shown:
    """What one board answered: for programs, for people, and the exit code that goes with it."""

    value: dict[str, Any]
    lines: tuple[str, ...]
    exit_code: int = 0


def _each(names: Sequence[str], devices_file: Path | None, work: Callable[[Device], Shown], *, as_json: bool) -> None:
    """Board after board. One that fails does not keep the next from being asked; its exit code is ours."""
    known = _inventory(devices_file)
    devices = [known.get(name) for name in dict.fromkeys(names)]
    shown = []
    for device in devices:
        try:
            one = work(device)
        except InfrastructureError as error:
            told = {"device": device.name, "error": error.what, "next_step": error.next_step}
            one = Shown(told, (), error.exit_code)
            if not as_json:
                typer.echo(f"{type(error).__name__}: {error}", err=True)
        shown.append(one)
        if not as_json:
            for line in one.lines:
                typer.echo(line)
    if as_json:
        _print_json([one.value for one in shown])
    raise typer.Exit(max(one.exit_code for one in shown))


def _progress(*, quiet: bool) -> Progress:
    from edgesmith.report.console import ConsoleProgress

    return ConsoleProgress(quiet=quiet)


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


def _holder(holder: Any) -> dict[str, Any]:
    return {key: getattr(holder, key) for key in ("kind", "owner", "run_id", "held_s", "expires_in_s")}


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, allow_nan=False, default=str))
