"""Child: one plan of edgesmith, and both its files.

    python ours.py JOB.json    # {"onnx", "tflite", "samples", "out": folder, "result", "settings": {}}

Runs in the project's environment.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx.reference  # noqa: F401 - imported late by what is timed; the peers' clocks leave out imports as well

from optimizer.ptq.make import make_plan
from optimizer.ptq.settings import PtqSettings
from targets import onnx_qdq, tflite_plan
from targets.plan_graph import PlanGraph


def _now() -> dict[str, float]:
    return {"wall": time.perf_counter(), "cpu": time.process_time()}


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    out, x = Path(job["out"]), np.load(job["samples"])
    graph = PlanGraph.read(Path(job["onnx"]))
    next(graph.run(x[:1]))  # imports what is imported late
    clocks = [_now()]
    planned = make_plan(graph, x, PtqSettings(**job["settings"]))
    clocks.append(_now())
    proto, _ = onnx_qdq.lower(planned, activations="uint8")
    (out / "ours.onnx").write_bytes(proto.SerializeToString(deterministic=True))
    clocks.append(_now())
    content, _ = tflite_plan.lower(planned, graph, Path(job["tflite"]).read_bytes(), x, float_io=False)
    (out / "ours.tflite").write_bytes(content)
    clocks.append(_now())
    plan, onnx, tflite = ({k: after[k] - before[k] for k in before} for before, after in pairwise(clocks))
    seconds = {"onnx": {k: plan[k] + onnx[k] for k in plan}, "tflite": {k: plan[k] + tflite[k] for k in plan}}
    figures = dict(planned.plan.figures)
    facts = {"seconds": seconds, "figures": figures, "repairs": list(planned.plan.repairs)}
    facts["kept_float"] = list(planned.plan.kept_float)
    Path(job["result"]).write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
