"""What the layers that the accuracy search kept in float32 cost on a board, and what they buy there.

The artifact of the same plan without these exceptions, variant "uniform", runs in turns with the others. It is measured
for this alone: no budget is applied to it, and no verdict rests on it.
"""

from __future__ import annotations

from collections.abc import Mapping

from device_tests.accuracy import accuracy_drop_pp
from device_tests.judge import judge
from device_tests.judge_latency import why_not_judged
from edgesmith.errors import InfrastructureError
from edgesmith.pipeline.prepare import Prepared
from edgesmith.pipeline.row_figures import RowFigures, lost_interval_pp
from edgesmith.result import FloatLayersRecord
from edgesmith.types import Finding, Judgement, Verdict

NOT_JUDGED = Judgement(
    verdict=Verdict.INCONCLUSIVE,
    findings=(Finding(severity="info", code="not_judged", text="not judged: what the float layers cost"),),
)
"""Of a uniform artifact: no budget is applied to it, and nobody may take it for one that passed."""

_SCRIPTED = "the board is scripted: it takes what it is told to, whatever the layers"


def price(
    mine: RowFigures, uniform: RowFigures | InfrastructureError, baseline: RowFigures | None, prepared: Prepared
) -> FloatLayersRecord:
    """Compares an artifact with the one that has none of its layers in float32.

    Args:
        mine: with the layers.
        uniform: without them; or why it could not be measured.
        baseline: the float model, which the budget is relative to.
    """
    if isinstance(uniform, InfrastructureError):
        why = f"the artifact without them could not be measured: {uniform.what.splitlines()[0]}"
        return FloatLayersRecord(cost_ms=None, cost_ms_reason=why, gain_pp=None, gain_pp_reason=why)
    interval = lost_interval_pp(mine, uniform, prepared)
    budget = prepared.loaded.config.budget
    verdict = None
    if any(limit is not None for limit in budget.model_dump().values()):
        verdict = judge(budget, compressed=uniform.judged, baseline=None if baseline is None else baseline.judged)
    gain, no_gain = None, mine.accuracy_reason or uniform.accuracy_reason
    if mine.accuracy is not None and uniform.accuracy is not None:
        gain = accuracy_drop_pp(mine.accuracy, uniform.accuracy)
    return FloatLayersRecord(
        **_cost(mine, uniform),
        gain_pp=gain,
        gain_pp_reason=no_gain,
        gain_low_pp=interval[0] if interval else None,
        gain_high_pp=interval[1] if interval else None,
        uniform_verdict=verdict.verdict if verdict else None,
    )


def _cost(mine: RowFigures, uniform: RowFigures) -> Mapping[str, float | str | None]:
    """The latency's half of the record. The ratio's interval is as wide as both intervals of p50 allow."""
    whose = ((mine, "their latency"), (uniform, "the latency without them"))
    why = next((reason for one, what in whose if (reason := why_not_judged(one.judged, "p50", what))), None)
    if mine.judged.fake:
        why = _SCRIPTED
    now, before = mine.latency, uniform.latency
    if why or now.p50 is None or not before.p50:
        return {"cost_ms": None, "cost_ms_reason": why or "there is no p50"}
    return {
        "cost_ms": now.p50 - before.p50,
        "ratio": now.p50 / before.p50,
        "ratio_low": now.p50_low / before.p50_high if now.p50_low and before.p50_high else None,
        "ratio_high": now.p50_high / before.p50_low if now.p50_high and before.p50_low else None,
    }
