"""Float layers that the search keeps, against keeping the k most sensitive by a plain SQNR ranking.

    python -m bench.accuracy_search                        # the networks below
    python -m bench.accuracy_search separable --budget 0.5

The networks are those of `bench.int8.models`, quantized the plain way (min-max ranges, no repairs) with 4-bit weights,
so that a network quantized throughout misses the budget. Both ways have the same plan, the same tuning samples (from
the training split, behind those of the training) and the same budget; what they end in is judged on the test split.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.int8 import data, models
from calibration.sensitivity import paired_drop
from device_tests.accuracy import top1_correct
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

NAMES = ("mobilenet_v1", "separable", "resnet8")
PLAIN = PtqSettings(observer="minmax", equalize=False, smooth=False, bias_correction=False)
CALIBRATION, TUNING = 256, 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--budget", type=float, default=1.0, help="percentage points of top-1")
    parser.add_argument("--scheme", default="int4-weights", choices=("int8", "int4-weights"))
    parser.add_argument("--cache", type=Path, default=models.default_cache())
    parser.add_argument("--out", type=Path, help="results as JSON")
    asked = parser.parse_args()
    rows = []
    for name in asked.names:
        rows.append(row(name, asked.scheme, asked.budget, asked.cache))
        print(json.dumps(rows[-1], indent=2), flush=True)
    if asked.out:
        asked.out.write_text(json.dumps(rows, indent=2) + "\n")


def row(name: str, scheme: PtqScheme, budget: float, cache: Path) -> dict[str, Any]:
    """One network, both ways."""
    entry = models.entry(name)
    samples = data.load(entry.data, cache, calibration=CALIBRATION + TUNING, evaluation=10_000)
    graph = make_plan_graph(load_model(cache / "zoo" / f"{name}.keras", workdir=cache / "loaded"), Silent())
    x, tuning = samples.calibration.x[:CALIBRATION], samples.calibration.x[CALIBRATION:]
    labels = samples.calibration.y[CALIBRATION:]
    settings = dataclasses.replace(PLAIN, scheme=scheme)
    started = time.perf_counter()
    # A thousand trials: the search ends by itself.
    found = accurate_plan(
        graph, x, tuning, labels, settings, budget, effort=Effort(max_trials=1000, deadline_seconds=3600)
    )
    seconds = time.perf_counter() - started
    base = make_plan(graph, x, settings)
    by_sqnr = () if found.sensitivities is None else found.sensitivities.by_sqnr
    plain = smallest_prefix(lambda keep: trial(base, keep, tuning, labels), by_sqnr, budget)
    full = found.outcome.trial_of(())
    kept_plain = plan_layers.with_float(base, dict.fromkeys(plain.keep, "plain"))
    return {
        "name": name,
        "scheme": scheme,
        "budget_pp": budget,
        "layers": len(plan_layers.kinds_of_layers(base)),
        "full_drop_pp": None if full is None else full.drop.pp,
        "search": {
            "kept": list(found.kept),
            "drop_pp": found.drop.pp,
            "test_drop_pp": on_test(graph, found.planned, samples.evaluation),
            "trials": len(found.outcome.trials),
            "stopped": found.outcome.stopped,
            "seconds": round(seconds, 1),
        },
        "plain": {
            "kept": list(plain.keep),
            "met": plain.met,
            "drop_pp": plain.trial.drop.pp,
            "test_drop_pp": on_test(graph, kept_plain, samples.evaluation),
            "trials": len(plain.trials),
        },
    }


def trial(base: Planned, keep: frozenset[str], x: NDArray[np.float32], y: NDArray[np.int64]) -> Trial:
    """What the task loses with these layers kept."""
    task = Task(metric="top1", reference=outputs_of(base.graph, base.graph.run(x)), y=y)
    plan = plan_layers.with_float(base, dict.fromkeys(keep, "plain"))
    drop, correct = task.lost(outputs_of(plan.graph, onnx_emulator.run(plan, x)))
    return Trial(drop=drop, sqnr_db=0.0, correct=correct)


def on_test(graph: PlanGraph, planned: Planned, test: data.Split) -> dict[str, float | None]:
    """Points of top-1 lost on samples that nothing was decided on, with the 95 % interval."""
    real = top1_correct(outputs_of(graph, graph.run(test.x)), test.y)
    drop = paired_drop(real, top1_correct(outputs_of(planned.graph, onnx_emulator.run(planned, test.x)), test.y))
    return {"pp": drop.pp, "low": drop.low, "high": drop.high}


if __name__ == "__main__":
    main()
