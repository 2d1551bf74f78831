"""Child: int8 by the LiteRT converter's defaults, full integer.

    python peer_litert_converter.py JOB.json    # {"keras", "samples", "out", "result"}

Runs in the project's own environment.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    x = np.load(job["samples"])
    model = keras.models.load_model(job["keras"], compile=False)
    start, busy = time.perf_counter(), time.process_time()
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([row[None]] for row in x)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    made = converter.convert()
    seconds = {"wall": time.perf_counter() - start, "cpu": time.process_time() - busy}
    Path(job["out"]).write_bytes(made)
    versions = {"tensorflow": version("tensorflow")}
    Path(job["result"]).write_text(json.dumps({"seconds": seconds, "versions": versions}))


if __name__ == "__main__":
    main()
