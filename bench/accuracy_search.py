"""Float layers that the search keeps, against keeping the k most sensitive by a plain SQNR ranking.

Claim, on every network of the bench: quantized throughout it misses the budget; the search meets it, and never keeps
more layers in float than the ranking has to. On most networks it keeps fewer (not asked of the quick run's only one).

    python bench/accuracy_search.py           # three trained networks; writes bench/results/accuracy_search.json
    python bench/accuracy_search.py --quick   # the bundled example, badly scaled; under five minutes; writes nothing

The networks are those of `bench.int8.models`, quantized the plain way (min-max ranges, no repairs), in the full run
with 4-bit weights, so that a network quantized throughout misses the budget. Both ways have the same plan, the same
tuning samples and the same budget; what they end in is judged on samples that neither has seen.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from numpy.typing import NDArray

from bench.int8 import data, models
from calibration.sensitivity import paired_drop
from device_tests.accuracy import top1_correct
from edgesmith.files import write_json
from edgesmith.progress import Silent
from optimizer.load import load_model
from optimizer.ptq import layers as plan_layers
from optimizer.ptq.accurate import Effort, accurate_plan
from optimizer.ptq.make import make_plan
from optimizer.ptq.search import smallest_prefix
from optimizer.ptq.sensitivity import outputs_of
from optimizer.ptq.settings import PtqScheme, PtqSettings
from optimizer.ptq.task import Task
from optimizer.ptq.trials import Trial
from targets import onnx_emulator
from targets.plan_export import make_plan_graph
from targets.plan_files import Planned
from targets.plan_graph import PlanGraph

ROOT: Final = Path(__file__).resolve().parent.parent
PLAIN: Final = PtqSettings(observer="minmax", equalize=False, smooth=False, bias_correction=False)
BUDGET_PP: Final = 1.0
FULL: Final = ("mobilenet_v1", "separable", "resnet8")
CALIBRATION, TUNING, TEST = 256, 2000, 10_000
QUICK_TUNING: Final = 1000
"""Of the 2,000 evaluation samples of the bundled example; the rest judges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A network, and samples that share nothing."""

    name: str
    scheme: PtqScheme
    graph: PlanGraph
    x: NDArray[np.float32]
    tuning: data.Split
    test: data.Split


def full_case(name: str, cache: Path) -> Case:
    """Tuning samples come from the training split, behind those that the network was trained on."""
    entry = models.entry(name)
    samples = data.load(entry.data, cache, calibration=CALIBRATION + TUNING, evaluation=TEST)
    file = models.model_file(name, cache, samples)
    rest = samples.calibration
    return Case(
        name=name,
        scheme="int4-weights",
        graph=make_plan_graph(load_model(file, workdir=cache / "loaded"), Silent()),
        x=rest.x[:CALIBRATION],
        tuning=data.Split(x=rest.x[CALIBRATION:], y=rest.y[CALIBRATION:]),
        test=samples.evaluation,
    )


def quick_case(cache: Path) -> Case:
    """The bundled example's badly scaled twin, which plain int8 breaks."""
    samples = data.load("bundled", cache, calibration=CALIBRATION, evaluation=2 * QUICK_TUNING)
    file = models.model_file("bundled_scaled", cache, samples)
    held = samples.evaluation
    return Case(
        name="bundled_scaled",
        scheme="int8",
        graph=make_plan_graph(load_model(file, workdir=cache / "loaded"), Silent()),
        x=samples.calibration.x,
        tuning=data.Split(x=held.x[:QUICK_TUNING], y=held.y[:QUICK_TUNING]),
        test=data.Split(x=held.x[QUICK_TUNING:], y=held.y[QUICK_TUNING:]),
    )


