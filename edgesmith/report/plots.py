"""The pictures of a report: how latency is spread, and what accuracy it is paid with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesmith.report import figures
from edgesmith.report.figures import one_line
from edgesmith.report.samples import NoSamples, read_samples
from edgesmith.report.svg import GRID, LIMIT, MUTED, SERIES_COLOURS, blank, drawing_settings, to_svg
from edgesmith.result import DeviceResult, Result

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

HOW_TO_GET_PLOTS = 'Plots need Matplotlib: pip install "edgesmith[report]", then `edgesmith report` draws them.'

_MOST_POINTS = 240


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture.

    Attributes:
        svg: an <svg> element, safe to put into a page as it is.
        caption: what it shows and how it was drawn.
    """

    svg: str
    caption: str


@dataclass(frozen=True, slots=True)
class _Spot:
    x: float
    y: float
    name: str
    colour: str


@dataclass(frozen=True, slots=True)
class DevicePlots:
    """The pictures of one device, and a line for each that could not be drawn."""

    plots: tuple[Plot, ...]
    notes: tuple[str, ...]


def target_colours(result: Result) -> dict[str, int]:
    """Target -> number of its colour, the same in every picture of a report."""
    return {target: n % len(SERIES_COLOURS) for n, target in enumerate(dict.fromkeys(r.target for r in result.results))}


