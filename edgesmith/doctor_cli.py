"""`edgesmith doctor`: what works here and on boards, and a self-test of boards. Parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgesmith.cli_options import DevicesFile, Json, Quiet, print_json
from edgesmith.errors import ConfigError, InfrastructureError

if TYPE_CHECKING:
    from edgesmith.doctor.boards import Examined
    from edgesmith.doctor.rows import Row
    from edgesmith.doctor.trial import SelfTest
    from edgesmith.types import Device

Looked = Annotated[list[str] | None, typer.Option("--device", "-d", help="Look at this board and test it; repeat.")]
SelfTests = Annotated[
    bool, typer.Option("--self-test/--no-self-test", help="Build and run small networks on the board, or only look.")
]
Bundle = Annotated[
    Path | None, typer.Option(help="Where the bundle for a bug report goes; default: edgesmith-doctor-NAME.zip here.")
]


def doctor(
    device: Looked = None,
    self_test: SelfTests = True,
    bundle: Bundle = None,
    devices_file: DevicesFile = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """What works on this machine, and what to install for the rest; a named board is looked at and tested, too.

    The self-test of a board builds and runs small networks with each of its runtimes, under its lease, and compares
    their answers. It writes a bundle that holds no addresses or keys, to be attached to a bug report.
    """
    from edgesmith.doctor.machine import examine

    names = tuple(dict.fromkeys(device or ()))
    if bundle is not None and len(names) != 1:
        raise ConfigError("--bundle names one file, for one board.", next_step="Give one --device with it.")
    boards = _boards(names, devices_file)  # before anything is looked at: a name may be wrong
    here = examine()
    if not as_json:
        _print_rows(here)
    told = [_one(board, here, bundle, test=self_test, quiet=quiet or as_json, show=not as_json) for board in boards]
    if as_json:
        rows = [row.as_dict() for row in here]
        print_json({"rows": rows + [row for one in told for row in one.pop("rows")], "boards": told})
    codes = [InfrastructureError.exit_code for one in told if not one["ok"]]
    raise typer.Exit(max(codes, default=0))


def _boards(names: tuple[str, ...], devices_file: Path | None) -> list[Device]:
    if not names:
        return []
    from device_tests.inventory import find_inventory, load_inventory

    known = load_inventory(devices_file or find_inventory(None))
    return [known.get(name) for name in names]


def _one(
    device: Device, here: tuple[Row, ...], bundle: Path | None, *, test: bool, quiet: bool, show: bool
) -> dict[str, Any]:
    """Looks at one board, shows what was found, then writes its bundle: no full disk keeps the rows from being seen."""
    from edgesmith.doctor.boards import examine_board
    from edgesmith.doctor.bundle import default_path, write_bundle
    from edgesmith.report.console import ConsoleProgress

    found = examine_board(device, ConsoleProgress(quiet=quiet), test=test)
    if show:
        _print_rows(found.rows)
        if found.tested is not None:
            _print_trials(device.name, found.tested)
    told: dict[str, Any] = {
        "device": device.name,
        "ok": found.ok,
        "rows": [row.as_dict() for row in found.rows],
        "self_test": None if found.tested is None else found.tested.as_dict(),
        "self_test_reason": _why_untested(found, test=test),
        "bundle": None,
        "bundle_reason": None,
    }
    if bundle is None and not test:
        return {**told, "bundle_reason": "--no-self-test writes none unless --bundle says where"}
    path = bundle if bundle is not None else default_path(device)
    try:
        write_bundle(path, found, here)
    except InfrastructureError as error:
        typer.echo(f"InfrastructureError: {error}", err=True)
        return {**told, "ok": False, "bundle_reason": error.what}
    if show:
        typer.echo(f"The bundle for a bug report: {path}")
    return {**told, "bundle": str(path)}


def _why_untested(found: Examined, *, test: bool) -> str | None:
    if found.tested is not None:
        return None
    return found.untested if test else "--no-self-test"


def _print_rows(rows: tuple[Row, ...]) -> None:
    for row in rows:
        typer.echo(f"{'ok' if row.ok else '--':3} {row.name:30} {row.text}")
        for line in row.fix.splitlines():
            typer.echo(f"    {'':30} {line}")


def _print_trials(name: str, tested: SelfTest) -> None:
    typer.echo(f"Self-test of {name}: {tested.verdict()}")
    for trial in tested.trials:
        typer.echo(f"{trial.outcome:6} {trial.name:26} {trial.text}")
        if trial.next_step:
            typer.echo(f"       {'':26} {trial.next_step}")
