"""Child: int8 by NNCF with its defaults; `method` "TRANSFORMER" tells it what the model is, as its manual advises.

python peer_nncf.py JOB.json    # {"onnx", "samples", "out", "result", "method": ""}
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import nncf
import numpy as np
import onnx


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    x = np.load(job["samples"])
    model = onnx.load(job["onnx"])
    name = model.graph.input[0].name
    start, busy = time.perf_counter(), time.process_time()
    made = nncf.quantize(
        model,
        nncf.Dataset([{name: row[None]} for row in x]),
        subset_size=len(x),
        model_type=nncf.ModelType.TRANSFORMER if job["transformer"] else None,
        fast_bias_correction=not job["accurate"],
    )
    seconds = {"wall": time.perf_counter() - start, "cpu": time.process_time() - busy}
    onnx.save(made, job["out"])
    Path(job["result"]).write_text(json.dumps({"seconds": seconds, "versions": {"nncf": version("nncf")}}))


if __name__ == "__main__":
    main()
