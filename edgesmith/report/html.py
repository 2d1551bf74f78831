"""report.html: one file that needs no network, no script and no font of its own."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from edgesmith.report import (
    engines,
    figures,
    float_layers,
    gate,
    plots,
    power,
    quantization,
    quantization_plots,
    statement,
)
from edgesmith.report.checks import Check, checks
from edgesmith.report.figures import Row, one_line
from edgesmith.report.parity import parity_lines
from edgesmith.result import BoardRecord, EnvironmentRecord, Result
from edgesmith.types import Validity, Verdict
from targets.board_runtime import shown

SYMBOLS = {"PASS": "✓", "FAIL": "✗", "INCONCLUSIVE": "?", "ERROR": "!", statement.NO_VERDICT: "…"}


@dataclass(frozen=True, slots=True)
class Tile:
    """One big figure over all boards: lowest to highest where they differ."""

    label: str
    value: str
    under: str


@dataclass(frozen=True, slots=True)
class DeviceView:
    """What the page shows of one device."""

    name: str
    rows: tuple[Row, ...]
    checks: tuple[Check, ...]
    board: BoardRecord | None
    pictures: tuple[plots.Plot, ...]
    notes: tuple[str, ...]
    surroundings: tuple[tuple[str, ...], ...]
    machine: str
    power_mode: str
    power_mode_told: str
    is_open: bool
    engines: tuple[engines.EngineView, ...]


MOST_DEVIATIONS = 300
"""Rows with one cause, of one file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationView:
    """What the page shows of the quantization plan, beside the record itself."""

    facts: tuple[tuple[str, str], ...]
    prices: tuple[str, ...]
    pictures: tuple[plots.Plot, ...]
    how_to_get_plots: str
    legend: tuple[tuple[str, int], ...]
    exceptions: tuple[quantization.LayerException, ...]
    has_drops: bool
    reasons: tuple[str, ...]
    deviations: tuple[quantization.ArtifactDeviations, ...]
    faithful: tuple[str, ...]
    most_deviations: int


def render_html(result: Result, run_dir: Path) -> str:
    """The page.

    Args:
        result: what it is about.
        run_dir: where the raw samples lie that the result names.
    """
    views, how_to_get_plots = _devices(result, run_dir)
    page = _environment().get_template("report.html.j2")
    return page.render(
        result=result,
        head=statement.headline(result),
        symbols=SYMBOLS,
        budget=statement.budget_sentence(result),
        alarms=statement.alarms(result),
        tiles=_tiles(result),
        devices=views,
        quantization=_quantization(result),
        has_energy=any(r.energy_mj is not None for r in result.results),
        energy_means=power.meaning(result),
        accuracy_head=_accuracy_head(result),
        reasons=figures.reasons(result),
        step_reasons=figures.step_reasons(result.steps),
        has_packed=figures.has_packed(result.steps),
        remarks=statement.remarks(result),
        parity=parity_lines(result),
        held=[(record, gate.where(record), gate.texts(record)) for record in result.gate],
        colours=plots.target_colours(result),
        how_to_get_plots=how_to_get_plots,
        how_measured=_how_measured(result),
        work=statement.work_sentence(result),
        artifacts=tuple({r.artifact.sha256: r.artifact for r in result.results if r.artifact}.values()),
    )


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_text,
    )
    environment.filters.update(
        bytes=figures.byte_size,
        count=figures.count,
        percent=figures.percent,
        ms=figures.milliseconds,
        sig=figures.significant,
        duration=figures.seconds,
        points=figures.points,
        decibels=figures.decibels,
        hash=figures.short_hash,
        accuracy=figures.accuracy_text,
        params=_params,
        when=_when,
        runtimes=shown,
    )
    environment.globals["interval"] = _interval
    return environment


