"""What a person sees on a console: the result when it is done, and, from `edgesmith.report.live`, progress before that.

Names from a config or a board are printed as they are, never read as markup.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from edgesmith.report import figures, gate, quantization, statement
from edgesmith.report.columns import Column, Columns
from edgesmith.report.figures import Row, one_line
from edgesmith.report.live import ConsoleProgress
from edgesmith.report.parity import parity_lines
from edgesmith.result import AccuracyRecord, Result, StepRecord

__all__ = ["ConsoleProgress", "print_result"]

_STYLES = {
    "PASS": "bold green",
    "FAIL": "bold red",
    "INCONCLUSIVE": "bold yellow",
    "ERROR": "bold magenta",
    statement.NO_VERDICT: "bold yellow",
    "error": "red",
    "warning": "yellow",
    "info": "dim",
}


def print_result(result: Result, run_dir: Path | None = None, *, console: Console | None = None) -> None:
    """Prints a result, the verdict first. A figure that could not be had is n/a, with the reason below the table.

    Args:
        result: what to show.
        run_dir: names the path of the report at the end.
        console: where to, default stdout; 100 columns hold everything, a narrower one drops columns and says which.
    """
    console = console or _default_console()
    _print_headline(result, console)
    _print_gate(result, console)
    if result.results:
        _print_figures(result, console)
    _print_parity(result, console)
    _print_remarks(result, console)
    _print_quantization(result, console)
    if result.steps:
        _print_steps(result.steps, console)
    console.print()
    console.print(Text.assemble(("Work   ", "bold"), statement.work_sentence(result)))
    if run_dir is not None:
        report = run_dir / "report.html"
        console.print(Text.assemble(("Report ", "bold"), str(report if report.exists() else run_dir)), soft_wrap=True)


def _default_console() -> Console:
    """A log of a CI has no width: it gets the one that holds every column."""
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=100)


def _print_headline(result: Result, console: Console) -> None:
    head = statement.headline(result)
    console.print()
    console.print(Text.assemble((head.word, _STYLES[head.word]), "  ", " ".join(head.sentences)))
    if budget := statement.budget_sentence(result):
        console.print(Text(f"Budget: {budget}", style="dim"))
    for warning in statement.alarms(result):
        console.print(Text(warning, style="bold white on red"))


def _print_gate(result: Result, console: Console) -> None:
    if not result.gate:
        return
    console.print()
    for record in result.gate:
        style = (
            "red" if record.outcome in gate.RED | gate.LOST else "yellow" if record.outcome in gate.UNDECIDED else ""
        )
        console.print(Text.assemble((record.outcome, style or "green"), f"  {gate.where(record)}"))
        for text in gate.texts(record):
            _indented(console, Text(one_line(text)), 3)


_SHOWN = ("size", "latency", "p50", "p95", "speed-up", "accuracy", "accuracy drop", "agreement", "peak RSS")


def _print_figures(result: Result, console: Console) -> None:
    rows = [r for rows in figures.rows_by_device(result).values() for r in rows]
    metric, unit = _metric([r.record.accuracy for r in rows])
    columns = Columns(
        (
            Column("variant", "model", left=True),
            Column("p50", "p50", "ms"),
            Column("p95", "p95", "ms", spare=3),
            Column("speedup", "speed-", "up", spare=1),
            Column("size", "size", spare=2),
            Column("gzip", "gzip", spare=6),
            Column("accuracy", metric, unit),
            Column("drop", "drop", "pp"),
            Column("agreement", "agree", "%", spare=4),
            Column("peak_rss", "peak RSS", spare=5),
            Column("verdict", "verdict", left=True),
        ),
        [_cells(r) for r in rows],
        console.width,
    )
    console.print()
    for header in columns.header():
        console.print(Text(header.rstrip(), style="dim"), no_wrap=True)
    for _, group in itertools.groupby(rows, key=lambda r: (r.record.device, r.record.target)):
        _print_group(tuple(group), columns, console)
    notes = figures.reasons(result, only=_SHOWN)
    if columns.dropped:
        notes = (f"No room here for {', '.join(columns.dropped)}: see the report.", *notes)
    for note in notes:
        _indented(console, Text(note, style="dim"), 1)


def _print_group(rows: tuple[Row, ...], columns: Columns, console: Console) -> None:
    """Float and compressed on one board and target; what marks all of them stands in the heading."""
    record = rows[-1].record
    shared = tuple(m for m in rows[0].marks if all(m in r.marks for r in rows))
    heading = Text.assemble((f"{one_line(record.device)} · {one_line(record.target)}", "bold"))
    if record.runner:
        threads = f", {record.threads} thread{'' if record.threads == 1 else 's'}" if record.threads else ""
        heading.append(f"  {one_line(record.runner)}{threads}", style="dim")
    if shared:
        heading.append(f"  {', '.join(shared)}", style="yellow")
    console.print(heading)
    for row in rows:
        cells = _cells(row)
        line = Text(columns.line(cells))
        if row.verdict:
            line.stylize(_STYLES[row.verdict], line.plain.rindex(row.verdict))
        line.rstrip()
        console.print(line, no_wrap=True)
        if own := [m for m in row.marks if m not in shared]:
            _indented(console, Text(", ".join(own), style="yellow"), 3)


def _cells(row: Row) -> dict[str, str]:
    return {
        "variant": row.record.variant,
        "p50": row.p50,
        "p95": row.p95,
        "speedup": row.speedup,
        "size": row.size,
        "gzip": row.gzip,
        "accuracy": row.accuracy,
        "drop": row.drop,
        "agreement": row.agreement,
        "peak_rss": row.peak_rss,
        "verdict": row.verdict,
    }


def _metric(records: Iterable[AccuracyRecord | None]) -> tuple[str, str]:
    """Head and unit of the accuracy column."""
    metrics = sorted({r.metric for r in records if r})
    unit = "%" if metrics and all(figures.is_fraction(m) for m in metrics) else ""
    return one_line("/".join(metrics)) or "accuracy", unit


def _print_parity(result: Result, console: Console) -> None:
    lines = parity_lines(result)
    if lines:
        console.print()
        console.print(Text("Same artifact, element by element", style="bold"))
    for line in lines:
        style = "dim" if line.identical else ""
        _indented(console, Text(f"{line.artifact}: {line.text}", style=style), 1)


def _print_remarks(result: Result, console: Console) -> None:
    found = statement.remarks(result)
    if found:
        console.print()
        console.print(Text("Findings", style="bold"))
    for remark in found:
        finding = remark.finding
        where = f" ({remark.where})" if remark.where else ""
        _indented(console, Text.assemble((finding.severity, _STYLES[finding.severity]), f"  {finding.text}{where}"), 1)
        if finding.next_step:
            _indented(console, Text(f"-> {finding.next_step}"), 4)


def _print_quantization(result: Result, console: Console) -> None:
    lines = quantization.lines(result)
    if lines:
        console.print()
        console.print(Text("Quantization", style="bold"))
    for line in lines:
        _indented(console, Text(line), 1)


def _print_steps(steps: Sequence[StepRecord], console: Console) -> None:
    rows = [
        {
            "step": one_line(step.name),
            "size": figures.byte_size(step.size_bytes),
            "gzip": figures.byte_size(step.gzip_bytes),
            "packed": figures.byte_size(step.packed_bytes),
            "macs": figures.count(step.macs),
            "parameters": figures.count(step.parameters),
            "zeros": figures.percent(step.sparsity),
            "accuracy": figures.accuracy_text(step.accuracy),
            "agreement": figures.percent(step.agreement),
            "time": "cached" if step.cached else figures.seconds(step.seconds),
        }
        for step in steps
    ]
    metric, unit = _metric([s.accuracy for s in steps])
    columns = Columns(
        (
            Column("step", "step", left=True),
            Column("size", "size"),
            Column("gzip", "gzip", spare=2),
            *([Column("packed", "packed", spare=6)] if figures.has_packed(steps) else []),
            Column("macs", "MACs", spare=4),
            Column("parameters", "parameters", spare=3),
            Column("zeros", "zeros", "%"),
            Column("accuracy", metric, unit),
            Column("agreement", "agree", "%", spare=1),
            Column("time", "time", spare=5),
        ),
        rows,
        console.width,
    )
    console.print()
    console.print(Text("Recipe, step by step (on this machine, before compiling)", style="bold"))
    for header in columns.header():
        console.print(Text(header.rstrip(), style="dim"), no_wrap=True)
    for row in rows:
        console.print(Text(columns.line(row)), no_wrap=True)
    for note in figures.step_reasons(steps):
        _indented(console, Text(note, style="dim"), 1)


def _indented(console: Console, text: Text, by: int) -> None:
    console.print(Padding(text, (0, 0, 0, by), expand=False))
