"""What a result says of the quantization plan, in words: what was decided, on what, and where an artifact differs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgesmith.report import figures, float_layers
from edgesmith.report.figures import one_line
from edgesmith.result import DeviationRecord, LayerQuantization, QuantizationRecord, Result, SearchRecord

_NO_REASON = "no reason was recorded"
_SURROUNDED = "only float32 ops around it"
_INTERVAL = re.compile(r" \(95 % [^()]*\)")
"""In a reason: the table has it."""
_MOST_GROUPS = 3
_MOST_NAMES = 2
_ENDED = {
    "finished": "",
    "trials": " It stopped at its limit of trials.",
    "time": " It stopped when its time was over.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerException:
    """A layer, or a part of one, that does not have the precision of the rest.

    Attributes:
        name: of the layer; with the op types where the rest of the layer is quantized.
        precision: "float32", "int16" or "int4".
        reason: why.
        record: what was measured; None where the result names the layer only.
    """

    name: str
    precision: str
    reason: str
    record: LayerQuantization | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviationGroup:
    """Deviations of one artifact with the same cause."""

    why: str
    rows: tuple[DeviationRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactDeviations:
    """Where one file differs from the plan.

    Attributes:
        target: that it was compiled for.
        where: " (pi5-lab)" where the target has several files, else empty.
        path: of the file, in the run folder.
        tensors: how many differ.
        groups: most frequent cause first.
    """

    target: str
    where: str
    path: str
    tensors: int
    groups: tuple[DeviationGroup, ...]


def exceptions(record: QuantizationRecord) -> tuple[LayerException, ...]:
    """Layers in float32, and others that were given a precision of their own, in the order of the result."""
    quantized = {row.layer for row in record.layers if row.precision != "float32"}
    found = []
    for row in record.layers:
        if row.precision == "float32" or row.reason:
            is_part = row.precision == "float32" and row.layer in quantized
            name = f"{row.layer}: {', '.join(row.kinds)}" if is_part and row.kinds else row.layer
            reason = one_line(row.reason) or _NO_REASON
            found.append(LayerException(name=one_line(name), precision=row.precision, reason=reason, record=row))
    told = {row.layer for row in record.layers if row.precision == "float32"}
    found += [
        LayerException(name=one_line(layer), precision="float32", reason=_NO_REASON, record=None)
        for layer in dict.fromkeys(record.kept_float)
        if layer not in told
    ]
    return tuple(found)


def facts(record: QuantizationRecord) -> tuple[tuple[str, str], ...]:
    """What was decided and on what, for a page with room: a heading and a sentence for each part."""
    layers = _exceptions_text(record, most=_MOST_GROUPS)
    known = [
        ("Plan", _plan_sentence(record)),
        ("Layers", f"{layers[:1].upper()}{layers[1:]}."),
        ("Search", _search_sentence(record)),
        ("Calibration", f"{_samples_text(record)}."),
        ("Repairs", " ".join(_sentence(repair) for repair in record.repairs)),
        ("Time", f"{figures.seconds(record.seconds)}{', in an earlier run' if record.cached else ''}."),
    ]
    return tuple((name, said) for name, said in known if said)


def lines(result: Result) -> tuple[str, ...]:
    """The same in a few lines for a console or a comment.

    One to three; one for each board and target where layers in float32 have a price; and one for each file that differs
    from the plan.
    """
    record = result.quantization
    if record is None:
        return ()
    chosen = f"{one_line(record.chosen)}; " if record.chosen else ""
    said = [f"{one_line(record.scheme)} plan: {chosen}{_exceptions_text(record, most=_MOST_GROUPS - 1)}"]
    if record.search is not None:
        said.append(f"Search: {_search_text(record.search)}")
    said += float_layers.price_lines(result)
    said.append(f"Calibration: {_samples_text(record)}")
    for artifact in deviations(result):
        noun = "1 tensor" if artifact.tensors == 1 else f"{artifact.tensors:,} tensors"
        verb = "deviates" if artifact.tensors == 1 else "deviate"
        said.append(f"{noun} of the {artifact.target} file{artifact.where} {verb} from the plan: see report.html")
    return tuple(said)


def reasons(record: QuantizationRecord) -> tuple[str, ...]:
    """One line for each cause that a layer's figures could not be had for."""
    causes: dict[str, list[str]] = {}
    for row in record.layers:
        if row.alone_db is None:
            causes.setdefault(one_line(row.alone_db_reason or _NO_REASON), []).append(one_line(row.layer))
    said = [f"SQNR n/a: {why} ({_few(names)})" for why, names in causes.items()]
    without = sum(row.drop_pp is None for row in record.layers)
    if 0 < without < len(record.layers):
        said.append("Drop alone n/a: the metric is measured for the layers with the lowest SQNR only.")
    return tuple(said)


def deviations(result: Result) -> tuple[ArtifactDeviations, ...]:
    """Of every file that has any, each file once."""
    if result.quantization is None:
        return ()
    found = []
    for target, where, path, records in _compressed(result):
        if records:
            by_cause: dict[str, list[DeviationRecord]] = {}
            for one in dict.fromkeys(records):
                by_cause.setdefault(one_line(one.why) or _NO_REASON, []).append(one)
            groups = sorted(by_cause.items(), key=lambda group: -len(group[1]))
            found.append(
                ArtifactDeviations(
                    target=target,
                    where=where,
                    path=path,
                    tensors=len({one.tensor for one in records}),
                    groups=tuple(DeviationGroup(why=why, rows=tuple(rows)) for why, rows in groups),
                )
            )
    return tuple(found)


