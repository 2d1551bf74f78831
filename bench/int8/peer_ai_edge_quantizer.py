"""Child: int8 by the LiteRT quantizer package, its default recipe and its default calibration.

python peer_ai_edge_quantizer.py JOB.json    # {"tflite", "samples", "out", "result"}
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    x = np.load(job["samples"])
    ((key, signature),) = Interpreter(model_path=job["tflite"]).get_signature_list().items()
    start, busy = time.perf_counter(), time.process_time()
    quantize = quantizer.Quantizer(job["tflite"], recipe.static_wi8_ai8())
    samples = [{signature["inputs"][0]: row[None]} for row in x]
    found = quantize.calibrate({key: samples}, num_threads=job["threads"])
    made = quantize.quantize(found, enable_progress_report=False).quantized_model
    seconds = {"wall": time.perf_counter() - start, "cpu": time.process_time() - busy}
    Path(job["out"]).write_bytes(made)
    versions = {"ai-edge-quantizer": version("ai-edge-quantizer")}
    Path(job["result"]).write_text(json.dumps({"seconds": seconds, "versions": versions}))


if __name__ == "__main__":
    main()
