"""Child: static int8 by Neural Compressor for ONNX, its defaults, without its accuracy-driven search.

python peer_neural_compressor.py JOB.json    # {"onnx", "samples", "out", "result"}
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from neural_compressor import PostTrainingQuantConfig, quantization
from neural_compressor.data import DataLoader


class Samples:
    """What its data loader asks for: input and label, one at a time."""

    def __init__(self, x: Any) -> None:
        self._x = x

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self._x[index], 0


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    x = np.load(job["samples"])
    loader = DataLoader(framework="onnxruntime", dataset=Samples(x), batch_size=1)
    config = PostTrainingQuantConfig(approach="static", calibration_sampling_size=len(x))
    start, busy = time.perf_counter(), time.process_time()
    made = quantization.fit(model=job["onnx"], conf=config, calib_dataloader=loader)
    seconds = {"wall": time.perf_counter() - start, "cpu": time.process_time() - busy}
    if made is None:
        sys.exit("Neural Compressor gave no model")
    made.save(job["out"])
    versions = {name: version(name) for name in ("neural-compressor", "onnxruntime")}
    Path(job["result"]).write_text(json.dumps({"seconds": seconds, "versions": versions}))


if __name__ == "__main__":
    main()