def _text(value: Any) -> Any:
    """Text from configs and boards without control characters; what is markup already stays."""
    return figures.printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _devices(result: Result, run_dir: Path) -> tuple[tuple[DeviceView, ...], str]:
    by_device = figures.rows_by_device(result)
    how_to_get_plots = ""
    views = []
    for device, rows in by_device.items():
        drawn = plots.DevicePlots((), ())
        if not how_to_get_plots:
            try:
                drawn = plots.draw(device, result, run_dir)
            except ImportError:
                how_to_get_plots = plots.HOW_TO_GET_PLOTS
        views.append(
            DeviceView(
                name=device,
                rows=rows,
                checks=tuple(c for r in rows for c in checks(r.record, result)),
                board=next((r.record.board for r in rows if r.record.board), None),
                pictures=drawn.plots,
                notes=drawn.notes,
                machine=_machine(next((r.record.board for r in rows if r.record.board), None)),
                power_mode=power.mode_mark(rows),
                power_mode_told=power.mode_sentence(rows),
                surroundings=_surroundings(rows),
                engines=engines.views(rows),
                # A long list of boards opens where something is to be seen.
                is_open=len(by_device) <= 3 or any(r.verdict not in ("", Verdict.PASS.value) for r in rows),
            )
        )
    return tuple(views), how_to_get_plots


def _quantization(result: Result) -> QuantizationView | None:
    record = result.quantization
    if record is None:
        return None
    pictures: tuple[plots.Plot, ...] = ()
    legend: tuple[tuple[str, int], ...] = ()
    how_to_get_plots = ""
    try:
        pictures = quantization_plots.draw(record)
    except ImportError:
        how_to_get_plots = plots.HOW_TO_GET_PLOTS
    else:
        legend = tuple(
            (name, quantization_plots.SERIES_OF[name]) for name in quantization_plots.drawn_precisions(record)
        )
    return QuantizationView(
        facts=quantization.facts(record),
        prices=float_layers.price_lines(result),
        pictures=pictures,
        how_to_get_plots=how_to_get_plots,
        legend=legend,
        exceptions=quantization.exceptions(record),
        has_drops=any(row.drop_pp is not None for row in record.layers),
        reasons=quantization.reasons(record),
        deviations=quantization.deviations(result),
        faithful=quantization.without_deviations(result),
        most_deviations=MOST_DEVIATIONS,
    )


def _machine(board: BoardRecord | None) -> str:
    if board is None:
        return ""
    cores = f"{board.cores} core{'' if board.cores == 1 else 's'}"
    memory = f"{figures.byte_size(board.memory_bytes)} memory" if board.memory_bytes else ""
    return ", ".join(part for part in (board.model, board.cpu, board.machine, cores, memory) if part)


def _tiles(result: Result) -> tuple[Tile, ...]:
    """The gains over the boards whose figures may be judged."""
    rows = [r for r in result.results if r.variant == "compressed" and r.validity is Validity.VALID]
    real = [r for r in rows if not r.emulated and not r.fake]
    shrunk = []
    for record in rows:
        twin = figures.float_twin(record, result)
        if record.artifact and twin and twin.artifact:
            shrunk.append(twin.artifact.size_bytes / record.artifact.size_bytes)
    faster = [r.speedup_p50 for r in real if r.speedup_p50 is not None]
    lost = [r.accuracy_drop_pp for r in rows if r.accuracy_drop_pp is not None]
    agreed = [r.agreement for r in rows if r.agreement is not None]
    return tuple(
        Tile(label, _range(values, show), f"{under}{len(values)} artifact{'' if len(values) == 1 else 's'}")
        for label, values, show, under in (
            ("Speed-up", faster, figures.factor, "at p50, "),
            ("Smaller file", shrunk, figures.factor, ""),
            ("Accuracy drop", lost, lambda v: f"{figures.points(v)} pp", "against float, "),
            ("Agreement", agreed, lambda v: f"{figures.percent(v)} %", "with the original, "),
        )
        if values
    )


def _range(values: list[float], show: Any) -> str:
    low, high = show(min(values)), show(max(values))
    if low == high:
        return str(low)
    number, _, unit = low.partition(" ")
    short = number if unit and high.endswith(unit) else low.removesuffix(figures.TIMES)
    return f"{short} – {high}"  # noqa: RUF001 - the dash of a range


def _accuracy_head(result: Result) -> str:
    metrics = sorted({r.accuracy.metric for r in result.results if r.accuracy})
    unit = ", %" if metrics and all(map(figures.is_fraction, metrics)) else ""
    return f"{'/'.join(metrics) or 'Accuracy'}{unit}"


