"""summary.md: what a reviewer needs in a pull-request comment, in under 60 lines however many boards there are."""

from __future__ import annotations

import re

from edgesmith.report import engines, figures, gate, quantization, statement
from edgesmith.report.figures import TIMES, Row, one_line
from edgesmith.report.parity import parity_lines
from edgesmith.result import DeviceResult, GateRecord, Result
from edgesmith.types import Verdict

_MOST_ROWS = 24
_MOST_REMARKS = 8
_MOST_REASONS = 5
_MOST_PARITY = 4
_MOST_QUANTIZATION = 6
_MOST_ENGINES = 4
_MOST_GATE = 8
_SPECIAL = re.compile(r"([\\`*_{}\[\]#!|~$])")
_SYMBOLS = {"PASS": "✅", "FAIL": "❌", "INCONCLUSIVE": "⚠️", "ERROR": "🔌", statement.NO_VERDICT: "⏸️"}
_WORST_FIRST = (Verdict.FAIL, Verdict.ERROR, Verdict.INCONCLUSIVE, Verdict.PASS)


def render_markdown(result: Result) -> str:
    """The verdict, float against compressed for each device and target, the findings, and what was done."""
    head = statement.headline(result)
    lines = [f"### {_SYMBOLS[head.word]} edgesmith: {head.word}", "", _escape(" ".join(head.sentences))]
    if budget := statement.budget_sentence(result):
        lines += ["", f"Budget: {_escape(budget)}."]
    for warning in statement.alarms(result):
        lines += ["", f"> **{_escape(warning)}**"]
    held = _list("Against what was accepted", [_held(record) for record in result.gate], _MOST_GATE)
    parity = _list("Same artifact, element by element", _parity(result), _MOST_PARITY)
    planned = _list("Quantization", [_escape(line) for line in quantization.lines(result)], _MOST_QUANTIZATION)
    timed = _list("Engines, held against trtexec", [_escape(line) for line in engines.lines(result)], _MOST_ENGINES)
    lines += held
    if result.results:
        lines += ["", *_table(result, _MOST_ROWS - len(held) - len(parity) - len(planned) - len(timed))]
    lines += parity + planned + timed
    lines += _list("Findings", [_remark(r) for r in statement.remarks(result)], _MOST_REMARKS)
    lines += _list("Not available", [_escape(r) for r in figures.reasons(result, only=_SHOWN)], _MOST_REASONS)
    lines += ["", f"Work: {_escape(statement.work_sentence(result))}. Run `{_code(result.run_id)}`: see report.html."]
    return "\n".join(lines) + "\n"


_SHOWN = ("size", "latency", "p50", "p95", "accuracy", "accuracy drop", "agreement")


def _table(result: Result, most: int) -> list[str]:
    pairs = [r for r in result.results if r.variant == "compressed" or _alone(r, result)]
    pairs.sort(key=lambda r: _WORST_FIRST.index(r.verdict))
    lines = [
        "| device | target | p50, ms | p95, ms | speed-up | size | accuracy | drop, pp | agreement, % | verdict |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    lines += [_row(record, result) for record in pairs[:most]]
    left_out = len(pairs) - most
    if left_out > 0:
        lines += ["", f"{left_out} more rows, none worse than the last one here, are in report.html."]
    return lines


def _alone(record: DeviceResult, result: Result) -> bool:
    """A float row that has no compressed one beside it."""
    place = (record.device, record.target)
    return not any((r.device, r.target) == place and r.variant == "compressed" for r in result.results)


def _row(record: DeviceResult, result: Result) -> str:
    mine = figures.row(record)
    twin = figures.float_twin(record, result) if record.variant == "compressed" else None
    before = figures.row(twin) if twin else None
    marks = f" ({', '.join(mine.marks)})" if mine.marks else ""
    cells = (
        _escape(record.device),
        _escape(record.target),
        _change(before, mine, "p50"),
        _change(before, mine, "p95"),
        mine.speedup.replace(TIMES, " " + TIMES),
        _change(before, mine, "size"),
        _change(before, mine, "accuracy"),
        mine.drop,
        mine.agreement,
        f"{_SYMBOLS[record.verdict.value]} {record.verdict.value}{marks}",
    )
    return f"| {' | '.join(cells)} |"


def _change(before: Row | None, after: Row, figure: str) -> str:
    new = str(getattr(after, figure))
    return new if before is None else f"{getattr(before, figure)} → {new}"


def _parity(result: Result) -> list[str]:
    """What differs first: it must not be among what finds no room."""
    lines = sorted(parity_lines(result), key=lambda line: line.identical)
    return [_escape(f"{line.artifact}: {line.text}") for line in lines]


def _held(record: GateRecord) -> str:
    text, *_ = gate.texts(record)
    step = f" *{_escape(record.next_step)}*" if record.next_step else ""
    return f"**{record.outcome}** {_escape(gate.where(record))}: {_escape(text)}{step}"


def _remark(remark: statement.Remark) -> str:
    finding = remark.finding
    where = f" ({remark.where})" if remark.where else ""
    step = f" *{_escape(finding.next_step)}*" if finding.next_step else ""
    return f"**{finding.severity}**: {_escape(finding.text + where)}{step}"


def _list(title: str, items: list[str], most: int) -> list[str]:
    if not items:
        return []
    rest = [f"- {len(items) - most} more in report.html"] if len(items) > most else []
    return ["", f"**{title}**", "", *(f"- {item}" for item in items[:most]), *rest]


def _escape(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no table break, no link."""
    plain = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", plain)


def _code(text: str) -> str:
    return one_line(text).replace("`", "'")
