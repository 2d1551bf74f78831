"""The command line: parse, call, print. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgesmith import (
    __version__,
    compare_cli,
    deploy_cli,
    devices_cli,
    doctor_cli,
    gate_cli,
    latency_table_cli,
    measure_cli,
    pack_cli,
    transfer_cli,
)
from edgesmith.cli_options import LockClocks, PowerMode
from edgesmith.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, EdgesmithError, InfrastructureError, Terminated

if TYPE_CHECKING:
    from edgesmith.config import LoadedConfig
    from edgesmith.pipeline import RunOptions
    from edgesmith.result import Result

app = typer.Typer(
    name="edgesmith",
    help="Makes a trained network smaller and faster for each of your boards, and proves it on the board itself.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(devices_cli.app, name="devices")
app.command()(doctor_cli.doctor)
app.command()(compare_cli.compare)
app.command()(measure_cli.measure)
app.command()(deploy_cli.deploy)
app.command()(deploy_cli.rollback)
app.command()(pack_cli.pack)
app.command()(pack_cli.unpack)
app.command()(transfer_cli.transfer)
app.command()(latency_table_cli.latency_table)
app.command()(gate_cli.gate)
app.add_typer(gate_cli.baselines, name="baseline")

ConfigPath = Annotated[Path, typer.Argument(help="The config file.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
RunsDir = Annotated[Path, typer.Option(help="Where run folders and the store of finished work are.")]
Devices = Annotated[list[str] | None, typer.Option("--device", "-d", help="Instead of the config's devices; repeat.")]
DevicesFile = Annotated[Path | None, typer.Option(help="A devices.yaml; default: beside the config, then the user's.")]
LeaseWait = Annotated[float, typer.Option(min=0.0, help="Seconds to wait for a board that somebody else holds.")]
Synthetic = Annotated[bool, typer.Option(help="Calibrate with random numbers: to try the tool chain, not to ship.")]


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"edgesmith {__version__}")
        raise typer.Exit
    del context


@app.command()
def run(
    config: Annotated[
        Path | None, typer.Argument(help="The config file; default edgesmith.yaml, with --resume that of the run.")
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    device: Devices = None,
    devices_file: DevicesFile = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on in the newest run, or in --run-id.")] = False,
    run_id: Annotated[str, typer.Option(help="The run to resume.")] = "latest",
    allow_synthetic: Synthetic = False,
    remeasure: Annotated[bool, typer.Option("--remeasure", help="Measure again even where nothing changed.")] = False,
    redo: Annotated[list[str] | None, typer.Option(help="Do this step again, e.g. prune; repeat.")] = None,
    lease_wait: LeaseWait = 600.0,
    power_mode: PowerMode = None,
    lock_clocks: LockClocks = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """The whole way: compress, compile, push, measure, judge, report."""
    from edgesmith.config import load_config
    from edgesmith.pipeline import RunOptions, config_of_run

    if config is None:
        config = config_of_run(runs_dir, run_id) if resume else Path("edgesmith.yaml")
    loaded = load_config(config)
    options = RunOptions(
        runs_dir=runs_dir,
        resume=resume,
        run_id=run_id,
        devices=tuple(device or ()),
        inventory=devices_file,
        allow_synthetic=allow_synthetic,
        redo=tuple(redo or ()),
        remeasure=remeasure,
        lease_wait_s=lease_wait,
        power_mode=power_mode,
        lock_clocks=lock_clocks,
    )
    _run_and_print(loaded, options, quiet=quiet, as_json=as_json)


@app.command()
def demo(
    runs_dir: RunsDir = Path("runs"),
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """The main job on the bundled Fashion-MNIST example, on this machine: no board needed."""
    from edgesmith.config import load_config
    from edgesmith.demo import example_config
    from edgesmith.pipeline import RunOptions

    _run_and_print(load_config(example_config()), RunOptions(runs_dir=runs_dir), quiet=quiet, as_json=as_json)


@app.command()
def plan(
    config: ConfigPath = Path("edgesmith.yaml"),
    runs_dir: RunsDir = Path("runs"),
    device: Devices = None,
    devices_file: DevicesFile = None,
    power_mode: PowerMode = None,
    lock_clocks: LockClocks = False,
    as_json: Json = False,
) -> None:
    """What `run` would do, and what of it is kept already; does nothing."""
    from edgesmith.config import load_config
    from edgesmith.pipeline.plan import make_plan

    loaded = load_config(config).measured_in(power_mode, lock_clocks=lock_clocks)
    steps = make_plan(loaded, runs_dir, devices=tuple(device or ()), inventory=devices_file)
    if as_json:
        _print_json([step.as_dict() for step in steps])
        return
    for number, step in enumerate(steps, start=1):
        typer.echo(f"{number:3}. {step.label:34} {step.state:10} {step.detail}".rstrip())


@app.command()
def init(
    model: Annotated[Path, typer.Argument(help="The trained model.")],
    data: Annotated[Path, typer.Argument(help="An .npz, or a folder with train/ and test/ (or classes) in it.")],
    out: Annotated[Path, typer.Option(help="The config to write.")] = Path("edgesmith.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    as_json: Json = False,
) -> None:
    """Writes a config for a model and its data."""
    from edgesmith.starter import write_starter

    lines = write_starter(model, data, out, force=force)
    if as_json:
        _print_json({"written": str(out)})
        return
    for line in lines:
        typer.echo(line)


@app.command()
def targets(as_json: Json = False) -> None:
    """The runtimes edgesmith compiles for, with their state here."""
    from edgesmith.doctor.machine import target_rows

    rows = target_rows()
    if as_json:
        _print_json([row.as_dict() for row in rows])
        return
    for row in rows:
        typer.echo(f"{row.name:14} {'available' if row.ok else 'unavailable':12} {row.text}")
        if row.fix:
            typer.echo(f"{'':14} {'':12} {row.fix}")


@app.command()
def techniques(as_json: Json = False) -> None:
    """What a recipe can be made of."""
    import optimizer.techniques as known

    rows = [{"name": name, "summary": known.get(name).SUMMARY} for name in known.names()]
    if as_json:
        _print_json([{**row, "parameters": known.get(row["name"]).Params.model_json_schema()} for row in rows])
        return
    for row in rows:
        typer.echo(f"{row['name']:20} {row['summary']}")
        for name, field in known.get(row["name"]).Params.model_fields.items():
            typer.echo(f"{'':20}   {name}: {field.description or ''} (default {field.get_default()!r})")


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="One of them: its steps, as they would stand in a config.")] = None,
    as_json: Json = False,
) -> None:
    """Recipes with a name: `recipe: balanced`."""
    from optimizer.recipes import READY, get, written_out

    if as_json:
        chosen = {name: get(name)} if name else READY
        rows = [
            {"name": key, "summary": ready.summary, "needs": ready.needs, "steps": ready.steps}
            for key, ready in chosen.items()
        ]
        _print_json(rows)
    elif name:
        typer.echo(f"# {get(name).summary}\n# needs {get(name).needs}\n{written_out(name)}")
    else:
        for key, ready in READY.items():
            typer.echo(f"{key:17} {ready.summary}\n{'':17} needs {ready.needs}")


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(help="A run folder, or runs/latest.")] = Path("runs/latest"),
    as_json: Json = False,
) -> None:
    """Shows a finished run again and writes its reports anew; ends with the run's own exit code."""
    from edgesmith.report import write_reports
    from edgesmith.result import read_result

    result = read_result(run_folder / "result.json")
    write_reports(result, run_folder)
    _print_result(result, run_folder, as_json=as_json)