def draw(device: str, result: Result, run_dir: Path) -> DevicePlots:
    """Latency distribution, and accuracy against latency, of one device.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    records = [r for r in result.results if r.device == device]
    plots, notes = [], []
    with drawing_settings():
        samples = []
        for record in records:
            try:
                samples.append((record, read_samples(record, run_dir)))
            except NoSamples as error:
                notes.append(f"{one_line(record.target)} {record.variant}: no distribution, {one_line(str(error))}.")
        if samples:
            plots.append(_distribution(samples, result))
        placed = [r for r in records if r.accuracy is not None and _x(r, result) is not None]
        if placed:
            plots.append(_trade(placed, result))
        elif records:
            notes.append("No accuracy against latency: one of the two is missing on this device.")
    return DevicePlots(tuple(plots), tuple(notes))


def _distribution(samples: Sequence[tuple[DeviceResult, NDArray[np.float64]]], result: Result) -> Plot:
    """Share of the runs that took at most so long, one line per artifact."""
    import numpy as np

    figure, axes = blank("latency", samples[0][0].device)
    low = min(float(ms[0]) for _, ms in samples)
    # One stray run in thousands would squeeze everything else into a corner.
    high = max(float(np.quantile(ms, 0.995)) for _, ms in samples) * 1.08
    for record, ms in samples:
        # Enough quantiles for the width of the picture, the slowest runs one by one.
        share = np.unique(np.concatenate((np.linspace(0, 1, _MOST_POINTS), np.linspace(0.95, 1, 40))))
        share = share if len(ms) > len(share) else np.arange(1, len(ms) + 1) / len(ms)
        axes.plot(np.quantile(ms, share, method="inverted_cdf"), share * 100, **_line_style(record, result))
    for level in (50, 95):
        axes.axhline(level, color=GRID, linewidth=1, zorder=0)
        axes.text(1.01, level, f"p{level}", transform=axes.get_yaxis_transform(), color=MUTED, va="center", size=9.5)
    if high / low > 6:
        _log_axis(axes, low, high)
    else:
        axes.set_xlim(max(0.0, low - 0.06 * (high - low)), high)
    limits = _latency_limits(result, ("p50", "p95"), emulated=bool(samples[0][0].emulated))
    for text, limit in limits:
        if axes.get_xlim()[0] <= limit <= axes.get_xlim()[1]:
            _upright(axes, limit, text)
    axes.set_ylim(0, 100)
    axes.set_yticks([0, 25, 50, 75, 100])
    axes.set_ylabel("runs, %")
    axes.set_xlabel("latency, ms")
    beyond = ", ".join(
        f"{one_line(r.target)} {r.variant} {figures.milliseconds(float(ms[-1]))} ms"
        for r, ms in samples
        if ms[-1] > high
    )
    outside = f" The axis ends past the 99.5th percentile; slowest runs: {beyond}." if beyond else ""
    away = [text for text, limit in limits if not axes.get_xlim()[0] <= limit <= axes.get_xlim()[1]]
    far = f" Off the axis: {', '.join(away)}." if away else ""
    return Plot(
        to_svg(figure, f"Latency distribution on {samples[0][0].device}", beyond),
        f"Share of timed runs that took at most this long; {_counts(samples)}.{outside}{far}"
        f"{_emulation(samples[0][0])}",
    )


def _trade(records: Sequence[DeviceResult], result: Result) -> Plot:
    """Accuracy against latency, with the budget as lines."""
    percentile = _percentile(result)
    figure, axes = blank("trade", records[0].device)
    metric = next(r.accuracy.metric for r in records if r.accuracy)
    scale = 100 if figures.is_fraction(metric) else 1
    points = []
    for target in dict.fromkeys(r.target for r in records):
        pair = [r for r in records if r.target == target]
        spots = [(_x(r, result) or 0.0, (r.accuracy.value if r.accuracy else 0.0) * scale) for r in pair]
        colour = _colour(pair[0], result)
        axes.plot(*zip(*spots, strict=True), color=colour, linewidth=1, alpha=0.5, zorder=1)
        for record, (x, y) in zip(pair, spots, strict=True):
            _point(axes, record, x, y, scale, colour)
            points.append(_Spot(x, y, f"{one_line(target)} {record.variant}", colour))
    low, high = min(p.x for p in points), max(p.x for p in points)
    if high / low > 6:
        _log_axis(axes, low / 1.6, high * 2.2)
    axes.margins(x=0.28, y=0.22)
    floors = _accuracy_floors(records, result, scale)
    axes.autoscale_view()
    _include(axes, [y for _, y in floors])
    for text, y in floors:
        axes.axhline(y, color=LIMIT, linewidth=1.2, linestyle=(0, (4, 3)), zorder=0)
        axes.annotate(
            text,
            (1, y),
            xycoords=axes.get_yaxis_transform(),
            xytext=(-3, 3),
            textcoords="offset points",
            color=LIMIT,
            ha="right",
            va="bottom",
            size=9.5,
        )
    limits = _latency_limits(result, (percentile,), emulated=bool(records[0].emulated))
    away = []
    left, right = axes.get_xlim()
    for text, limit in limits:
        if left <= limit <= right * 1.6:
            axes.set_xlim(left, max(right, limit * 1.04))
            _upright(axes, limit, text)
        else:
            away.append(text)
    _label(axes, points)
    axes.set_xlabel(f"{percentile} latency, ms")
    axes.set_ylabel(f"{one_line(metric)}, %" if scale == 100 else one_line(metric))
    far = f" Off the axis: {', '.join(away)}." if away else ""
    shown = "; ".join(f"{p.name} {figures.milliseconds(p.x)} ms, {p.y:.2f}" for p in points)
    return Plot(
        to_svg(figure, f"Accuracy against latency on {records[0].device}", shown),
        f"Accuracy against {percentile} latency; up and to the left is better. Bars: 95 % intervals.{far}"
        f"{_emulation(records[0])}",
    )


def _point(axes: Axes, record: DeviceResult, x: float, y: float, scale: float, colour: str) -> None:
    accuracy = record.accuracy
    if accuracy is not None and accuracy.low is not None and accuracy.high is not None:
        axes.plot([x, x], [accuracy.low * scale, accuracy.high * scale], color=colour, linewidth=1, alpha=0.7)
    is_filled = record.variant == "compressed"
    hollow: dict[str, Any] = {} if is_filled else {"markerfacecolor": "none", "markeredgewidth": 1.6}
    axes.plot([x], [y], marker="o", markersize=7, color=colour, linestyle="none", zorder=3, **hollow)


_Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in points."""
_PLACES = ((9, 0), (-9, 0), (0, 13), (0, -13), (9, 12), (-9, 12), (9, -12), (-9, -12), (9, 24), (-9, -24))


def _label(axes: Axes, points: Sequence[_Spot]) -> None:
    """Names beside the points, each where it covers least of what is already there."""
    left, bottom, right, top = axes.get_window_extent().extents
    frame: _Box = (left, bottom, right, top)
    taken: list[_Box] = []
    for spot in points:
        x, y = axes.transData.transform((spot.x, spot.y))
        taken.append((x - 6, y - 6, x + 6, y + 6))
    for spot in points:
        x, y = axes.transData.transform((spot.x, spot.y))
        width = 5.7 * len(spot.name)
        boxes = {place: _label_box(x + place[0], y + place[1], width, place[0]) for place in _PLACES}
        best = min(_PLACES, key=lambda place: _cost(boxes[place], taken, frame))
        taken.append(boxes[best])
        axes.annotate(
            spot.name,
            (spot.x, spot.y),
            xytext=best,
            textcoords="offset points",
            ha="center" if best[0] == 0 else "left" if best[0] > 0 else "right",
            va="center",
            size=9.5,
            color=spot.colour,
        )


