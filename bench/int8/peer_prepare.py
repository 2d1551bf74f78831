"""Child: writes a Keras model as float `.onnx` and float `.tflite`, what all others start from.

    python peer_prepare.py JOB.json    # {"model": .keras, "out": folder, "workdir": folder}

Runs in the project's own environment.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from optimizer.load import load_model
from targets import onnx_export


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    out = Path(job["out"])
    model = load_model(Path(job["model"]), workdir=Path(job["workdir"]))
    graph = onnx_export.from_keras(model, opset=17)
    (out / "float.onnx").write_bytes(graph.SerializeToString(deterministic=True))

    import keras
    import tensorflow as tf

    live = keras.models.load_model(model.path, compile=False)
    (out / "float.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(live).convert())
    (out / "done.json").write_text(json.dumps({"sha256": model.sha256, "parameters": live.count_params()}))


if __name__ == "__main__":
    main()