def _run_and_print(loaded: LoadedConfig, options: RunOptions, *, quiet: bool, as_json: bool) -> None:
    from edgesmith import pipeline
    from edgesmith.report.console import ConsoleProgress

    result, folder = pipeline.run(loaded, options, ConsoleProgress(quiet=quiet or as_json))
    _print_result(result, folder, as_json=as_json)


def _print_result(result: Result, folder: Path, *, as_json: bool) -> None:
    if as_json:
        typer.echo(result.model_dump_json(indent=2))
    else:
        from edgesmith.report.console import print_result

        print_result(result, folder)
    raise typer.Exit(result.exit_code or 0)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, allow_nan=False, default=str))


def _on_sigterm(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise Terminated


def main() -> None:
    """The console script: every error becomes a message and its exit code; no traceback reaches a user."""
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        code = app(standalone_mode=False)
    except EdgesmithError as error:
        _complain(f"{type(error).__name__}: {error}")
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except OSError as error:
        _complain(f"InfrastructureError: {error.filename or 'this machine'}: {error.strerror or error}.")
        code = InfrastructureError.exit_code
    except Exception as error:  # noqa: BLE001 - the last door: what comes here is told as a defect
        code = _usage_or_defect(error)
    except Terminated:
        _complain("Terminated. What was done is kept: `edgesmith run --resume` goes on.")
        code = EXIT_TERMINATED
    if code == EXIT_INTERRUPTED:  # also where typer itself turned Ctrl-C into this code
        _complain("Interrupted. What was done is kept: `edgesmith run --resume` goes on.")
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code if isinstance(code, int) else 0)


def _usage_or_defect(error: Exception) -> int:
    """A wrong call is told by click itself and is the user's (2); anything else is ours (70)."""
    show = getattr(error, "show", None)
    if callable(show):
        show()
        return 2
    from edgesmith.errors import InternalError

    if os.environ.get("EDGESMITH_DEBUG"):
        raise error
    _complain(
        f"InternalError: a defect of edgesmith: {type(error).__name__}: {error}\n"
        "Please report it. EDGESMITH_DEBUG=1 shows where it happened."
    )
    return InternalError.exit_code


def _complain(text: str) -> None:
    typer.echo(text, err=True)


if __name__ == "__main__":
    main()