def _label_box(x: float, y: float, width: float, side: float) -> _Box:
    left = x - width / 2 if side == 0 else x if side > 0 else x - width
    return left, y - 7, left + width, y + 7


def _cost(box: _Box, taken: Sequence[_Box], frame: _Box) -> float:
    """Area that a label would cover, and much more for what would lie outside the axes."""
    covered = sum(_overlap(box, other) for other in taken)
    area = (box[2] - box[0]) * (box[3] - box[1])
    return covered + 5 * (area - _overlap(box, frame))


def _overlap(one: _Box, other: _Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def _line_style(record: DeviceResult, result: Result) -> dict[str, Any]:
    return {
        "color": _colour(record, result),
        "linewidth": 2.2 if record.variant == "compressed" else 1.5,
        "linestyle": {"float": (0, (4, 2)), "compressed": "-", "uniform": (0, (1, 2))}[record.variant],
        "drawstyle": "steps-post",
        "solid_capstyle": "round",
    }


def _colour(record: DeviceResult, result: Result) -> str:
    return SERIES_COLOURS[target_colours(result)[record.target]]


def _percentile(result: Result) -> str:
    """The percentile with an absolute budget; p50 where neither or both have one."""
    keys = {key for key, limit in result.budget.items() if limit is not None}
    return "p95" if "latency_p95_ms" in keys and "latency_p50_ms" not in keys else "p50"


def _x(record: DeviceResult, result: Result) -> float | None:
    return getattr(record.latency_ms, _percentile(result)) if record.latency_ms else None


def _latency_limits(result: Result, percentiles: Sequence[str], *, emulated: bool) -> list[tuple[str, float]]:
    """Absolute limits. A ratio depends on the target and stands in the table."""
    limits = ((p, result.budget.get(f"latency_{p}_ms")) for p in percentiles)
    return [] if emulated else [(f"{p} ≤ {limit:g} ms", float(limit)) for p, limit in limits if limit is not None]


def _accuracy_floors(records: Sequence[DeviceResult], result: Result, scale: float) -> list[tuple[str, float]]:
    floors = []
    if (least := result.budget.get("accuracy_min")) is not None:
        floors.append((f"accuracy limit {least * scale:g}", float(least) * scale))
    drop = result.budget.get("accuracy_drop_pp")
    if drop is not None and scale == 100:
        levels: dict[float, list[str]] = {}
        for r in records:
            if r.variant == "float" and r.accuracy is not None:
                levels.setdefault(round(r.accuracy.value * 100 - drop, 4), []).append(one_line(r.target))
        for level, targets in levels.items():
            name = "" if len(levels) == 1 else f" ({', '.join(targets)})"
            floors.append((f"float less {drop:g} pp{name}", level))
    return floors


def _upright(axes: Axes, x: float, text: str) -> None:
    axes.axvline(x, color=LIMIT, linewidth=1.2, linestyle=(0, (4, 3)), zorder=0)
    axes.text(x, 1.02, text, transform=axes.get_xaxis_transform(), color=LIMIT, ha="center", va="bottom", size=9.5)


def _include(axes: Axes, values: Sequence[float]) -> None:
    low, high = axes.get_ylim()
    if values:
        room = 0.08 * (max(high, *values) - min(low, *values))
        axes.set_ylim(min(low, min(values) - room), max(high, max(values) + room))


def _log_axis(axes: Axes, low: float, high: float) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.set_xlim(low * 0.9, high)
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def _counts(samples: Sequence[tuple[DeviceResult, NDArray[np.float64]]]) -> str:
    sizes = sorted({len(ms) for _, ms in samples})
    return f"{sizes[0]:,} runs each" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,} runs each"


def _emulation(record: DeviceResult) -> str:
    if record.engine is not None and record.engine.fake:
        return " A FAKE TensorRT ran it, on a CPU."
    if record.fake:
        return " This board is FAKE: the times are scripted."
    return " This board is emulated: the times are emulation time and are not judged." if record.emulated else ""