def _surroundings(rows: tuple[Row, ...]) -> tuple[tuple[str, ...], ...]:
    lines = []
    for r in rows:
        before, after = r.record.environment_before, r.record.environment_after
        if before is None and after is None:
            continue
        lines.append((f"{r.record.target} {r.record.variant}", *_before_after(before, after)))
    return tuple(lines)


def _before_after(before: EnvironmentRecord | None, after: EnvironmentRecord | None) -> tuple[str, ...]:
    def cell(name: str, show: Any = str, unit: str = "") -> str:
        texts = []
        for moment in (before, after):
            value = getattr(moment, name) if moment else None
            texts.append(figures.NA if value is None else one_line(show(value)))
        if texts == [figures.NA, figures.NA]:
            return figures.NA
        return f"{texts[0] if texts[0] == texts[1] else ' → '.join(texts)}{unit}"

    return (
        cell("temperature_c", lambda v: f"{v:.1f}", " °C"),
        cell("clock_khz", lambda v: f"{v / 1000:.0f}", " MHz"),
        cell("governor"),
        cell("throttled"),
        cell("load_1m", lambda v: f"{v:.2f}"),
        cell("memory_available_bytes", figures.byte_size),
    )


def _how_measured(result: Result) -> str:
    timed = [r for r in result.results if r.latency_ms]
    if not timed:
        return "Nothing was timed in this run."
    counts = sorted(r.latency_ms.n for r in timed if r.latency_ms)
    overheads = sorted({r.timer_overhead_ns for r in timed if r.timer_overhead_ns is not None})
    protocol = result.measure
    turns = f" in {protocol['windows']:g} turns (A B A B …)" if "windows" in protocol else " in turns (A B A B …)"
    floor = (
        f", each for at least {protocol['min_runs']:g} runs and {protocol['min_seconds']:g} s"
        if {"min_runs", "min_seconds"} <= protocol.keys()
        else ""
    )
    cap = f" (at most {protocol['warmup_max_seconds']:g} s)" if "warmup_max_seconds" in protocol else ""
    what = "Latency is the time for inputs in, invoke and outputs out, taken on the board itself, on real evaluation"
    sentences = [
        f"{what} samples, after a warm-up until the moving median was flat{cap}.",
        f"The artifacts of one board ran in one lease{turns}{floor}; "
        + (f"{counts[0]:,} runs each." if counts[0] == counts[-1] else f"{counts[0]:,} to {counts[-1]:,} runs each."),
        "Every run is kept in nanoseconds; a percentile that their number cannot support is left out.",
    ]
    if overheads:
        span = f"{overheads[0]}" if len(overheads) == 1 else f"{overheads[0]} to {overheads[-1]}"
        sentences.append(f"Reading the clock twice costs {span} ns: stated, not subtracted.")
    if any(r.engine is not None and r.engine.builder for r in timed):
        sentences.append(
            "Where NVIDIA's trtexec built and timed an engine alone, latency is its own figure: inputs to the GPU, "
            "computing and outputs back added up, each window a process of its own with one sample, and no outputs."
        )
    sentences.append("Accuracy and agreement come from the outputs of the same artifact on the same board.")
    if any(r.emulated for r in result.results):
        sentences.append("On an emulated board the times are emulation time: shown, never judged.")
    if any(r.fake and not statement.is_stand_in(r) for r in result.results):
        sentences.append("On a FAKE board the times are scripted; only its outputs are real, from this machine.")
    return " ".join(sentences)


def _interval(low: float | None, high: float | None) -> str:
    """A 95 % interval for a tooltip."""
    return "" if low is None or high is None else f"95 % interval {low:.4g} to {high:.4g}"


def _params(params: dict[str, Any]) -> str:
    """What is set; what is left open says nothing."""
    return ", ".join(f"{key} {_value(value)}" for key, value in params.items() if value not in (None, []))


def _value(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _when(moment: str | None) -> str:
    """2026-11-22T10:00:31Z -> 2026-11-22 10:00:31 UTC; anything else as it is."""
    if moment is None:
        return figures.NA
    return f"{moment[:10]} {moment[11:19]} UTC" if moment.endswith(("Z", "+00:00")) and len(moment) >= 20 else moment
