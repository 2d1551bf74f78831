"""Child: static int8 by ONNX Runtime, U8S8 as Q/DQ, per channel, after its own pre-processing.

python peer_onnxruntime.py JOB.json    # {"onnx", "samples", "out", "result", "method": "MinMax"}
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

BATCH = 32


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """The samples in batches: the same ranges as one by one, and faster."""

    def __init__(self, name: str, x: np.ndarray) -> None:
        self._batches = iter([{name: x[i : i + BATCH]} for i in range(0, len(x), BATCH)])

    def get_next(self) -> dict[str, Any] | None:  # type: ignore[override]
        """One batch; None behind the last."""
        return next(self._batches, None)


def main() -> None:
    logging.disable(logging.WARNING)
    job = json.loads(Path(sys.argv[1]).read_text())
    x = np.load(job["samples"])
    name = onnxruntime.InferenceSession(job["onnx"], providers=["CPUExecutionProvider"]).get_inputs()[0].name
    with tempfile.TemporaryDirectory() as folder:
        folded = str(Path(folder) / "folded.onnx")
        start, busy = time.perf_counter(), time.process_time()
        quant_pre_process(job["onnx"], folded, skip_symbolic_shape=True)
        quantize_static(
            folded,
            job["out"],
            Reader(name, x),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            calibrate_method=CalibrationMethod[job["method"]],
        )
        seconds = {"wall": time.perf_counter() - start, "cpu": time.process_time() - busy}
    versions = {"onnxruntime": version("onnxruntime")}
    Path(job["result"]).write_text(json.dumps({"seconds": seconds, "versions": versions}))


if __name__ == "__main__":
    main()
