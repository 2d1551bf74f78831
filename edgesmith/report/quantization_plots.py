"""The pictures of a quantization plan: what each layer costs, and how many calibration samples were enough."""

from __future__ import annotations

from edgesmith.report.figures import one_line
from edgesmith.report.plots import Plot
from edgesmith.report.svg import INK, MUTED, SERIES_COLOURS, WIDTH, blank, drawing_settings, to_svg
from edgesmith.result import LayerQuantization, QuantizationRecord

MOST_BARS = 25
SERIES_OF = {"int8": 0, "float32": 1, "int16": 2, "int4": 3}
"""Precision of a layer -> number of its colour."""

_LONGEST_NAME = 30
_BAR = 0.205
"""Inches from bar to bar."""
_CHARACTER = 5.4 / 72
"""Inches; the width of one, on average."""


def draw(record: QuantizationRecord) -> tuple[Plot, ...]:
    """The pictures that there are figures for.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    with drawing_settings():
        rows = sorted((row for row in record.layers if row.alone_db is not None), key=_alone)
        pictures = [_sensitivity(rows, len(record.layers) - len(rows))] if rows else []
        if len(record.calibration_curve) > 1:
            pictures.append(_convergence(record))
    return tuple(pictures)


def drawn_precisions(record: QuantizationRecord) -> tuple[str, ...]:
    """Precisions among the bars, for the legend."""
    rows = sorted((row for row in record.layers if row.alone_db is not None), key=_alone)[:MOST_BARS]
    return tuple(name for name in SERIES_OF if any(row.precision == name for row in rows))


def _alone(row: LayerQuantization) -> float:
    return 0.0 if row.alone_db is None else row.alone_db


def _sensitivity(rows: list[LayerQuantization], without: int) -> Plot:
    """SQNR of the outputs with only one layer quantized, one bar for each, the lowest on top.

    Args:
        rows: with a figure, the lowest first.
        without: layers that have none.
    """
    shown, rest = rows[:MOST_BARS], rows[MOST_BARS:]
    names = [_short(one_line(row.layer)) for row in shown]
    left = max(0.115, (max(map(len, names)) * _CHARACTER + 0.15) / WIDTH)
    figure, axes = blank("sensitivity", "", left=left, height=0.95 + _BAR * len(shown))
    values = [_alone(row) for row in shown]
    colours = [SERIES_COLOURS[SERIES_OF[row.precision]] for row in shown]
    axes.barh(range(len(shown)), values, height=0.62, color=colours)
    for place, row in enumerate(shown):
        lost = "" if row.drop_pp is None else f" ({row.drop_pp:.2f} pp)"
        axes.annotate(
            f"{_alone(row):.1f}{lost}",
            (max(0.0, _alone(row)), place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            size=9.5,
            color=MUTED,
        )
    axes.set_yticks(range(len(shown)), names)
    for label, row in zip(axes.get_yticklabels(), shown, strict=True):
        label.set_color(INK if row.precision == "int8" else SERIES_COLOURS[SERIES_OF[row.precision]])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    # The figures of the longest bar stand beside it.
    low, high = min(0.0, *values), max(1.0, *values)
    has_drops = any(row.drop_pp is not None for row in shown)
    axes.set_xlim(low, high + (0.28 if has_drops else 0.12) * (high - low))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("SQNR of the outputs, dB")
    told = "SQNR of the network's outputs with only this layer quantized: the shorter the bar, the more it costs."
    if has_drops:
        told += " In brackets: percentage points of the metric lost that way."
    if rest:
        told += f" {len(rest):,} more {_layers(len(rest))}, none below {_alone(rest[0]):.1f} dB, not drawn."
    if without:
        told += f" {without:,} {_layers(without)} without such a figure."
    summary = "; ".join(f"{name} {value:.1f} dB" for name, value in zip(names, values, strict=True))
    return Plot(to_svg(figure, "Sensitivity of the layers", summary), told)


def _layers(count: int) -> str:
    return "layer" if count == 1 else "layers"


def _short(name: str) -> str:
    """Both ends of a long name: a path tells layers apart by its last part."""
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME // 3]}…{name[-(_LONGEST_NAME - _LONGEST_NAME // 3 - 1) :]}"


def _convergence(record: QuantizationRecord) -> Plot:
    """Distance of the ranges from the final ones, against the samples they were seen in."""
    from matplotlib.ticker import NullLocator

    curve = record.calibration_curve
    samples, far = [point.samples for point in curve], [point.distance * 100 for point in curve]
    figure, axes = blank("convergence", "", height=3.2)
    axes.plot(samples, far, color=SERIES_COLOURS[0], linewidth=2, marker="o", markersize=5, clip_on=False)
    axes.set_xscale("log", base=2)
    ticks = [n for n in samples[:-1] if samples[-1] / n > 1.4] + samples[-1:]
    axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, 1.08 * max(far) or 1.0)
    axes.set_xlabel("calibration samples")
    axes.set_ylabel("distance, %")
    enough = record.enough_samples
    if enough is not None:
        axes.axvline(enough, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), zorder=0)
        where = axes.get_xaxis_transform()
        axes.text(enough, 1.02, f"enough: {enough:,}", transform=where, color=INK, ha="center", va="bottom", size=9.5)
    told = (
        f"How far the ranges seen in the first samples are from those of all {samples[-1]:,}: 95 of 100 tensors are at "
        "most this far off."
    )
    if enough is None:
        told += f" No mark: {one_line(record.enough_samples_reason or 'no reason was recorded')}."
    summary = "; ".join(f"{n:,} samples {value:.1f} %" for n, value in zip(samples, far, strict=True))
    return Plot(to_svg(figure, "Convergence of the calibration", summary), told)
