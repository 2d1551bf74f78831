"""Options that verbs share, and the one way JSON is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
DevicesFile = Annotated[Path | None, typer.Option(help="A devices.yaml; default: the one here, then the user's.")]

PowerMode = Annotated[
    str | None, typer.Option(help="Of a Jetson, by name, e.g. MAXN: set for the measurement, put back after it.")
]
LockClocks = Annotated[bool, typer.Option("--lock-clocks", help="Hold a Jetson's clocks still meanwhile.")]


def print_json(value: Any) -> None:
    """One document on stdout; NaN and infinity are refused, since readers in other languages refuse them."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False, default=str))
