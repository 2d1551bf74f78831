"""The verdict of a run from those of its rows, and which artifact is named as the one to take."""

from __future__ import annotations

import pytest

from edgesmith.pipeline.assemble import fastest_passing, overall
from edgesmith.result import DeviceResult, LatencyRecord
from edgesmith.types import Verdict


def row(verdict: Verdict, *, device: str = "pi", variant: str = "compressed", p50: float | None = 1.0) -> DeviceResult:
    latency = None if p50 is None else LatencyRecord(p50=p50, p90=None, p95=None, p99=None, n=100)
    return DeviceResult.model_construct(
        device=device, target="tflite", variant=variant, verdict=verdict, latency_ms=latency,
        accuracy=None, artifact=None, speedup_p50=None, emulated=False, fake=False,
    )  # fmt: skip


P, F, I, E = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.ERROR  # noqa: E741 - the four letters


@pytest.mark.parametrize(
    ("verdicts", "expected", "code"),
    [
        ([P, P], P, 0),
        ([P, I], I, 4),
        ([P, I, E], E, 3),
        ([P, I, E, F], F, 1),
        ([E], E, 3),
    ],
)
def test_a_broken_budget_outranks_infrastructure_which_outranks_the_undecided(
    verdicts: list[Verdict], expected: Verdict, code: int
):
    verdict, exit_code, reason = overall([row(verdict) for verdict in verdicts])
    assert (verdict, exit_code) == (expected, code)
    assert reason


def test_the_fastest_that_passes_is_named_for_each_device():
    rows = [
        row(P, p50=5.0, variant="float"),
        row(P, p50=3.0),
        row(P, p50=2.0),
        row(F, p50=0.1),
        row(P, device="jetson", variant="float", p50=9.0),
        row(F, device="jetson", p50=1.0),
        row(E, device="dead", p50=None),
    ]
    texts = [finding.text for finding in fastest_passing(rows)]
    assert len(texts) == 2
    assert "pi: fastest that passes is tflite compressed" in texts[0]
    assert "p50 2.000 ms" in texts[0]
    assert "jetson: fastest that passes is tflite float" in texts[1]
