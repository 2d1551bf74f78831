"""Child: writes a Keras model as float `.onnx` and float `.tflite`, what all others start from.

    python peer_prepare.py JOB.json    # {"keras", "out": folder}

The `.onnx` is edgesmith's plan graph before any repair: batch normalizations folded, also where the plain export of
TensorFlow hides them from the quantizers for ONNX. They all get the better start. Runs in the project's environment.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from edgesmith.progress import Silent
from optimizer.load import load_model
from targets.plan_export import make_plan_graph


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    out = Path(job["out"])
    model = load_model(Path(job["keras"]), workdir=out / "loaded")
    make_plan_graph(model, Silent()).write(out / "float.onnx")

    import keras
    import tensorflow as tf

    live = keras.models.load_model(model.path, compile=False)
    (out / "float.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(live).convert())
    facts = {"parameters": int(live.count_params()), "sha256": model.sha256}
    Path(job["result"]).write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
