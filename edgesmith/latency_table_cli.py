"""`edgesmith latency-table`. Parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgesmith.cli_options import DevicesFile, Json, Quiet, print_json
from edgesmith.types import Scheme


def latency_table(
    model: Annotated[Path, typer.Argument(help="A Keras model, as wide as it will ever be.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The table to write.")] = Path("latency_table.json"),
    device: Annotated[str, typer.Option("--device", "-d", help="What to measure on.")] = "local",
    target: Annotated[str, typer.Option(help="What to compile for.")] = "tflite",
    scheme: Annotated[Scheme, typer.Option(help="How numbers are stored and computed.")] = Scheme.INT8,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    step: Annotated[int, typer.Option(min=1, help="Channels that the board's kernels compute together.")] = 8,
    points: Annotated[int, typer.Option(min=2, help="Widths to measure of each kind of layer, on each side.")] = 4,
    minutes: Annotated[float, typer.Option(min=0.1, help="Stop after so long; the next call goes on.")] = 60.0,
    runs_dir: Annotated[Path, typer.Option(help="What is measured is kept below it.")] = Path("runs"),
    devices_file: DevicesFile = None,
    lease_wait: Annotated[
        float, typer.Option(min=0.0, help="Seconds to wait for a board that somebody else holds.")
    ] = 600.0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measures a network's layers by their widths on a device, for `prune_channels: {budget: latency}`."""
    from device_tests.inventory import find_inventory, load_inventory
    from edgesmith.latency_tables import Settings, make_table
    from edgesmith.report.console import ConsoleProgress

    board = load_inventory(devices_file or find_inventory(None)).get(device)
    settings = Settings(
        target=target,
        scheme=scheme,
        threads=threads,
        step=step,
        points=points,
        deadline_s=60.0 * minutes,
        lease_wait_s=lease_wait,
    )
    made = make_table(model, board, out, settings, runs_dir=runs_dir, progress=ConsoleProgress(quiet=quiet or as_json))
    if as_json:
        print_json({"table": str(out), "networks_measured": made.measured, "networks_kept": made.kept, **made.document})
        return
    typer.echo(
        f"{out}: {made.kinds} kinds of layers from {made.measured + made.kept} small networks "
        f"({made.kept} of them measured before). The whole network takes {made.network_ms:.3f} ms on {board.name}; its "
        f"layers add up to {made.layers_ms:.3f} ms by the table."
    )
