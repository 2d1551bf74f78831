"""What the layers kept in float32 cost on each board and what they buy there, in words."""

from __future__ import annotations

from edgesmith.report.figures import (
    NA,
    accuracy_value,
    factor,
    is_fraction,
    milliseconds,
    one_line,
    points,
    significant,
)
from edgesmith.result import DeviceResult, FloatLayersRecord, Result
from edgesmith.types import Verdict

_NO_REASON = "no reason was recorded"


def price_lines(result: Result) -> tuple[str, ...]:
    """One line for each board and target.

    As in: pi5 tflite: 2 layers in float32 cost 0.021 ms (p50 0.123 against 0.102 ms, ...) and buy 1.80 pp of top1 here
    (95 % 1.10 to 2.50; drop 0.60 against 2.40 pp).
    """
    return tuple(
        f"{one_line(record.device)} {one_line(record.target)}: {_sentence(record, record.float_layers, result)}"
        for record in result.results
        if record.float_layers is not None
    )


def uniform_twin(record: DeviceResult, result: Result) -> DeviceResult | None:
    """The artifact of the same target on the same device without these layers; None where there is none."""
    place = (record.device, record.target, "uniform")
    return next((r for r in result.results if (r.device, r.target, r.variant) == place), None)


def _sentence(record: DeviceResult, paid: FloatLayersRecord, result: Result) -> str:
    search = result.quantization.search if result.quantization else None
    count = len(search.kept) if search else 0
    ending = "s" if count == 1 else ""
    who = f"{count} layer{'' if ending else 's'} in float32" if count else "the layers in float32"
    twin = uniform_twin(record, result)
    cost, gain = _cost(record, twin, paid, ending), _gain(record, twin, paid, ending)
    why = one_line(paid.cost_ms_reason or _NO_REASON)
    if not gain:
        return f"what {who} cost{ending} is not known: {why}"
    said = f"{who} {cost} and {gain}"
    if not cost:
        said = f"what {who} cost{ending} in time is not known: {why}; {'it' if ending else 'they'} {gain}"
    return said + _without(record, paid)


def _cost(record: DeviceResult, twin: DeviceResult | None, paid: FloatLayersRecord, ending: str) -> str:
    """What they take, no time where the interval holds a ratio of 1; empty where it is not known."""
    if paid.cost_ms is None or paid.ratio is None:
        return ""
    shown = f"p50 {_p50(record)} against {_p50(twin)} ms, {factor(paid.ratio)}"
    low, high = paid.ratio_low, paid.ratio_high
    if low is not None and high is not None:
        shown += f", 95 % {significant(low)} to {significant(high)}"
    if (high if high is not None else paid.ratio) < 1.0:
        return f"save{ending} {milliseconds(-paid.cost_ms)} ms ({shown})"
    if (low if low is not None else paid.ratio) <= 1.0:
        return f"cost{ending} no time that shows ({shown})"
    return f"cost{ending} {milliseconds(paid.cost_ms)} ms ({shown})"


def _gain(record: DeviceResult, twin: DeviceResult | None, paid: FloatLayersRecord, ending: str) -> str:
    """What they buy, and where that may be chance; empty where it is not known."""
    if paid.gain_pp is None:
        return ""
    metric = record.accuracy.metric if record.accuracy else "accuracy"
    shown = _against(record, twin)
    if paid.gain_low_pp is not None and paid.gain_high_pp is not None:
        chance = ", so it may be chance" if paid.gain_low_pp <= 0.0 < paid.gain_pp else ""
        shown = f"95 % {points(paid.gain_low_pp)} to {points(paid.gain_high_pp)}{chance}; {shown}"
    if paid.gain_pp <= 0.0:
        return f"buy{ending} no {one_line(metric)} here ({shown})"
    # A metric that is no share of the samples has no percentage points: it is told in its own unit.
    much = f"{points(paid.gain_pp)} pp" if is_fraction(metric) else significant(paid.gain_pp / 100)
    return f"buy{ending} {much} of {one_line(metric)} here ({shown})"


def _against(record: DeviceResult, twin: DeviceResult | None) -> str:
    """The drops of both against the float model; the values themselves where these are not known."""
    mine, other = record.accuracy_drop_pp, twin.accuracy_drop_pp if twin else None
    if record.accuracy is not None and is_fraction(record.accuracy.metric) and mine is not None and other is not None:
        return f"drop {points(mine)} against {points(other)} pp"
    return f"{accuracy_value(record.accuracy)} against {accuracy_value(twin.accuracy if twin else None)}"


def _without(record: DeviceResult, paid: FloatLayersRecord) -> str:
    """Whether the budget would have held on this board without them."""
    if paid.uniform_verdict is Verdict.FAIL:
        return "; without them the budget is broken here"
    if paid.uniform_verdict is not Verdict.PASS:
        return ""
    if record.verdict is Verdict.FAIL:
        return "; without them the budget holds here, with them it does not"
    return f"; without them the budget holds here{', too' if record.verdict is Verdict.PASS else ''}"


def _p50(record: DeviceResult | None) -> str:
    return NA if record is None or record.latency_ms is None else milliseconds(record.latency_ms.p50)