def without_deviations(result: Result) -> tuple[str, ...]:
    """Names of the compressed files for which none is on record."""
    if result.quantization is None:
        return ()
    return tuple(f"{target}{where}" for target, where, _, found in _compressed(result) if not found)


def _compressed(result: Result) -> list[tuple[str, str, str, tuple[DeviationRecord, ...]]]:
    """Target, where, path and deviations of each compressed file. The same file on several boards is one."""
    devices: dict[tuple[str, str], list[str]] = {}
    files = {}
    for row in result.results:
        if row.variant == "compressed" and row.artifact is not None:
            key = (row.target, row.artifact.sha256)
            devices.setdefault(key, []).append(one_line(row.device))
            files[key] = row.artifact
    found = []
    for (target, sha256), artifact in files.items():
        is_only = sum(other == target for other, _ in files) == 1
        where = "" if is_only else f" ({', '.join(dict.fromkeys(devices[target, sha256]))})"
        found.append((one_line(target), where, artifact.path, artifact.deviations))
    return found


def _plan_sentence(record: QuantizationRecord) -> str:
    said = f"One {one_line(record.scheme)} plan for every target"
    if not record.chosen:
        return f"{said}."
    said = f"{said}, made with {one_line(record.chosen)}"
    score = _sqnr(record, record.chosen)
    first = str(record.variants[0].get("name", "")) if record.variants else ""
    if score is None or len(record.variants) < 2:
        return f"{said}."
    said += f", the best of {len(record.variants)} variants on samples set aside: {score:.1f} dB SQNR at the outputs"
    other = _sqnr(record, first) if first != record.chosen else None
    return f"{said}." if other is None else f"{said}, where {one_line(first)} alone give {other:.1f} dB."


def _sqnr(record: QuantizationRecord, name: str) -> float | None:
    for variant in record.variants:
        if variant.get("name") == name:
            value = variant.get("output_sqnr_db")
            return float(value) if isinstance(value, int | float) else None
    return None


def _exceptions_text(record: QuantizationRecord, *, most: int) -> str:
    """As in: 2 layers stay float32: dw3 (costs 1.8 pp of top1), head (the user's keep_float)."""
    found = exceptions(record)
    if not found:
        return "no layer stays float32"
    parts = []
    for precision in dict.fromkeys(one.precision for one in sorted(found, key=lambda one: one.precision != "float32")):
        those = [one for one in found if one.precision == precision]
        is_one = len(those) == 1
        noun, ending = ("layer", "s") if is_one else ("layers", "")
        verb = f"stay{ending}" if precision == "float32" else f"compute{ending} in"
        parts.append(f"{len(those)} {noun} {verb} {precision}: {_by_reason(those, most)}")
    return "; ".join(parts)


def _by_reason(those: Sequence[LayerException], most: int) -> str:
    """Layers with the reasons they share. A reason of its own tells more than one that many layers have."""
    groups: dict[str, list[str]] = {}
    for one in those:
        groups.setdefault(_INTERVAL.sub("", one.reason), []).append(one.name)
    ordered = sorted(groups.items(), key=lambda group: (group[0] == _SURROUNDED, len(group[1])))
    parts = [f"{_few(names)} ({reason})" for reason, names in ordered[:most]]
    rest = sum(len(names) for _, names in ordered[most:])
    return ", ".join([*parts, *([f"{rest} {'other' if rest == 1 else 'others'}"] if rest else [])])


def _few(names: Sequence[str]) -> str:
    most = _MOST_NAMES if len(names) > _MOST_NAMES + 1 else len(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def _search_sentence(record: QuantizationRecord) -> str:
    search = record.search
    if search is None:
        return f"None for layers to keep in float32: {one_line(record.search_reason or _NO_REASON)}."
    trials = f"{search.trials:,} trial{'' if search.trials == 1 else 's'}"
    samples = f"{search.samples:,} sample{'' if search.samples == 1 else 's'}"
    said = _search_text(search)
    decided = f"{said[:1].upper()}{said[1:]}; {trials}, decided on {samples} of {one_line(search.source)}."
    return decided + _ENDED[search.stopped]


def _search_text(search: SearchRecord) -> str:
    """As in: missed its budget of 1 pp by 0.30 pp: drop of top1 1.30 pp (0.90 to 1.70), ..."""
    budget = f"budget of {search.budget_pp:g} pp"
    outcome = f"met its {budget}" if search.met else f"missed its {budget} by {figures.points(search.over_pp)} pp"
    interval = ""
    if search.drop_low_pp is not None and search.drop_high_pp is not None:
        interval = f" ({figures.points(search.drop_low_pp)} to {figures.points(search.drop_high_pp)})"
        if not search.met and search.drop_pp <= search.budget_pp:
            interval += ", counted at its upper end"
    said = f"{outcome}: drop of {one_line(search.metric)} {figures.points(search.drop_pp)} pp{interval}"
    if search.full_drop_pp is not None and search.full_drop_pp != search.drop_pp:
        said += f", {figures.points(search.full_drop_pp)} pp with nothing kept in float32"
    return said


def _samples_text(record: QuantizationRecord) -> str:
    count = record.calibration_samples
    said = f"{count:,} sample{'' if count == 1 else 's'}"
    if record.enough_samples is not None:
        return f"{said}, enough from {record.enough_samples:,} on"
    return f"{said}; not known to be enough: {one_line(record.enough_samples_reason or _NO_REASON)}"


def _sentence(text: str) -> str:
    plain = one_line(text)
    return plain[:1].upper() + plain[1:] + ("" if plain.endswith(".") else ".")
