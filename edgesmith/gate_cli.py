"""`edgesmith gate` and `edgesmith baseline`. Parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgesmith.cli_options import DevicesFile, Json, LockClocks, PowerMode, Quiet, print_json

if TYPE_CHECKING:
    from edgesmith.result import Result

baselines = typer.Typer(no_args_is_help=True, help="What later runs are held against: accept it, look at it.")

ConfigPath = Annotated[Path, typer.Argument(help="The config file.")]
RunsDir = Annotated[Path, typer.Option(help="Where run folders and the store of finished work are.")]
RunFolder = Annotated[Path | None, typer.Option("--run", help="A finished run, instead of running now.")]


def gate(
    config: ConfigPath = Path("edgesmith.yaml"),
    run: RunFolder = None,
    runs_dir: RunsDir = Path("runs"),
    device: Annotated[
        list[str] | None, typer.Option("--device", "-d", help="Instead of the config's devices; repeat.")
    ] = None,
    devices_file: DevicesFile = None,
    remeasure: Annotated[bool, typer.Option("--remeasure", help="Measure again even where nothing changed.")] = False,
    lease_wait: Annotated[
        float, typer.Option(min=0.0, help="Seconds to wait for a board that somebody else holds.")
    ] = 600.0,
    power_mode: PowerMode = None,
    lock_clocks: LockClocks = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Runs, and holds what came of it against the accepted baselines.

    Exit code 1: a regression, or a broken budget. 3: something that was accepted could not be measured. 4: it cannot be
    told, or the board's runtime or system is another one.
    """
    from edgesmith import pipeline
    from edgesmith.config import load_config
    from edgesmith.gating.gate import gate as hold
    from edgesmith.report import write_reports
    from edgesmith.report.console import ConsoleProgress
    from edgesmith.result import read_result

    loaded = load_config(config)
    progress = ConsoleProgress(quiet=quiet or as_json)
    if run is None:
        options = pipeline.RunOptions(
            runs_dir=runs_dir,
            devices=tuple(device or ()),
            inventory=devices_file,
            remeasure=remeasure,
            lease_wait_s=lease_wait,
            power_mode=power_mode,
            lock_clocks=lock_clocks,
        )
        result, folder = pipeline.run(loaded, options, progress)
    else:
        result, folder = read_result(run / "result.json"), run
    held = hold(
        loaded.measured_in(power_mode, lock_clocks=lock_clocks),
        result,
        folder,
        inventory=devices_file,
        runs_dir=runs_dir,
        progress=progress,
        lease_wait_s=lease_wait,
    )
    held.write(folder / "result.json")
    write_reports(held, folder)
    _print(held, folder, as_json=as_json)


@baselines.command()
def accept(
    config: ConfigPath = Path("edgesmith.yaml"),
    run: Annotated[Path, typer.Option("--run", help="The finished run to accept.")] = Path("runs/latest"),
    device: Annotated[list[str] | None, typer.Option("--device", "-d", help="Only these; repeat.")] = None,
    no_artifact: Annotated[
        bool,
        typer.Option(
            "--no-artifact",
            help="Keep only figures. Later runs are then judged by them, with a wider tolerance, not in turns.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Makes a run's compressed artifacts what later runs are held against; says what changes by it."""
    from edgesmith.config import load_config
    from edgesmith.gating.accept import accept as write
    from edgesmith.gating.gate import lineage_of
    from edgesmith.result import read_result

    loaded = load_config(config)
    written = write(
        read_result(run / "result.json"),
        run,
        loaded.resolve(loaded.config.gate.baselines),
        lineage_of(loaded),
        devices=tuple(device or ()),
        keep_artifact=not no_artifact,
    )
    if as_json:
        print_json([{"path": str(each.path), "new": each.new, "changes": list(each.changes)} for each in written])
        return
    for each in written:
        typer.echo(f"{each.path}: {'new' if each.new else 'accepted anew' if each.changes else 'nothing changed'}")
        for change in each.changes:
            typer.echo(f"  {change}")
    typer.echo("Commit the folder: `edgesmith gate` holds later runs against it.")


@baselines.command()
def show(config: ConfigPath = Path("edgesmith.yaml"), as_json: Json = False) -> None:
    """The accepted figures of the config's model."""
    from edgesmith.config import load_config
    from edgesmith.gating.baseline import artifact_path, read_all
    from edgesmith.gating.gate import lineage_of

    loaded = load_config(config)
    folder = loaded.resolve(loaded.config.gate.baselines)
    found = read_all(folder, lineage_of(loaded))
    if as_json:
        print_json({file: baseline.model_dump(mode="json") for file, baseline in found.items()})
        return
    if not found:
        typer.echo(f"Nothing is accepted for {lineage_of(loaded)} in {folder}: `edgesmith baseline accept`.")
    for file, one in found.items():
        p50 = "n/a" if one.latency_ms is None else f"{one.latency_ms.p50:.4g} ms"
        accuracy = "n/a" if one.accuracy is None else f"{one.accuracy.metric} {one.accuracy.value:.4f}"
        kept = "" if artifact_path(folder, one).is_file() else ", its file was not kept"
        typer.echo(f"{file}: p50 {p50}, {accuracy}, {one.artifact.size_bytes:,} bytes{kept}")
        typer.echo(f"  {one.surroundings.runtime}, {one.surroundings.kernel}, run {one.run_id}")


def _print(result: Result, folder: Path, *, as_json: bool) -> None:
    if as_json:
        typer.echo(result.model_dump_json(indent=2))
    else:
        from edgesmith.report.console import print_result

        print_result(result, folder)
    raise typer.Exit(result.exit_code or 0)
