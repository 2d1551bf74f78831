"""What a person sees of `edgesmith compare`."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from edgesmith.report.columns import Column, Columns
from edgesmith.report.figures import one_line, percent, significant
from edgesmith.types import Comparison
from optimizer.per_layer import PerLayer, TensorRow

_COLUMNS = (
    Column("layer", "layer", left=True),
    Column("kind", "op", left=True, spare=2),
    Column("sqnr", "SQNR", "dB"),
    Column("own", "own", "dB"),
    Column("float", "float range"),
    Column("held", "artifact", "holds"),
    Column("grid", "scale,", "zero point", spare=1),
    Column("saturated", "satu-", "rated"),
    Column("dead", "dead", "channels"),
    Column("mark", "", left=True),
)
_LONGEST = 34


def print_outputs(comparison: Comparison, min_sqnr_db: float | None, *, console: Console | None = None) -> None:
    """Two models at their outputs.

    Args:
        comparison: of them.
        min_sqnr_db: the bound; None where there is none.
        console: where to; default stdout.
    """
    console = console or _default_console()
    agreement = comparison.top1_agreement
    console.print(
        f"SQNR {_db(comparison.sqnr_db)} dB   cosine {comparison.cosine:.6f}   "
        f"max abs {significant(comparison.max_abs)}   "
        f"top-1 agreement {percent(agreement)} %   {comparison.n} samples",
        soft_wrap=True,
    )
    if min_sqnr_db is not None and not comparison.sqnr_db >= min_sqnr_db:
        console.print(Text(f"Below the bound of {min_sqnr_db:g} dB.", style="bold red"))


def print_layers(found: PerLayer, repro: Path | None, *, console: Console | None = None) -> None:
    """One line for each tensor, then what they say.

    Args:
        found: the comparison.
        repro: folder with the first bad layer; None where none was written.
        console: where to; default stdout.
    """
    console = console or _default_console()
    first, noisiest = found.first_bad, found.noisiest
    cells = [_cells(row, first=row is first) for row in found.rows]
    columns = Columns(_COLUMNS, cells, console.width)
    for line in columns.header():
        console.print(Text(line.rstrip(), style="dim"), soft_wrap=True)
    for row, cell in zip(found.rows, cells, strict=True):
        style = "bold red" if row is first else "red" if row.bad else ""
        console.print(Text(columns.line(cell).rstrip(), style=style), soft_wrap=True)
    console.print()
    for sentence in _sentences(found, first, noisiest, columns.dropped):
        console.print(Text(sentence), soft_wrap=True)
    if repro is not None:
        console.print(Text(f"Repro: {repro}", style="bold"), soft_wrap=True)


def _sentences(
    found: PerLayer, first: TensorRow | None, noisiest: TensorRow | None, dropped: Sequence[str]
) -> list[str]:
    said = []
    if first is None:
        said.append(
            f"No tensor is below {found.min_sqnr_db:g} dB: {len(found.rows)} compared over {found.samples} samples."
        )
    else:
        said.append(
            f"First bad layer: {one_line(first.layer)} ({first.kind}), {_db(first.sqnr_db)} dB, bound "
            f"{found.min_sqnr_db:g} dB. {_why(first)}".rstrip()
        )
        said.append(f"Its tensor: {one_line(first.tensor)}; in the artifact: {one_line(first.artifact_tensor)}.")
    if noisiest is not None and noisiest.own_sqnr_db is not None and math.isfinite(noisiest.own_sqnr_db):
        said.append(
            f"Most noise of its own: {one_line(noisiest.layer)} ({noisiest.kind}), {_db(noisiest.own_sqnr_db)} dB."
        )
    if any(row.rescaled for row in found.rows):
        said.append(
            "'rescaled': channels hold the float values times a factor each, which the next layer takes out; "
            "SQNR is told without the factors."
        )
    if any(row.matched == "place" for row in found.rows):
        said.append("'by place': paired by the order of computing alone, which is a guess.")
    if found.missing:
        said.append(f"{len(found.missing)} tensors of the float model have no twin in the artifact: fused, or renamed.")
    if dropped:
        said.append(f"No room for: {', '.join(dropped)}; widen the console or use --json.")
    return said


def _why(row: TensorRow) -> str:
    """What the row itself says of its cause."""
    if row.saturated_share > 0.001:
        return f"{row.saturated:,} of {row.values:,} values are cut off at the end of its range."
    if row.dead_channels:
        return f"{row.dead_channels} of {row.channels} channels are dead."
    if row.own_sqnr_db is None:
        return ""
    if row.own_sqnr_db >= row.sqnr_db + 6.0:
        return "It adds little itself: what reaches it is off."
    return "What reaches it is sound: its own weights, bias or scales are off."


def _cells(row: TensorRow, *, first: bool) -> dict[str, str]:
    grid = row.grid
    marks = ["<- first bad" if first else "bad" if row.bad else ""]
    marks += ["rescaled"] if row.rescaled else []
    marks += ["by place"] if row.matched == "place" else []
    return {
        "layer": _short(one_line(row.layer)),
        "kind": row.kind,
        "sqnr": _db(_shown_sqnr(row)),
        "own": "-" if row.own_sqnr_db is None else _db(row.own_sqnr_db),
        "float": _range(*row.float_range),
        "held": _range(*((grid.low, grid.high) if grid else row.artifact_range)),
        "grid": f"{grid.scale:.3g}, {grid.zero_point}" if grid else "float",
        "saturated": _share(row.saturated_share),
        "dead": f"{row.dead_channels} of {row.channels}" if row.dead_channels else "-",
        "mark": ", ".join(filter(None, marks)),
    }


def _shown_sqnr(row: TensorRow) -> float:
    """Of a rescaled tensor, what is left once the factors are known."""
    return row.rescaled_sqnr_db if row.rescaled and math.isfinite(row.rescaled_sqnr_db) else row.sqnr_db


def _share(share: float) -> str:
    return "-" if share == 0.0 else f"{share:.2%}" if share >= 0.0001 else "<0.01%"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"...{text[3 - _LONGEST :]}"


def _range(low: float, high: float) -> str:
    return " .. ".join(f"{end:.2g}" if 0.0 < abs(end) < 0.001 else significant(end) for end in (low, high))


def _db(value: float) -> str:
    return "same" if value == math.inf else "NaN" if value == -math.inf else f"{value:.1f}"


def _default_console() -> Console:
    """A log of a CI has no width: it gets one that holds every column."""
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=120)
