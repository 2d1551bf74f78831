"""`edgesmith compare`. Parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgesmith.cli_options import Json, Quiet, print_json


def compare(
    first: Annotated[Path, typer.Argument(help="The reference. With --per-layer: the float Keras or ONNX model.")],
    second: Annotated[Path, typer.Argument(help="The one in question. With --per-layer: its .tflite or .onnx.")],
    data: Annotated[
        str,
        typer.Option(
            help="Real samples: an .npz with x, an image folder, package.module:function, or a config, whose "
            "evaluation set is taken."
        ),
    ],
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="Every tensor inside, and the first layer that goes wrong.")
    ] = False,
    samples: Annotated[int, typer.Option(min=1, help="At most so many, spread over the classes.")] = 32,
    min_sqnr_db: Annotated[
        float | None,
        typer.Option(
            help="Below this a layer (or the output) is bad. Given here, exit code 1 says that one is; without it the "
            "bound is what `run` asks of the artifact's precision (int8: 10 dB), and the exit code stays 0."
        ),
    ] = None,
    repro: Annotated[
        Path, typer.Option(help="With --per-layer: folder that the first bad layer is written to.")
    ] = Path("edgesmith-repro"),
    no_repro: Annotated[bool, typer.Option("--no-repro", help="Write no such folder.")] = False,
    plan: Annotated[
        Path | None,
        typer.Option(
            help="With --per-layer: folder of the quantization plan that the artifact follows (RUNS/.cache/plan/KEY). "
            "Layers that it scaled are then compared as it scaled them."
        ),
    ] = None,
    allow_lambda: Annotated[
        bool, typer.Option("--allow-lambda", help="Open Keras Lambda layers: they run code of the file.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """How far one model is from another: at the outputs, or layer by layer with --per-layer.

    Exit code 1: something is below --min-sqnr-db, only where that is given. 2: a file or the samples cannot be used.
    """
    from edgesmith.comparing import compare_outputs, compare_per_layer
    from edgesmith.report.console import ConsoleProgress
    from edgesmith.report.per_layer import print_layers, print_outputs

    progress = ConsoleProgress(quiet=quiet or as_json)
    if per_layer:
        layers = compare_per_layer(
            first,
            second,
            data,
            samples=samples,
            min_sqnr_db=min_sqnr_db,
            repro=None if no_repro else repro,
            progress=progress,
            plan=plan,
            allow_lambda=allow_lambda,
        )
        broken = min_sqnr_db is not None and layers.found.first_bad is not None
        print_json(layers.as_dict()) if as_json else print_layers(layers.found, layers.repro)
    else:
        outputs = compare_outputs(
            first,
            second,
            data,
            samples=samples,
            min_sqnr_db=min_sqnr_db,
            progress=progress,
            allow_lambda=allow_lambda,
        )
        broken = outputs.below
        print_json(outputs.as_dict()) if as_json else print_outputs(outputs.comparison, min_sqnr_db)
    raise typer.Exit(1 if broken else 0)
