"""What the layers kept in float32 cost on a board: hand-made outputs and times of three artifacts, priced, judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from device_tests.measure import outputs_sha256
from edgesmith.config import load_config
from edgesmith.errors import BoardError, InfrastructureError, ModelError
from edgesmith.pipeline import stages
from edgesmith.pipeline.assemble import device_results, fastest_passing, overall
from edgesmith.pipeline.boards import BoardOutcome
from edgesmith.pipeline.build import Built, Wanted, wanted_for
from edgesmith.pipeline.prepare import Prepared
from edgesmith.pipeline.quantization import PlannedQuantization
from edgesmith.pipeline.recorder import Recorder
from edgesmith.pipeline.run_folder import RunFolder
from edgesmith.progress import Silent
from edgesmith.result import DeviceResult, Variant
from edgesmith.types import (
    Artifact,
    BoardInfo,
    Comparison,
    Device,
    Environment,
    Measurement,
    MeasureProtocol,
    Model,
    SampleSet,
    Scheme,
    Signature,
    Validity,
    Verdict,
)

SAMPLES = 200
LABELS = np.arange(SAMPLES, dtype=np.int64) % 4
NOW = Environment(
    taken_at="2026-11-22T10:00:00+00:00",
    load_1m=None,
    governor=None,
    clock_khz=None,
    temperature_c=None,
    throttled=None,
    memory_available_bytes=None,
)
EMPTY = Signature(inputs=(), outputs=())
MODEL = Model(kind="keras", path=Path("m"), sha256="m", signature=EMPTY, origin="m", parameters=1)
BOARD = BoardInfo(
    machine="aarch64", system="Debian", kernel="6.12", python="3.11.2", numpy="2.3.0", model=None, cpu=None, cores=4,
    memory_bytes=None, runtimes={}, emulated=False, fake=False, agent_sha256="a",
)  # fmt: skip


def scores(wrong: int) -> np.ndarray:
    """Class scores that miss the first `wrong` labels."""
    found = np.eye(4, dtype=np.float32)[LABELS]
    found[:wrong] = np.roll(found[:wrong], 1, axis=1)
    return found


def built(variant: Variant, folder: Path) -> Built:
    path = folder / f"{variant}.tflite"
    path.write_bytes(variant.encode())
    return Built(
        wanted=Wanted(target="tflite", variant=variant, model=MODEL, scheme=Scheme.INT8, per_channel=True, isa=""),
        artifact=Artifact(
            target="tflite", path=path, format="tflite", precision="int8", sha256=variant, signature=EMPTY,
            toolchain={}, made_from="m", size_bytes=1, gzip_bytes=1, sparsity=0.0,
        ),
        comparison=Comparison(sqnr_db=40.0, cosine=1.0, max_abs=0.0, top1_agreement=1.0, n=2),
        cached=False,
        seconds=0.0,
    )  # fmt: skip


def measured(wrong: int, ms: float, **changes: Any) -> Measurement:
    """A hundred runs, each of the same time."""
    output = scores(wrong)
    taken = Measurement(
        device="pi",
        artifact_sha256="a",
        samples_ns=np.full(100, round(ms * 1e6), np.int64),
        warmup_ns=np.zeros(0, np.int64),
        windows=np.zeros(100, np.int64),
        outputs=(output,),
        outputs_sha256=outputs_sha256([output]),
        output_quantization=(None,),
        peak_rss_bytes=None,
        peak_rss_reason="not asked",
        warmup_flat=True,
        timer_overhead_ns=0,
        validity=Validity.VALID,
        validity_reasons=(),
        environment_before=NOW,
        environment_after=NOW,
        board=BOARD,
        runner="test",
        protocol=MeasureProtocol(),
        taken_at="2026-11-22T10:00:00+00:00",
    )
    return dataclasses.replace(taken, **changes)


Rows = dict[str, DeviceResult]
Judged = Callable[..., Rows]


@pytest.fixture
def judged(tmp_path: Path) -> Judged:
    """Rows by variant, of 0, 2 and 12 wrong in 200: float, with float layers, without them."""

    def of(budget: str = "{accuracy_drop_pp: 2}", **outcomes: Measurement | InfrastructureError) -> Rows:
        config = tmp_path / "edgesmith.yaml"
        config.write_text(f"model: m.keras\ndata: {{evaluation: e.npz}}\nbudget: {budget}\n")
        evaluation = SampleSet(role="evaluation", x=np.zeros((SAMPLES, 2), np.float32), y=LABELS, sha256="e", source="")
        prepared = Prepared(
            loaded=load_config(config),
            model=MODEL,
            recipe=SimpleNamespace(steps=("quantize",)),  # type: ignore[arg-type]
            evaluation=evaluation,
            train=None,
            calibration=None,
            tuning=None,
            n_classes=4,
            findings=(),
        )
        usual = {"float": measured(0, 3.0), "compressed": measured(2, 1.2), "uniform": measured(12, 1.0)}
        given = {**usual, **outcomes}
        outcome = BoardOutcome(
            device=Device(name="pi", transport="ssh"),
            info=BOARD,
            built=tuple(built(variant, tmp_path) for variant in ("float", "compressed", "uniform")),
            outcomes=tuple(given[variant] for variant in ("float", "compressed", "uniform")),
        )
        (tmp_path / "run").mkdir(exist_ok=True)
        rows = device_results(outcome, prepared, (scores(0),), RunFolder(tmp_path / "run"))
        return {row.variant: row for row in rows}

    return of


def test_the_price_is_the_difference_of_both_on_this_board(judged: Judged):
    paid = judged()["compressed"].float_layers
    assert paid is not None
    assert paid.cost_ms == pytest.approx(0.2)
    assert (paid.ratio, paid.ratio_low, paid.ratio_high) == pytest.approx((1.2, 1.2, 1.2))
    assert paid.gain_pp == pytest.approx(5.0)
    # Bonett and Price 2012: 10 and 0 discordant answers of 200, one added to each.
    first, second = 11 / 202, 1 / 202
    half = 1.959964 * np.sqrt((first + second - (first - second) ** 2) / 202)
    expected = 100 * (first - second - half), 100 * (first - second + half)
    assert (paid.gain_low_pp, paid.gain_high_pp) == pytest.approx(expected, abs=1e-4)
    assert paid.uniform_verdict is Verdict.FAIL


def test_only_the_compressed_row_has_one(judged: Judged):
    rows = judged()
    assert [rows[variant].float_layers for variant in ("float", "uniform")] == [None, None]


def test_the_ratio_s_interval_is_as_wide_as_both_allow(judged: Judged):
    spread = np.concatenate((np.full(50, 1_100_000), np.full(50, 1_300_000)))
    row = judged(compressed=measured(2, 1.2, samples_ns=spread.astype(np.int64)))["compressed"]
    assert row.float_layers is not None
    assert row.latency_ms is not None
    assert (row.latency_ms.p50_low, row.latency_ms.p50_high) == (1.1, 1.3)
    assert (row.float_layers.ratio_low, row.float_layers.ratio_high) == pytest.approx((1.1, 1.3))


def test_no_budget_says_nothing_of_the_one_without(judged: Judged):
    paid = judged(budget="{}")["compressed"].float_layers
    assert paid is not None
    assert paid.uniform_verdict is None


@pytest.mark.parametrize(
    ("budget", "verdict"),
    [("{accuracy_drop_pp: 7}", Verdict.PASS), ("{latency_p50_ms: 1.1}", Verdict.PASS)],
)
def test_where_the_one_without_them_would_pass_that_is_known(judged: Judged, budget: str, verdict: Verdict):
    rows = judged(budget=budget)
    paid = rows["compressed"].float_layers
    assert paid is not None
    assert paid.uniform_verdict is verdict
    assert rows["compressed"].verdict is (Verdict.FAIL if "latency" in budget else Verdict.PASS)


@pytest.mark.parametrize("budget", ["{accuracy_drop_pp: 2}", "{accuracy_drop_pp: 7}", "{}"])
def test_it_is_not_judged_and_never_the_one_to_take(judged: Judged, budget: str):
    rows = judged(budget=budget)
    assert rows["uniform"].verdict is Verdict.INCONCLUSIVE
    assert [finding.code for finding in rows["uniform"].findings] == ["not_judged"]
    assert overall(tuple(rows.values())) == (Verdict.PASS, 0, "all 2 measured artifacts pass")
    (best,) = fastest_passing(tuple(rows.values()))
    assert "fastest that passes is tflite compressed" in best.text


def test_a_crash_of_it_costs_the_price_only(judged: Judged):
    rows = judged(uniform=BoardError("pi: the runtime died.\nSegmentation fault"))
    paid = rows["compressed"].float_layers
    assert paid is not None
    why = "the artifact without them could not be measured: pi: the runtime died."
    assert (paid.cost_ms, paid.cost_ms_reason, paid.gain_pp, paid.gain_pp_reason) == (None, why, None, why)
    assert [finding.severity for finding in rows["uniform"].findings] == ["warning"]
    assert overall(tuple(rows.values()))[:2] == (Verdict.PASS, 0)


def test_a_dead_board_is_an_error_for_all_its_rows(judged: Judged):
    dead = BoardError("pi: gone.")
    rows = judged(float=dead, compressed=dead, uniform=dead)
    assert {finding.severity for row in rows.values() for finding in row.findings} == {"error"}
    assert overall(tuple(rows.values()))[1] == 3


EMULATED, FAKE = dataclasses.replace(BOARD, emulated=True), dataclasses.replace(BOARD, fake=True)
HOT: dict[str, Any] = {"validity": Validity.THROTTLED, "validity_reasons": ("bits 0x50005",)}


@pytest.mark.parametrize(
    ("mine", "uniform", "why"),
    [
        ({"board": EMULATED}, {"board": EMULATED}, "the board is emulated"),
        ({"board": FAKE}, {"board": FAKE}, "the board is scripted"),
        (HOT, {}, "their latency was measured while THROTTLED (bits 0x50005)"),
        ({}, HOT, "the latency without them was measured while THROTTLED (bits 0x50005)"),
        ({"samples_ns": np.full(5, 9, np.int64)}, {}, "p50 needs 6 samples, there are 5"),
    ],
)
def test_times_that_are_not_judged_give_no_price(
    judged: Judged, mine: dict[str, Any], uniform: dict[str, Any], why: str
):
    rows = judged(compressed=measured(2, 1.2, **mine), uniform=measured(12, 1.0, **uniform))
    paid = rows["compressed"].float_layers
    assert paid is not None
    assert (paid.cost_ms, paid.ratio) == (None, None)
    assert paid.cost_ms_reason is not None
    assert paid.cost_ms_reason.startswith(why)
    assert paid.gain_pp == pytest.approx(5.0)


# ---------------------------------------------------------------- what is made


def wanted(plan: PlannedQuantization | None, *, has_recipe: bool = True) -> tuple[Wanted, ...]:
    return tuple(
        wanted_for(
            "tflite",
            "aarch64",
            original=MODEL,
            compressed=MODEL,
            scheme=Scheme.INT8,
            per_channel=True,
            has_recipe=has_recipe,
            plan=plan,
        )
    )


def test_a_plan_with_exceptions_asks_for_a_third_artifact(tmp_path: Path):
    plan = PlannedQuantization(folder=tmp_path, key="k", record=None, uniform=tmp_path / "uniform")
    found = wanted(plan)
    assert [item.variant for item in found] == ["float", "compressed", "uniform"]
    assert [item.label for item in found][2] == "compile-tflite-uniform"
    assert [item.plan for item in found] == [None, tmp_path, tmp_path / "uniform"]
    assert len({item.plan_key for item in found}) == 3
    assert [item.variant for item in wanted(dataclasses.replace(plan, uniform=None))] == ["float", "compressed"]
    assert [item.variant for item in wanted(None)] == ["float", "compressed"]
    assert [item.variant for item in wanted(plan, has_recipe=False)] == ["float"]


@pytest.mark.parametrize("spoilt", ["uniform", "compressed"])
def test_only_the_third_may_fail_to_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoilt: str):
    plan = PlannedQuantization(folder=tmp_path, key="k", record=None, uniform=tmp_path / "uniform")
    config = tmp_path / "edgesmith.yaml"
    config.write_text("model: m.keras\ndata: {evaluation: e.npz}\n")
    loaded = load_config(config)
    (tmp_path / "run").mkdir()
    recorder = Recorder(loaded, RunFolder(tmp_path / "run"))
    stage = stages.Stage(loaded, recorder, SimpleNamespace(progress=Silent()))  # type: ignore[arg-type]

    def build(item: Wanted, *_: Any) -> Built:
        if item.variant == spoilt:
            raise ModelError("a kernel is missing.")
        return dataclasses.replace(built(item.variant, tmp_path), wanted=item)

    monkeypatch.setattr(stages, "plan_quantization", lambda *_: plan)
    monkeypatch.setattr(stages, "_wanted", lambda *_: wanted(plan))
    monkeypatch.setattr(stages, "build", build)
    device = Device(name="pi", transport="ssh")
    prepared: Any = SimpleNamespace(recipe=SimpleNamespace(steps=()))
    steps: Any = [SimpleNamespace(model=MODEL)]
    if spoilt == "compressed":
        with pytest.raises(ModelError, match="a kernel is missing"):
            stages.compile_all(stage, [device], prepared, steps)
        return
    made = stages.compile_all(stage, [device], prepared, steps)
    assert [item.wanted.variant for item in made["pi"]] == ["float", "compressed"]
    (finding,) = recorder.result.findings
    assert (finding.severity, finding.code) == ("warning", "no_uniform")
    assert "tflite" in finding.text
    assert "a kernel is missing." in finding.text
