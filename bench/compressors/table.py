"""Who leads in which column, and the figures as Markdown; from the rows of the record alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Row = Mapping[str, Any]

LEVEL: Final = 0.03
"""Latencies nearer than this are level: medians of one file differ by as much from run to run."""
ALLOWED_DROP_PP: Final = 1.0


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of a row.

    Attributes:
        key: in the row.
        name: for people.
        more: a word for a greater one: "larger", "slower".
        level: share that is no difference.
    """

    key: str
    name: str
    more: str
    level: float = 0.0


COLUMNS: Final = (
    Column("size_bytes", "size", "larger"),
    Column("gzip_bytes", "gzip", "larger"),
    Column("p50_ratio_to_float", "p50", "slower", LEVEL),  # of windows in turns: drift cancels
)


def verdicts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every column's leader: per format, apart for what trains and what does not, by two measures of accuracy.

    Args:
        rows: of one network, without the float files. `equal_accuracy` says whether a row is within noise of the most
            accurate one of its format and kind.
    """
    told: list[dict[str, Any]] = []
    for file_format in dict.fromkeys(row["format"] for row in rows):
        for trained in (False, True):
            group = [row for row in rows if row["format"] == file_format and row["trained"] == trained]
            if len({row["ours"] for row in group}) < 2:
                continue  # nobody to compare with
            place = {"format": file_format, "trained": trained}
            told += [{**place, "at": "", **_most(group, "accuracy")}, {**place, "at": "", **_most(group, "agreement")}]
            bars = {
                "equal accuracy": [row for row in group if row["equal_accuracy"]],
                f"at most {ALLOWED_DROP_PP:g} pp lost": [row for row in group if row["drop_pp"] <= ALLOWED_DROP_PP],
            }
            told += [{**place, "at": at, **_least(able, column)} for at, able in bars.items() for column in COLUMNS]
    return told


def _most(group: Sequence[Row], key: str) -> dict[str, Any]:
    """Who is the most accurate, or agrees most often with the float network; within noise is level."""
    ours, peer = _split(group, lambda some: max(some, key=lambda row: row[key]))
    level = ours[f"equal_{key}"]
    leads = bool(ours[key] >= peer[key] or level)
    apart = ours[key] - peer[key]
    word = "leads" if apart >= 0 else ("is within noise" if level else "does not lead")
    text = f"{ours['method']} {word}: {ours[key]:.2f} %, {peer['method']} {peer[key]:.2f} %"
    return {"column": key, "ours_leads": leads, "leader": (ours if apart >= 0 else peer)["method"], "text": text}


def _least(able: Sequence[Row], column: Column) -> dict[str, Any]:
    """Whose figure is the smallest among these."""
    able = [row for row in able if row[column.key] is not None]
    ours = [row for row in able if row["ours"]]
    peers = [row for row in able if not row["ours"]]
    if not ours or not peers:
        who = "no peer" if ours else "none of ours"
        text = f"{who} is as accurate" if able else "nothing is"
        leader = min((row[column.key], row["method"]) for row in able)[1] if able else None
        return {"column": column.key, "ours_leads": bool(ours), "leader": leader, "text": text}
    mine, other = _split(able, lambda some: min(some, key=lambda row: row[column.key]))
    share = other[column.key] / mine[column.key] - 1
    if abs(share) <= column.level:
        text, leads = f"{mine['method']} and {other['method']} are level ({_percent(share)})", True
    elif share >= 0:
        text, leads = f"{mine['method']} leads: {other['method']} is {_percent(share)} {column.more}", True
    else:
        behind = mine[column.key] / other[column.key] - 1
        text, leads = f"{other['method']} leads: {mine['method']} is {_percent(behind)} {column.more}", False
    return {
        "column": column.key,
        "ours_leads": leads,
        "leader": (mine if share >= 0 else other)["method"],
        "text": text,
    }


def _split(group: Iterable[Row], best: Any) -> tuple[Row, Row]:
    """The best of ours and the best peer."""
    rows = list(group)
    return best([row for row in rows if row["ours"]]), best([row for row in rows if not row["ours"]])


def _percent(share: float) -> str:
    return f"{100 * abs(share):.0f} %" if abs(share) >= 0.095 else f"{100 * abs(share):.1f} %"


def markdown(figures: Mapping[str, Any]) -> str:
    """The record as tables, one for each network, with the verdicts below."""
    lines: list[str] = []
    for name, one in figures["models"].items():
        lines += [f"### {name}", "", _about(one), ""]
        lines += [
            "| method | file | top-1 % | lost, pp | agreement % | bytes | gzip | packed | p50 ms | of float |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [_line(row) for row in one["rows"]]
        lines += ["", *_said(one["verdicts"]), ""]
        failed = [f"- {method} could not be had: {why}" for method, why in one["failed"].items()]
        lines += [*failed, ""] if failed else []
    lines += ["Not compared:", ""] if figures["not_compared"] else []
    lines += [f"- {what}: {why}." for what, why in figures["not_compared"].items()]
    return "\n".join(lines).rstrip() + "\n"


def _about(one: Mapping[str, Any]) -> str:
    return (
        f"{one['parameters']:,} parameters; {one['evaluated_on']:,} test images; "
        f"what trains (marked †) sees the same {one['trained_on']:,} training images as often. "
        "Ours is distilled from the float network, the labels having a tenth of the loss; TF-MOT's trainings take the "
        "labels alone."
    )


def _line(row: Row) -> str:
    name = f"**{row['method']}**" if row["ours"] else row["method"]
    lost = f"{row['drop_pp']:+.2f} ± {row['drop_pp_half_width_95']:.2f}"
    packed = f"{row['packed_bytes']:,}" if row.get("packed_bytes") else ""
    p50 = ("", "") if row["p50_ms"] is None else (f"{row['p50_ms']:.3f}", f"{row['p50_ratio_to_float']:.2f}")
    if row.get("validity", "VALID") != "VALID":
        p50 = (f"{p50[0]} ({row['validity'].lower()})", p50[1])
    cells = (
        name + ("†" if row["trained"] else ""),
        row["format"],
        f"{row['accuracy']:.2f}",
        "" if row["method"] == "float" else lost,
        f"{row['agreement']:.2f}",
        f"{row['size_bytes']:,}",
        f"{row['gzip_bytes']:,}",
        packed,
        *p50,
    )
    return "| " + " | ".join(cells) + " |"


def _said(told: Sequence[Mapping[str, Any]]) -> list[str]:
    lines: list[str] = []
    groups = dict.fromkeys((each["format"], each["trained"], each["at"]) for each in told)
    for file_format, trained, at in groups:
        here = [e for e in told if (e["format"], e["trained"], e["at"]) == (file_format, trained, at)]
        title = f".{file_format}, {'with' if trained else 'without'} training" + (f", {at}" if at else "")
        names = {column.key: column.name for column in COLUMNS}
        lines.append(
            f"- {title}. " + "; ".join(f"{names.get(e['column'], e['column'])}: {e['text']}" for e in here) + "."
        )
    return lines
