"""`edgesmith deploy` and `edgesmith rollback`. Parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgesmith.cli_options import DevicesFile, Json, Quiet, print_json

if TYPE_CHECKING:
    from edgesmith.deploying import Row

Wait = Annotated[float, typer.Option(min=0.0, help="Seconds to wait for a board that somebody else holds.")]


def deploy(
    run_folder: Annotated[Path, typer.Argument(help="A finished run.")] = Path("runs/latest"),
    device: Annotated[
        list[str] | None, typer.Option("--device", "-d", help="Instead of all boards of the run; repeat.")
    ] = None,
    name: Annotated[str, typer.Option(help="What applications know it by; default: the model's file name.")] = "",
    target: Annotated[str, typer.Option(help="Only artifacts of this target; default: the fastest.")] = "",
    variant: Annotated[
        Literal["compressed", "float"] | None, typer.Option(help="Default: compressed, where the run has one.")
    ] = None,
    canary: Annotated[int, typer.Option(min=0, help="So many boards first; the rest only if all of these pass.")] = 0,
    keep: Annotated[int, typer.Option(min=1, help="Releases kept on a board besides the current one.")] = 2,
    devices_file: DevicesFile = None,
    lease_wait: Wait = 600.0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Puts what passed on a board there as a release; it answers once it has passed its smoke check, else the old one.

    Exit code 1: a release failed its check, and the one before answers. 3: a board could not be worked with.
    """
    from edgesmith.deploying import deploy_run
    from edgesmith.report.console import ConsoleProgress

    rows = deploy_run(
        run_folder,
        devices=tuple(device or ()),
        inventory=devices_file,
        progress=ConsoleProgress(quiet=quiet or as_json),
        name=name,
        target=target,
        variant=variant or "",
        canary=canary,
        keep=keep,
        lease_wait_s=lease_wait,
    )
    _print(rows, as_json=as_json)


def rollback(
    name: Annotated[str, typer.Argument(help="Of the release: what applications know it by.")],
    device: Annotated[list[str], typer.Option("--device", "-d", help="The board; repeat.")],
    to: Annotated[str, typer.Option(help="A version of `edgesmith devices releases`; default: the one before.")] = "",
    devices_file: DevicesFile = None,
    runs_dir: Annotated[Path, typer.Option(help="Where run folders and the store of finished work are.")] = Path(
        "runs"
    ),
    lease_wait: Wait = 600.0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Makes an earlier release answer again, once it has passed its smoke check."""
    from edgesmith.deploying import roll_back
    from edgesmith.report.console import ConsoleProgress

    rows = roll_back(
        name,
        devices=tuple(device),
        inventory=devices_file,
        progress=ConsoleProgress(quiet=quiet or as_json),
        runs_dir=runs_dir,
        to=to or None,
        lease_wait_s=lease_wait,
    )
    _print(rows, as_json=as_json)


def _print(rows: tuple[Row, ...], *, as_json: bool) -> None:
    from edgesmith.deploying import exit_code

    if as_json:
        print_json([row.as_dict() for row in rows])
    else:
        for row in rows:
            for line in row.lines:
                typer.echo(line, err=row.error is not None)
    raise typer.Exit(exit_code(rows))
