"""`edgesmith transfer` on the command line. Parse, call, print."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from edgesmith.cli_options import Json, Quiet, print_json


class Method(enum.StrEnum):
    """How the budget is spent."""

    FILTERS = "filters"
    CHANNELS = "channels"
    FULL = "full"
    LAST_LAYER = "last-layer"


class Criterion(enum.StrEnum):
    """How channels are judged."""

    L1 = "l1"
    TAYLOR = "taylor"


def transfer(
    backbone: Annotated[Path, typer.Argument(help="A trained Keras model: .keras, or whole-model .h5.")],
    data: Annotated[Path, typer.Argument(help="Of the new task: an .npz with x and y, or a folder of classes.")],
    train_flops: Annotated[float, typer.Option(min=1.0, help="The most that training may cost, e.g. 1e13.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .keras file to write.")] = Path("transferred.keras"),
    method: Annotated[
        Method, typer.Option(help="Narrow inside blocks, narrow everywhere, train all as it is, or the head alone.")
    ] = Method.FILTERS,
    classes: Annotated[int | None, typer.Option(min=2, help="Default: as many as the data has.")] = None,
    keep: Annotated[
        float | None,
        typer.Option(min=0.01, max=0.99, help="Share of the multiply-accumulates that narrowing leaves; default 0.65, "
                     "or what the network allows."),
    ] = None,
    criterion: Annotated[Criterion, typer.Option(help="What channels are judged by.")] = Criterion.L1,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples in a training step.")] = 16,
    learning_rate: Annotated[float, typer.Option(min=1e-8, help="Of Adam at the start; it falls to zero.")] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn.")] = 0,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Brings a trained network to a new task within a training budget, and says what was spent and what it gave.

    A fifth of the data is held out for the accuracy, as `edgesmith init` parts it.
    """
    from edgesmith.report.console import ConsoleProgress
    from edgesmith.transferring import bring
    from optimizer.transfer.methods import Settings

    settings = Settings(
        method=method.value,
        train_flops=train_flops,
        keep=keep,
        criterion=criterion.value,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    progress = ConsoleProgress(quiet=quiet or as_json)
    brought = bring(backbone, data, out, classes=classes, settings=settings, progress=progress)
    if as_json:
        print_json(brought.record)
        return
    for line in brought.lines:
        typer.echo(line)
