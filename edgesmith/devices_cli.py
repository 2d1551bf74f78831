"""`edgesmith devices`: the boards, who may use them, and whether they are well. Parse, call, print."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgesmith import devices_add_cli, devices_engines_cli
from edgesmith.cli_options import DevicesFile, Json, Quiet, print_json
from edgesmith.errors import ConfigError, InfrastructureError

if TYPE_CHECKING:
    from device_tests.inventory import Inventory
    from device_tests.quarantine import BoardStates
    from device_tests.session import BoardSession
    from edgesmith.progress import Progress
    from edgesmith.types import Device

app = typer.Typer(help="The boards: add, probe, check, lease.", no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(help="A device of the inventory.")]
Names = Annotated[list[str], typer.Argument(help="Devices of the inventory.")]


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
        print_json([row.as_dict() for row in rows])
        return
    table = [("name", "address", "board", "host key", "labels", "")]
    table += [
        (row.device.name, row.address, row.device.board, row.trust, ",".join(row.device.labels) or "-", row.status)
        for row in rows
    ]
    _print_table(table)


app.command("add")(devices_add_cli.add)


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
        with _session(device, progress, greet=True) as session:
            found = probe_board(session)
        return Shown(found.as_dict(), found.lines())

    _each(names, devices_file, look, as_json=as_json)


@app.command()
def health(
    names: Names,
    wait: Annotated[str, typer.Option(help="How long to wait for a board that somebody else has.")] = "1m",
    devices_file: DevicesFile = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Whether a board may judge models. Passing lifts its quarantine; nothing else does."""
    from device_tests.health import check_health
    from edgesmith.durations import parse_duration

    progress, states = _progress(quiet=quiet or as_json), _states()
    wait_s = parse_duration(wait, option="--wait")

    def look(device: Device) -> Shown:
        with tempfile.TemporaryDirectory(prefix="edgesmith-") as scratch:
            found = check_health(device, states, local_root=Path(scratch), progress=progress, lease_wait_s=wait_s)
        return Shown(found.as_dict(), found.lines(), 0 if found.ok else InfrastructureError.exit_code)

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
    with _session(device, progress, greet=False) as session:
        if seconds is not None:
            before = reserve(session, by, seconds, progress, wait_s=wait_s)
        found = leases.who(session.ask, device)
    holders = [one for one in (found.run, found.hold) if one is not None and one.expires_in_s > 0]
    if as_json:
        print_json({"device": name, "owner": by, "holders": [_holder(one) for one in holders]})
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
    with _session(device, _progress(quiet=quiet or as_json), greet=False) as session:
        gone = reserve.release(session, leases.owner(), force=force)
    if as_json:
        print_json({"device": name, "released": [_holder(one) for one in gone]})
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
        print_json(
            {"device": name, "since": held and held.since, "reason": held and held.reason, "by": held and held.by}
        )
        return
    if held is not None:
        typer.echo(f"{name}: quarantined since {held.since} by {held.by}: {held.reason}")
        typer.echo(f"`edgesmith devices health {name}` lifts it when the board passes.")


@app.command()
def releases(
    names: Names,
    model: Annotated[str, typer.Option(help="Only this one's.")] = "",
    devices_file: DevicesFile = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """What `edgesmith deploy` has put on a board, which release answers, and what it measured."""
    from device_tests.release_board import list_releases
    from edgesmith.deploying import listing

    progress = _progress(quiet=quiet or as_json)

    def look(device: Device) -> Shown:
        with _session(device, progress, greet=False) as session:
            found = list_releases(session, model or None)
        tensorrt = None
        if any(one.has_engines for one in found):  # whether they still run is a matter of the version there
            with _session(device, progress, greet=True) as session:
                tensorrt = session.info.runtimes.get("tensorrt")
        models = [one.as_dict(tensorrt) for one in found]
        return Shown({"device": device.name, "models": models}, listing(found, tensorrt))

    _each(names, devices_file, look, as_json=as_json)


app.command("engines")(devices_engines_cli.engines)


def _inventory(devices_file: Path | None) -> Inventory:
    from device_tests.inventory import find_inventory, load_inventory

    return load_inventory(devices_file or find_inventory(None))


def _states() -> BoardStates:
    from device_tests.quarantine import BoardStates, boards_folder

    return BoardStates(boards_folder())


@contextlib.contextmanager
def _session(device: Device, progress: Progress, *, greet: bool) -> Iterator[BoardSession]:
    """An open session without a lease: it looks and asks, it does not measure."""
    from device_tests.session import BoardSession

    with (
        tempfile.TemporaryDirectory(prefix="edgesmith-") as scratch,
        BoardSession(device, local_root=Path(scratch), progress=progress, greet=greet) as session,
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
        except (InfrastructureError, ConfigError) as error:
            told = {"device": device.name, "error": error.what, "next_step": error.next_step}
            one = Shown(told, (), error.exit_code)
            if not as_json:
                typer.echo(f"{type(error).__name__}: {error}", err=True)
        shown.append(one)
        if not as_json:
            for line in one.lines:
                typer.echo(line)
    if as_json:
        print_json([one.value for one in shown])
    raise typer.Exit(max(one.exit_code for one in shown))


def _progress(*, quiet: bool) -> Progress:
    from edgesmith.report.console import ConsoleProgress

    return ConsoleProgress(quiet=quiet)


def _holder(holder: Any) -> dict[str, Any]:
    return {key: getattr(holder, key) for key in ("kind", "owner", "run_id", "held_s", "expires_in_s")}


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