def compared(case: Case) -> dict[str, Any]:
    """One network, both ways."""
    settings = dataclasses.replace(PLAIN, scheme=case.scheme)
    x, y = case.tuning.x, case.tuning.y
    started = time.perf_counter()
    # A thousand trials: the search ends by itself.
    effort = Effort(max_trials=1000, deadline_seconds=3600)
    found = accurate_plan(case.graph, case.x, x, y, settings, BUDGET_PP, effort=effort)
    seconds = time.perf_counter() - started
    base = make_plan(case.graph, case.x, settings)
    by_sqnr = () if found.sensitivities is None else found.sensitivities.by_sqnr
    plain = smallest_prefix(lambda keep: trial(base, keep, case.tuning), by_sqnr, BUDGET_PP)
    full = trial(base, frozenset(), case.tuning).drop
    kept_plain = plan_layers.with_float(base, dict.fromkeys(plain.keep, "plain"))
    met = found.drop.pp <= BUDGET_PP
    return {
        "name": case.name,
        "scheme": case.scheme,
        "budget_pp": BUDGET_PP,
        "layers": len(plan_layers.kinds_of_layers(base)),
        "full_drop_pp": full.pp,
        "search": {
            "kept": list(found.kept),
            "met": met,
            "drop_pp": found.drop.pp,
            "test_drop_pp": on_test(case, found.planned),
            "trials": len(found.outcome.trials),
            "stopped": found.outcome.stopped,
            "seconds": round(seconds, 1),
        },
        "plain": {
            "kept": list(plain.keep),
            "met": plain.met,
            "drop_pp": plain.trial.drop.pp,
            "test_drop_pp": on_test(case, kept_plain),
            "trials": len(plain.trials),
        },
    }


def trial(base: Planned, keep: frozenset[str], tuning: data.Split) -> Trial:
    """What the task loses with these layers kept."""
    task = Task(metric="top1", reference=outputs_of(base.graph, base.graph.run(tuning.x)), y=tuning.y)
    plan = plan_layers.with_float(base, dict.fromkeys(keep, "plain"))
    drop, correct = task.lost(outputs_of(plan.graph, onnx_emulator.run(plan, tuning.x)))
    return Trial(drop=drop, sqnr_db=0.0, correct=correct)


def on_test(case: Case, planned: Planned) -> dict[str, float | None]:
    """Points of top-1 lost on samples that nothing was decided on, with the 95 % interval."""
    x, y = case.test.x, case.test.y
    real = top1_correct(outputs_of(case.graph, case.graph.run(x)), y)
    drop = paired_drop(real, top1_correct(outputs_of(planned.graph, onnx_emulator.run(planned, x)), y))
    return {"pp": drop.pp, "low": drop.low, "high": drop.high}


def broken(rows: Sequence[dict[str, Any]], *, quick: bool) -> list[str]:
    """What of the claim does not hold."""
    said = []
    for row in rows:
        searched, plain = row["search"], row["plain"]
        if row["full_drop_pp"] <= BUDGET_PP:
            said.append(f"{row['name']}: quantized throughout it meets the budget, so nothing is shown")
        if not searched["met"]:
            said.append(f"{row['name']}: the search missed the budget")
        if len(searched["kept"]) > len(plain["kept"]):
            said.append(f"{row['name']}: {len(searched['kept'])} float layers against {len(plain['kept'])}")
    fewer = [row["name"] for row in rows if len(row["search"]["kept"]) < len(row["plain"]["kept"])]
    if not quick and 2 * len(fewer) <= len(rows):
        said.append(f"fewer float layers only on {', '.join(fewer) or 'none'}")
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the bundled example only; nothing is written")
    parser.add_argument("--cache", type=Path, default=models.default_cache(), help="trained networks")
    asked = parser.parse_args()
    cache = asked.cache.resolve()
    cases = [quick_case(cache)] if asked.quick else (full_case(name, cache) for name in FULL)
    rows = []
    for case in cases:
        rows.append(compared(case))
        print(json.dumps(rows[-1], indent=2), file=sys.stderr)
    said = broken(rows, quick=asked.quick)
    figures = {
        "bench": "accuracy_search",
        "claim": "where quantizing throughout misses the budget, the search meets it, never with more float layers "
        "than the k most sensitive by SQNR, and with fewer on most networks",
        "holds": not said,
        "broken": said,
        "models": rows,
        "command": f"python bench/accuracy_search.py{' --quick' if asked.quick else ''}",
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("keras", "numpy", "onnx", "onnxruntime", "tensorflow")},
        },
        "machine": f"{platform.machine()}, {platform.system()} {platform.release()}",
        "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if not asked.quick:
        write_json(ROOT / "bench" / "results" / "accuracy_search.json", figures)
    print(json.dumps(figures))
    return 0 if figures["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
