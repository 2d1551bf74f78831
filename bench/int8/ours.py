"""Child: one plan of edgesmith, and both its files.

    python ours.py JOB.json    # {"onnx", "tflite", "samples", "out": folder, "result", "settings": {}}

Runs in the project's environment.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from optimizer.ptq.make import make_plan
from optimizer.ptq.settings import PtqSettings
from targets import onnx_qdq, tflite_plan
from targets.plan_graph import PlanGraph


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    out, x = Path(job["out"]), np.load(job["samples"])
    graph = PlanGraph.read(Path(job["onnx"]))
    next(graph.run(x[:1]))  # imports what is imported late
    start = time.perf_counter()
    planned = make_plan(graph, x, PtqSettings(**job["settings"]))
    decided = time.perf_counter()
    proto, _ = onnx_qdq.lower(planned, activations="uint8")
    (out / "ours.onnx").write_bytes(proto.SerializeToString(deterministic=True))
    lowered = time.perf_counter()
    content, _ = tflite_plan.lower(planned, graph, Path(job["tflite"]).read_bytes(), x, float_io=False)
    (out / "ours.tflite").write_bytes(content)
    ended = time.perf_counter()
    seconds = {"onnx": lowered - start, "tflite": decided - start + ended - lowered}
    figures = dict(planned.plan.figures)
    facts = {"seconds": seconds, "figures": figures, "repairs": list(planned.plan.repairs)}
    facts["kept_float"] = list(planned.plan.kept_float)
    Path(job["result"]).write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
